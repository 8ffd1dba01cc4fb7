//! Golden bits: what the arithmetic makes of a fixed prompt, for every CPU level of this machine.
//!
//! States that were saved by one version are read by another one, so a version that computes other bits must say so.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::sync::Arc;

use common::{demo_model, generate, greedy, load};
use infer::engine::Engine;
use infer::kernel::CpuLevel;
use infer::kv::prefix::NUMERICS_VERSION;
use infer::options::{EngineOptions, Prompt, RequestOptions};

/// XXH3-64 of the keys and values of the prompt below: numerics version, CPU level, variant, hash. Levels of one
/// architecture that compute in the same order share a hash.
const GOLDEN: &[(u32, &str, &str, u64)] = &[];

/// More than one chunk of attention, so that chunks are merged.
fn prompt() -> Vec<u32> {
    (0..300).map(|i| 3 + (i * 37 + i * i) % 500).collect()
}

fn variants() -> Vec<(&'static str, EngineOptions)> {
    let kv = |kv_type| EngineOptions {
        kv_type,
        ..EngineOptions::default()
    };
    vec![
        ("f32", kv("f32")),
        ("f16", kv("f16")),
        ("bf16", kv("bf16")),
        ("q8", kv("q8")),
        (
            "exact",
            EngineOptions {
                exact: true,
                ..kv("f32")
            },
        ),
        (
            "plain attention",
            EngineOptions {
                flash_attention: false,
                ..kv("f32")
            },
        ),
    ]
}

/// Hash of the blocks alone: the fingerprint before them differs from level to level.
fn hash(engine: &Engine, ids: &[u32]) -> u64 {
    let state = engine.save_state(ids, b"").unwrap();
    let fingerprint = u32::from_le_bytes(state[12..16].try_into().unwrap()) as usize;
    let tokens = u64::from_le_bytes(state[16..24].try_into().unwrap()) as usize;
    assert_eq!(tokens, ids.len());
    twox_hash::XxHash3_64::oneshot(&state[32 + fingerprint + 4 * tokens..state.len() - 8])
}

#[test]
fn keys_and_values_have_the_bits_of_this_numerics_version() {
    let model = load(&demo_model());
    let ids = prompt();
    let mut wrong = Vec::new();
    for level in CpuLevel::available() {
        for (variant, options) in variants() {
            let options = EngineOptions {
                cpu_level: level.name(),
                threads: 2,
                ..options
            };
            let engine = Engine::new(Arc::clone(&model), options).unwrap();
            let request = RequestOptions {
                prompt: Prompt::Ids(ids.clone()),
                ..greedy(1)
            };
            generate(&engine, request);
            let found = hash(&engine, &ids);
            let row = (NUMERICS_VERSION, level.name(), variant, found);
            if !GOLDEN.contains(&row) {
                wrong.push(row);
            }
        }
    }
    for (version, level, variant, hash) in &wrong {
        eprintln!("    ({version}, \"{level}\", \"{variant}\", 0x{hash:016x}),");
    }
    assert!(
        wrong.is_empty(),
        "keys and values have other bits than the table says: bump NUMERICS_VERSION and update the table with these rows"
    );
}
