//! Hyper-parameters from metadata, each checked before anything is computed from it.

use crate::error::{Error, Result};
use crate::gguf::{Array, Metadata, Value};

/// Limits above which a value is a mistake or an attack, far beyond any model.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 14;
const MAX_EXPERTS: usize = 1 << 12;
/// Attention keeps one head's row on the stack.
pub const MAX_HEAD_DIM: usize = crate::kernel::attention::MAX_DIM;

/// Reads the metadata of one architecture: keys are given without its prefix.
pub struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// Keys of `architecture`.
    pub fn new(metadata: &'a Metadata, architecture: &'a str) -> Self {
        Self {
            metadata,
            architecture,
        }
    }

    /// The metadata itself.
    pub fn metadata(&self) -> &'a Metadata {
        self.metadata
    }

    /// The full key.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn invalid(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::InvalidModel(format!(
            "metadata key '{}': expected {expected}, found {found}",
            self.name(key)
        ))
    }

    fn missing(&self, key: &str) -> Error {
        Error::InvalidModel(format!("metadata key '{}' is missing", self.name(key)))
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.get(&self.name(key)).is_some()
    }

    /// A count in `min..=max`; `Ok(None)` when absent.
    pub fn count(&self, key: &str, min: usize, max: usize) -> Result<Option<usize>> {
        let name = self.name(key);
        let negative = match self.metadata.get(&name) {
            Some(&Value::I8(v)) => i64::from(v),
            Some(&Value::I16(v)) => i64::from(v),
            Some(&Value::I32(v)) => i64::from(v),
            Some(&Value::I64(v)) => v,
            _ => 0,
        };
        if negative < 0 {
            return Err(self.invalid(key, &format!("a whole number in {min}..={max}"), negative));
        }
        let Some(v) = self.metadata.u64(&name)? else {
            return Ok(None);
        };
        usize::try_from(v)
            .ok()
            .filter(|n| (min..=max).contains(n))
            .map(Some)
            .ok_or_else(|| self.invalid(key, &format!("a whole number in {min}..={max}"), v))
    }

    /// A count that must be there.
    pub fn required_count(&self, key: &str, min: usize, max: usize) -> Result<usize> {
        self.count(key, min, max)?.ok_or_else(|| self.missing(key))
    }

    /// A count per layer: one number for all, or an array with at least `n_layers` entries, of which the rest is
    /// ignored.
    pub fn per_layer(
        &self,
        key: &str,
        n_layers: usize,
        min: usize,
        max: usize,
    ) -> Result<Option<Vec<usize>>> {
        let name = self.name(key);
        let Some(Value::Array(array)) = self.metadata.get(&name) else {
            return Ok(self.count(key, min, max)?.map(|n| vec![n; n_layers]));
        };
        // The upper limit keeps the copy small.
        if !(n_layers..=MAX_LAYERS).contains(&array.len()) {
            return Err(self.invalid(
                key,
                &format!("one number per layer, {n_layers} in all"),
                format!("{} numbers", array.len()),
            ));
        }
        let values = self.metadata.integers(&name)?.unwrap_or_default();
        let mut counts = Vec::with_capacity(n_layers);
        for &v in &values[..n_layers] {
            let n = usize::try_from(v)
                .ok()
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| self.invalid(key, &format!("whole numbers in {min}..={max}"), v))?;
            counts.push(n);
        }
        Ok(Some(counts))
    }

    /// A finite float above `above` and up to `max`; `Ok(None)` when absent.
    pub fn float(&self, key: &str, above: f32, max: f32) -> Result<Option<f32>> {
        let Some(v) = self.metadata.f32(&self.name(key))? else {
            return Ok(None);
        };
        if v > above && v <= max {
            Ok(Some(v))
        } else {
            Err(self.invalid(key, &format!("a number above {above} and at most {max}"), v))
        }
    }

    /// As [`Keys::float`] above zero, where zero stands for an absent key.
    fn positive_or_zero(&self, key: &str, max: f32) -> Result<Option<f32>> {
        match self.metadata.f32(&self.name(key))? {
            Some(0.0) => Ok(None),
            _ => self.float(key, 0.0, max),
        }
    }

    /// A string; `Ok(None)` when absent.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.metadata.str(&self.name(key))?)
    }
}

