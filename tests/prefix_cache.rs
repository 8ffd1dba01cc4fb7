//! The prefix cache through the public interface: results never depend on it, and it saves what it says.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::sync::Arc;

use common::{demo_model, generate, greedy, load, read};
use infer::engine::{Engine, FinishReason};
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};

const BLOCK: usize = infer::kv::BLOCK_TOKENS;

fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(Arc::clone(model), options).unwrap()
}

fn ids(prompt: &[u32], options: RequestOptions) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(prompt.to_vec()),
        ignore_end_of_generation: true,
        ..options
    }
}

/// A sampled completion, so that a changed bit in the logits shows.
fn sampled(prompt: &[u32], n: usize, seed: u64) -> RequestOptions {
    ids(
        prompt,
        RequestOptions {
            max_tokens: n,
            temperature: 1.0,
            top_p: 1.0,
            seed,
            ..RequestOptions::default()
        },
    )
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn tokens(&mut self, n: u64) -> Vec<u32> {
        (0..n).map(|_| 3 + self.below(500) as u32).collect()
    }
}

fn off() -> EngineOptions {
    EngineOptions {
        prefix_cache: false,
        ..EngineOptions::default()
    }
}

#[test]
fn conversations_are_the_same_with_and_without_the_cache() {
    let model = load(&demo_model());
    for kv_type in ["f32", "f16", "bf16", "q8"] {
        for policy in ["adaptive", "lru"] {
            let cold = engine(&model, EngineOptions { kv_type, ..off() });
            let warm = engine(
                &model,
                EngineOptions {
                    kv_type,
                    prefix_policy: policy,
                    threads: 2,
                    prefill_chunk: 24,
                    ..EngineOptions::default()
                },
            );
            let mut random = Random(0x5eed + kv_type.len() as u64);
            let mut chats: Vec<Vec<u32>> = vec![random.tokens(40); 3];
            for turn in 0..6 {
                let requests: Vec<_> = chats
                    .iter_mut()
                    .enumerate()
                    .map(|(i, chat)| {
                        let n = 1 + random.below(30);
                        chat.extend(random.tokens(n));
                        sampled(chat, 1 + random.below(20) as usize, turn * 10 + i as u64)
                    })
                    .collect();
                let answers: Vec<_> = warm
                    .submit_batch(requests.clone())
                    .unwrap()
                    .iter()
                    .map(read)
                    .collect();
                for ((chat, request), answer) in chats.iter_mut().zip(requests).zip(answers) {
                    assert_eq!(answer.tokens, generate(&cold, request).tokens, "{kv_type} {turn}");
                    if turn > 0 {
                        assert!(answer.finish.cached_tokens > 40, "{turn}");
                    }
                    chat.extend(&answer.tokens);
                }
            }
            // The counters of a step are complete when nothing is outstanding.
            assert!(warm.drain(None).unwrap() && cold.drain(None).unwrap());
            let (warm, cold) = (warm.stats(), cold.stats());
            assert_eq!(warm.prompt_tokens + warm.prefix_hit_tokens, cold.prompt_tokens);
            assert_eq!((warm.prefix_lookups, cold.prefix_lookups), (18, 0));
            assert!(warm.kv_bytes_cached > 0 && cold.kv_bytes_cached == 0);
        }
    }
}

#[test]
fn a_branch_at_turn_five_of_ten_hits_up_to_the_branch() {
    let model = load(&demo_model());
    let (warm, cold) = (engine(&model, EngineOptions::default()), engine(&model, off()));
    let mut random = Random(77);
    let mut chat = random.tokens(20);
    let mut at_five = Vec::new();
    for turn in 0..10 {
        if turn == 5 {
            at_five = chat.clone();
        }
        chat.extend(random.tokens(9));
        let answer = generate(&warm, sampled(&chat, 8, turn));
        chat.extend(answer.tokens);
    }
    let length = at_five.len();
    at_five.extend(random.tokens(12));
    let branch = generate(&warm, sampled(&at_five, 20, 99));
    // The last token of an answer is in no block: it was never computed.
    assert!(branch.finish.cached_tokens >= length - 1, "{:?}", branch.finish);
    assert_eq!(branch.tokens, generate(&cold, sampled(&at_five, 20, 99)).tokens);
}

#[test]
fn a_cached_prompt_computes_its_last_token_only() {
    let model = load(&demo_model());
    let engine = engine(&model, EngineOptions::default());
    for length in [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 100] {
        let prompt = Random(length as u64 + 9).tokens(length as u64);
        let first = generate(&engine, sampled(&prompt, 5, 1));
        let computed = engine.stats().prompt_tokens;
        let again = generate(&engine, sampled(&prompt, 5, 1));
        assert_eq!(engine.stats().prompt_tokens - computed, 1, "{length}");
        assert_eq!(again.finish.cached_tokens, length - 1);
        assert_eq!(first.tokens, again.tokens);
    }
}

#[test]
fn requests_submitted_together_share_their_beginning() {
    let model = load(&demo_model());
    let engine = engine(
        &model,
        EngineOptions {
            prefill_chunk: 32,
            ..EngineOptions::default()
        },
    );
    let system = Random(5).tokens(256);
    let requests: Vec<_> = (0..8u32)
        .map(|i| {
            let mut prompt = system.clone();
            prompt.extend([10 + i, 20 + i]);
            sampled(&prompt, 4, 3)
        })
        .collect();
    let cold = self::engine(&model, off());
    let answers: Vec<_> = engine
        .submit_batch(requests.clone())
        .unwrap()
        .iter()
        .map(read)
        .collect();
    for (answer, request) in answers.iter().zip(requests) {
        assert_eq!(answer.tokens, generate(&cold, request).tokens);
    }
    // 8 · 258 tokens were asked for.
    assert!(engine.stats().prompt_tokens < 600, "{:?}", engine.stats());
}

