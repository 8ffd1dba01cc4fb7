//! Model files that contradict themselves are refused with a sentence that names the place; others load and run.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

mod common;

use std::time::{Duration, Instant};

use common::tiny::{N_EMBD, N_EXPERTS, N_FF, Tiny, strings};
use common::{demo_model, generate, greedy, load, logits};
use infer::engine::{Engine, FinishReason};
use infer::gguf::{Array, Value};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};
use infer::quant::TensorType::{F16, F32, I8, IQ1_S, Q8_0};

/// A change of a valid model and words the error must have.
type Case<'a> = (&'a str, Value, &'a [&'a str]);

fn engine_options() -> EngineOptions {
    EngineOptions {
        threads: 1,
        context_length: 64,
        max_running: 2,
        prefill_chunk: 16,
        ..EngineOptions::default()
    }
}

fn words(error: impl std::fmt::Display, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

/// The model is refused with a message that has these words.
#[track_caller]
fn refused(tiny: &Tiny, expected: &[&str]) {
    match tiny.load() {
        Ok(model) => panic!("accepted: {}", model.info().description),
        Err(e) => words(e, expected),
    }
}

/// Each change alone is refused.
#[track_caller]
fn refused_with(base: &Tiny, cases: &[Case<'_>]) {
    for (key, value, expected) in cases {
        let mut tiny = base.clone();
        tiny.set(key, value.clone());
        match tiny.load() {
            Ok(_) => panic!("another {key} was accepted, not {expected:?}"),
            Err(e) => words(e, expected),
        }
    }
}

/// Finite logits after two ids.
fn runs(model: &Model) {
    let all = logits(model, &[1, 2], &engine_options());
    assert_eq!(all.len(), 2 * model.info().n_vocab);
    assert!(all.iter().all(|v| v.is_finite()));
}

fn by_ids(n: usize) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(vec![1, 5, 9]),
        ..greedy(n)
    }
}

#[test]
fn the_unspoiled_models_load_tokenize_and_run() {
    for tiny in [Tiny::spm(), Tiny::bpe(), Tiny::experts(), Tiny::small()] {
        let model = tiny.load().unwrap();
        let ids = model.tokenize("ab", true, true).unwrap();
        assert!(model.detokenize(&ids, false).unwrap().ends_with("ab"));
        runs(&model);
        let engine = Engine::new(model, engine_options()).unwrap();
        let output = generate(&engine, by_ids(4));
        assert!(output.finish.error.is_none(), "{:?}", output.finish);
    }
}

#[test]
fn counts_out_of_their_range_are_refused_by_key() {
    let u = Value::U32;
    refused_with(
        &Tiny::spm(),
        &[
            (
                "llama.block_count",
                u(0),
                &["'llama.block_count'", "1..=4096", "found 0"],
            ),
            (
                "llama.block_count",
                u(1 << 20),
                &["'llama.block_count'", "1..=4096", "1048576"],
            ),
            (
                "llama.embedding_length",
                u(0),
                &["'llama.embedding_length'", "found 0"],
            ),
            (
                "llama.embedding_length",
                Value::U64(1 << 40),
                &["'llama.embedding_length'", "1099511627776"],
            ),
            (
                "llama.attention.head_count",
                u(0),
                &["'llama.attention.head_count'", "found 0"],
            ),
            (
                "llama.attention.head_count",
                u(u32::MAX),
                &["'llama.attention.head_count'", "4294967295"],
            ),
            (
                "llama.attention.head_count_kv",
                u(0),
                &["'llama.attention.head_count_kv'", "found 0"],
            ),
            (
                "llama.feed_forward_length",
                u(0),
                &["'llama.feed_forward_length'", "found 0"],
            ),
            (
                "llama.feed_forward_length",
                u(1 << 21),
                &["'llama.feed_forward_length'", "2097152"],
            ),
            (
                "llama.context_length",
                u(0),
                &["'llama.context_length'", "found 0"],
            ),
            (
                "llama.context_length",
                Value::U64(1 << 32),
                &["'llama.context_length'", "4294967296"],
            ),
            (
                "llama.context_length",
                Value::U64(u64::MAX),
                &["'llama.context_length'", "18446744073709551615"],
            ),
            (
                "llama.context_length",
                Value::I32(-1),
                &["'llama.context_length'", "found -1"],
            ),
        ],
    );
}

#[test]
fn required_keys_are_missed_by_name() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let mut tiny = Tiny::spm();
        tiny.metadata.retain(|(k, _)| k != key);
        refused(&tiny, &[key, "missing"]);
    }
}

