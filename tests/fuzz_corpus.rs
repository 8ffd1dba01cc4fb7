//! The seeds of every fuzz target run through its body as ordinary tests.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use std::path::PathBuf;

mod common;

#[path = "../fuzz/bodies/detokenize.rs"]
mod detokenize_body;

#[path = "../fuzz/bodies/gguf.rs"]
mod gguf_body;

#[path = "../fuzz/bodies/model.rs"]
mod model_body;

#[path = "../fuzz/bodies/state.rs"]
mod state_body;

#[path = "../fuzz/bodies/template.rs"]
mod template_body;

#[path = "../fuzz/bodies/tokenizer.rs"]
mod tokenizer_body;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// Runs `body` over every seed of `target`, of which there must be some.
fn run(target: &str, body: fn(&[u8])) {
    let mut paths: Vec<_> = std::fs::read_dir(corpus(target))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds for {target}");
    for path in paths {
        println!("{}", path.display());
        body(&std::fs::read(&path).unwrap());
    }
}

#[test]
fn detokenize() {
    run("detokenize", detokenize_body::run);
}

#[test]
fn template() {
    run("template", template_body::run);
}

#[test]
fn tokenizer() {
    run("tokenizer", tokenizer_body::run);
}

#[test]
fn gguf() {
    if std::env::var_os("INFER_WRITE_CORPUS").is_some() {
        seeds::write();
    }
    run("gguf", gguf_body::run);
}

#[test]
fn model() {
    if std::env::var_os("INFER_WRITE_CORPUS").is_some() {
        model_seeds::write();
    }
    run("model", model_body::run);
}

#[test]
fn state() {
    if std::env::var_os("INFER_WRITE_CORPUS").is_some() {
        state_seeds::write();
    }
    run("state", state_body::run);
}

/// Makes the seeds of `state`: states of this machine's version, some spoiled in the header.
mod state_seeds {
    use super::state_body::{IDS, engine, generate};

    pub fn write() {
        let dir = super::corpus("state");
        std::fs::create_dir_all(&dir).unwrap();
        let save = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
        generate();
        let good = engine().save_state(&IDS, b"").unwrap();
        save("good", &good);
        save("one-block", &engine().save_state(&IDS[..32], b"").unwrap());
        save("partial", &engine().save_state(&IDS[..5], b"").unwrap());
        save("no-tokens", &engine().save_state(&[], b"").unwrap());
        save("empty", b"");
        for (name, at, with) in [
            ("magic", 0, &b"x"[..]),
            ("version", 8, &[9]),
            ("fingerprint-huge", 12, &[255; 4]),
            ("fingerprint-shorter", 12, &[8, 0]),
            ("tokens-huge", 16, &[255; 8]),
            ("tokens-overflow", 16, &[0, 0, 0, 0, 0, 0, 0, 64]),
            ("block-huge", 24, &[255; 8]),
            ("block-zero", 24, &[0; 8]),
            ("fingerprint-not-utf8", 32, &[255]),
            ("token-outside", good.len() - 8 - 37 * 4, &[255; 2]),
        ] {
            let mut bad = good.clone();
            bad[at..at + with.len()].copy_from_slice(with);
            save(name, &bad);
        }
        for n in [7, 20, 31, 40, good.len() / 2, good.len() - 1] {
            save(&format!("cut-{n}"), &good[..n]);
        }
    }
}

/// Makes the seeds of `model`: tiny models of each kind, and some spoiled in the middle of the header.
mod model_seeds {
    use super::common::tiny::{N_EMBD, N_FF, Tiny, strings};
    use infer::gguf::{Array, Value};
    use infer::quant::TensorType::{F16, F32, Q8_0};

    /// 24 tokens and one layer, so that a mutation often hits the header.
    fn variant(change: impl FnOnce(&mut Tiny)) -> Vec<u8> {
        let mut tiny = Tiny::small();
        change(&mut tiny);
        tiny.bytes()
    }