/// Scaling of rotary frequencies to longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// YaRN (arXiv:2309.00071): low frequencies interpolated, high ones kept.
    Yarn {
        /// The factor.
        factor: f32,
        /// Context length the frequencies were trained for.
        original_context: usize,
        /// Share of the extrapolated frequencies.
        ext_factor: f32,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which it is interpolated.
        beta_slow: f32,
        /// Multiplier whose logarithm scales attention; 0 when the model does not use it.
        log_multiplier: f32,
    },
}

/// Rotary embedding of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Rotated elements of a head, even.
    pub n_dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Scaling.
    pub scaling: RopeScaling,
    /// Extra factor on cosine and sine.
    pub attention_factor: f32,
}

/// Experts of a mixture layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertConfig {
    /// Experts per layer.
    pub n_experts: usize,
    /// Experts that compute a token.
    pub n_used: usize,
    /// Factor on the normalized weights of the used experts.
    pub weights_scale: f32,
}

/// Hyper-parameters every decoder family has.
#[derive(Debug, Clone)]
pub struct Config {
    /// Layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Vocabulary entries.
    pub n_vocab: usize,
    /// Tokens the model was trained to attend to.
    pub context_length: usize,
    /// Query heads per layer.
    pub n_heads: Vec<usize>,
    /// Key/value heads per layer; each divides the query heads.
    pub n_kv_heads: Vec<usize>,
    /// Width of the feed-forward network per layer.
    pub n_ff: Vec<usize>,
    /// Elements of a query and a key of one head.
    pub key_dim: usize,
    /// Elements of a value of one head.
    pub value_dim: usize,
    /// Epsilon of the RMS norms.
    pub rms_epsilon: f32,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Positions a row of each layer sees, its own among them; `None` for all before it. No family of this version has
    /// windows: `llama` does not read `attention.sliding_window`, as llama.cpp does not.
    pub windows: Vec<Option<usize>>,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Experts; `None` for a dense model.
    pub experts: Option<ExpertConfig>,
}

impl Config {
    /// Reads the keys common to the decoder families.
    ///
    /// # Errors
    /// A missing key, a value out of range, or values that contradict each other, by name.
    pub fn read(keys: &Keys<'_>) -> Result<Self> {
        let n_layers = keys.required_count("block_count", 1, MAX_LAYERS)?;
        let n_embd = keys.required_count("embedding_length", 1, MAX_WIDTH)?;
        let context_length = keys.required_count("context_length", 1, (1 << 32) - 1)?;
        let n_heads = keys
            .per_layer("attention.head_count", n_layers, 1, MAX_HEADS)?
            .ok_or_else(|| keys.missing("attention.head_count"))?;
        let n_kv_heads = keys
            .per_layer("attention.head_count_kv", n_layers, 1, MAX_HEADS)?
            .unwrap_or_else(|| n_heads.clone());
        for (layer, (&q, &kv)) in n_heads.iter().zip(&n_kv_heads).enumerate() {
            if q % kv != 0 {
                return Err(keys.invalid(
                    "attention.head_count_kv",
                    &format!("a divisor of the {q} query heads of layer {layer}"),
                    kv,
                ));
            }
        }
        let default_dim = || {
            if n_embd % n_heads[0] == 0 {
                Ok(n_embd / n_heads[0])
            } else {
                Err(keys.invalid(
                    "attention.head_count",
                    &format!("a divisor of the embedding length {n_embd}"),
                    n_heads[0],
                ))
            }
        };
        let dim = |key| keys.count(key, 1, MAX_HEAD_DIM)?.map_or_else(default_dim, Ok);
        let (key_dim, value_dim) = (dim("attention.key_length")?, dim("attention.value_length")?);
        if key_dim > MAX_HEAD_DIM || value_dim > MAX_HEAD_DIM {
            return Err(keys.invalid(
                "attention.head_count",
                &format!("heads of at most {MAX_HEAD_DIM} elements"),
                format!("{n_embd} / {}", n_heads[0]),
            ));
        }
        let experts = read_experts(keys)?;
        let n_ff = keys
            .per_layer("feed_forward_length", n_layers, 1, MAX_WIDTH)?
            .ok_or_else(|| keys.missing("feed_forward_length"))?;
        let rms_epsilon = keys
            .float("attention.layer_norm_rms_epsilon", 0.0, 1.0)?
            .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?;
        let attention_scale = keys
            .positive_or_zero("attention.scale", 1e6)?
            .unwrap_or(1.0 / (key_dim as f32).sqrt());
        let n_vocab = read_vocabulary_size(keys)?;
        Ok(Self {
            n_layers,
            n_embd,
            n_vocab,
            context_length,
            n_heads,
            n_kv_heads,
            n_ff,
            key_dim,
            value_dim,
            rms_epsilon,
            attention_scale,
            windows: vec![None; n_layers],
            rope: read_rope(keys, key_dim, context_length)?,
            experts,
        })
    }
}