#[test]
fn values_of_another_type_are_refused_by_key_and_type() {
    let text = || Value::String("2".into());
    refused_with(
        &Tiny::spm(),
        &[
            (
                "general.architecture",
                Value::U32(1),
                &["'general.architecture'", "a string", "u32"],
            ),
            (
                "llama.block_count",
                text(),
                &["'llama.block_count'", "integer", "string"],
            ),
            (
                "llama.block_count",
                Value::F32(2.0),
                &["'llama.block_count'", "integer", "f32"],
            ),
            (
                "llama.attention.head_count",
                strings(&["4", "4"]),
                &["'llama.attention.head_count'", "integers", "array of string"],
            ),
            (
                "llama.attention.layer_norm_rms_epsilon",
                Value::U32(1),
                &["rms_epsilon'", "a float", "u32"],
            ),
            (
                "llama.rope.freq_base",
                text(),
                &["'llama.rope.freq_base'", "a float", "string"],
            ),
            (
                "llama.rope.scaling.type",
                Value::Bool(true),
                &["'llama.rope.scaling.type'", "a string", "bool"],
            ),
            (
                "tokenizer.ggml.model",
                Value::U32(1),
                &["'tokenizer.ggml.model'", "a string", "u32"],
            ),
            (
                "tokenizer.ggml.tokens",
                Value::U32(1),
                &["'tokenizer.ggml.tokens'", "strings", "u32"],
            ),
            (
                "tokenizer.ggml.scores",
                strings(&["1"]),
                &["'tokenizer.ggml.scores'", "f32", "string"],
            ),
            (
                "tokenizer.ggml.token_type",
                Value::Array(Array::F32(vec![1.0])),
                &["'tokenizer.ggml.token_type'", "f32"],
            ),
            (
                "tokenizer.ggml.bos_token_id",
                text(),
                &["'tokenizer.ggml.bos_token_id'", "string"],
            ),
            (
                "tokenizer.chat_template",
                Value::U32(1),
                &["'tokenizer.chat_template'", "a string", "u32"],
            ),
        ],
    );
}

#[test]
fn heads_must_fit_each_other_and_the_width() {
    let u = Value::U32;
    refused_with(
        &Tiny::spm(),
        &[
            (
                "llama.attention.head_count",
                u(6),
                &["'llama.attention.head_count'", "embedding length 32", "found 6"],
            ),
            (
                "llama.attention.head_count_kv",
                u(3),
                &[
                    "head_count_kv'",
                    "divisor of the 4 query heads of layer 0",
                    "found 3",
                ],
            ),
            (
                "llama.attention.head_count_kv",
                u(8),
                &["head_count_kv'", "divisor of the 4 query heads", "found 8"],
            ),
            (
                "llama.attention.key_length",
                u(1 << 20),
                &["'llama.attention.key_length'", "1048576"],
            ),
            (
                "llama.attention.value_length",
                u(0),
                &["'llama.attention.value_length'", "found 0"],
            ),
        ],
    );
    let mut wide = Tiny::spm();
    wide.set("llama.embedding_length", u(1 << 20));
    refused(
        &wide,
        &["'llama.attention.head_count'", "at most 1024", "1048576 / 4"],
    );
}

#[test]
fn per_layer_numbers_must_cover_every_layer() {
    let array = |v: &[u32]| Value::Array(Array::U32(v.to_vec()));
    refused_with(
        &Tiny::spm(),
        &[
            (
                "llama.attention.head_count",
                array(&[4]),
                &["'llama.attention.head_count'", "2 in all", "1 numbers"],
            ),
            (
                "llama.attention.head_count_kv",
                array(&[]),
                &["head_count_kv'", "2 in all", "0 numbers"],
            ),
            (
                "llama.feed_forward_length",
                array(&[64, 0]),
                &["'llama.feed_forward_length'", "found 0"],
            ),
            (
                "llama.attention.head_count_kv",
                array(&[2, 3]),
                &["head_count_kv'", "layer 1", "found 3"],
            ),
            (
                "llama.feed_forward_length",
                array(&[64; 5000]),
                &["'llama.feed_forward_length'", "5000 numbers"],
            ),
        ],
    );
    let mut tiny = Tiny::spm();
    tiny.set("llama.feed_forward_length", array(&[64, 32]));
    refused(&tiny, &["'blk.1.ffn_gate.weight'", "[32, 32]", "[32, 64]"]);
    for (part, dims) in [("gate", [32, 32]), ("up", [32, 32]), ("down", [32, 32])] {
        tiny.reshape(&format!("blk.1.ffn_{part}.weight"), &dims, F32);
    }
    runs(&tiny.load().unwrap());
}

