//! Timing an engine: prompts and decode steps, one step at a time on this thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event, FinishReason, Poll, Request, Stats};
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};

use crate::exit::Failure;

/// An engine that computes when it is told to.
pub struct Bench {
    engine: Engine,
    n_vocab: u32,
}

/// Sequences whose prompts are computed.
pub struct Filled {
    requests: Vec<Request>,
    /// How long the prompts took.
    pub prefill: Duration,
}

/// A measured stretch of decode steps.
pub struct Decoded {
    /// How long it took.
    pub time: Duration,
    /// Tokens generated, of all sequences together.
    pub tokens: u64,
    /// Tokens the sequences held together, on average over the steps.
    pub context: f64,
}

impl Bench {
    /// An engine with these options, which steps by hand.
    pub fn new(model: Arc<Model>, mut options: EngineOptions) -> infer::Result<Self> {
        options.manual_step = true;
        // Prompts beside sequences that have theirs get whole chunks, or those would be far ahead when the last is computed.
        options.prefill_budget = 0.0;
        // Every step brings one token of each sequence.
        options.speculation = "off";
        let n_vocab = u32::try_from(model.info().n_vocab).unwrap_or(u32::MAX);
        Ok(Self {
            engine: Engine::new(model, options)?,
            n_vocab,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ids without meaning, the same every time.
    pub fn prompt(&self, tokens: usize, sequence: usize) -> Vec<u32> {
        let mut state = sequence as u32 ^ 0x9e37_79b9;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((u64::from(state) * u64::from(self.n_vocab)) >> 32) as u32
        };
        (0..tokens).map(|_| next()).collect()
    }

    /// Submits `batch` prompts and computes them until each sequence holds `depth` tokens and has the next. Each can
    /// decode `room` more.
    pub fn fill(&self, batch: usize, depth: usize, room: usize) -> Result<Filled, Failure> {
        let chunk = self.engine.options().prefill_chunk;
        let shares = shares(batch, depth.max(1), chunk);
        let mut requests = Vec::new();
        for (i, share) in shares.iter().enumerate() {
            requests.push(RequestOptions {
                prompt: Prompt::Ids(self.prompt(share.prompt, i)),
                // Every run computes its prompts.
                cache_prompt: false,
                temperature: 0.0,
                max_tokens: share.ahead + room + 1,
                ignore_end_of_generation: true,
                ..RequestOptions::default()
            });
        }
        let before = self.stats();
        let requests = self.engine.submit_batch(requests)?;
        let wanted = shares.iter().map(|s| s.prompt as u64).sum::<u64>();
        let started = Instant::now();
        while self.stats().prompt_tokens - before.prompt_tokens < wanted {
            self.step(&requests)?;
        }
        Ok(Filled {
            requests,
            prefill: started.elapsed(),
        })
    }

    /// Computes `steps` steps, one token for each sequence.
    pub fn decode(&self, filled: &Filled, steps: usize) -> Result<Decoded, Failure> {
        let before = self.stats();
        let started = Instant::now();
        for _ in 0..steps {
            self.step(&filled.requests)?;
        }
        let time = started.elapsed();
        let after = self.stats();
        let tokens = after.generated_tokens - before.generated_tokens;
        let expected = (filled.requests.len() * steps) as u64;
        if tokens != expected {
            return Err(Failure::Failed(format!(
                "{steps} steps of {} sequences gave {tokens} tokens, expected {expected}",
                filled.requests.len()
            )));
        }
        Ok(Decoded {
            time,
            tokens,
            context: (before.kv_tokens_used + after.kv_tokens_used) as f64 / 2.0,
        })
    }

    /// Fetches what the sequences produced.
    pub fn read(&self, filled: &Filled, event: &mut Event) -> Result<(), Failure> {
        for request in &filled.requests {
            request.next(Some(Duration::ZERO), event)?;
        }
        Ok(())
    }

    /// Ends the sequences and frees their memory for others.
    pub fn end(&self, filled: Filled) -> Result<(), Failure> {
        drop(filled);
        while self.engine.step()? {}
        Ok(())
    }

    /// The engine's counters.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    fn step(&self, requests: &[Request]) -> Result<(), Failure> {
        if self.engine.step()? {
            return Ok(());
        }
        // Every request has room for all that is measured, so an early end is a failure.
        let mut event = Event::default();
        for request in requests {
            while request.next(Some(Duration::ZERO), &mut event)? == Poll::Event {
                if let Some(finish) = event.finish.take().filter(|f| f.reason == FinishReason::Error) {
                    let why = finish.error.map(|e| e.to_string());
                    return Err(Failure::Failed(why.unwrap_or_default()));
                }
            }
        }
        Err(Failure::Failed(
            "the sequences ended before they were measured".to_string(),
        ))
    }
}

/// How a sequence of several is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    /// Tokens of its prompt.
    prompt: usize,
    /// Most tokens it generates until the last prompt is computed.
    ahead: usize,
}

