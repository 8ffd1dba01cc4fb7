//! What is measured: surprise at the next token, and how far two distributions are apart.

/// Positions of a chunk that count: those of its second half whose next token is known.
pub fn scored(context: usize) -> usize {
    context - first(context) - 1
}

/// The first position of a chunk that counts; what comes before is context only.
pub fn first(context: usize) -> usize {
    context / 2
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    n: u64,
    sum: f64,
    squares: f64,
}

impl Mean {
    pub fn add(&mut self, x: f64) {
        self.n += 1;
        self.sum += x;
        self.squares += x * x;
    }

    pub fn count(&self) -> u64 {
        self.n
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    pub fn standard_error(&self) -> f64 {
        let n = self.n as f64;
        let variance = self.squares / n - self.mean() * self.mean();
        (variance.max(0.0) / (n - 1.0).max(1.0)).sqrt()
    }
}

/// A row of logits as a distribution.
pub struct Row<'a> {
    logits: &'a [f32],
    /// What to subtract from a logit for the logarithm of its probability.
    log_sum: f64,
    /// The most probable token, the first of several.
    pub top: usize,
}

impl<'a> Row<'a> {
    pub fn new(logits: &'a [f32]) -> Self {
        let (top, max) =
            logits.iter().enumerate().fold(
                (0, f32::NEG_INFINITY),
                |best, (i, &l)| if l > best.1 { (i, l) } else { best },
            );
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        Self {
            logits,
            log_sum: f64::from(max) + sum.ln(),
            top,
        }
    }

    /// −ln p of a token; infinite for one outside the vocabulary.
    pub fn surprise(&self, token: u32) -> f64 {
        self.logits
            .get(token as usize)
            .map_or(f64::INFINITY, |&l| self.log_sum - f64::from(l))
    }

    /// Kullback-Leibler divergence of `other` from this distribution, Σ p · ln(p / q), in nats.
    pub fn divergence(&self, other: &Row<'_>) -> f64 {
        let terms = self.logits.iter().zip(other.logits).map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - self.log_sum, f64::from(q) - other.log_sum);
            p.exp() * (p - q)
        });
        terms.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_and_divergence_of_distributions_known_in_closed_form() {
        let (p, q) = ([0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], [5.0, 5.0, 5.0]);
        let (p, q) = (Row::new(&p), Row::new(&q));
        assert!((p.surprise(0) - 2f64.ln()).abs() < 1e-6);
        assert!((q.surprise(2) - 3f64.ln()).abs() < 1e-6);
        assert_eq!((p.top, q.top), (0, 0));
        let expected = 0.5 * 1.5f64.ln() + 0.5 * 0.75f64.ln();
        assert!((p.divergence(&q) - expected).abs() < 1e-6);
        assert!(p.divergence(&p).abs() < 1e-12);
    }

    #[test]
    fn a_mean_has_the_standard_error_of_its_values() {
        let mut mean = Mean::default();
        for x in [1.0, 2.0, 3.0, 4.0] {
            mean.add(x);
        }
        assert_eq!(mean.mean(), 2.5);
        assert!((mean.standard_error() - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }
}