#[test]
fn layers_may_differ_in_heads_and_values_from_keys() {
    let mut tiny = Tiny::spm();
    tiny.set("llama.attention.head_count", Value::Array(Array::I32(vec![4, 2])));
    tiny.set(
        "llama.attention.head_count_kv",
        Value::Array(Array::U64(vec![2, 1])),
    );
    tiny.set("llama.attention.key_length", Value::U32(12));
    tiny.set("llama.attention.value_length", Value::U32(16));
    tiny.tensors
        .retain(|t| !t.name.contains(".attn_") || t.name.contains("norm"));
    for (layer, q, kv) in [(0, 4, 2), (1, 2, 1)] {
        for (part, dims) in [
            ("q", [N_EMBD, q * 12]),
            ("k", [N_EMBD, kv * 12]),
            ("v", [N_EMBD, kv * 16]),
            ("output", [q * 16, N_EMBD]),
        ] {
            tiny.add(&format!("blk.{layer}.attn_{part}.weight"), &dims, F32);
        }
    }
    let model = tiny.load().unwrap();
    for kv_type in ["f32", "f16", "bf16", "q8"] {
        let options = EngineOptions {
            kv_type,
            ..engine_options()
        };
        assert!(logits(&model, &[1, 2, 3], &options).iter().all(|v| v.is_finite()));
    }
}

#[test]
fn numbers_that_are_no_measure_are_refused() {
    let f = Value::F32;
    let mut cases: Vec<Case<'_>> = Vec::new();
    for key in ["llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"] {
        for (value, found) in [
            (f(0.0), "found 0"),
            (f(-1.0), "found -1"),
            (f(f32::NAN), "found NaN"),
            (f(f32::INFINITY), "found inf"),
            (Value::F64(1e300), "found inf"),
        ] {
            cases.push((
                key,
                value,
                if found == "found 0" {
                    &["above 0", "found 0"]
                } else {
                    &["above 0", "found"]
                },
            ));
        }
    }
    cases.extend([
        (
            "llama.rope.scaling.factor",
            f(f32::NAN),
            &["'llama.rope.scaling.factor'", "found NaN"][..],
        ),
        (
            "llama.rope.scaling.factor",
            f(-4.0),
            &["'llama.rope.scaling.factor'", "above 0", "found -4"],
        ),
        (
            "llama.rope.scaling.attn_factor",
            f(0.0),
            &["attn_factor'", "found 0"],
        ),
        (
            "llama.attention.scale",
            f(-1.0),
            &["'llama.attention.scale'", "found -1"],
        ),
        (
            "llama.attention.scale",
            f(f32::NAN),
            &["'llama.attention.scale'", "found NaN"],
        ),
    ]);
    refused_with(&Tiny::spm(), &cases);
}

#[test]
fn rotary_dimensions_are_even_and_within_a_head() {
    let u = Value::U32;
    refused_with(
        &Tiny::spm(),
        &[
            (
                "llama.rope.dimension_count",
                u(7),
                &["'llama.rope.dimension_count'", "even", "found 7"],
            ),
            (
                "llama.rope.dimension_count",
                u(10),
                &["'llama.rope.dimension_count'", "1..=8", "found 10"],
            ),
            (
                "llama.rope.dimension_count",
                u(0),
                &["'llama.rope.dimension_count'", "1..=8", "found 0"],
            ),
            (
                "llama.rope.scaling.type",
                Value::String("longrope".into()),
                &["'llama.rope.scaling.type'", "longrope", "yarn"],
            ),
        ],
    );
    let mut tiny = Tiny::spm();
    tiny.set("llama.rope.dimension_count", u(4));
    runs(&tiny.load().unwrap());
}

#[test]
fn rotary_factors_are_positive_and_one_per_pair() {
    let with = |values: &[f32]| {
        let mut tiny = Tiny::spm();
        tiny.add("rope_freqs.weight", &[values.len() as u64], F32);
        tiny.tensor("rope_freqs.weight").data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tiny
    };
    runs(&with(&[1.0, 1.0, 2.0, 8.0]).load().unwrap());
    refused(&with(&[1.0; 3]), &["'rope_freqs.weight'", "[4]", "[3]"]);
    refused(&with(&[1.0; 5]), &["'rope_freqs.weight'", "[4]", "[5]"]);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused(
            &with(&[1.0, 1.0, bad, 1.0]),
            &["'rope_freqs.weight'", "positive", &bad.to_string()],
        );
    }
}

