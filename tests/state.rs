//! Saved and restored states: a restored prefix gives what a cold run gives, and bytes that are not a state are refused.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::sync::Arc;

use common::tiny::Tiny;
use common::{demo_model, generate, greedy, load};
use infer::Error;
use infer::engine::Engine;
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};

const BLOCK: usize = infer::kv::BLOCK_TOKENS;

fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(Arc::clone(model), options).unwrap()
}

fn of_type(kv_type: &'static str) -> EngineOptions {
    EngineOptions {
        kv_type,
        threads: 2,
        ..EngineOptions::default()
    }
}

/// A sampled completion, so that a changed bit in the logits shows.
fn sampled(prompt: &[u32], salt: &str) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(prompt.to_vec()),
        max_tokens: 24,
        temperature: 1.0,
        top_p: 1.0,
        seed: 7,
        ignore_end_of_generation: true,
        cache_salt: salt.to_string(),
        ..RequestOptions::default()
    }
}

fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32)
        .map(|i| 3 + (i * 37 + seed * 101 + i * i) % 500)
        .collect()
}

fn cold(model: &Arc<Model>, kv_type: &'static str, prompt: &[u32]) -> Vec<u32> {
    let options = EngineOptions {
        prefix_cache: false,
        ..of_type(kv_type)
    };
    generate(&engine(model, options), sampled(prompt, "")).tokens
}

fn message(result: infer::Result<usize>) -> String {
    match result {
        Err(e @ Error::InvalidArgument(_)) => e.to_string(),
        other => panic!("expected a refused state, found {other:?}"),
    }
}

#[test]
fn a_restored_prefix_gives_the_output_of_a_cold_run() {
    for kv_type in ["f32", "f16", "bf16", "q8"] {
        let model = load(&demo_model());
        let saving = engine(&model, of_type(kv_type));
        let prompt = tokens(3 * BLOCK + 11, 1);
        generate(&saving, sampled(&prompt, ""));
        let state = saving.save_state(&prompt, b"").unwrap();
        assert_eq!(saving.state_size(&prompt, b"").unwrap(), state.len());
        drop((saving, model));

        let model = load(&demo_model());
        for n in [prompt.len(), prompt.len() + 40] {
            let longer = [&prompt[..], &tokens(40, 9)].concat();
            let restored = engine(&model, of_type(kv_type));
            assert_eq!(restored.restore_state(&state, b"").unwrap(), prompt.len());
            let used = restored.stats();
            assert_eq!((used.kv_bytes_used, used.kv_bytes_cached > 0), (0, true));
            let output = generate(&restored, sampled(&longer[..n], ""));
            assert_eq!(output.finish.cached_tokens, prompt.len().min(n - 1), "{kv_type}");
            assert_eq!(output.tokens, cold(&model, kv_type, &longer[..n]), "{kv_type}");
        }
    }
}

#[test]
fn a_state_ends_where_the_given_tokens_end() {
    let model = load(&demo_model());
    let saving = engine(&model, of_type("f16"));
    let prompt = tokens(5 * BLOCK + 20, 2);
    generate(&saving, sampled(&prompt, ""));
    for n in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 7, prompt.len()] {
        let state = saving.save_state(&prompt[..n], b"").unwrap();
        let restored = engine(&model, of_type("f16"));
        assert_eq!(restored.restore_state(&state, b"").unwrap(), n);
        let output = generate(&restored, sampled(&prompt, ""));
        assert_eq!(output.finish.cached_tokens, n.min(prompt.len() - 1));
        assert_eq!(output.tokens, cold(&model, "f16", &prompt));
        // What was computed after them is not in it.
        let only = engine(&model, of_type("f16"));
        generate(&only, sampled(&prompt[..n.max(1)], ""));
        if n > 0 {
            assert_eq!(only.save_state(&prompt[..n], b"").unwrap(), state, "{n}");
        }
    }
    let unknown = saving.save_state(&tokens(50, 3), b"").unwrap();
    assert!(unknown.len() < 1024);
    assert_eq!(
        engine(&model, of_type("f16"))
            .restore_state(&unknown, b"")
            .unwrap(),
        0
    );
}

