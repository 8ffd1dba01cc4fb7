//! Log probabilities: the natural logarithms of the softmax of the logits as the model gave them, before penalty and
//! temperature.

use crate::kernel::Kernels;

/// Most tokens of a place whose log probabilities are given beside that of the one chosen.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Logits that are exponentiated at a time.
const PART: usize = 1024;

/// What to subtract from a logit for the logarithm of its probability: ln Σ exp(logit). `None` when no logit is a number
/// above −∞.
pub fn log_sum_exp(kernels: &Kernels, logits: &[f32]) -> Option<f64> {
    let max = kernels.max(logits);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let mut part = [0.0f32; PART];
    let mut sum = 0.0f64;
    for logits in logits.chunks(PART) {
        let part = &mut part[..logits.len()];
        part.copy_from_slice(logits);
        sum += f64::from(kernels.exp_minus_in_place(part, max));
    }
    Some(f64::from(max) + sum.ln())
}

/// The logarithm of the probability of a token with this logit.
pub fn logprob(logit: f32, log_sum: f64) -> f32 {
    (f64::from(logit) - log_sum) as f32
}

/// The most probable tokens with their log probabilities, as many as `out` takes: most probable first, ties by id.
pub fn most_probable(kernels: &Kernels, logits: &[f32], log_sum: f64, out: &mut [(u32, f32)]) {
    let Some(last) = out.len().checked_sub(1) else {
        return;
    };
    out.fill((u32::MAX, f32::NEG_INFINITY));
    let mut found = 0;
    for (index, part) in logits.chunks(PART).enumerate() {
        if found > last && kernels.max(part) <= out[last].1 {
            continue;
        }
        for (i, &logit) in part.iter().enumerate() {
            // The ids ascend: of equal logits, those that came first stay before.
            if found > last && logit <= out[last].1 || logit.is_nan() {
                continue;
            }
            let at = out[..found].partition_point(|&(_, other)| other >= logit);
            found = (found + 1).min(out.len());
            out[at..found].rotate_right(1);
            out[at] = ((index * PART + i) as u32, logit);
        }
    }
    for (_, value) in out {
        *value = logprob(*value, log_sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::CpuLevel;

    fn kernels() -> &'static Kernels {
        Kernels::for_level(CpuLevel::Scalar).unwrap()
    }

    /// Pseudo-random logits with ties.
    fn logits(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919 + 13) % 1009) as f32 / 50.0 - 9.0)
            .collect()
    }

    #[test]
    fn log_probabilities_are_those_of_f64() {
        for n in [1, 2, 1023, 1024, 1025, 5000] {
            let logits = logits(n);
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let found = log_sum_exp(kernels(), &logits).unwrap();
            assert!((found - sum.ln()).abs() < 1e-6, "{n}: {found} {}", sum.ln());
        }
        assert_eq!(log_sum_exp(kernels(), &[f32::NEG_INFINITY; 3]), None);
        assert_eq!(log_sum_exp(kernels(), &[f32::NAN; 3]), None);
    }

    #[test]
    fn the_most_probable_are_those_of_a_stable_sort() {
        for n in [20, 21, 1024, 1025, 5000] {
            let logits = logits(n);
            let log_sum = log_sum_exp(kernels(), &logits).unwrap();
            let mut sorted: Vec<u32> = (0..n as u32).collect();
            sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            for k in [0, 1, 5, 20] {
                let mut out = [(0, 0.0); MAX_TOP_LOGPROBS];
                most_probable(kernels(), &logits, log_sum, &mut out[..k]);
                for (found, &id) in out.iter().zip(&sorted[..k]) {
                    assert_eq!(*found, (id, logprob(logits[id as usize], log_sum)), "{n} {k}");
                }
            }
        }
    }

    #[test]
    fn nothing_below_infinity_and_no_nan_is_left_out_or_taken_in() {
        let logits = [f32::NAN, f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        let log_sum = log_sum_exp(kernels(), &[f32::NEG_INFINITY, 1.0]).unwrap();
        let mut out = [(0, 0.0); 3];
        most_probable(kernels(), &logits, log_sum, &mut out);
        assert_eq!(out.map(|(id, _)| id), [2, 1, 3]);
        assert_eq!(out[0].1, 0.0);
    }
}