#[test]
fn experts_used_are_some_and_not_more_than_there_are() {
    let u = Value::U32;
    refused_with(
        &Tiny::experts(),
        &[
            (
                "llama.expert_used_count",
                u(0),
                &["'llama.expert_used_count'", "1..=4", "found 0"],
            ),
            (
                "llama.expert_used_count",
                u(5),
                &["'llama.expert_used_count'", "1..=4", "found 5"],
            ),
            (
                "llama.expert_count",
                u(1 << 20),
                &["'llama.expert_count'", "1048576"],
            ),
            (
                "llama.expert_count",
                u(8),
                &["'blk.0.ffn_gate_inp.weight'", "[32, 8]", "[32, 4]"],
            ),
            (
                "llama.expert_weights_scale",
                Value::F32(f32::NAN),
                &["'llama.expert_weights_scale'", "NaN"],
            ),
        ],
    );
    let mut tiny = Tiny::experts();
    tiny.remove("llama.expert_used_count");
    refused(&tiny, &["'llama.expert_used_count'", "missing"]);
}

#[test]
fn separate_experts_may_have_types_of_their_own() {
    let mut tiny = Tiny::experts();
    tiny.tensors.retain(|t| !t.name.contains("_exps"));
    for layer in 0..2 {
        for i in 0..N_EXPERTS {
            let ty = [F32, Q8_0, F16, Q8_0][i as usize];
            for (part, dims) in [
                ("gate", [N_EMBD, N_FF]),
                ("up", [N_EMBD, N_FF]),
                ("down", [N_FF, N_EMBD]),
            ] {
                tiny.add(&format!("blk.{layer}.ffn_{part}.{i}.weight"), &dims, ty);
            }
        }
    }
    runs(&tiny.load().unwrap());
    let mut missing = tiny.clone();
    missing.tensors.retain(|t| t.name != "blk.1.ffn_up.3.weight");
    refused(&missing, &["'blk.1.ffn_up.3.weight'", "missing"]);
}

#[test]
fn every_tensor_is_there_once_with_its_shape_and_nothing_else_is() {
    for name in Tiny::spm().tensors.iter().map(|t| t.name.clone()) {
        // Without it, the embedding is also the output.
        if name == "output.weight" {
            continue;
        }
        let mut tiny = Tiny::spm();
        tiny.tensors.retain(|t| t.name != name);
        refused(&tiny, &[&format!("'{name}'"), "missing"]);
        let mut tiny = Tiny::spm();
        let mut dims = tiny.tensor(&name).dims.clone();
        *dims.last_mut().unwrap() += 1;
        tiny.reshape(&name, &dims, F32);
        refused(&tiny, &[&format!("'{name}'"), &format!("{dims:?}")]);
    }
    for name in Tiny::experts()
        .tensors
        .iter()
        .map(|t| t.name.clone())
        .filter(|n| n.contains("exps"))
    {
        let mut tiny = Tiny::experts();
        tiny.tensors.retain(|t| t.name != name);
        refused(&tiny, &[&format!("'{name}'"), "missing"]);
    }
    let mut tiny = Tiny::spm();
    tiny.add("blk.0.attn_q_norm.weight", &[8], F32);
    refused(&tiny, &["'blk.0.attn_q_norm.weight'", "does not use"]);
    let mut tiny = Tiny::spm();
    tiny.add("blk.2.attn_norm.weight", &[N_EMBD], F32);
    refused(&tiny, &["'blk.2.attn_norm.weight'", "does not use"]);
}

#[test]
fn a_tied_model_needs_no_output_tensor() {
    let mut tiny = Tiny::spm();
    tiny.tensors.retain(|t| t.name != "output.weight");
    runs(&tiny.load().unwrap());
}

#[test]
fn a_stack_is_no_matrix_and_a_matrix_no_vector() {
    let mut tiny = Tiny::spm();
    tiny.reshape("blk.0.attn_q.weight", &[32, 16, 2], F32);
    refused(&tiny, &["'blk.0.attn_q.weight'", "[32, 32]", "[32, 16, 2]"]);
    let mut tiny = Tiny::spm();
    tiny.reshape("blk.0.attn_norm.weight", &[16, 2], F32);
    refused(&tiny, &["'blk.0.attn_norm.weight'", "[32]", "[16, 2]"]);
    let mut tiny = Tiny::spm();
    tiny.reshape("blk.0.attn_norm.weight", &[32, 1, 1], F32);
    tiny.load().unwrap();
}