#[test]
fn a_salt_keeps_states_apart() {
    let model = load(&demo_model());
    let saving = engine(&model, of_type("f16"));
    let prompt = tokens(70, 4);
    generate(&saving, sampled(&prompt, "a"));
    let none = saving.save_state(&prompt, b"").unwrap();
    let state = saving.save_state(&prompt, b"a").unwrap();
    assert!(none.len() < state.len());
    let restored = engine(&model, of_type("f16"));
    assert_eq!(restored.restore_state(&state, b"b").unwrap(), 70);
    for (salt, cached) in [("", 0), ("a", 0), ("b", 69)] {
        let output = generate(&restored, sampled(&prompt, salt));
        assert_eq!(output.finish.cached_tokens, cached, "{salt}");
    }
    restored.cache_clear(b"").unwrap();
    assert_eq!(generate(&restored, sampled(&prompt, "b")).finish.cached_tokens, 0);
}

#[test]
fn a_state_of_another_engine_is_refused_with_the_reason() {
    let model = load(&demo_model());
    let saving = engine(&model, of_type("f16"));
    let prompt = tokens(50, 5);
    generate(&saving, sampled(&prompt, ""));
    let state = saving.save_state(&prompt, b"").unwrap();
    for (options, reason) in [
        (of_type("q8"), "expected \"kv_type=q8\", found \"kv_type=f16\""),
        (
            EngineOptions {
                exact: true,
                ..of_type("f16")
            },
            "expected \"exact=true\", found \"exact=false\"",
        ),
        (
            EngineOptions {
                flash_attention: false,
                ..of_type("f16")
            },
            "flash_attention",
        ),
    ] {
        let other = engine(&model, options);
        let message = message(other.restore_state(&state, b""));
        assert!(message.contains(reason), "{message}");
        assert_eq!(other.stats().kv_bytes_cached, 0);
    }
    let level = if saving.summary().contains("scalar") {
        None
    } else {
        Some("scalar")
    };
    if let Some(cpu_level) = level {
        let options = EngineOptions {
            cpu_level,
            ..of_type("f16")
        };
        let message = message(engine(&model, options).restore_state(&state, b""));
        assert!(message.contains("cpu_level=scalar"), "{message}");
    }
    let off = engine(
        &model,
        EngineOptions {
            prefix_cache: false,
            ..of_type("f16")
        },
    );
    for result in [
        off.restore_state(&state, b"").map(drop),
        off.save_state(&prompt, b"").map(drop),
        off.state_size(&prompt, b"").map(drop),
    ] {
        assert!(matches!(result, Err(Error::Unsupported(_))));
    }
}

#[test]
fn a_changed_weight_or_setting_is_another_model() {
    let build = |change: &dyn Fn(&mut Tiny)| {
        let mut tiny = Tiny::small();
        change(&mut tiny);
        Model::load_from_bytes(&tiny.bytes(), &ModelOptions::default(), &mut |_| true).unwrap()
    };
    let saving = engine(&build(&|_| {}), of_type("f16"));
    generate(
        &saving,
        RequestOptions {
            prompt: Prompt::Ids(vec![1, 5, 6]),
            ..greedy(2)
        },
    );
    let state = saving.save_state(&[1, 5, 6], b"").unwrap();
    let same = engine(&build(&|_| {}), of_type("f16"));
    assert_eq!(same.restore_state(&state, b"").unwrap(), 3);
    let weight = engine(
        &build(&|t| t.tensor("blk.0.ffn_up.weight").data[9] ^= 1),
        of_type("f16"),
    );
    let found = message(weight.restore_state(&state, b""));
    assert!(found.contains("expected \"content="), "{found}");
    let rope = engine(
        &build(&|t| t.set("llama.rope.freq_base", infer::gguf::Value::F32(12_345.0))),
        of_type("f16"),
    );
    let found = message(rope.restore_state(&state, b""));
    assert!(found.contains("expected \"settings="), "{found}");
}