    fn experts(tiny: &mut Tiny, stacked: bool) {
        tiny.set("llama.expert_count", Value::U32(2));
        tiny.set("llama.expert_used_count", Value::U32(2));
        tiny.tensors
            .retain(|t| !t.name.contains(".ffn_") || t.name.contains("norm"));
        tiny.add("blk.0.ffn_gate_inp.weight", &[N_EMBD, 2], F32);
        for (part, from, to) in [
            ("gate", N_EMBD, N_FF),
            ("up", N_EMBD, N_FF),
            ("down", N_FF, N_EMBD),
        ] {
            if stacked {
                tiny.add(&format!("blk.0.ffn_{part}_exps.weight"), &[from, to, 2], Q8_0);
            } else {
                tiny.add(&format!("blk.0.ffn_{part}.0.weight"), &[from, to], F16);
                tiny.add(&format!("blk.0.ffn_{part}.1.weight"), &[from, to], Q8_0);
            }
        }
    }

    fn bpe(tiny: &mut Tiny) {
        tiny.remove("tokenizer.ggml.scores");
        for (key, value) in [
            ("model", Value::String("gpt2".into())),
            ("pre", Value::String("qwen2".into())),
            ("merges", strings(&["a b"])),
        ] {
            tiny.set(&format!("tokenizer.ggml.{key}"), value);
        }
    }

