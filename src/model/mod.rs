//! Models: hyper-parameters, weights, and one forward pass per architecture family.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::options::{EngineOptions, ModelOptions};

/// What a model is, in numbers.
#[derive(Debug, Clone, Default)]
pub struct ModelInfo {
    /// Entries of the vocabulary; the width of a logits row.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads of the first layer.
    pub n_heads: usize,
    /// Key/value heads of the first layer.
    pub n_kv_heads: usize,
    /// Tokens the model was trained to attend to.
    pub context_length: usize,
    /// Number of weights.
    pub n_parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// One line for people: architecture, parameters, main tensor type.
    pub description: String,
}

/// Memory a model and an engine will take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights.
    pub weights: u64,
    /// Key/value cache at the engine options' context and number of sequences.
    pub kv_cache: u64,
    /// Activations and logits of a step.
    pub workspace: u64,
    /// Sum.
    pub total: u64,
}

/// Stub.
pub struct Model {
    metadata: Metadata,
    info: ModelInfo,
}

impl Model {
    /// Stub.
    pub fn load(_path: &Path, _o: &ModelOptions, _p: &mut dyn FnMut(f32) -> bool) -> Result<Arc<Model>> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn load_from_bytes(
        _bytes: &[u8],
        _o: &ModelOptions,
        _p: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<Model>> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn estimate(_path: &Path, _o: &ModelOptions, _e: &EngineOptions) -> Result<MemoryEstimate> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
    /// Stub.
    pub fn architecture(&self) -> &str {
        ""
    }
    /// Stub.
    pub fn name(&self) -> Option<&str> {
        None
    }
    /// Stub.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    /// Stub.
    pub fn tokenize(&self, _text: &str, _add_special: bool, _parse_special: bool) -> Result<Vec<u32>> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn detokenize(&self, _ids: &[u32], _render_special: bool) -> Result<String> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn has_chat_template(&self) -> bool {
        false
    }
    /// Stub.
    pub fn apply_chat_template(
        &self,
        _messages: &serde_json::Value,
        _add_generation_prompt: bool,
    ) -> Result<String> {
        Err(Error::Unsupported("stub".into()))
    }
}