#[test]
fn a_small_cache_restores_what_fits() {
    let model = load(&demo_model());
    let saving = engine(&model, of_type("f16"));
    let prompt = tokens(10 * BLOCK + 5, 6);
    generate(&saving, sampled(&prompt, ""));
    let state = saving.save_state(&prompt, b"").unwrap();
    let block = saving.stats().kv_bytes_cached / (prompt.len() + 23).div_ceil(BLOCK) as u64;
    let small = engine(
        &model,
        EngineOptions {
            kv_budget: 4 * block,
            ..of_type("f16")
        },
    );
    assert_eq!(small.restore_state(&state, b"").unwrap(), 4 * BLOCK);
    let short = &prompt[..2 * BLOCK + 9];
    let output = generate(&small, sampled(short, ""));
    assert_eq!(output.finish.cached_tokens, short.len() - 1);
    assert_eq!(output.tokens, cold(&model, "f16", short));

    // Beside a running request there is room for two blocks.
    let busy = engine(
        &model,
        EngineOptions {
            kv_budget: 4 * block,
            manual_step: true,
            ..of_type("f16")
        },
    );
    let other = tokens(BLOCK + 3, 7);
    let request = busy.submit(sampled(&other, "")).unwrap();
    busy.step().unwrap();
    let n = busy.restore_state(&state, b"").unwrap();
    assert!((1..=2 * BLOCK).contains(&n), "{n}");
    while busy.step().unwrap() {}
    assert_eq!(common::read(&request).tokens, cold(&model, "f16", &other));
    assert_eq!(busy.stats().kv_bytes_used, 0);
}

#[test]
fn restoring_beside_running_requests_changes_nothing_for_them() {
    let model = load(&demo_model());
    let saving = engine(&model, of_type("q8"));
    let prompts: Vec<_> = (0..6).map(|i| tokens(BLOCK * 2 + i, i as u32)).collect();
    let states: Vec<_> = prompts
        .iter()
        .map(|prompt| {
            generate(&saving, sampled(prompt, ""));
            saving.save_state(prompt, b"").unwrap()
        })
        .collect();
    let target = engine(&model, of_type("q8"));
    let requests: Vec<_> = prompts
        .iter()
        .zip(&states)
        .map(|(prompt, state)| {
            let request = target.submit(sampled(prompt, "")).unwrap();
            target.restore_state(state, b"").unwrap();
            target.save_state(prompt, b"").unwrap();
            request
        })
        .collect();
    for (request, prompt) in requests.iter().zip(&prompts) {
        assert_eq!(common::read(request).tokens, cold(&model, "q8", prompt));
    }
    assert_eq!(target.stats().kv_bytes_used, 0);
}

#[test]
fn damaged_bytes_are_refused_wherever_they_are() {
    let bytes = Tiny::small().bytes();
    let model = Model::load_from_bytes(&bytes, &ModelOptions::default(), &mut |_| true).unwrap();
    let saving = engine(&model, of_type("q8"));
    let ids: Vec<u32> = (0..BLOCK as u32 + 3).map(|i| i % 20).collect();
    let prompt = RequestOptions {
        prompt: Prompt::Ids(ids.clone()),
        ..greedy(1)
    };
    generate(&saving, prompt);
    let state = saving.save_state(&ids, b"").unwrap();
    let target = engine(&model, of_type("q8"));
    for len in 0..state.len() {
        message(target.restore_state(&state[..len], b""));
    }
    let mut damaged = state.clone();
    for i in 0..state.len() {
        for change in [1, 0x80, 0xff] {
            damaged[i] ^= change;
            message(target.restore_state(&damaged, b""));
            damaged[i] ^= change;
        }
    }
    damaged.push(0);
    message(target.restore_state(&damaged, b""));
    assert_eq!(target.stats().kv_bytes_cached, 0);
    assert_eq!(target.restore_state(&state, b"").unwrap(), ids.len());
}