    pub fn write() {
        let dir = super::corpus("model");
        std::fs::create_dir_all(&dir).unwrap();
        let save = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
        let u = Value::U32;
        save("dense", &variant(|_| {}));
        save(
            "tied",
            &variant(|t| t.tensors.retain(|t| t.name != "output.weight")),
        );
        save("experts", &variant(|t| experts(t, true)));
        save("experts-separate", &variant(|t| experts(t, false)));
        save("bpe", &variant(bpe));
        save("no-tokenizer", &variant(|t| t.remove("tokenizer.")));
        save("no-tensors", &variant(|t| t.tensors.clear()));
        save("bias", &variant(|t| t.add("blk.0.attn_q.bias", &[N_EMBD], F32)));
        save("rope-freqs", &variant(|t| t.add("rope_freqs.weight", &[4], F32)));
        save(
            "per-layer",
            &variant(|t| t.set("llama.attention.head_count", Value::Array(Array::U32(vec![4])))),
        );
        save(
            "yarn",
            &variant(|t| {
                t.set("llama.rope.scaling.type", Value::String("yarn".into()));
                t.set("llama.rope.scaling.factor", Value::F32(4.0));
                t.set("llama.rope.scaling.original_context_length", u(32));
                t.set("llama.rope.scaling.yarn_log_multiplier", Value::F32(0.1));
            }),
        );
        save(
            "template",
            &variant(|t| {
                let text = "{% for m in messages %}{{ m['role'] + m.content }}{% endfor %}";
                t.set("tokenizer.chat_template", Value::String(text.into()));
            }),
        );
        save("layers-huge", &variant(|t| t.set("llama.block_count", u(4096))));
        save(
            "heads-huge",
            &variant(|t| t.set("llama.attention.head_count", u(1 << 14))),
        );
        save(
            "kv-heads-3",
            &variant(|t| t.set("llama.attention.head_count_kv", u(3))),
        );
        save(
            "epsilon-nan",
            &variant(|t| t.set("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN))),
        );
        save("token-twice", &variant(|t| t.texts(|t| t[7] = "a".into())));
        save(
            "norm-nan",
            &variant(|t| t.tensor("output_norm.weight").data.fill(0xFF)),
        );
        save(
            "experts-nan",
            &variant(|t| {
                experts(t, true);
                t.tensor("blk.0.ffn_norm.weight").data.fill(0xFF);
            }),
        );
    }
}

/// Makes the seeds of `gguf`: small valid files, and what a mutation of each part leads to.
mod seeds {
    use infer::gguf::{Array, GgufWriter, Value};
    use infer::quant::TensorType;

    fn valid(version: u32, alignment: Option<u32>, types: &[TensorType]) -> Vec<u8> {
        let mut w = GgufWriter::new();
        w.version(version).unwrap();
        if let Some(alignment) = alignment {
            w.insert("general.alignment", Value::U32(alignment)).unwrap();
        }
        for (key, value) in [
            ("s", Value::String("llama".into())),
            ("a", Value::Array(Array::String(vec!["a".into(), "".into()]))),
            ("f", Value::Array(Array::F32(vec![0.5; 3]))),
            ("b", Value::Array(Array::Bool(vec![true, false]))),
            ("u", Value::U8(1)),
            ("t", Value::Bool(true)),
            ("l", Value::I64(-1)),
            ("d", Value::F64(f64::NAN)),
        ] {
            w.insert(key, value).unwrap();
        }
        for (i, &ty) in types.iter().enumerate() {
            let block = ty.block_len() as u64;
            let n = ty.block_bytes() * (i + 1);
            w.tensor(format!("t{i}"), &[block, i as u64 + 1], ty, vec![i as u8; n])
                .unwrap();
        }
        let mut out = Vec::new();
        w.write_to(&mut out).unwrap();
        out
    }

    pub fn write() {
        let dir = super::corpus("gguf");
        let save = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
        use TensorType::{F16, F32, I8, Q4_0, Q6_K, Q8_0};
        for version in 1..=3 {
            save(&format!("v{version}"), &valid(version, None, &[F32, F16, Q8_0]));
            save(&format!("v{version}-metadata-only"), &valid(version, None, &[]));
        }
        save("align-8", &valid(3, Some(8), &[Q4_0, I8, Q6_K]));
        save("align-512", &valid(3, Some(512), &[F32, I8]));
        save("empty", b"");
        save("magic-only", b"GGUF");

        // Positions that matter in the version 3 file: version, counts, first key, its type and length, and the
        // last tensor's name, dimensions, type and offset.
        let good = valid(3, None, &[F32, F16, Q8_0]);
        let tail = good.windows(2).rposition(|w| w == b"t2").unwrap();
        for (name, at, bytes) in [
            ("version-0", 4, &[0, 0, 0, 0][..]),
            ("big-endian", 4, &[0, 0, 0, 3]),
            ("tensors-huge", 8, &[255; 8]),
            ("metadata-huge", 16, &[255; 8]),
            ("key-empty", 24, &[0; 8]),
            ("key-huge", 24, &[255; 8]),
            ("key-nul", 32, &[0]),
            ("key-not-utf8", 32, &[255]),
            ("type-unknown", 33, &[13]),
            ("type-array", 33, &[9]),
            ("string-huge", 37, &[255; 8]),
            ("name-long", tail - 8, &[200]),
            ("name-twice", tail + 1, b"1"),
            ("dims-5", tail + 2, &[5]),
            ("dims-0", tail + 2, &[0]),
            ("dim-zero", tail + 6, &[0; 8]),
            ("dim-huge", tail + 6, &[255; 8]),
            ("dim-partial-block", tail + 6, &[33]),
            ("dim-overflow", tail + 6, &[0, 0, 0, 0, 0, 0, 0, 128]),
            ("tensor-type-removed", tail + 22, &[4]),
            ("tensor-type-unknown", tail + 22, &[99]),
            ("offset-unaligned", tail + 26, &[1]),
            ("offset-overlap", tail + 26, &[0; 8]),
            (
                "offset-huge",
                tail + 26,
                &[224, 255, 255, 255, 255, 255, 255, 255],
            ),
        ] {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            save(name, &bad);
        }
        for n in [8, 20, 30, 40, tail, tail + 20, good.len() - 64] {
            save(&format!("cut-{n}"), &good[..n]);
        }
    }
}
