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
    let least = if limited { 0.0 } else { params.min_p };
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
