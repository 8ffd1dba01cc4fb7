//! Models: hyper-parameters, weights, and one forward pass per architecture family.
//!
//! A family is a file: its config, its weights, its forward pass, and a line in [`load_architecture`].

mod attention;
pub mod check;
mod config;
mod experts;
mod llama;
mod residual;
mod rope;
mod step;
mod times;
mod weights;

use std::path::Path;
use std::sync::Arc;

pub use config::{Config, ExpertConfig, RopeConfig, RopeScaling};
pub use step::{Compute, Row, Step, Wants, Widths, Workspace};
pub use times::ComponentTimes;

use crate::error::{Error, Result};
use crate::gguf::{ContentHash, Gguf, LoadMode, LoadOptions, Metadata};
use crate::kernel::RowType;
use crate::kv::{Geometry, LayerShape};
use crate::memory::MemoryError;
use crate::options::preset::Subject;
use crate::options::{EngineOptions, ModelOptions};
use crate::tokenizer::{ChatInput, ChatTemplate, TemplateError, Tokenizer};
use config::Keys;
use weights::{Loader, Tensors};

/// A loaded architecture: its weights and its forward pass.
pub trait Architecture: Send + Sync + std::fmt::Debug {
    /// Widths of the buffers a step needs.
    fn widths(&self) -> Widths;

    /// What each layer stores per token.
    fn layer_shapes(&self) -> Vec<LayerShape>;

    /// Gives each layer a window or none, for tests: no family of this version reads any.
    #[cfg(test)]
    fn set_windows(&mut self, _windows: &[Option<usize>]) {}

    /// Computes a step: keys and values go to the cache, logits to the workspace.
    ///
    /// # Errors
    /// A step too large for its workspace, a token outside the vocabulary, or [`Error::Cancelled`].
    fn forward(&self, step: &mut Step<'_>) -> Result<()>;
}

/// Names of the architectures this version runs.
pub const ARCHITECTURES: &[&str] = &["llama"];

fn read_config(architecture: &str, metadata: &Metadata) -> Result<Config> {
    let keys = Keys::new(metadata, architecture);
    match architecture {
        "llama" => llama::config(&keys),
        other => Err(Error::Unsupported(format!(
            "the architecture '{other}' is not supported by this version; supported: {}",
            ARCHITECTURES.join(", ")
        ))),
    }
}

fn load_architecture(config: Config, gguf: &Gguf, tensors: &Tensors) -> Result<Box<dyn Architecture>> {
    let loader = Loader::new(gguf, tensors);
    let body = llama::Llama::load(config, &loader)?;
    loader.finish()?;
    Ok(Box::new(body))
}

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
    /// Key/value cache when every sequence fills the engine options' context.
    pub kv_cache: u64,
    /// Activations and logits of a step.
    pub workspace: u64,
    /// Sum.
    pub total: u64,
}

/// A loaded model: immutable, shared by any number of engines.
#[derive(Debug)]
pub struct Model {
    metadata: Metadata,
    architecture: String,
    info: ModelInfo,
    content_hash: Option<ContentHash>,
    settings: String,
    /// `None` when only the vocabulary was loaded.
    body: Option<Box<dyn Architecture>>,
    tokenizer: Option<Tokenizer>,
    /// A template that does not compile is an error of those who use it, not of the model.
    template: Option<Result<ChatTemplate, TemplateError>>,
}

