//! The stylesheet in the operator's color.

use std::fmt::Write;

use crate::config::pages::Color;

const STYLESHEET: &str = include_str!("../../../templates/pages.css");

/// The contrast between text and background (WCAG 2.2, 1.4.3).
const MIN_CONTRAST: f64 = 4.5;

/// The background of the pages in `pages.css`, of which text has the least contrast.
const LIGHT: Color = Color([0xf4, 0xf5, 0xf7]);

const DARK: Color = Color([0x1e, 0x23, 0x27]);

const WHITE: Color = Color([0xff; 3]);

const BLACK: Color = Color([0; 3]);

/// How many steps lead from the operator's color to black or white.
const STEPS: u32 = 20;

/// Returns the stylesheet. The accent keeps its contrast to the background, in the light and
/// in the dark scheme.
pub(super) fn stylesheet(color: Color) -> String {
    let light = hex(readable(color, LIGHT, BLACK));
    let dark = hex(readable(color, DARK, WHITE));
    let mut css = STYLESHEET.to_owned();
    // Writing to a string cannot fail.
    let _ = write!(
        css,
        "\n:root {{\n  --accent: {light};\n}}\n\n@media (prefers-color-scheme: dark) {{\n  :root {{\n    \
         --accent: {dark};\n  }}\n}}\n"
    );
    css
}

/// Mixes `color` with `towards` until text in it can be read on `background`.
fn readable(color: Color, background: Color, towards: Color) -> Color {
    let mixed = (0..=STEPS).map(|step| mix(color, towards, step));
    let mut readable = mixed.filter(|mixed| contrast(*mixed, background) >= MIN_CONTRAST);
    readable.next().unwrap_or(towards)
}

/// Mixes two colors: `step` of [`STEPS`] parts are of `other`.
fn mix(Color(color): Color, Color(other): Color, step: u32) -> Color {
    let part = |from: u8, to: u8| {
        let sum = u32::from(from) * (STEPS - step) + u32::from(to) * step;
        u8::try_from(sum / STEPS).unwrap_or(u8::MAX)
    };
    Color(std::array::from_fn(|i| part(color[i], other[i])))
}

/// Returns the contrast ratio of two colors (WCAG 2.2): from 1 to 21.
fn contrast(one: Color, other: Color) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

/// Returns the relative luminance of a color (WCAG 2.2).
fn luminance(Color(color): Color) -> f64 {
    let [red, green, blue] = color.map(|value| {
        let value = f64::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

fn hex(Color([red, green, blue]): Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrast_is_that_of_wcag() {
        assert!((contrast(BLACK, WHITE) - 21.0).abs() < 0.001);
        assert!((contrast(Color([0x77; 3]), WHITE) - 4.478).abs() < 0.001);
    }

    #[test]
    fn every_color_is_readable_in_both_schemes() {
        let values = [0_u8, 60, 128, 200, 255];
        for color in values.iter().flat_map(|r| values.iter().map(move |g| (*r, *g))) {
            for blue in values {
                let color = Color([color.0, color.1, blue]);
                let light = readable(color, LIGHT, BLACK);
                assert!(contrast(light, LIGHT) >= MIN_CONTRAST, "{color:?}");
                assert!(contrast(light, WHITE) >= MIN_CONTRAST, "text on a button: {color:?}");
                let dark = readable(color, DARK, WHITE);
                assert!(contrast(dark, DARK) >= MIN_CONTRAST, "{color:?}");
            }
        }
        assert!(readable(Color([0x0b, 0x5c, 0xad]), LIGHT, BLACK) == Color([0x0b, 0x5c, 0xad]));
    }
}
