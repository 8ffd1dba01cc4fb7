//! From logits to a token: penalty, temperature, top-k, top-p, min-p, and one draw of counter-based noise.
//!
//! The stages run in that order, as in Hugging Face transformers and vLLM: top-p looks at the distribution that
//! temperature has shaped. All three cut a prefix of the tokens sorted by probability, ties by id, so together they
//! keep the shortest of the three prefixes.

mod candidates;
mod logprobs;
mod noise;
mod penalty;
mod samplers;

use crate::error::Result;
use crate::kernel::Kernels;
use crate::memory;
use candidates::Candidate;

pub use logprobs::{MAX_TOP_LOGPROBS, log_sum_exp, logprob, most_probable};
pub use noise::uniform;
pub use samplers::Samplers;

/// How to choose a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token, the lowest id on ties.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens whose probabilities add up to p; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens count as recent.
    pub repetition_window: usize,
}

/// What names a random number: nothing is carried from one token to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseKey {
    /// The request's seed.
    pub seed: u64,
    /// Which completion of the request.
    pub completion: u32,
    /// Position in the sequence of the token to choose.
    pub position: u32,
    /// Which draw at that position.
    pub draw: u32,
}

/// Reusable buffers of sampling; choosing a token never allocates.
#[derive(Debug)]
pub struct Sampler {
    candidates: Vec<Candidate>,
    seen: penalty::Seen,
    /// The logits as the model gave them, where the log probability of the choice is wanted.
    raw: Vec<f32>,
}

impl Sampler {
    /// Buffers for a vocabulary of `n_vocab` tokens.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(n_vocab: usize) -> Result<Self> {
        Ok(Self {
            candidates: memory::with_capacity(n_vocab, "sampling")?,
            seen: penalty::Seen::new(n_vocab)?,
            raw: memory::with_capacity(n_vocab, "sampling")?,
        })
    }

    /// Chooses a token. `logits` is overwritten; `history` are the sequence's tokens so far, prompt included.
    /// `None` when no logit is a number above −∞.
    pub fn choose(
        &mut self,
        kernels: &Kernels,
        logits: &mut [f32],
        params: &SamplingParams,
        history: &[u32],
        key: NoiseKey,
    ) -> Option<u32> {
        if params.repetition_penalty != 1.0 {
            let recent = &history[history.len().saturating_sub(params.repetition_window)..];
            penalty::repetition(logits, recent, params.repetition_penalty, &mut self.seen);
        }
        let best = argmax(kernels, logits)?;
        if params.temperature == 0.0 || logits[best as usize] == f32::INFINITY {
            return Some(best);
        }
        kernels.scale_in_place(logits, 1.0 / params.temperature);
        // A temperature near zero overflows every logit; the limit of the distribution is the maximum.
        let max = logits[best as usize];
        if !max.is_finite() {
            return Some(best);
        }
        let total = f64::from(kernels.exp_minus_in_place(logits, max));
        let u = uniform(key);
        if params.top_k == 0 && params.top_p >= 1.0 && params.min_p == 0.0 {
            return Some(candidates::draw_from_all(logits, u).unwrap_or(best));
        }
        candidates::keep_likely(&mut self.candidates, logits, total, params);
        Some(candidates::draw(&self.candidates, u).unwrap_or(best))
    }

    /// As [`Sampler::choose`], and answers the token's log probability; `top` gets the most probable tokens with theirs.
    pub fn choose_scored(
        &mut self,
        kernels: &Kernels,
        logits: &mut [f32],
        params: &SamplingParams,
        history: &[u32],
        key: NoiseKey,
        top: &mut [(u32, f32)],
    ) -> Option<(u32, f32)> {
        let log_sum = log_sum_exp(kernels, logits)?;
        most_probable(kernels, logits, log_sum, top);
        self.raw.clear();
        self.raw.extend_from_slice(logits);
        let id = self.choose(kernels, logits, params, history, key)?;
        Some((id, logprob(self.raw[id as usize], log_sum)))
    }
}

