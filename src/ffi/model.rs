//! Models: loading, numbers, memory estimates.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use super::engine_options::infer_engine_options;
use super::error::infer_error;
use super::guard::{self, Failure};
use super::handle::{self, Object, magic};
use super::memory::{self, AbiStruct};
use super::model_options::{ModelOptionsState, infer_model_options};
use super::options;
use super::status::infer_status;
use super::string;
use crate::Result;
use crate::model::Model;

/// A loaded model: weights, tokenizer, chat template. It does not change after loading. Several engines may use it.
///
/// Threads: any number at the same time.
pub struct infer_model {
    _private: [u8; 0],
}

pub(crate) struct ModelState {
    pub(crate) model: Arc<Model>,
    architecture: String,
    name: String,
    description: String,
}

impl Object for infer_model {
    type State = ModelState;
    const MAGIC: u64 = magic(b"INFmodel");
    const NAME: &'static str = "infer_model";
}

impl ModelState {
    fn new(model: Arc<Model>) -> Self {
        Self {
            architecture: string::terminated(model.architecture()),
            name: string::terminated(model.name().unwrap_or_default()),
            description: string::terminated(&model.info().description),
            model,
        }
    }
}

/// What a model is, in numbers. The texts are NUL-terminated UTF-8 and live as long as the model's handle.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_model_info {
    /// Set by INFER_MODEL_INFO_INIT.
    pub struct_size: u32,
    /// Entries of the vocabulary: token ids are below this.
    pub n_vocab: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Layers.
    pub n_layers: u32,
    /// Query heads of the first layer.
    pub n_heads: u32,
    /// Key/value heads of the first layer.
    pub n_kv_heads: u32,
    /// Tokens the model was trained to attend to.
    pub context_length: u32,
    /// 1 when the file has a chat template, else 0.
    pub has_chat_template: u32,
    /// Number of weights.
    pub n_parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// The architecture as the file names it, like "llama".
    pub architecture: *const c_char,
    /// The model's name as the file gives it; empty when it gives none.
    pub name: *const c_char,
    /// One line for people: architecture, number of parameters, main tensor type.
    pub description: *const c_char,
}

// SAFETY: repr(C), struct_size first, eight u32 before u64 and pointers leave no padding, zero is a value.
unsafe impl AbiStruct for infer_model_info {
    const NAME: &'static str = "infer_model_info";
    const MIN: usize = 32;
}

/// Memory a model and an engine will take, in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_memory_estimate {
    /// Set by INFER_MEMORY_ESTIMATE_INIT.
    pub struct_size: u32,
    /// Always 0.
    pub reserved: u32,
    /// The weights.
    pub weights: u64,
    /// Cached keys and values, at the context length and number of sequences the engine's options ask for.
    pub kv_cache: u64,
    /// Intermediate results of a step.
    pub workspace: u64,
    /// The sum.
    pub total: u64,
}

// SAFETY: repr(C), struct_size first, two u32 before u64 leave no padding, zero is a value.
unsafe impl AbiStruct for infer_memory_estimate {
    const NAME: &'static str = "infer_memory_estimate";
    const MIN: usize = size_of::<infer_memory_estimate>();
}

/// Loads a model from a GGUF file. For a model split over several files give the path of the first; the others are
/// found beside it. options may be NULL. Blocks until everything is read. Free the model with infer_model_free().
///
/// Errors: INFER_ERR_IO, INFER_ERR_INVALID_MODEL with the key or tensor that is wrong, INFER_ERR_UNSUPPORTED for an
/// architecture or tensor type this version does not know, INFER_ERR_NO_MEMORY, INFER_ERR_CANCELLED.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_load(
    path: *const c_char,
    path_len: usize,
    options: *const infer_model_options,
    model: *mut *mut infer_model,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let path = Path::new(unsafe { string::input(path, path_len, "the path")? });
        // SAFETY: the conventions of the header.
        unsafe {
            load(options, model, |options, progress| {
                Model::load(path, &options.options, progress)
            })
        }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_load", error, body) }
}

