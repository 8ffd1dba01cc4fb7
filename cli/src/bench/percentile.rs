//! Percentiles of measured times.

use serde_json::{Value, json};

/// Values from small to large.
#[derive(Debug, Clone, Default)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that `percent` of all do not exceed; `None` of nothing.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied()
    }

    pub fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// The percentiles that reports have.
    pub fn json(&self) -> Value {
        json!({
            "count": self.len(),
            "p50": self.percentile(50.0),
            "p95": self.percentile(95.0),
            "p99": self.percentile(99.0),
            "p99_9": self.percentile(99.9),
            "max": self.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let sorted = Sorted::new((1..=200).rev().map(f64::from).collect());
        let of = |p| sorted.percentile(p).unwrap();
        assert_eq!(
            (of(0.0), of(50.0), of(99.0), of(99.9)),
            (1.0, 100.0, 198.0, 200.0)
        );
        assert_eq!(Sorted::new(vec![5.0]).percentile(50.0), Some(5.0));
        assert_eq!(Sorted::default().percentile(50.0), None);
        assert_eq!(Sorted::new(vec![2.0, 9.0]).max(), Some(9.0));
    }
}
