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

/// XXH3-64 of the keys and values of the prompt below: numerics version, CPU level, variant, hash.
const GOLDEN: &[(u32, &str, &str, u64)] = &[
    (2, "scalar", "f32", 0x4c98fb85d4d3217d),
    (2, "scalar", "f16", 0x2acc608c246fa6ac),
    (2, "scalar", "bf16", 0xb5c9aa9b0286ea47),
    (2, "scalar", "q8", 0x81fb7dad1aacb87c),
    (2, "scalar", "exact", 0x3e512bb110b2bc82),
    (2, "scalar", "plain attention", 0xf30f3c612a10da9c),
    (2, "sse41", "f32", 0xb2c3e75ea14e2daf),
    (2, "sse41", "f16", 0x17aebd76905b87dc),
    (2, "sse41", "bf16", 0x0c7260762a9fcde7),
    (2, "sse41", "q8", 0x3c23c7e0079cf88d),
    (2, "sse41", "exact", 0x52629f564ffc550f),
    (2, "sse41", "plain attention", 0x7cf82ff6f2160bf4),
    (2, "avx2", "f32", 0x9815029c6d93fe32),
    (2, "avx2", "f16", 0xbbe2c7dadfc027ff),
    (2, "avx2", "bf16", 0x9b3175a0713cb148),
    (2, "avx2", "q8", 0x220dda20cbfae995),
    (2, "avx2", "exact", 0xc638d2ba43cc8161),
    (2, "avx2", "plain attention", 0xa46a6a738c15a813),
    (2, "avx512", "f32", 0x260d3ae873ae8343),
    (2, "avx512", "f16", 0xa79f2832ff0620df),
    (2, "avx512", "bf16", 0x8133de899f4c8ef8),
    (2, "avx512", "q8", 0x9b4daba6b5a6c003),
    (2, "avx512", "exact", 0xabe9a8531b8071dc),
    (2, "avx512", "plain attention", 0x53acc1e3f378e033),
];

/// A level without rows of its own: the one whose bits it has.
fn shared(level: &'static str) -> &'static str {
    match level {
        // Weights in half precision alone are multiplied otherwise, and the model has none.
        "avx512_bf16" => "avx512",
        level => level,
    }
}

/// Levels that have not been measured yet.
fn unmeasured(level: &str) -> bool {
    matches!(level, "avx_vnni" | "neon" | "neon_dotprod" | "i8mm")
}

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
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for level in CpuLevel::available() {
        for (variant, options) in variants() {
            let options = EngineOptions {
                cpu_level: level.name(),
                threads: 2,
                ..options
            };
            if unmeasured(level.name()) {
                continue;
            }
            let engine = Engine::new(Arc::clone(&model), options).unwrap();
            let request = RequestOptions {
                prompt: Prompt::Ids(ids.clone()),
                ..greedy(1)
            };
            generate(&engine, request);
            let found = hash(&engine, &ids);
            checked += 1;
            let row = (NUMERICS_VERSION, shared(level.name()), variant, found);
            if !GOLDEN.contains(&row) {
                wrong.push(row);
            }
        }
    }
    if cfg!(not(target_arch = "x86_64")) {
        // The mathematical library of another architecture has other last bits.
        return;
    }
    assert!(checked >= 6, "not even the level scalar was checked");
    for (version, level, variant, hash) in &wrong {
        eprintln!("    ({version}, \"{level}\", \"{variant}\", 0x{hash:016x}),");
    }
    assert!(
        wrong.is_empty(),
        "keys and values have other bits than the table says: bump NUMERICS_VERSION and update the table with these rows"
    );
}
