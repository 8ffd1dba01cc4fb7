//! Making model files: `infer quantize` and `infer synth`; and judging them: `infer perplexity`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::path::{Path, PathBuf};

use common::{DEMO, ids, json, run};
use infer::gguf::{Gguf, GgufWriter, LoadOptions};
use infer::quant::TensorType;

/// A synthetic model of the smallest shape.
fn synth(folder: &Path, shape: &str, ty: &str, more: &[&str]) -> PathBuf {
    let out = folder.join(format!("{shape}-{ty}.gguf"));
    let mut args = vec![
        "synth",
        "--shape",
        shape,
        "--type",
        ty,
        "--out",
        out.to_str().unwrap(),
    ];
    args.extend(more);
    let answer = json(args.iter().chain(&["--json"]));
    assert_eq!(answer["bytes"].as_u64().unwrap(), out.metadata().unwrap().len());
    out
}

fn quantize(input: &Path, output: &Path, ty: &str, more: &[&str]) -> serde_json::Value {
    let mut args = vec![
        "quantize",
        input.to_str().unwrap(),
        output.to_str().unwrap(),
        ty,
        "--json",
    ];
    args.extend(more);
    json(args)
}

fn type_of(path: &Path, tensor: &str) -> TensorType {
    Gguf::open(path).unwrap().tensor(tensor).unwrap().ty
}

fn text(folder: &Path) -> PathBuf {
    let path = folder.join("text.txt");
    let sentence = "the prince looked at the sky and said that he was not the man she had seen. ";
    std::fs::write(&path, sentence.repeat(12)).unwrap();
    path
}

#[test]
fn a_quantized_model_has_the_types_of_its_mix_and_generates() {
    let folder = tempfile::tempdir().unwrap();
    let original = synth(folder.path(), "tiny", "F16", &[]);
    let out = folder.path().join("q4km.gguf");
    let answer = quantize(&original, &out, "q4_k_m", &["--threads", "3"]);
    assert_eq!(answer["type"], "Q4_K_M");
    // Of two layers the last is a careful one; the tied embedding is the output.
    assert_eq!(answer["types"]["Q6_K"]["tensors"], 3);
    assert_eq!(answer["types"]["Q4_K"]["tensors"], 12);
    assert_eq!(answer["fallbacks"], 0);
    assert!(answer["bytes_after"].as_u64() < answer["bytes_before"].as_u64());
    assert_eq!(type_of(&out, "blk.1.ffn_down.weight"), TensorType::Q6_K);
    assert_eq!(type_of(&out, "blk.1.attn_q.weight"), TensorType::Q4_K);
    assert_eq!(type_of(&out, "blk.1.attn_norm.weight"), TensorType::F32);
    let gguf = Gguf::open(&out).unwrap();
    assert_eq!(gguf.metadata().u32("general.file_type").unwrap(), Some(15));
    assert_eq!(
        gguf.metadata().u32("general.quantization_version").unwrap(),
        Some(2)
    );
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "nothing but the two models remains");

    let checked = json(["check", out.to_str().unwrap(), "--strict", "--json"]);
    assert_eq!(checked["ok"], true, "{checked}");
    let model = out.to_str().unwrap();
    let generated = json([
        "generate",
        "--json",
        "--model",
        model,
        "--prompt",
        "a",
        "--max-tokens",
        "4",
    ]);
    assert_eq!(ids(&generated["generated_ids"]).len(), 4);
}

#[test]
fn quantized_files_are_the_same_for_any_number_of_threads_and_for_split_input() {
    let folder = tempfile::tempdir().unwrap();
    let original = synth(folder.path(), "tiny", "BF16", &[]);
    let (one, many) = (folder.path().join("one"), folder.path().join("many"));
    quantize(&original, &one, "Q3_K_M", &["--threads", "1"]);
    quantize(&original, &many, "Q3_K_M", &["--threads", "4"]);
    let expected = std::fs::read(&one).unwrap();
    assert!(expected == std::fs::read(&many).unwrap());

    let gguf = Gguf::open(&original).unwrap();
    let data = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    let bytes: Vec<_> = gguf
        .tensors()
        .iter()
        .map(|t| data.get(&t.name).unwrap())
        .collect();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().iter() {
        writer.insert(key, value.clone()).unwrap();
    }
    for (t, bytes) in gguf.tensors().iter().zip(&bytes) {
        writer.tensor(&t.name, &t.dims, t.ty, &bytes[..]).unwrap();
    }
    let parts = writer.write_split(&folder.path().join("parts"), 7).unwrap();
    let joined = folder.path().join("joined");
    quantize(&parts[0], &joined, "Q3_K_M", &[]);
    assert!(expected == std::fs::read(&joined).unwrap());

    // The output may replace the input.
    quantize(&original, &original, "Q3_K_M", &[]);
    assert!(expected == std::fs::read(&original).unwrap());
}