#[test]
fn tensor_types_without_kernels_are_named_before_data_is_read() {
    for (name, dims, ty) in [
        ("blk.0.attn_norm.weight", &[32][..], I8),
        ("blk.1.ffn_up.weight", &[32, 64], I8),
    ] {
        let mut tiny = Tiny::spm();
        tiny.reshape(name, dims, ty);
        refused(&tiny, &[&format!("'{name}'"), ty.name(), "cannot compute"]);
    }
    let mut tiny = Tiny::spm();
    tiny.reshape("output.weight", &[256, 300], IQ1_S);
    let mut calls = 0;
    let error = Model::load_from_bytes(&tiny.bytes(), &ModelOptions::default(), &mut |_| {
        calls += 1;
        true
    });
    words(error.unwrap_err(), &["'output.weight'", "IQ1_S"]);
    assert_eq!(calls, 0);
}

#[test]
fn embedding_rows_are_as_many_as_tokens() {
    let mut tiny = Tiny::spm();
    tiny.reshape("token_embd.weight", &[N_EMBD, 299], F16);
    refused(
        &tiny,
        &["'token_embd.weight'", "vocabulary", "[32, 300]", "[32, 299]"],
    );
    let mut tiny = Tiny::spm();
    tiny.reshape("output.weight", &[N_EMBD, 301], F16);
    refused(&tiny, &["'output.weight'", "[32, 300]", "[32, 301]"]);
}

#[test]
fn an_unknown_architecture_is_named_with_those_there_are() {
    let mut tiny = Tiny::spm();
    tiny.set("general.architecture", Value::String("mamba7".into()));
    refused(&tiny, &["'mamba7'", "supported: llama"]);
    let options = ModelOptions {
        vocabulary_only: true,
        ..ModelOptions::default()
    };
    let model = tiny.load_with(&options).unwrap();
    assert_eq!(model.info().n_vocab, 300);
    assert!(!model.tokenize("hello", true, true).unwrap().is_empty());
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    let ints = |n: usize| Value::Array(Array::I32(vec![1; n]));
    refused_with(
        &Tiny::spm(),
        &[
            (
                "tokenizer.ggml.scores",
                Value::Array(Array::F32(vec![0.0; 299])),
                &["'tokenizer.ggml.scores'", "299", "300"],
            ),
            (
                "tokenizer.ggml.scores",
                Value::Array(Array::F32(vec![f32::NAN; 300])),
                &["'tokenizer.ggml.scores'", "not a number"],
            ),
            (
                "tokenizer.ggml.token_type",
                ints(301),
                &["'tokenizer.ggml.token_type'", "301", "300"],
            ),
            (
                "tokenizer.ggml.token_type",
                Value::Array(Array::I32(vec![9; 300])),
                &["'tokenizer.ggml.token_type'", "9", "0 to 6"],
            ),
            (
                "tokenizer.ggml.token_type",
                Value::Array(Array::I32(vec![6; 300])),
                &["token 0", "<unk>", "<0x0A>"],
            ),
            (
                "tokenizer.ggml.tokens",
                strings(&[""; 0]),
                &["'tokenizer.ggml.tokens'", "empty"],
            ),
            (
                "tokenizer.ggml.bos_token_id",
                Value::U32(300),
                &["'tokenizer.ggml.bos_token_id'", "300"],
            ),
            (
                "tokenizer.ggml.eos_token_id",
                Value::U64(1 << 40),
                &["'tokenizer.ggml.eos_token_id'", "1099511627776"],
            ),
            (
                "tokenizer.ggml.eot_token_id",
                Value::I32(-2),
                &["'tokenizer.ggml.eot_token_id'"],
            ),
        ],
    );
    let mut tiny = Tiny::spm();
    tiny.texts(|t| t[270] = "lo".into());
    refused(&tiny, &["\"lo\"", "261", "270"]);
    let mut tiny = Tiny::spm();
    tiny.texts(|t| t[13] = "<0xZZ>".into());
    refused(&tiny, &["token 13", "<0xZZ>", "<0x0A>"]);
    let mut tiny = Tiny::spm();
    tiny.remove("tokenizer.ggml.tokens");
    refused(&tiny, &["'tokenizer.ggml.tokens'", "missing"]);
}

