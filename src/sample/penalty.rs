//! Repetition penalty (arXiv:1909.05858): logits of recent tokens are divided when positive, multiplied when negative.

/// Applies the penalty once to each distinct id of `recent`; `distinct` is working memory.
pub fn repetition(logits: &mut [f32], recent: &[u32], penalty: f32, distinct: &mut Vec<u32>) {
    distinct.clear();
    distinct.extend_from_slice(recent);
    distinct.sort_unstable();
    distinct.dedup();
    for &id in distinct.iter() {
        let Some(logit) = logits.get_mut(id as usize) else {
            continue;
        };
        *logit = if *logit > 0.0 {
            *logit / penalty
        } else {
            *logit * penalty
        };
    }
}