/// The id of the largest logit, the lowest on ties; `None` when every logit is −∞ or NaN.
fn argmax(kernels: &Kernels, logits: &[f32]) -> Option<u32> {
    // Many are compared at once, and only the part with the first of the largest is searched for its place.
    const PART: usize = 4096;
    let (mut first, mut max) = (None, f32::NEG_INFINITY);
    for (part, logits) in logits.chunks(PART).enumerate() {
        let largest = kernels.max(logits);
        if largest > max {
            (first, max) = (Some(part * PART), largest);
        }
    }
    let first = first?;
    let at = logits[first..].iter().position(|&logit| logit == max)?;
    Some((first + at) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::CpuLevel;

    const PLAIN: SamplingParams = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repetition_window: 64,
    };

    fn counts(params: &SamplingParams, logits: &[f32], n: u32) -> Vec<usize> {
        let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
        let mut sampler = Sampler::new(logits.len()).unwrap();
        let mut counts = vec![0; logits.len()];
        for position in 0..n {
            let key = NoiseKey {
                seed: 7,
                completion: 0,
                position,
                draw: 0,
            };
            let id = sampler
                .choose(kernels, &mut logits.to_vec(), params, &[], key)
                .unwrap();
            counts[id as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_zero_takes_the_lowest_id_of_the_largest_logits() {
        let params = SamplingParams {
            temperature: 0.0,
            ..PLAIN
        };
        assert_eq!(counts(&params, &[1.0, 3.0, 3.0, f32::NAN], 5), [0, 5, 0, 0]);
    }

    #[test]
    fn the_largest_logit_is_found_wherever_it_stands() {
        for level in CpuLevel::available() {
            let kernels = Kernels::for_level(level).unwrap();
            for n in [1, 15, 4096, 4097, 9000] {
                for at in [0, n / 2, n - 1] {
                    let mut logits = vec![-3.0f32; n];
                    logits[n - 1] = 2.0;
                    logits[0] = f32::NAN;
                    logits[at] = 2.0;
                    assert_eq!(argmax(kernels, &logits), Some(at as u32), "{level:?} {n}");
                }
            }
            assert_eq!(argmax(kernels, &[0.0, -0.0, -1.0]), Some(0));
            assert_eq!(argmax(kernels, &[f32::NAN, f32::NEG_INFINITY]), None);
            assert_eq!(argmax(kernels, &[]), None);
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        for params in [PLAIN, SamplingParams { top_k: 4, ..PLAIN }] {
            for (count, logit) in counts(&params, &logits, 20000).iter().zip(logits) {
                let (p, f) = (logit.exp() / total, *count as f32 / 20000.0);
                assert!((p - f).abs() < 0.012, "probability {p}, frequency {f}");
            }
        }
    }

    #[test]
    fn each_stage_keeps_its_prefix_of_the_sorted_tokens() {
        // Probabilities 0.5, 0.25, 0.125, 0.125 in the order 2, 0, 1, 3.
        let logits = [0.25f32.ln(), 0.125f32.ln(), 0.5f32.ln(), 0.125f32.ln()];
        let seen = |params| {
            counts(&params, &logits, 2000)
                .iter()
                .map(|c| *c > 0)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            seen(SamplingParams { top_k: 2, ..PLAIN }),
            [true, false, true, false]
        );
        assert_eq!(
            seen(SamplingParams { top_p: 0.5, ..PLAIN }),
            [false, false, true, false]
        );
        assert_eq!(
            seen(SamplingParams { top_p: 0.6, ..PLAIN }),
            [true, false, true, false]
        );
        assert_eq!(
            seen(SamplingParams { top_p: 0.8, ..PLAIN }),
            [true, true, true, false]
        );
        assert_eq!(
            seen(SamplingParams { min_p: 0.4, ..PLAIN }),
            [true, false, true, false]
        );
        assert_eq!(
            seen(SamplingParams {
                min_p: 0.2,
                top_k: 3,
                ..PLAIN
            }),
            [true, true, true, false]
        );
        assert_eq!(seen(SamplingParams { top_k: 1000, ..PLAIN }), [true; 4]);
    }

    #[test]
    fn top_p_keeps_enough_of_a_flat_distribution() {
        let logits = vec![0.0f32; 5000];
        let seen = counts(&SamplingParams { top_p: 0.5, ..PLAIN }, &logits, 20000);
        assert!(seen[2500..].iter().all(|c| *c == 0));
        assert!(seen[..2500].iter().filter(|c| **c > 0).count() > 2400);
    }

    #[test]
    fn the_same_key_gives_the_same_token_and_others_do_not() {
        let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
        let mut sampler = Sampler::new(1000).unwrap();
        let logits = vec![0.0f32; 1000];
        let mut at = |seed, completion, position| {
            let key = NoiseKey {
                seed,
                completion,
                position,
                draw: 0,
            };
            sampler
                .choose(kernels, &mut logits.clone(), &PLAIN, &[], key)
                .unwrap()
        };
        assert_eq!(at(1, 0, 5), at(1, 0, 5));
        let all = [at(1, 0, 5), at(2, 0, 5), at(1, 1, 5), at(1, 0, 6)];
        assert!((1..4).any(|i| all[i] != all[0]));
    }

    #[test]
    fn repetition_penalty_lowers_recent_tokens_only_once() {
        let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
        let mut sampler = Sampler::new(3).unwrap();
        let params = SamplingParams {
            temperature: 0.0,
            repetition_penalty: 2.0,
            repetition_window: 3,
            ..PLAIN
        };
        let key = NoiseKey {
            seed: 0,
            completion: 0,
            position: 0,
            draw: 0,
        };
        let mut choose = |logits: [f32; 3], history: &[u32]| {
            sampler
                .choose(kernels, &mut logits.to_vec(), &params, history, key)
                .unwrap()
        };
        assert_eq!(choose([3.0, 2.0, 1.0], &[0, 0, 0]), 1);
        assert_eq!(choose([3.0, 1.0, 1.0], &[0, 0, 0]), 0);
        assert_eq!(choose([-1.0, -1.5, -9.0], &[0]), 1);
        assert_eq!(choose([3.0, 2.0, 1.0], &[0, 1, 2, 2]), 0, "0 left the window");
        assert_eq!(
            choose([3.0, 2.0, 1.0], &[700, 0]),
            1,
            "an id outside the vocabulary is ignored"
        );
    }

    #[test]
    fn a_logit_that_is_no_number_is_never_chosen() {
        for level in CpuLevel::available() {
            let kernels = Kernels::for_level(level).unwrap();
            let mut logits = vec![f32::NAN; 40];
            (logits[3], logits[37]) = (1.0, 1.5);
            let mut sampler = Sampler::new(logits.len()).unwrap();
            for params in [
                PLAIN,
                SamplingParams { top_k: 5, ..PLAIN },
                SamplingParams { top_p: 0.9, ..PLAIN },
                SamplingParams { min_p: 0.1, ..PLAIN },
            ] {
                for position in 0..50 {
                    let key = NoiseKey {
                        seed: 1,
                        completion: 0,
                        position,
                        draw: 0,
                    };
                    let id = sampler.choose(kernels, &mut logits.clone(), &params, &[], key);
                    assert!(id == Some(3) || id == Some(37), "{id:?} at {level:?}");
                }
            }
        }
    }

    #[test]
    fn logits_without_a_number_are_reported() {
        let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
        let mut sampler = Sampler::new(3).unwrap();
        let key = NoiseKey {
            seed: 0,
            completion: 0,
            position: 0,
            draw: 0,
        };
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            assert_eq!(sampler.choose(kernels, &mut [bad; 3], &PLAIN, &[], key), None);
        }
        let tiny = SamplingParams {
            temperature: 1e-30,
            ..PLAIN
        };
        assert_eq!(
            sampler.choose(kernels, &mut [1.0, 1e20, 0.0], &tiny, &[], key),
            Some(1)
        );
    }
}
