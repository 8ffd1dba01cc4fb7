//! Tiny llama models with seeded weights, made in memory, to be spoiled in one place by a test.

use std::sync::Arc;

use infer::Result;
use infer::gguf::{Array, GgufWriter, Value};
use infer::model::Model;
use infer::options::ModelOptions;
use infer::quant::TensorType;

/// Width of the residual stream.
pub const N_EMBD: u64 = 32;
/// Query heads, of 8 elements.
pub const N_HEADS: u64 = 4;
/// Key/value heads.
pub const N_KV_HEADS: u64 = 2;
/// Width of the feed-forward network.
pub const N_FF: u64 = 64;
/// Layers.
pub const N_LAYERS: u64 = 2;
/// Experts of a mixture.
pub const N_EXPERTS: u64 = 4;

/// A tensor to be written.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub ty: TensorType,
    pub data: Vec<u8>,
}

/// A model file in the making.
#[derive(Clone)]
pub struct Tiny {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    state: u64,
}

impl Tiny {
    /// A dense model with an SPM vocabulary of 300 tokens, all bytes among them.
    pub fn spm() -> Self {
        let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        texts.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
        texts.extend(["▁", "he", "lo", "▁he", "▁hello", "llo", "▁w", "or", "ld"].map(String::from));
        texts.extend(('a'..='z').map(String::from));
        texts.extend(["th", "in", "er", "an", "on", "re"].map(String::from));
        let mut tiny = Self::dense(texts.len() as u64);
        let kinds = (0..texts.len()).map(|i| match i {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        });
        tiny.spm_vocabulary(texts.clone(), kinds.collect());
        tiny
    }

    /// As [`Tiny::spm`] with 24 tokens and one layer, for tests that go through every byte.
    pub fn small() -> Self {
        let mut texts: Vec<String> = ["<unk>", "<s>", "</s>", "▁", "ab"].map(String::from).to_vec();
        texts.extend(('a'..='s').map(String::from));
        let mut tiny = Self::dense(texts.len() as u64);
        tiny.tensors.retain(|t| !t.name.starts_with("blk.1."));
        tiny.set("llama.block_count", Value::U32(1));
        let kinds = (0..texts.len()).map(|i| [2, 3, 3, 1][i.min(3)]);
        tiny.spm_vocabulary(texts.clone(), kinds.collect());
        tiny
    }

