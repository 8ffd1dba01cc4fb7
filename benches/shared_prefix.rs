//! What it is worth that sequences which begin with the same blocks attend to them together.
//!
//! `cargo bench --bench shared_prefix -- MODEL.gguf [SEQUENCES [PREFIX]]` decodes sequences (16) after the same prefix
//! (4096 tokens), by turns with the prefix in the same blocks for all and with a copy of these blocks for each: with as many
//! tokens and the same arithmetic, but nothing to share.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event};
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};

const ROUNDS: usize = 5;
/// Decode steps of a measurement, after one that is not measured.
const STEPS: usize = 12;
/// Tokens after the prefix, others for each sequence.
const OWN: usize = 8;

/// Ids without meaning.
fn ids(tokens: usize, key: u32, n_vocab: usize) -> Vec<u32> {
    let mut state = key ^ 0x9e37_79b9;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * n_vocab as u64) >> 32) as u32
    };
    (0..tokens).map(|_| next()).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    // Without a model this is a run of the tests, which have none.
    let Some(path) = args.first() else { return Ok(()) };
    let number = |i: usize, default| args.get(i).map_or(Ok(default), |text| text.parse::<usize>());
    let (sequences, prefix) = (number(1, 16)?, number(2, 4096)?);

    let model = Model::load(path.as_ref(), &Default::default(), &mut |_| true)?;
    let n_vocab = model.info().n_vocab;
    let options = EngineOptions {
        manual_step: true,
        speculation: "off",
        prefill_budget: 0.0,
        context_length: prefix + OWN + STEPS + 2,
        max_running: sequences,
        ..EngineOptions::default()
    };
    // A copy for each sequence, the one in common, and some room.
    let body = model.body()?;
    let kv_type =
        infer::kernel::RowType::from_name(model.resolve(&options).kv_type).ok_or("a type of rows")?;
    let block = infer::kv::Geometry::new(kv_type, body.layer_shapes())?.block_bytes() as u64;
    let blocks = (sequences + 2) * ((prefix + OWN + STEPS) / infer::kv::BLOCK_TOKENS + 3);
    let options = EngineOptions {
        kv_budget: block * blocks as u64,
        ..options
    };
    let engine = Engine::new(Arc::clone(&model), options)?;

    let common = ids(prefix, 0, n_vocab);
    let prompt = |i: usize| [&common[..], &ids(OWN, 1 + i as u32, n_vocab)].concat();
    let request = |i: usize, salt: String| RequestOptions {
        prompt: Prompt::Ids(prompt(i)),
        cache_salt: salt,
        temperature: 0.0,
        max_tokens: STEPS + 2,
        ignore_end_of_generation: true,
        ..RequestOptions::default()
    };
    let salt = |shared: bool, i: usize| {
        if shared {
            "all".to_string()
        } else {
            format!("copy {i}")
        }
    };
    let first = engine.submit(request(0, salt(true, 0)))?;
    while engine.step()? {}
    drop(first);
    let state = engine.save_state(&common, b"all")?;
    for i in 0..sequences {
        let restored = engine.restore_state(&state, salt(false, i).as_bytes())?;
        assert!(
            restored + infer::kv::BLOCK_TOKENS > prefix,
            "a copy of {restored} tokens"
        );
    }

    let measure = |shared: bool| -> infer::Result<(f64, Vec<u32>)> {
        let all = (0..sequences).map(|i| request(i, salt(shared, i))).collect();
        let before = engine.stats();
        let requests = engine.submit_batch(all)?;
        // Until everybody has a token, and once more.
        while engine.stats().generated_tokens - before.generated_tokens < sequences as u64 {
            engine.step()?;
        }
        engine.step()?;
        let hits = engine.stats().prefix_hit_tokens - before.prefix_hit_tokens;
        assert!(
            hits as usize + sequences * infer::kv::BLOCK_TOKENS > sequences * prefix,
            "{hits} tokens were cached"
        );
        let generated = engine.stats().generated_tokens;
        let started = Instant::now();
        for _ in 0..STEPS - 1 {
            engine.step()?;
        }
        let time = started.elapsed();
        let tokens = engine.stats().generated_tokens - generated;
        while engine.step()? {}
        let mut event = Event::default();
        let mut found = Vec::new();
        for request in &requests {
            request.next(Some(Duration::ZERO), &mut event)?;
            found.extend_from_slice(&event.tokens);
        }
        Ok((tokens as f64 / time.as_secs_f64(), found))
    };
    println!(
        "{sequences} sequences after {prefix} tokens in common, tokens/s of decoding: shared, with copies, ratio"
    );
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let ((shared, a), (copies, b)) = (measure(true)?, measure(false)?);
        assert!(a == b, "the outputs differ");
        ratios.push(shared / copies);
        println!("{shared:9.1} {copies:9.1} {:6.2}", shared / copies);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUNDS / 2]);
    Ok(())
}