/// Loads a model from the bytes of a GGUF file in memory. They are only read during the call and can be freed
/// afterwards. options may be NULL. Free the model with infer_model_free().
///
/// Errors: as infer_model_load().
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_load_from_memory(
    data: *const c_void,
    size: usize,
    options: *const infer_model_options,
    model: *mut *mut infer_model,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let bytes = unsafe { memory::input(data.cast::<u8>(), size, "data")? };
        // SAFETY: the conventions of the header.
        unsafe {
            load(options, model, |options, progress| {
                Model::load_from_bytes(bytes, &options.options, progress)
            })
        }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_load_from_memory", error, body) }
}

unsafe fn load(
    options: *const infer_model_options,
    model: *mut *mut infer_model,
    run: impl FnOnce(&ModelOptionsState, &mut dyn FnMut(f32) -> bool) -> Result<Arc<Model>>,
) -> guard::Answer {
    memory::check(model.cast_const(), "model")?;
    let mut default = None;
    // SAFETY: the promise of the caller.
    let options = unsafe { options::or_default(options, &mut default)? };
    let progress = options.progress.clone();
    let loaded = run(options, &mut |fraction| {
        progress.as_ref().is_none_or(|p| p.report(fraction))
    })?;
    // SAFETY: checked above.
    unsafe { memory::put(model, handle::create(ModelState::new(loaded))?) };
    Ok(infer_status::INFER_OK)
}

/// Frees a model. Engines that use it keep it alive. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_free(model: *mut infer_model) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(model) }
}

/// Fills info with the model's numbers and names. The names live as long as the model's handle.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when info is NULL or too small.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_get_info(
    model: *const infer_model,
    info: *mut infer_model_info,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, size) = unsafe {
            (
                handle::get(model)?,
                memory::struct_size(info.cast_const(), "info")?,
            )
        };
        let numbers = state.model.info();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ours = infer_model_info {
            struct_size: 0,
            n_vocab: small(numbers.n_vocab),
            n_embd: small(numbers.n_embd),
            n_layers: small(numbers.n_layers),
            n_heads: small(numbers.n_heads),
            n_kv_heads: small(numbers.n_kv_heads),
            context_length: small(numbers.context_length),
            has_chat_template: u32::from(state.model.has_chat_template()),
            n_parameters: numbers.n_parameters,
            weight_bytes: numbers.weight_bytes,
            architecture: state.architecture.as_ptr().cast(),
            name: state.name.as_ptr().cast(),
            description: state.description.as_ptr().cast(),
        };
        // SAFETY: `info` passed the check.
        unsafe { memory::write_struct(&ours, info, size) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_get_info", error, body) }
}

/// Computes, from the header of a GGUF file alone, how much memory a model and an engine with these options would
/// take. Both options may be NULL.
///
/// Errors: as infer_model_load().
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_estimate(
    path: *const c_char,
    path_len: usize,
    model_options: *const infer_model_options,
    engine_options: *const infer_engine_options,
    estimate: *mut infer_memory_estimate,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        let (mut default_model, mut default_engine) = (None, None);
        // SAFETY: the conventions of the header.
        let (path, size, model, engine) = unsafe {
            (
                string::input(path, path_len, "the path")?,
                memory::struct_size(estimate.cast_const(), "estimate")?,
                options::or_default(model_options, &mut default_model)?,
                options::or_default(engine_options, &mut default_engine)?,
            )
        };
        let found =
            Model::estimate(Path::new(path), &model.options, &engine.options).map_err(Failure::from)?;
        let ours = infer_memory_estimate {
            struct_size: 0,
            reserved: 0,
            weights: found.weights,
            kv_cache: found.kv_cache,
            workspace: found.workspace,
            total: found.total,
        };
        // SAFETY: `estimate` passed the check.
        unsafe { memory::write_struct(&ours, estimate, size) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_estimate", error, body) }
}
