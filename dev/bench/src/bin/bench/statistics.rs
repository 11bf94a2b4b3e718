//! Medians and their spread.

use serde::Serialize;

/// A median with the lowest and highest value.
#[derive(Serialize, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Spread {
    /// Computes the spread of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let lowest = values[0];
        let highest = values[values.len() - 1];
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Self { median, lowest, highest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        let spread = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!(
            [spread.lowest, spread.median, spread.highest].map(f64::to_bits),
            [1.0f64.to_bits(), 2.0f64.to_bits(), 3.0f64.to_bits()]
        );
        assert!((Spread::of([1.0, 2.0]).median - 1.5).abs() < 1e-9);
    }
}