#[test]
fn a_state_with_a_right_checksum_and_wrong_parts_is_refused() {
    let bytes = Tiny::small().bytes();
    let model = Model::load_from_bytes(&bytes, &ModelOptions::default(), &mut |_| true).unwrap();
    let saving = engine(&model, of_type("f16"));
    generate(
        &saving,
        RequestOptions {
            prompt: Prompt::Ids(vec![1, 5, 6]),
            ..greedy(1)
        },
    );
    let state = saving.save_state(&[1, 5, 6], b"").unwrap();
    let fingerprint = u32::from_le_bytes(state[12..16].try_into().unwrap()) as usize;
    let forge = |at: usize, with: &[u8]| {
        let mut forged = state[..state.len() - 8].to_vec();
        forged[at..at + with.len()].copy_from_slice(with);
        let checksum = twox_hash::XxHash3_64::oneshot(&forged);
        forged.extend_from_slice(&checksum.to_le_bytes());
        message(saving.restore_state(&forged, b""))
    };
    for (at, with, reason) in [
        (0, &b"x"[..], "inferkv"),
        (8, &[2], "version 1"),
        (12, &[255; 4], "header"),
        (16, &[255; 8], "header"),
        (16, &[0, 0, 0, 0, 0, 0, 0, 64], "header"),
        (24, &[255; 8], "header"),
        (24, &[0; 8], "header"),
        (32, &[0xff], "numerics"),
        (32 + fingerprint, &[255, 255], "vocabulary"),
    ] {
        let found = forge(at, with);
        assert!(found.contains(reason), "{at}: {found}");
    }
}

#[test]
fn the_content_hash_is_of_the_tensors_alone() {
    let mut tiny = Tiny::spm();
    let hash = |tiny: &Tiny, options: &ModelOptions| {
        let model = Model::load_from_bytes(&tiny.bytes(), options, &mut |_| true).unwrap();
        model.content_hash()
    };
    let read = ModelOptions::default();
    let first = hash(&tiny, &read);
    assert!(first.is_some());
    tiny.set("general.name", infer::gguf::Value::String("another".into()));
    assert_eq!(hash(&tiny, &read), first);
    tiny.tensors.reverse();
    assert_eq!(hash(&tiny, &read), first);
    let words = ModelOptions {
        vocabulary_only: true,
        ..read.clone()
    };
    assert_eq!(hash(&tiny, &words), None);
    *tiny.tensor("blk.1.ffn_up.weight").data.last_mut().unwrap() ^= 1;
    assert_ne!(hash(&tiny, &read), first);
}

#[test]
fn the_content_hash_is_the_same_however_a_file_is_read() {
    let path = demo_model();
    let of = |load_mode, load_threads| {
        let options = ModelOptions {
            load_mode,
            load_threads,
            ..ModelOptions::default()
        };
        let model = Model::load(&path, &options, &mut |_| true).unwrap();
        model.content_hash().unwrap().to_string()
    };
    let one = of("read", 1);
    assert_eq!(one.len(), 64);
    assert_eq!(of("read", 2), one);
    assert_eq!(of("read", 7), one);
    let bytes = std::fs::read(&path).unwrap();
    let memory = Model::load_from_bytes(&bytes, &ModelOptions::default(), &mut |_| true).unwrap();
    assert_eq!(memory.content_hash().unwrap().to_string(), one);
    let mapped = of("mmap", 1);
    assert!(mapped.starts_with("sampled-") && mapped != one);
    assert_eq!(of("mmap", 2), mapped);
}