#[test]
fn rows_that_blocks_do_not_divide_get_a_similar_type() {
    let folder = tempfile::tempdir().unwrap();
    let model = synth(folder.path(), "smollm2-135m", "Q4_K_M", &["--layers", "1"]);
    // 576 = 2.25 × 256; the row of ffn_down has 1536 = 6 × 256 values.
    assert_eq!(type_of(&model, "blk.0.attn_q.weight"), TensorType::Q5_0);
    assert_eq!(type_of(&model, "token_embd.weight"), TensorType::Q8_0);
    assert_eq!(type_of(&model, "blk.0.ffn_down.weight"), TensorType::Q6_K);
}

#[test]
fn quantizing_twice_wants_a_word_and_gives_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("again.gguf");
    let paths = [DEMO, out.to_str().unwrap()];
    let answer = run(["quantize", paths[0], paths[1], "Q4_0"]);
    assert_eq!(answer.code, Some(1));
    assert!(
        answer.stderr.contains("Q8_0 already") && answer.stderr.contains("--requantize"),
        "{answer:?}"
    );
    assert!(!out.exists());
    let answer = run(["quantize", paths[0], paths[1], "Q4_0", "--requantize", "--pure"]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stderr.contains("quantized already"), "{answer:?}");
    assert_eq!(type_of(&out, "token_embd.weight"), TensorType::Q4_0);
}