impl Model {
    /// Loads a model from a file; the first of its parts when it is split. `progress` hears the fraction done, on
    /// this thread, and cancels by answering false.
    ///
    /// # Errors
    /// A file that cannot be read, is malformed, contradicts itself, or needs something this version lacks.
    pub fn load(
        path: &Path,
        options: &ModelOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<Model>> {
        Self::from_gguf(Gguf::open(path)?, options, progress)
    }

    /// Loads a model from the bytes of a GGUF file. The bytes are copied: they can be freed afterwards.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_from_bytes(
        bytes: &[u8],
        options: &ModelOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<Model>> {
        Self::from_gguf(Gguf::from_bytes(bytes)?, options, progress)
    }

    fn from_gguf(
        mut gguf: Gguf,
        options: &ModelOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<Model>> {
        let architecture = architecture_of(gguf.metadata())?.to_string();
        let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
        let template = match &tokenizer {
            Some(tokenizer) => ChatTemplate::from_metadata(gguf.metadata(), tokenizer)?,
            None => None,
        };
        if options.vocabulary_only {
            let info = ModelInfo {
                n_vocab: tokenizer.as_ref().map_or(0, Tokenizer::n_vocab),
                description: format!("{architecture}, vocabulary only"),
                ..ModelInfo::default()
            };
            let metadata = gguf.into_metadata();
            return Ok(Arc::new(Model {
                metadata,
                architecture,
                info,
                content_hash: None,
                settings: String::new(),
                body: None,
                tokenizer,
                template,
            }));
        }
        // Everything that can be refused without the weights is refused before they are read.
        let config = read_config(&architecture, gguf.metadata())?;
        if gguf.tensors().is_empty() {
            return Err(Error::InvalidModel(
                "the file holds metadata only, expected the tensors of a model; the option vocabulary_only loads it for its tokenizer".to_string(),
            ));
        }
        weights::check_types(&gguf)?;
        let info = model_info(&architecture, &config, &gguf);
        check_budget(&gguf, options)?;
        let load = LoadOptions {
            mode: if options.load_mode == "mmap" {
                LoadMode::Mmap
            } else {
                LoadMode::Read
            },
            threads: options.load_threads,
            memory_budget: (options.memory_budget > 0).then_some(options.memory_budget),
        };
        let data = gguf.load(&load, &mut |done, total| {
            progress(if total == 0 {
                1.0
            } else {
                done as f32 / total as f32
            })
        })?;
        if options.check_tensors {
            check::all_finite(&gguf, &data)?;
        }
        gguf.release_data();
        let content_hash = Some(data.content_hash());
        let settings = format!("{config:?}");
        let tensors = Tensors::pack(&gguf, data, options.load_threads)?;
        let body = load_architecture(config, &gguf, &tensors)?;
        let metadata = gguf.into_metadata();
        Ok(Arc::new(Model {
            metadata,
            architecture,
            info,
            content_hash,
            settings,
            body: Some(body),
            tokenizer,
            template,
        }))
    }

    /// Memory a model and an engine with these options will take, from the file's header alone.
    ///
    /// # Errors
    /// As [`Model::load`], as far as the header tells.
    pub fn estimate(path: &Path, _model: &ModelOptions, engine: &EngineOptions) -> Result<MemoryEstimate> {
        let gguf = Gguf::open(path)?;
        let config = read_config(architecture_of(gguf.metadata())?, gguf.metadata())?;
        let engine = engine.resolve(&Subject {
            n_parameters: gguf
                .tensors()
                .iter()
                .fold(0, |n: u64, t| n.saturating_add(t.n_elements())),
            context_length: config.context_length,
            cpus: crate::topology::Topology::this().cores(),
        });
        let context = engine.context_length;
        let kv_type = RowType::from_name(engine.kv_type).unwrap_or(RowType::F16);
        let geometry = Geometry::new(kv_type, llama::layer_shapes(&config))?;
        // The weights of a draft model are there already.
        let draft = match engine.drafting_model() {
            Some(draft) => draft.draft_memory(&engine, kv_type)?,
            None => (0, 0),
        };
        let sequence = geometry.sequence_bytes(context, engine.growth())?;
        let sequence = sequence.saturating_add(draft.0);
        let mut kv_cache = sequence.saturating_mul(engine.max_running as u64);
        if engine.kv_budget > 0 {
            kv_cache = kv_cache.min(engine.kv_budget);
        }
        let rows = engine.prefill_chunk + engine.max_running + engine.draft_rows();
        let widths = llama::widths(&config);
        let workspace = Workspace::bytes(
            &widths,
            rows,
            widths.logit_rows(engine.max_running) + engine.draft_rows(),
            engine.threads,
            context,
            engine.attention(),
        )
        .saturating_add(draft.1);
        let weights = gguf.data_bytes();
        let total = weights.saturating_add(kv_cache).saturating_add(workspace);
        Ok(MemoryEstimate {
            weights,
            kv_cache,
            workspace,
            total,
        })
    }

    /// Bytes of the keys and values of a sequence, and of workspace, that it takes as the draft of an engine.
    fn draft_memory(&self, engine: &EngineOptions, kv_type: RowType) -> Result<(u64, u64)> {
        let body = self.body()?;
        let geometry = Geometry::new(kv_type, body.layer_shapes())?;
        let workspace = Workspace::bytes(
            &body.widths(),
            engine.draft_model_rows(),
            engine.max_running,
            engine.threads,
            engine.context_length,
            engine.attention(),
        );
        let sequence = geometry.sequence_bytes(engine.context_length, engine.draft_model_growth())?;
        Ok((sequence, workspace))
    }

    /// The options with what their preset chooses for this model on this machine.
    pub fn resolve(&self, engine: &EngineOptions) -> EngineOptions {
        engine.resolve(&Subject {
            n_parameters: self.info.n_parameters,
            context_length: self.info.context_length,
            cpus: crate::topology::Topology::this().cores(),
        })
    }

    /// Gives each layer a window or none, for tests: no family of this version reads any.
    #[cfg(test)]
    pub(crate) fn set_windows(&mut self, windows: &[Option<usize>]) {
        if let Some(body) = &mut self.body {
            body.set_windows(windows);
        }
    }

    /// Puts another forward pass into a model, for tests of what surrounds it.
    #[cfg(test)]
    pub(crate) fn replace_body(&mut self, wrap: impl FnOnce(Box<dyn Architecture>) -> Box<dyn Architecture>) {
        self.body = self.body.take().map(wrap);
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The architecture's name as the file has it: `llama`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The model's name, if the file has one.
    pub fn name(&self) -> Option<&str> {
        self.metadata.str("general.name").ok().flatten()
    }

    /// What it is, in numbers.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Hash of the names, types, shapes and data of the weights; `None` when only the vocabulary was loaded. Equal
    /// weights have equal hashes however the file is called or split, but a mapped model, of which only samples are
    /// hashed, has another one than the same model when it is read. It tells models apart by accident, not by malice.
    pub fn content_hash(&self) -> Option<ContentHash> {
        self.content_hash
    }

    /// The hyper-parameters as text, for fingerprints.
    pub(crate) fn settings(&self) -> &str {
        &self.settings
    }

    /// The forward pass.
    ///
    /// # Errors
    /// When only the vocabulary was loaded.
    pub fn body(&self) -> Result<&dyn Architecture> {
        self.body.as_deref().ok_or_else(|| {
            Error::Unsupported(
                "the model was loaded with vocabulary_only and has no weights to compute with".to_string(),
            )
        })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When the file has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::Unsupported("the model file has no tokenizer: give token ids instead of text".to_string())
        })
    }

    /// The tokenizer, where there is one.
    pub(crate) fn tokenizer_if_any(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Token ids of a text. `add_special` adds the begin and end tokens the model asks for, `parse_special` reads the
    /// texts of special tokens as these tokens.
    ///
    /// # Errors
    /// When the file has no tokenizer or one this version cannot encode with, by name.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        Ok(self.tokenizer()?.encode(text, add_special, parse_special)?)
    }

    /// The text of token ids; bytes that are not UTF-8 become U+FFFD. `render_special` writes special tokens too.
    ///
    /// # Errors
    /// When the file has no tokenizer or an id is outside the vocabulary.
    pub fn detokenize(&self, ids: &[u32], render_special: bool) -> Result<String> {
        let tokenizer = self.tokenizer()?;
        match ids.iter().find(|id| **id as usize >= tokenizer.n_vocab()) {
            None => Ok(tokenizer.decode(ids, render_special)),
            Some(id) => Err(Error::InvalidArgument(format!(
                "cannot detokenize the id {id}: the vocabulary has {} tokens",
                tokenizer.n_vocab()
            ))),
        }
    }

    /// Whether the file has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The prompt of a conversation by the model's chat template. `messages` is an array of objects with `role` and
    /// `content`; `add_generation_prompt` opens the assistant's answer.
    ///
    /// # Errors
    /// When the file has no template, or the template refuses the conversation.
    pub fn apply_chat_template(
        &self,
        messages: &serde_json::Value,
        add_generation_prompt: bool,
    ) -> Result<String> {
        match &self.template {
            None => Err(Error::Unsupported("the model has no chat template".to_string())),
            Some(Err(e)) => Err(Error::InvalidModel(e.to_string())),
            Some(Ok(template)) => {
                let input = ChatInput {
                    add_generation_prompt,
                    ..ChatInput::new(messages)
                };
                template
                    .render(&input)
                    .map_err(|e| Error::InvalidArgument(e.to_string()))
            }
        }
    }
}

/// What is read from files is checked by their loader, which knows what it allocates. The weights of a model from memory
/// are already there as a copy; of a mapped one the quantized tensors are copied as they are packed.
fn check_budget(gguf: &Gguf, options: &ModelOptions) -> Result<()> {
    let needed = match (gguf.paths().is_empty(), options.load_mode) {
        (true, _) => gguf.data_bytes(),
        (false, "mmap") => gguf
            .tensors()
            .iter()
            .filter(|t| t.ty.is_quantized())
            .fold(0u64, |n, t| n.saturating_add(t.n_bytes)),
        (false, _) => 0,
    };
    let budget = options.memory_budget;
    if budget == 0 || needed <= budget {
        return Ok(());
    }
    Err(Error::Memory(MemoryError::OverBudget {
        what: "the weights of the model".to_string(),
        needed,
        budget,
    }))
}

fn architecture_of(metadata: &Metadata) -> Result<&str> {
    metadata
        .str("general.architecture")?
        .ok_or_else(|| Error::InvalidModel("metadata key 'general.architecture' is missing".to_string()))
}

fn model_info(architecture: &str, config: &Config, gguf: &Gguf) -> ModelInfo {
    let n_parameters = gguf.tensors().iter().map(|t| t.n_elements()).sum::<u64>();
    // The type that holds most of the bytes names the file.
    let mut bytes = std::collections::BTreeMap::new();
    for tensor in gguf.tensors() {
        *bytes.entry(tensor.ty.name()).or_insert(0u64) += tensor.n_bytes;
    }
    let main = bytes.iter().max_by_key(|(_, n)| **n).map_or("", |(name, _)| name);
    let millions = n_parameters as f64 / 1e6;
    let size = if millions >= 1000.0 {
        format!("{:.1}B", millions / 1000.0)
    } else {
        format!("{millions:.1}M")
    };
    ModelInfo {
        n_vocab: config.n_vocab,
        n_embd: config.n_embd,
        n_layers: config.n_layers,
        n_heads: config.n_heads[0],
        n_kv_heads: config.n_kv_heads[0],
        context_length: config.context_length,
        n_parameters,
        weight_bytes: gguf.data_bytes(),
        description: format!("{architecture} {size} {main}"),
    }
}