/// Entries of the tokenizer's token list, or the `vocab_size` key of a file without one.
fn read_vocabulary_size(keys: &Keys<'_>) -> Result<usize> {
    const MAX_VOCABULARY: usize = 1 << 24;
    let tokens = match keys.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::String(tokens))) => Some(tokens.len()),
        _ => None,
    };
    match (keys.count("vocab_size", 1, MAX_VOCABULARY)?, tokens) {
        (_, Some(n @ 1..=MAX_VOCABULARY)) => Ok(n),
        (Some(n), None | Some(0)) => Ok(n),
        (_, Some(n)) => Err(Error::InvalidModel(format!(
            "metadata key 'tokenizer.ggml.tokens': expected 1..={MAX_VOCABULARY} tokens, found {n}"
        ))),
        (None, None) => Err(keys.missing("vocab_size")),
    }
}

fn read_experts(keys: &Keys<'_>) -> Result<Option<ExpertConfig>> {
    let n_experts = keys.count("expert_count", 0, MAX_EXPERTS)?.unwrap_or(0);
    if n_experts == 0 {
        return Ok(None);
    }
    let n_used = keys
        .count("expert_used_count", 1, n_experts)?
        .ok_or_else(|| keys.missing("expert_used_count"))?;
    let weights_scale = keys.positive_or_zero("expert_weights_scale", 1e6)?.unwrap_or(1.0);
    Ok(Some(ExpertConfig {
        n_experts,
        n_used,
        weights_scale,
    }))
}

fn read_rope(keys: &Keys<'_>, key_dim: usize, context_length: usize) -> Result<RopeConfig> {
    let n_dims = keys.count("rope.dimension_count", 1, key_dim)?.unwrap_or(key_dim);
    if !n_dims.is_multiple_of(2) {
        return Err(keys.invalid("rope.dimension_count", "an even number", n_dims));
    }
    let base = keys.float("rope.freq_base", 0.0, 1e12)?.unwrap_or(10000.0);
    // The older key of linear scaling is still found in files.
    let factor = match keys.positive_or_zero("rope.scaling.factor", 1e6)? {
        Some(f) => f,
        None => keys.positive_or_zero("rope.scale_linear", 1e6)?.unwrap_or(1.0),
    };
    let scaling = match keys.text("rope.scaling.type")?.unwrap_or("linear") {
        "none" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor },
        "yarn" => {
            let value = |key: &str, default| Ok::<_, Error>(keys.float(key, 0.0, 1e6)?.unwrap_or(default));
            RopeScaling::Yarn {
                factor,
                original_context: keys
                    .count("rope.scaling.original_context_length", 1, (1 << 32) - 1)?
                    .unwrap_or(context_length),
                // Keys of other families (`grok`, `mistral3`): llama.cpp does not read them for `llama`.
                ext_factor: 1.0,
                beta_fast: value("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: value("rope.scaling.yarn_beta_slow", 1.0)?,
                log_multiplier: 0.0,
            }
        }
        other => {
            return Err(Error::Unsupported(format!(
                "metadata key '{}': scaling '{other}' is not supported for this architecture; supported are none, linear and yarn",
                keys.name("rope.scaling.type")
            )));
        }
    };
    let attention_factor = keys.float("rope.scaling.attn_factor", 0.0, 1e6)?.unwrap_or(1.0);
    Ok(RopeConfig {
        n_dims,
        base,
        scaling,
        attention_factor,
    })
}