/// Prompts such that all sequences hold `depth` tokens when the last prompt is computed: prompts are computed one after the
/// other in chunks, and whoever is done goes on by a token per step. Where a prompt ends within a chunk the sequences
/// differ by a token or two; many sequences of a small depth differ by the steps that their prompts take.
fn shares(batch: usize, depth: usize, chunk: usize) -> Vec<Share> {
    let mut after = 0;
    let mut shares: Vec<Share> = (0..batch)
        .map(|_| {
            let steps = after / chunk.max(1);
            let prompt = depth.saturating_sub(steps).max(1);
            after += prompt;
            // The token of the prompt's own step, and the step that a chunk begun elsewhere can add.
            Share {
                prompt,
                ahead: steps + 2,
            }
        })
        .collect();
    shares.reverse();
    shares
}

/// Tokens that the longest of `batch` sequences needs room for when they are filled to `depth` and decode `room` more.
pub fn longest(batch: usize, depth: usize, room: usize, chunk: usize) -> usize {
    let filled = shares(batch, depth.max(1), chunk)
        .into_iter()
        .map(|s| s.prompt + s.ahead);
    filled.max().unwrap_or(0) + room + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_sequences_get_shorter_prompts() {
        let prompts = |batch, depth| {
            shares(batch, depth, 256)
                .iter()
                .map(|s| s.prompt)
                .collect::<Vec<_>>()
        };
        assert_eq!(prompts(1, 8192), [8192]);
        assert_eq!(prompts(3, 1), [1, 1, 1]);
        assert_eq!(prompts(3, 512), [509, 510, 512]);
        assert_eq!(longest(3, 512, 100, 256), 512 + 2 + 100 + 1);
        // The first of a thousand sequences waits for three more steps.
        assert_eq!(longest(1000, 0, 100, 256), 1 + 3 + 2 + 100 + 1);
    }

    #[test]
    fn all_sequences_are_equally_deep_when_measuring_begins() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");
        let model = Model::load(model.as_ref(), &Default::default(), &mut |_| true).unwrap();
        let options = EngineOptions {
            threads: 1,
            prefill_chunk: 16,
            max_running: 4,
            context_length: 256,
            ..EngineOptions::default()
        };
        let bench = Bench::new(model, options).unwrap();
        let filled = bench.fill(4, 96, 8).unwrap();
        let used = bench.stats().kv_tokens_used;
        // A prompt and a chunk begin at different places, which is worth a token or two.
        assert!(used.abs_diff(4 * 96) <= 8, "{used}");
        let decoded = bench.decode(&filled, 8).unwrap();
        assert_eq!(decoded.tokens, 32);
        assert_eq!(decoded.context, used as f64 + 16.0);
        bench.end(filled).unwrap();
        assert_eq!(bench.stats().kv_tokens_used, 0);
    }

    #[test]
    fn sequences_that_wait_for_many_others_do_not_end_before_they_are_measured() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");
        let model = Model::load(model.as_ref(), &Default::default(), &mut |_| true).unwrap();
        let options = EngineOptions {
            threads: 1,
            prefill_chunk: 4,
            max_running: 32,
            context_length: longest(32, 2, 3, 4),
            ..EngineOptions::default()
        };
        let bench = Bench::new(model, options).unwrap();
        let filled = bench.fill(32, 2, 3).unwrap();
        assert_eq!(bench.decode(&filled, 3).unwrap().tokens, 96);
        assert!(bench.stats().running == 32);
    }
}