#[test]
fn a_tensor_with_a_value_that_is_not_finite_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let original = synth(folder.path(), "tiny", "F32", &[]);
    let mut bytes = std::fs::read(&original).unwrap();
    let place = Gguf::open(&original)
        .unwrap()
        .tensor("blk.1.ffn_up.weight")
        .unwrap()
        .offset as usize;
    // Value 5 of row 3.
    let at = place + 4 * (3 * 256 + 5);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&original, bytes).unwrap();
    let out = folder.path().join("out.gguf");
    let answer = run([
        "quantize",
        original.to_str().unwrap(),
        out.to_str().unwrap(),
        "Q4_K_S",
    ]);
    assert_eq!(answer.code, Some(1));
    for part in ["row 3", "blk.1.ffn_up.weight", "value 5", "NaN"] {
        assert!(answer.stderr.contains(part), "{part}: {answer:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_unknown_type_or_shape_is_refused_with_those_there_are() {
    for (args, word) in [
        (&["quantize", "a", "b", "Q9_X"][..], "Q4_K_M"),
        (
            &["synth", "--shape", "gpt-5", "--type", "F16", "--out", "x"],
            "llama-3.2-1b",
        ),
    ] {
        let answer = run(args);
        assert_eq!(answer.code, Some(2), "{answer:?}");
        assert!(answer.stderr.contains(word), "{answer:?}");
    }
}

#[test]
fn synthetic_models_of_every_type_load_and_their_vocabulary_gives_texts_back() {
    let folder = tempfile::tempdir().unwrap();
    for ty in [
        "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "IQ4_NL", "IQ4_XS", "Q4_1",
        "Q4_0", "MXFP4", "Q3_K_L", "Q2_K",
    ] {
        let model = synth(folder.path(), "tiny", ty, &["--layers", "1", "--seed", "7"]);
        let checked = json(["check", model.to_str().unwrap(), "--strict", "--json"]);
        assert_eq!(checked["ok"], true, "{ty}: {checked}");
    }
    let model = folder.path().join("tiny-F16.gguf");
    let model = model.to_str().unwrap();
    let text = "Größe, said the prince: 你好 🙂\n\tend";
    let found = json([
        "tokenize",
        "--json",
        "--verbose",
        "--no-special",
        "--model",
        model,
        "--text",
        text,
    ]);
    assert!(ids(&found["ids"]).len() < text.len(), "letters are merged");
    let loaded = infer::model::Model::load(model.as_ref(), &Default::default(), &mut |_| true).unwrap();
    assert_eq!(
        loaded
            .detokenize(&loaded.tokenize(text, false, false).unwrap(), false)
            .unwrap(),
        text
    );
}

#[test]
fn synthetic_models_are_the_same_for_a_seed_and_their_logits_are_sane() {
    let folder = tempfile::tempdir().unwrap();
    let first = std::fs::read(synth(folder.path(), "tiny", "Q4_K_S", &["--seed", "1"])).unwrap();
    let again = std::fs::read(synth(folder.path(), "tiny", "Q4_K_S", &["--seed", "1"])).unwrap();
    let other = std::fs::read(synth(folder.path(), "tiny", "Q4_K_S", &["--seed", "2"])).unwrap();
    assert!(first == again && first != other);
    let model = folder.path().join("tiny-Q4_K_S.gguf");
    let file = text(folder.path());
    let answer = json([
        "perplexity",
        "--json",
        "--model",
        model.to_str().unwrap(),
        "--file",
        file.to_str().unwrap(),
        "--context",
        "64",
    ]);
    // A guess among 1024 tokens has 1024; weights that explode or vanish are far from it.
    let perplexity = answer["perplexity"].as_f64().unwrap();
    assert!(perplexity > 200.0 && perplexity < 20_000.0, "{answer}");
}

#[test]
fn every_shape_gives_a_sound_file() {
    let folder = tempfile::tempdir().unwrap();
    // The larger shapes differ from these in numbers only.
    for shape in ["smollm2-135m", "qwen2.5-0.5b"] {
        let model = synth(folder.path(), shape, "Q2_K", &["--layers", "1"]);
        let checked = json(["check", model.to_str().unwrap(), "--json"]);
        assert_eq!(checked["ok"], true, "{shape}: {checked}");
        std::fs::remove_file(model).unwrap();
    }
}

#[test]
fn perplexity_compares_with_saved_logits_and_with_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let original = synth(folder.path(), "tiny", "F32", &[]);
    let small = folder.path().join("small.gguf");
    quantize(&original, &small, "Q3_K_S", &[]);
    let (file, logits) = (text(folder.path()), folder.path().join("logits"));
    let of = |model: &Path, more: &[&str]| {
        let model = model.to_str().unwrap();
        let mut args = vec![
            "perplexity",
            "--json",
            "--model",
            model,
            "--file",
            file.to_str().unwrap(),
            "--context",
            "64",
        ];
        args.extend(more);
        json(args)
    };
    let saved = logits.to_str().unwrap();
    let base = of(&original, &["--save-logits", saved]);
    assert!(base["kl_divergence"].is_null());
    let chunks = base["chunks"].as_u64().unwrap();
    assert!(chunks >= 2);
    assert_eq!(base["positions"].as_u64().unwrap(), chunks * 31);
    assert_eq!(
        logits.metadata().unwrap().len(),
        24 + chunks * (64 * 4 + 31 * 1024 * 4)
    );

    let itself = of(&original, &["--kl-base", saved]);
    assert!(itself["kl_divergence"].as_f64().unwrap().abs() < 1e-9, "{itself}");
    assert_eq!(itself["same_top"], 1.0);
    assert_eq!(itself["base_perplexity"], base["perplexity"]);

    let from_file = of(&small, &["--kl-base", saved]);
    let from_model = of(&small, &["--kl-base", original.to_str().unwrap()]);
    assert_eq!(from_file, from_model);
    let divergence = from_file["kl_divergence"].as_f64().unwrap();
    assert!(divergence > 1e-4 && divergence < 1.0, "{from_file}");
    assert!(from_file["same_top"].as_f64().unwrap() < 1.0);

    // Saved logits of other chunks are refused.
    let answer = run([
        "perplexity",
        "--model",
        small.to_str().unwrap(),
        "--file",
        file.to_str().unwrap(),
        "--context",
        "32",
        "--kl-base",
        saved,
    ]);
    assert_eq!(answer.code, Some(1));
    assert!(
        answer.stderr.contains("its context is 64, here it is 32"),
        "{answer:?}"
    );
}

#[test]
fn a_text_shorter_than_a_chunk_is_refused_with_both_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("short");
    std::fs::write(&file, "a few words").unwrap();
    let answer = run(["perplexity", "--model", DEMO, "--file", file.to_str().unwrap()]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("less than one chunk of 512"), "{answer:?}");
}
