//! Top-k, top-p and min-p, and the draw from what they leave.

use super::SamplingParams;

/// A token and its unnormalized probability: exp(logit − largest logit).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    weight: f32,
    id: u32,
}

/// More likely first, lower id on ties: a total order, as weights are never NaN.
fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Fills `kept` with the tokens that survive all three stages, most likely first. `weights` are unnormalized
/// probabilities with the largest 1 and the sum `total`.
pub fn keep_likely(kept: &mut Vec<Candidate>, weights: &[f32], total: f64, params: &SamplingParams) {
    kept.clear();
    let limited = params.top_k > 0 && params.top_k < weights.len();
    // The most likely token has the weight 1, so min-p is a plain threshold. Top-p counts what top-k kept before
    // min-p removes some of it.
    let least = if limited {
        0.0
    } else {
        params.min_p.max(negligible(weights.len(), total, params.top_p))
    };
    kept.extend(
        weights
            .iter()
            .enumerate()
            .filter(|(_, w)| **w >= least && **w > 0.0)
            .map(|(id, &weight)| Candidate {
                weight,
                id: id as u32,
            }),
    );
    let mut total = total;
    if limited {
        if params.top_k < kept.len() {
            kept.select_nth_unstable_by(params.top_k, order);
            kept.truncate(params.top_k);
        }
        kept.sort_unstable_by(order);
        total = kept.iter().map(|c| f64::from(c.weight)).sum();
        kept.retain(|c| c.weight >= params.min_p);
    }
    if params.top_p < 1.0 {
        keep_share(kept, f64::from(params.top_p) * total);
    } else {
        kept.sort_unstable_by(order);
    }
}

/// A weight so small that all tokens below it together have less than half of what top-p leaves out: sorting begins
/// without them, and the prefix is the same. 0 where rounding of `total` could matter.
fn negligible(n_vocab: usize, total: f64, top_p: f32) -> f32 {
    let left_out = 1.0 - f64::from(top_p);
    if left_out < 1e-3 || !total.is_finite() {
        return 0.0;
    }
    (0.5 * left_out * total / n_vocab.max(1) as f64) as f32
}

/// Keeps the shortest sorted prefix whose weights reach `share`, sorting only as much as that takes.
fn keep_share(kept: &mut Vec<Candidate>, share: f64) {
    let (mut sorted, mut sum) = (0, 0.0f64);
    let mut batch = 64;
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let n = batch.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n, order);
        }
        rest[..n].sort_unstable_by(order);
        for candidate in &rest[..n] {
            sorted += 1;
            sum += f64::from(candidate.weight);
            if sum >= share {
                kept.truncate(sorted);
                return;
            }
        }
        batch *= 4;
    }
}

/// The candidate at the share `u` in [0, 1) of the summed weights.
pub fn draw(kept: &[Candidate], u: f64) -> Option<u32> {
    let target = u * kept.iter().map(|c| f64::from(c.weight)).sum::<f64>();
    let mut sum = 0.0;
    for candidate in kept {
        sum += f64::from(candidate.weight);
        if sum > target {
            return Some(candidate.id);
        }
    }
    kept.last().map(|c| c.id)
}

/// Likewise from all tokens, in the order of their ids.
pub fn draw_from_all(weights: &[f32], u: f64) -> Option<u32> {
    let target = u * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
    let mut sum = 0.0;
    for (id, &weight) in weights.iter().enumerate() {
        sum += f64::from(weight);
        if sum > target {
            return Some(id as u32);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_p_keeps_the_same_prefix_as_a_full_sort() {
        let mut state = 9u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for (n, spread) in [
            (1, 1.0),
            (7, 3.0),
            (300, 0.1),
            (300, 12.0),
            (5000, 30.0),
            (5000, 100.0),
        ] {
            let logits: Vec<f32> = (0..n).map(|_| random() * spread).collect();
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
            // As the kernels sum it: in single precision.
            let total = f64::from(weights.iter().sum::<f32>());
            for top_p in [1e-6, 0.1, 0.5, 0.9, 0.99, 0.9985, 0.99999, 1.0] {
                let mut sorted: Vec<Candidate> = (0..n as u32)
                    .map(|id| Candidate {
                        weight: weights[id as usize],
                        id,
                    })
                    .filter(|c| c.weight > 0.0)
                    .collect();
                sorted.sort_by(order);
                let mut sum = 0.0;
                let share = f64::from(top_p) * total;
                let reach = sorted.iter().position(|c| {
                    sum += f64::from(c.weight);
                    sum >= share
                });
                if top_p < 1.0 {
                    sorted.truncate(reach.map_or(n, |i| i + 1));
                }
                let params = SamplingParams {
                    temperature: 1.0,
                    top_k: 0,
                    top_p,
                    min_p: 0.0,
                    repetition_penalty: 1.0,
                    repetition_window: 0,
                };
                let mut kept = Vec::new();
                keep_likely(&mut kept, &weights, total, &params);
                assert_eq!(kept, sorted, "{n} tokens, spread {spread}, top_p {top_p}");
            }
        }
    }
}
