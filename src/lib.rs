//! libinfer loads GGUF language models and generates text on CPUs, inside somebody else's process.
//!
//! Data goes one way: [`gguf`] reads bytes, [`quant`] knows the block formats, [`kernel`] computes,
//! [`model`] holds a forward pass per architecture family, [`kv`] stores keys and values in blocks,
//! [`sample`] turns logits into tokens, [`engine`] schedules requests, and [`ffi`] translates all of it to C.
//! `docs/design.md` describes the whole.

pub mod engine;
pub mod error;
#[cfg(infer_faults)]
pub(crate) mod fault;
pub mod ffi;
pub mod gguf;
mod histogram;
pub mod kernel;
pub mod kv;
pub mod memory;
pub mod model;
pub mod options;
pub(crate) mod panic_guard;
pub mod quant;
pub mod sample;
pub(crate) mod sync;
pub mod tokenizer;
pub mod topology;

pub use error::{Error, Result};