#[test]
fn merges_name_tokens_of_the_vocabulary() {
    let one = |line: &str| strings(&["h e", line]);
    refused_with(
        &Tiny::bpe(),
        &[
            (
                "tokenizer.ggml.merges",
                one("hell"),
                &["merge 1", "'tokenizer.ggml.merges'", "hell"],
            ),
            ("tokenizer.ggml.merges", one(""), &["merge 1", "\"\""]),
            ("tokenizer.ggml.merges", one("zz q"), &["merge 1", "\"zz\""]),
            ("tokenizer.ggml.merges", one("h h"), &["merge 1", "\"hh\""]),
            (
                "tokenizer.ggml.merges",
                Value::U32(1),
                &["'tokenizer.ggml.merges'", "u32"],
            ),
        ],
    );
    let mut tiny = Tiny::bpe();
    tiny.remove("tokenizer.ggml.merges");
    refused(&tiny, &["'tokenizer.ggml.merges'", "missing"]);
}

#[test]
fn without_end_tokens_generation_goes_on_to_its_limit() {
    let mut tiny = Tiny::bpe();
    tiny.remove("tokenizer.ggml.eos_token_id");
    tiny.texts(|t| t[266] = "an ordinary name".into());
    let model = tiny.load().unwrap();
    assert_eq!(model.tokenizer().unwrap().end_of_generation(), &[] as &[u32]);
    let engine = Engine::new(model, engine_options()).unwrap();
    let output = generate(&engine, by_ids(20));
    assert_eq!(
        (output.finish.reason, output.tokens.len()),
        (FinishReason::Length, 20)
    );
}

#[test]
fn an_unsupported_pre_tokenizer_runs_on_ids_and_is_named_for_text() {
    let mut tiny = Tiny::bpe();
    tiny.set("tokenizer.ggml.pre", Value::String("martian".into()));
    let model = tiny.load().unwrap();
    words(
        model.tokenize("hello", true, true).unwrap_err(),
        &["'martian'", "llama-bpe"],
    );
    runs(&model);
    let engine = Engine::new(model, engine_options()).unwrap();
    assert!(generate(&engine, by_ids(3)).finish.error.is_none());
    let text = RequestOptions {
        prompt: Prompt::Text("hello".into()),
        ..greedy(1)
    };
    words(engine.submit(text).err().unwrap(), &["'martian'"]);
}

#[test]
fn a_file_without_a_tokenizer_runs_on_ids() {
    let mut tiny = Tiny::spm();
    tiny.remove("tokenizer.");
    let model = tiny.load().unwrap();
    assert_eq!(model.info().n_vocab, 300);
    words(
        model.tokenize("a", true, true).unwrap_err(),
        &["no tokenizer", "ids"],
    );
    words(model.detokenize(&[1], true).unwrap_err(), &["no tokenizer"]);
    runs(&model);
    let engine = Engine::new(model, engine_options()).unwrap();
    let output = generate(&engine, by_ids(5));
    assert_eq!(
        (output.finish.reason, output.tokens.len()),
        (FinishReason::Length, 5)
    );
    assert_eq!(output.text, "");
    tiny.remove("llama.vocab_size");
    refused(&tiny, &["'llama.vocab_size'", "missing"]);
}

#[test]
fn a_vocabulary_alone_tokenizes_and_says_that_it_cannot_run() {
    let mut tiny = Tiny::spm();
    tiny.tensors.clear();
    let options = ModelOptions {
        vocabulary_only: true,
        ..ModelOptions::default()
    };
    let model = tiny.load_with(&options).unwrap();
    assert!(!model.tokenize("hello", true, true).unwrap().is_empty());
    words(model.body().unwrap_err(), &["vocabulary_only"]);
    refused(&tiny, &["metadata only", "vocabulary_only"]);
    words(
        Engine::new(model, engine_options()).err().unwrap(),
        &["vocabulary_only"],
    );
}

#[test]
fn a_template_that_cannot_be_used_is_an_error_of_its_use() {
    let messages = serde_json::json!([{"role": "user", "content": "hi"}]);
    for (template, expected) in [
        ("{{ messages".to_string(), "compile"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_string(),
            "",
        ),
        (
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_string(),
            "",
        ),
        ("x".repeat(2 << 20), "bytes"),
        ("(".repeat(100_000) + "{{" + &"(".repeat(100_000), ""),
    ] {
        let mut tiny = Tiny::spm();
        tiny.set("tokenizer.chat_template", Value::String(template));
        let model = tiny.load().unwrap();
        let start = Instant::now();
        words(
            model.apply_chat_template(&messages, true).unwrap_err(),
            &["chat template", expected],
        );
        assert!(start.elapsed() < Duration::from_secs(20));
        runs(&model);
    }
}

