//! Steps that generate while every new block pushes an old one out, with and without a tier that writes those.

use std::sync::Arc;
use std::time::Instant;

use infer::engine::{Engine, Request, Stats};
use infer::model::Model;
use infer::options::EngineOptions;
use serde_json::{Value, json};

use super::super::percentile::Sorted;
use super::{prompt, request, settle};
use crate::exit::Failure;

/// Sequences that generate at the same time.
const SEQUENCES: usize = 8;
/// Tokens of each prompt and of each answer.
const PROMPT: usize = 32;
const ANSWER: usize = 224;

struct Side {
    engine: Engine,
    times: Vec<f64>,
    seed: u64,
}

impl Side {
    fn new(model: &Arc<Model>, options: EngineOptions) -> Result<Self, Failure> {
        let mut side = Self {
            engine: Engine::new(Arc::clone(model), options)?,
            times: Vec::new(),
            seed: 100,
        };
        // The first round fills the memory.
        side.round(model)?;
        side.times.clear();
        Ok(side)
    }

    /// New prompts, and all of their answers.
    fn round(&mut self, model: &Model) -> Result<(), Failure> {
        let mut requests: Vec<Request> = Vec::new();
        for _ in 0..SEQUENCES {
            self.seed += 1;
            let ids = prompt(model, self.seed, PROMPT);
            requests.push(self.engine.submit(request(&ids, ANSWER))?);
        }
        loop {
            let before = self.engine.stats().prompt_tokens;
            let begin = Instant::now();
            let more = self.engine.step()?;
            let taken = begin.elapsed().as_secs_f64();
            if self.engine.stats().prompt_tokens == before {
                self.times.push(taken);
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// Step times of both sides, taking turns.
pub fn measure(model: &Arc<Model>, options: &EngineOptions, repetitions: usize) -> Result<Value, Failure> {
    let block = super::super::block_bytes(model, model.resolve(options).kv_type)?;
    let blocks = (SEQUENCES * ((PROMPT + ANSWER).div_ceil(infer::kv::BLOCK_TOKENS) + 1)) as u64;
    let own = |cold_dir: String| EngineOptions {
        manual_step: true,
        context_length: PROMPT + ANSWER + 1,
        max_running: SEQUENCES,
        kv_budget: blocks * block,
        kv_cold_dir: cold_dir,
        ..options.clone()
    };
    let mut off = Side::new(model, own(String::new()))?;
    let mut on = Side::new(model, own(format!("{}/steps", options.kv_cold_dir)))?;
    let before = on.engine.stats();
    let mut busy = 0.0;
    for _ in 0..repetitions {
        off.round(model)?;
        let begin = Instant::now();
        on.round(model)?;
        busy += begin.elapsed().as_secs_f64();
    }
    settle(&on.engine);
    let after = on.engine.stats();
    let grown = |of: fn(&Stats) -> u64| of(&after) - of(&before);
    Ok(json!({
        "off": Sorted::new(off.times).json(),
        "on": Sorted::new(on.times).json(),
        "evictions": grown(|s| s.prefix_evictions),
        "spills": grown(|s| s.kv_cold_spills),
        "dropped": grown(|s| s.kv_cold_dropped),
        "written_mb_s": grown(|s| s.kv_cold_bytes_written) as f64 / busy / 1e6,
    }))
}