#[test]
fn salts_and_requests_that_opt_out_share_nothing() {
    let model = load(&demo_model());
    let engine = engine(&model, EngineOptions::default());
    let prompt = Random(6).tokens(100);
    let of = |salt: &str, cache_prompt| RequestOptions {
        cache_salt: salt.to_string(),
        cache_prompt,
        ..ids(&prompt, greedy(4))
    };
    let cached = |options| generate(&engine, options).finish.cached_tokens;
    assert_eq!(cached(of("", false)), 0);
    assert_eq!(cached(of("a", true)), 0);
    assert_eq!(cached(of("b", true)), 0);
    assert_eq!(cached(of("", true)), 0);
    assert_eq!(cached(of("a", true)), 99);
    assert_eq!(cached(of("a", false)), 0);
    engine.cache_clear(b"a").unwrap();
    assert_eq!((cached(of("a", true)), cached(of("b", true))), (0, 99));
    engine.cache_clear(b"").unwrap();
    assert_eq!((cached(of("a", true)), cached(of("b", true))), (0, 0));
}

#[test]
fn a_small_pool_gives_up_cached_blocks_and_stays_right() {
    let model = load(&demo_model());
    let probe = engine(&model, EngineOptions::default());
    generate(&probe, ids(&[5], greedy(1)));
    let block = probe.stats().kv_bytes_cached;
    let cold = engine(&model, off());
    for prefix_policy in ["lru", "lfu", "s3fifo", "tinylfu", "adaptive"] {
        let small = engine(
            &model,
            EngineOptions {
                kv_budget: 9 * block,
                max_running: 4,
                prefix_policy,
                ..EngineOptions::default()
            },
        );
        assert_eq!(small.context_length(), 9 * BLOCK);
        let mut random = Random(8);
        let texts: Vec<Vec<u32>> = (0..4).map(|_| random.tokens(200)).collect();
        let mut running = Vec::new();
        for i in 0..40 {
            let text = &texts[random.below(4) as usize];
            let mut prompt = text[..1 + random.below(200) as usize].to_vec();
            let tail = random.below(40);
            prompt.extend(random.tokens(tail));
            let request = sampled(&prompt, 1 + random.below(40) as usize, i);
            running.push((request.clone(), small.submit(request).unwrap()));
        }
        for (request, handle) in running {
            assert_eq!(
                read(&handle).tokens,
                generate(&cold, request).tokens,
                "{prefix_policy}"
            );
        }
        let stats = small.stats();
        assert!(
            stats.prefix_evictions > 0 && stats.prefix_hit_tokens > 0,
            "{stats:?}"
        );
        assert_eq!(stats.kv_bytes_used, 0);
        // The longest request there can be, and the same again.
        let prompt = random.tokens(9 * BLOCK as u64 - 1);
        for _ in 0..2 {
            let request = sampled(&prompt, 1, 0);
            assert_eq!(
                generate(&small, request.clone()).tokens,
                generate(&cold, request).tokens
            );
        }
    }
}

#[test]
fn a_request_cancelled_midway_leaves_what_it_computed() {
    let model = load(&demo_model());
    let engine = engine(
        &model,
        EngineOptions {
            manual_step: true,
            prefill_chunk: 64,
            ..EngineOptions::default()
        },
    );
    let prompt = Random(10).tokens(400);
    let request = engine.submit(sampled(&prompt, 10, 0)).unwrap();
    for _ in 0..3 {
        engine.step().unwrap();
    }
    request.cancel();
    while engine.step().unwrap() {}
    assert_eq!(read(&request).finish.reason, FinishReason::Cancelled);
    let again = engine.submit(sampled(&prompt, 10, 0)).unwrap();
    while engine.step().unwrap() {}
    let again = read(&again);
    assert_eq!(again.finish.cached_tokens, 192);
    let cold = self::engine(&model, off());
    assert_eq!(again.tokens, generate(&cold, sampled(&prompt, 10, 0)).tokens);
    assert!(engine.trim(u64::MAX) > 0);
    assert_eq!((engine.stats().kv_bytes_cached, engine.trim(u64::MAX)), (0, 0));
}

/// Slow, and about time: `INFER_TTFT_MODEL=model.gguf cargo test --release --test prefix_cache -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time_to_the_first_token_of_a_cached_prompt() {
    let Some(path) = std::env::var_os("INFER_TTFT_MODEL") else {
        return;
    };
    let model = load(std::path::Path::new(&path));
    let engine = engine(
        &model,
        EngineOptions {
            context_length: 4352,
            max_running: 1,
            ..EngineOptions::default()
        },
    );
    let prompt = Random(11).tokens(4096);
    let cold = generate(&engine, ids(&prompt, greedy(2)));
    let mut ratios = Vec::new();
    for _ in 0..9 {
        let finish = generate(&engine, ids(&prompt, greedy(17))).finish;
        assert_eq!(finish.cached_tokens, 4095);
        let step = 1.0 / finish.decode_tokens_per_second;
        ratios.push(finish.time_to_first_token.as_secs_f64() / step);
        eprintln!(
            "first token {:.1} ms, decode step {:.1} ms",
            finish.time_to_first_token.as_secs_f64() * 1e3,
            step * 1e3
        );
    }
    ratios.sort_by(f64::total_cmp);
    eprintln!(
        "cold {:.1} s; cached: {:.2} decode steps (median of {})",
        cold.finish.time_to_first_token.as_secs_f64(),
        ratios[ratios.len() / 2],
        ratios.len()
    );
}