#[test]
fn weights_that_are_no_numbers_are_found_by_the_check() {
    for (name, at, bytes, element) in [
        (
            "output_norm.weight",
            20,
            f32::NAN.to_le_bytes().to_vec(),
            "NaN at element 5",
        ),
        (
            "blk.1.ffn_norm.weight",
            0,
            f32::INFINITY.to_le_bytes().to_vec(),
            "inf at element 0",
        ),
        // The scale of the third block.
        ("blk.0.ffn_down.weight", 68, vec![0, 0x7C], "at element 6"),
        ("token_embd.weight", 19_000, vec![0, 0x7E], "NaN at element 9500"),
    ] {
        let mut tiny = Tiny::spm();
        tiny.tensor(name).data[at..at + bytes.len()].copy_from_slice(&bytes);
        let options = ModelOptions {
            check_tensors: true,
            ..ModelOptions::default()
        };
        words(
            tiny.load_with(&options).unwrap_err(),
            &[&format!("'{name}'"), "finite", element],
        );
        tiny.load().unwrap();
    }
    let options = ModelOptions {
        check_tensors: true,
        ..ModelOptions::default()
    };
    Tiny::experts().load_with(&options).unwrap();
}

#[test]
fn weights_that_are_no_numbers_end_a_request_with_an_error() {
    let spoil = |mut tiny: Tiny, name: &str| {
        tiny.tensor(name).data[..2].copy_from_slice(&[0, 0x7E]);
        if name.contains("norm") {
            tiny.tensor(name).data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        tiny
    };
    for tiny in [
        spoil(Tiny::spm(), "blk.0.attn_norm.weight"),
        spoil(Tiny::spm(), "output_norm.weight"),
        spoil(Tiny::experts(), "blk.0.ffn_norm.weight"),
        spoil(Tiny::experts(), "blk.1.attn_norm.weight"),
    ] {
        let engine = Engine::new(tiny.load().unwrap(), engine_options()).unwrap();
        for temperature in [0.0, 1.0] {
            let options = RequestOptions {
                temperature,
                ..by_ids(3)
            };
            let output = generate(&engine, options);
            assert_eq!(output.finish.reason, FinishReason::Error);
            words(output.finish.error.unwrap(), &["finite"]);
        }
        assert_eq!(engine.stats().panics, 0);
        // As many rows at once as the buffers hold.
        let ids: Vec<u32> = (0..18).collect();
        let options = RequestOptions {
            prompt: Prompt::Ids(ids),
            ..greedy(1)
        };
        assert_eq!(generate(&engine, options).finish.reason, FinishReason::Error);
        assert_eq!(engine.stats().panics, 0);
        let ids = [3; 64];
        infer::engine::evaluate::logits(engine.model(), &ids, &engine_options(), &mut |_, _| Ok(())).unwrap();
    }
}

#[test]
fn a_budget_too_small_is_refused_with_both_numbers() {
    let tiny = Tiny::spm();
    let weights = tiny.load().unwrap().info().weight_bytes;
    for (memory_budget, fits) in [(1, false), (weights / 2, false), (weights * 2, true)] {
        let options = ModelOptions {
            memory_budget,
            ..ModelOptions::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        std::fs::write(&path, tiny.bytes()).unwrap();
        for result in [
            tiny.load_with(&options),
            Model::load(&path, &options, &mut |_| true),
        ] {
            match result {
                Ok(_) => assert!(fits),
                Err(e) => {
                    assert!(!fits, "{e}");
                    words(e, &[&memory_budget.to_string(), "budget"]);
                }
            }
        }
    }
}

#[test]
fn what_packing_copies_out_of_a_mapped_file_counts_against_the_budget() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tolstoy-3m-Q8_0.gguf");
    for (memory_budget, fits) in [(1 << 20, false), (1 << 30, true)] {
        let options = ModelOptions {
            load_mode: "mmap",
            memory_budget,
            ..ModelOptions::default()
        };
        match Model::load(&path, &options, &mut |_| true) {
            Ok(_) => assert!(fits),
            Err(e) => {
                assert!(!fits, "{e}");
                words(e, &[&memory_budget.to_string(), "budget"]);
            }
        }
    }
}

#[test]
fn progress_rises_to_one_and_can_cancel() {
    let bytes = Tiny::spm().bytes();
    let mut heard = Vec::new();
    Model::load_from_bytes(&bytes, &ModelOptions::default(), &mut |done| {
        heard.push(done);
        true
    })
    .unwrap();
    assert!(heard.is_sorted() && heard.last() == Some(&1.0), "{heard:?}");
    let error = Model::load_from_bytes(&bytes, &ModelOptions::default(), &mut |_| false).unwrap_err();
    words(error, &["cancelled"]);
}

/// The largest resident size of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |kib| kib >> 10)
}

