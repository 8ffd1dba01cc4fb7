//! Rotary position embedding (arXiv:2104.09864): frequencies with linear, YaRN (arXiv:2309.00071) and per-frequency
//! scaling, and the cosines and sines of the positions of a step.

use super::config::{RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::kernel::{Kernels, ThreadPool, for_each_row_mut};

/// Frequencies of one rotary embedding, ready to be evaluated at positions.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angle per position of each rotated pair.
    frequencies: Vec<f64>,
    /// Factor on cosine and sine.
    magnitude: f64,
}

impl Rope {
    /// The frequencies of `config`; `factors`, one per pair, divide them (the `rope_freqs` tensor of Llama 3).
    ///
    /// # Errors
    /// Factors of another number, or not positive and finite; a configuration whose frequencies are not finite.
    pub fn new(config: &RopeConfig, factors: Option<&[f32]>) -> Result<Self> {
        let pairs = config.n_dims / 2;
        if let Some(factors) = factors {
            if factors.len() != pairs {
                return Err(Error::InvalidModel(format!(
                    "tensor 'rope_freqs.weight': expected {pairs} values, one per rotated pair, found {}",
                    factors.len()
                )));
            }
            if let Some(bad) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                return Err(Error::InvalidModel(format!(
                    "tensor 'rope_freqs.weight': expected positive numbers, found {bad}"
                )));
            }
        }
        let base = f64::from(config.base);
        let mut frequencies = crate::memory::with_capacity(pairs, "rotary frequencies")?;
        for i in 0..pairs {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            frequencies.push(base.powf(-2.0 * i as f64 / config.n_dims as f64) / factor);
        }
        scale(config, &mut frequencies);
        let magnitude = magnitude(config);
        if frequencies.iter().any(|f: &f64| !f.is_finite()) || !magnitude.is_finite() {
            return Err(Error::InvalidModel(format!(
                "the rotary frequencies that metadata keys 'rope.freq_base' and 'rope.scaling.*' lead to are not finite: {config:?}"
            )));
        }
        Ok(Self {
            frequencies,
            magnitude,
        })
    }

    /// Writes cosine and sine of each pair at a position; both slices have one element per pair.
    pub fn evaluate(&self, position: u32, cos: &mut [f32], sin: &mut [f32]) {
        for ((frequency, cos), sin) in self.frequencies.iter().zip(cos).zip(sin) {
            let (s, c) = (f64::from(position) * frequency).sin_cos();
            *cos = (c * self.magnitude) as f32;
            *sin = (s * self.magnitude) as f32;
        }
    }
}

/// Scales the frequencies to longer contexts.
fn scale(config: &RopeConfig, frequencies: &mut [f64]) {
    match config.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= f64::from(factor)),
        RopeScaling::Yarn {
            factor,
            original_context,
            ext_factor,
            beta_fast,
            beta_slow,
            ..
        } => {
            // The pair that turns `rotations` times over the original context.
            let pair_of = |rotations: f32| {
                let context = original_context as f64;
                config.n_dims as f64 * (context / (f64::from(rotations) * 2.0 * std::f64::consts::PI)).ln()
                    / (2.0 * f64::from(config.base).ln())
            };
            let low = pair_of(beta_fast).floor().max(0.0);
            let high = pair_of(beta_slow).ceil().min(config.n_dims as f64 - 1.0);
            for (i, f) in frequencies.iter_mut().enumerate() {
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let kept = (1.0 - ramp) * f64::from(ext_factor);
                *f = *f / f64::from(factor) * (1.0 - kept) + *f * kept;
            }
        }
    }
}

/// What cosine and sine are multiplied with, so that attention keeps its temperature.
fn magnitude(config: &RopeConfig) -> f64 {
    let of_scaling = match config.scaling {
        RopeScaling::Yarn {
            factor,
            ext_factor,
            log_multiplier,
            ..
        } if ext_factor != 0.0 => {
            let grown = |multiplier: f64| {
                if factor <= 1.0 {
                    1.0
                } else {
                    1.0 + 0.1 * multiplier * f64::from(factor).ln()
                }
            };
            if log_multiplier == 0.0 {
                grown(1.0)
            } else {
                grown(1.0) / grown(f64::from(log_multiplier))
            }
        }
        _ => 1.0,
    };
    of_scaling * f64::from(config.attention_factor)
}