    /// A dense model with a byte-level BPE vocabulary.
    pub fn bpe() -> Self {
        let mut texts: Vec<String> = (0..=255u8).map(|b| byte_text(b).to_string()).collect();
        texts.extend(["he", "ll", "hell", "hello", "Ġw", "or", "Ġwor", "ld", "Ġworld"].map(String::from));
        texts.extend(["<|begin|>", "<|end_of_text|>"].map(String::from));
        texts.extend((texts.len()..300).map(|i| format!("unused {i}")));
        let mut tiny = Self::dense(texts.len() as u64);
        let kinds: Vec<i32> = (0..texts.len())
            .map(|i| match i {
                265 | 266 => 3,
                267.. => 5,
                _ => 1,
            })
            .collect();
        let merges = [
            "h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld",
        ];
        for (key, value) in [
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String("llama-bpe".into())),
            ("tokenizer.ggml.tokens", strings(&texts)),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
            ("tokenizer.ggml.merges", strings(&merges)),
            ("tokenizer.ggml.bos_token_id", Value::U32(265)),
            ("tokenizer.ggml.eos_token_id", Value::U32(266)),
        ] {
            tiny.set(key, value);
        }
        tiny
    }

    /// As [`Tiny::spm`] with a mixture of four experts, two of them used.
    pub fn experts() -> Self {
        let mut tiny = Self::spm();
        tiny.set("llama.expert_count", Value::U32(N_EXPERTS as u32));
        tiny.set("llama.expert_used_count", Value::U32(2));
        tiny.tensors
            .retain(|t| !t.name.contains(".ffn_") || t.name.contains("norm"));
        for layer in 0..N_LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            tiny.add(&name("ffn_gate_inp"), &[N_EMBD, N_EXPERTS], TensorType::F32);
            tiny.add(
                &name("ffn_gate_exps"),
                &[N_EMBD, N_FF, N_EXPERTS],
                TensorType::Q8_0,
            );
            tiny.add(&name("ffn_up_exps"), &[N_EMBD, N_FF, N_EXPERTS], TensorType::F16);
            tiny.add(
                &name("ffn_down_exps"),
                &[N_FF, N_EMBD, N_EXPERTS],
                TensorType::Q8_0,
            );
        }
        tiny
    }

    fn dense(n_vocab: u64) -> Self {
        use TensorType::{F16, F32, Q8_0};
        let mut tiny = Self {
            metadata: Vec::new(),
            tensors: Vec::new(),
            state: 42,
        };
        for (key, value) in [
            ("general.architecture", Value::String("llama".into())),
            ("general.name", Value::String("tiny".into())),
            ("llama.block_count", Value::U32(N_LAYERS as u32)),
            ("llama.context_length", Value::U32(128)),
            ("llama.embedding_length", Value::U32(N_EMBD as u32)),
            ("llama.feed_forward_length", Value::U32(N_FF as u32)),
            ("llama.attention.head_count", Value::U32(N_HEADS as u32)),
            ("llama.attention.head_count_kv", Value::U32(N_KV_HEADS as u32)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.dimension_count", Value::U32(8)),
            ("llama.rope.freq_base", Value::F32(10000.0)),
            ("llama.vocab_size", Value::U32(n_vocab as u32)),
        ] {
            tiny.set(key, value);
        }
        tiny.add("token_embd.weight", &[N_EMBD, n_vocab], F16);
        for layer in 0..N_LAYERS {
            let kv = N_KV_HEADS * 8;
            for (part, dims, ty) in [
                ("attn_norm", &[N_EMBD][..], F32),
                ("attn_q", &[N_EMBD, N_EMBD], Q8_0),
                ("attn_k", &[N_EMBD, kv], Q8_0),
                ("attn_v", &[N_EMBD, kv], F16),
                ("attn_output", &[N_EMBD, N_EMBD], Q8_0),
                ("ffn_norm", &[N_EMBD], F32),
                ("ffn_gate", &[N_EMBD, N_FF], Q8_0),
                ("ffn_up", &[N_EMBD, N_FF], Q8_0),
                ("ffn_down", &[N_FF, N_EMBD], Q8_0),
            ] {
                tiny.add(&format!("blk.{layer}.{part}.weight"), dims, ty);
            }
        }
        tiny.add("output_norm.weight", &[N_EMBD], F32);
        tiny.add("output.weight", &[N_EMBD, n_vocab], Q8_0);
        tiny
    }

    fn spm_vocabulary(&mut self, texts: Vec<String>, kinds: Vec<i32>) {
        let scores = (0..texts.len()).map(|i| -(i as f32)).collect();
        for (key, value) in [
            ("tokenizer.ggml.model", Value::String("llama".into())),
            ("tokenizer.ggml.tokens", strings(&texts)),
            ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ] {
            self.set(key, value);
        }
    }

    /// Replaces or adds a metadata entry.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_string(), value)),
        }
    }

    /// Removes the metadata whose keys begin with `prefix`, of which there must be some.
    pub fn remove(&mut self, prefix: &str) {
        let before = self.metadata.len();
        self.metadata.retain(|(k, _)| !k.starts_with(prefix));
        assert!(self.metadata.len() < before, "{prefix}");
    }

    /// Changes the texts of the vocabulary.
    pub fn texts(&mut self, change: impl FnOnce(&mut Vec<String>)) {
        let entry = self
            .metadata
            .iter_mut()
            .find(|(k, _)| k == "tokenizer.ggml.tokens");
        match entry {
            Some((_, Value::Array(Array::String(texts)))) => change(texts),
            _ => panic!("no tokens"),
        }
    }

    /// The tensor of this name.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    /// Adds a tensor of seeded values.
    pub fn add(&mut self, name: &str, dims: &[u64], ty: TensorType) {
        let n = dims.iter().product::<u64>() as usize;
        // Around 1 for norms, which are the only vectors, and small for matrices.
        let (offset, scale) = if dims.len() == 1 { (1.0, 0.1) } else { (0.0, 0.3) };
        let values: Vec<f32> = (0..n).map(|_| offset + scale * self.noise()).collect();
        self.tensors.push(Tensor {
            name: name.to_string(),
            dims: dims.to_vec(),
            ty,
            data: encode(ty, &values),
        });
    }

    /// Gives a tensor another shape and type, and zeros as values.
    pub fn reshape(&mut self, name: &str, dims: &[u64], ty: TensorType) {
        let row = ty.row_bytes(dims[0] as usize).unwrap();
        let rows = dims[1..].iter().product::<u64>() as usize;
        let tensor = self.tensor(name);
        tensor.dims = dims.to_vec();
        tensor.ty = ty;
        tensor.data = vec![0; row * rows];
    }

    /// Uniform in −1..1 (SplitMix64).
    fn noise(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.insert(key, value.clone()).unwrap();
        }
        for t in &self.tensors {
            writer.tensor(&t.name, &t.dims, t.ty, &t.data[..]).unwrap();
        }
        let mut out = Vec::new();
        writer.write_to(&mut out).unwrap();
        out
    }

    /// Loads it.
    pub fn load_with(&self, options: &ModelOptions) -> Result<Arc<Model>> {
        Model::load_from_bytes(&self.bytes(), options, &mut |_| true)
    }

    /// Loads it with default options.
    pub fn load(&self) -> Result<Arc<Model>> {
        self.load_with(&ModelOptions::default())
    }
}

/// A metadata array of strings.
pub fn strings(texts: &[impl AsRef<str>]) -> Value {
    Value::Array(Array::String(
        texts.iter().map(|t| t.as_ref().to_string()).collect(),
    ))
}

fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
    match ty {
        TensorType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        TensorType::F16 => values
            .iter()
            .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
            .collect(),
        TensorType::Q8_0 => values.chunks(32).flat_map(encode_q8_0).collect(),
        _ => panic!("{ty}"),
    }
}

fn encode_q8_0(block: &[f32]) -> Vec<u8> {
    let max = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = half::f16::from_f32(max / 127.0);
    let mut out = scale.to_le_bytes().to_vec();
    let factor = 1.0 / f32::from(scale).max(1e-8);
    out.extend(block.iter().map(|v| (v * factor).round() as i8 as u8));
    out
}

/// GPT-2's printable character of a byte.
fn byte_text(byte: u8) -> char {
    let shifted = match byte {
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x121 + u32::from(byte - 0x7F),
        0xAD => 0x143,
        _ => u32::from(byte),
    };
    char::from_u32(shifted).unwrap()
}