#[test]
fn huge_hyper_parameters_without_tensors_cost_nothing() {
    let (start, before) = (Instant::now(), peak_mib());
    for (width, layers, n_ff, experts) in [
        (1u32 << 20, 4096u32, 1u32 << 20, 0u32),
        (1 << 20, 4096, 1 << 20, 4096),
        (32, 4096, 1 << 20, 0),
    ] {
        for tensors in [false, true] {
            let mut tiny = Tiny::spm();
            for (key, v) in [
                ("llama.embedding_length", width),
                ("llama.block_count", layers),
                ("llama.feed_forward_length", n_ff),
                ("llama.attention.head_count", 1 << 14),
                ("llama.attention.head_count_kv", 1 << 14),
                ("llama.attention.key_length", 1024),
                ("llama.attention.value_length", 1024),
                ("llama.rope.dimension_count", 1024),
                ("llama.context_length", u32::MAX),
                ("llama.expert_count", experts),
                ("llama.expert_used_count", experts),
            ] {
                tiny.set(key, Value::U32(v));
            }
            if !tensors {
                tiny.tensors.truncate(1);
            }
            refused(&tiny, &["tensor '"]);
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(
        peak_mib() < before + 256,
        "{} MiB, {before} MiB before",
        peak_mib()
    );
}

#[test]
fn an_engine_of_any_allowed_size_is_made_or_refused() {
    let before = peak_mib();
    for (context_length, max_running, prefill_chunk, kv_budget) in [
        (1 << 31, 1, 1, 0),
        (1 << 31, 4096, 256, 0),
        (0, 4096, 65536, 0),
        (1 << 31, 4096, 16, u64::MAX),
        (1, 1, 1, 1),
        (0, 1, 1, u64::MAX),
    ] {
        for model in [load(&demo_model()), Tiny::experts().load().unwrap()] {
            let options = EngineOptions {
                context_length,
                max_running,
                prefill_chunk,
                kv_budget,
                ..engine_options()
            };
            let engine = match Engine::new(model, options) {
                Ok(engine) => engine,
                Err(e) => {
                    words(e, &["bytes"]);
                    continue;
                }
            };
            let output = generate(
                &engine,
                RequestOptions {
                    prompt: Prompt::Ids(vec![1]),
                    ..greedy(1)
                },
            );
            assert!(output.finish.error.is_none() || kv_budget == 1);
        }
    }
    println!("peak {} MiB, {before} MiB before", peak_mib());
}

/// Loads, and computes what loads; how it ends does not matter as long as it ends.
fn survive(bytes: &[u8]) -> bool {
    let options = ModelOptions {
        memory_budget: 1 << 20,
        ..ModelOptions::default()
    };
    let Ok(model) = Model::load_from_bytes(bytes, &options, &mut |_| true) else {
        return false;
    };
    let _ = model.tokenize("ab a", true, true);
    let ids = [0, 3];
    let _ = infer::engine::evaluate::logits(&model, &ids, &engine_options(), &mut |_, _| Ok(()));
    true
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = Tiny::small().bytes();
    assert!(survive(&bytes));
    // The last tensor is followed by padding, which a file may lack.
    let end = bytes.len() - 64;
    for cut in 0..end {
        assert!(
            Model::load_from_bytes(&bytes[..cut], &ModelOptions::default(), &mut |_| true).is_err(),
            "{cut}"
        );
    }
}

/// Takes some seconds: thousands of models.
#[test]
fn a_file_with_a_flipped_byte_is_refused_or_runs() {
    let start = Instant::now();
    let (mut loaded, mut refused) = (0, 0);
    for tiny in [Tiny::small()] {
        let mut bytes = tiny.bytes();
        let data: usize = tiny
            .tensors
            .iter()
            .map(|t| t.data.len().next_multiple_of(32))
            .sum();
        for at in 0..bytes.len() - data {
            for flip in [0xFF, 0x80, 0x01] {
                bytes[at] ^= flip;
                if survive(&bytes) {
                    loaded += 1;
                } else {
                    refused += 1;
                }
                bytes[at] ^= flip;
            }
        }
    }
    println!("{loaded} loaded, {refused} refused, {:?}", start.elapsed());
    assert!(loaded > 100 && refused > 1000);
}
