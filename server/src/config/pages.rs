//! The looks of the pages and the login of browsers: the sections `[pages]` and
//! `[login_session]`.

use std::path::{Path, PathBuf};

use matchbook_settings::{Optional, PositiveDuration, Settings, SettingsError};
use serde::Deserialize;

use crate::accounts::LoginLifetimes;

/// The maximum length of the operator's name, in characters.
const MAX_NAME_LEN: usize = 60;

/// The maximum size of a logo, in bytes.
const MAX_LOGO_LEN: usize = 256 * 1024;

/// How the pages look.
#[derive(Clone)]
pub struct Options {
    /// The name of the service, as its users know it.
    pub name: String,
    pub color: Color,
    pub logo: Option<Logo>,
}

/// A color in sRGB: red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Color(pub [u8; 3]);

impl TryFrom<String> for Color {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6);
        let bytes = digits.and_then(crate::crypto::decode_hex);
        let bytes: Option<[u8; 3]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("must be a color like \"#0b5cad\"")
    }
}

/// An image that the pages show.
#[derive(Clone)]
pub struct Logo {
    pub content_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Logo {
    fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.len() > MAX_LOGO_LEN {
            return Err("must have at most 256 KiB".to_owned());
        }
        let is_svg = || std::str::from_utf8(&bytes).is_ok_and(|text| text.contains("<svg"));
        let content_type = match bytes.as_slice() {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            _ if is_svg() => "image/svg+xml",
            _ => return Err("must be an SVG or PNG file".to_owned()),
        };
        Ok(Self { content_type, bytes })
    }
}

/// A name without control characters.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let length = text.trim().chars().count();
        let is_valid = (1..=MAX_NAME_LEN).contains(&length) && !text.contains(char::is_control);
        let name = text.trim().to_owned();
        is_valid.then_some(Self(name)).ok_or("must have 1 to 60 characters, in one line")
    }
}

#[derive(Deserialize)]
struct Pages {
    name: Name,
    color: Color,
    logo: Optional<PathBuf>,
}

#[derive(Deserialize)]
struct LoginSession {
    idle_lifetime: PositiveDuration,
    absolute_lifetime: PositiveDuration,
}

pub(super) fn read(settings: &Settings) -> Result<Options, SettingsError> {
    let Pages { name, color, logo } = settings.section("pages")?;
    let logo = logo.0.map(|path| Logo::read(&path)).transpose();
    let logo = logo.map_err(|problem| settings.invalid("pages.logo", &problem))?;
    Ok(Options { name: name.0, color, logo })
}

pub(super) fn login_lifetimes(settings: &Settings) -> Result<LoginLifetimes, SettingsError> {
    let section: LoginSession = settings.section("login_session")?;
    let lifetimes =
        LoginLifetimes { idle: section.idle_lifetime.0, absolute: section.absolute_lifetime.0 };
    if lifetimes.idle > lifetimes.absolute {
        let problem = "must not be longer than `login_session.absolute_lifetime`";
        return Err(settings.invalid("login_session.idle_lifetime", problem));
    }
    Ok(lifetimes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_has_six_hexadecimal_digits() {
        assert_eq!(Color::try_from("#0B5cad".to_owned()), Ok(Color([0x0b, 0x5c, 0xad])));
        for text in ["", "#", "0b5cad", "#0b5ca", "#0b5cadd", "#0b5cag", "blue", "#é0000"] {
            assert!(Color::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