/// Cosines and sines of the rows of a step.
#[derive(Debug)]
pub struct RopeTable {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Room for `max_rows` rows of `pairs` pairs.
    pub fn new(max_rows: usize, pairs: usize) -> Result<Self> {
        let what = "rotary tables";
        Ok(Self {
            pairs,
            cos: crate::memory::filled(0.0, max_rows * pairs, what)?,
            sin: crate::memory::filled(0.0, max_rows * pairs, what)?,
        })
    }

    /// Fills `rows` rows for their positions.
    pub fn set(
        &mut self,
        pool: &ThreadPool,
        rope: &Rope,
        rows: usize,
        position: impl Fn(usize) -> u32 + Sync,
    ) {
        let (cos, sin) = ((&mut self.cos[..], self.pairs), (&mut self.sin[..], self.pairs));
        for_each_row_mut(pool, rows, cos, sin, |i, cos, sin| {
            rope.evaluate(position(i), cos, sin);
        });
    }

    /// Rotates every head of a row's vector, neighbours paired: heads of `head_dim` elements, the first `2 × pairs` of
    /// each rotated.
    pub fn rotate_interleaved(&self, kernels: &Kernels, row: usize, x: &mut [f32], head_dim: usize) {
        let range = row * self.pairs..(row + 1) * self.pairs;
        let (cos, sin) = (&self.cos[range.clone()], &self.sin[range]);
        for head in x.chunks_exact_mut(head_dim) {
            kernels.rope_interleaved(head, cos, sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: RopeScaling) -> RopeConfig {
        RopeConfig {
            n_dims: 8,
            base: 10000.0,
            scaling,
            attention_factor: 1.0,
        }
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let rope = Rope::new(&config(RopeScaling::None), None).unwrap();
        let expected = [1.0, 0.1, 0.01, 0.001];
        for (f, e) in rope.frequencies.iter().zip(expected) {
            assert!((f - e).abs() < 1e-12);
        }
        let (mut cos, mut sin) = ([0.0; 4], [0.0; 4]);
        rope.evaluate(3, &mut cos, &mut sin);
        assert!((cos[0] - 3f32.cos()).abs() < 1e-6 && (sin[1] - 0.3f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let rope = Rope::new(&config(RopeScaling::Linear { factor: 4.0 }), None).unwrap();
        assert!((rope.frequencies[1] - 0.025).abs() < 1e-12);
    }

    #[test]
    fn yarn_keeps_the_fastest_and_interpolates_the_slowest() {
        let rope = Rope::new(
            &config(RopeScaling::Yarn {
                factor: 8.0,
                original_context: 4096,
                ext_factor: 1.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                log_multiplier: 0.0,
            }),
            None,
        )
        .unwrap();
        assert_eq!(rope.frequencies[0], 1.0);
        assert!((rope.frequencies[3] - 0.001 / 8.0).abs() < 1e-9);
        assert!((rope.magnitude - (1.0 + 0.1 * 8f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn a_configuration_without_finite_frequencies_is_refused() {
        let mut c = config(RopeScaling::None);
        c.base = 0.0;
        let message = Rope::new(&c, None).unwrap_err().to_string();
        assert!(message.contains("rope.freq_base"), "{message}");
    }

    #[test]
    fn factors_must_be_positive_and_one_per_pair() {
        let c = config(RopeScaling::None);
        assert!(Rope::new(&c, Some(&[1.0, 2.0])).is_err());
        assert!(Rope::new(&c, Some(&[1.0, 2.0, 4.0, 8.0, 16.0])).is_err());
        assert!(Rope::new(&c, Some(&[1.0, 2.0, 0.0, 1.0])).is_err());
        assert!(Rope::new(&c, Some(&[1.0, 2.0, f32::NAN, 1.0])).is_err());
        let rope = Rope::new(&c, Some(&[1.0, 2.0, 4.0, 8.0])).unwrap();
        assert!((rope.frequencies[2] - 0.0025).abs() < 1e-12);
    }
}
