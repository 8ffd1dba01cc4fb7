//! The C interface: exported functions that translate between C and the Rust library, and own nothing else.
//!
//! `include/infer.h` is generated from the doc comments here, so they are written for a C programmer. One file per
//! C object, and below them what all share: [`guard`] wraps every exported body, [`handle`] is the only place where
//! handles are cast, [`string`] and [`memory`] read and write the caller's memory, [`panic_hook`], [`fork`] and
//! [`callback`] keep the promises about panics, forked children and calls from inside callbacks.
#![allow(unsafe_code, reason = "this module is the boundary to C")]
#![allow(
    non_camel_case_types,
    clippy::upper_case_acronyms,
    reason = "types and constants carry the names they have in C"
)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of all functions is stated once, in the conventions of the header"
)]

mod abi;
mod callback;
mod engine;
mod engine_options;
mod engine_state;
mod error;
mod event;
mod event_fd;
#[cfg(infer_faults)]
mod fault;
mod fork;
mod guard;
mod handle;
mod histogram;
mod kernels;
mod kv_cache;
mod kv_cache_options;
mod kv_seq;
mod kv_view;
mod memory;
mod metadata;
mod model;
mod model_options;
mod options;
mod panic_hook;
mod queue;
mod request;
mod request_options;
mod stats;
mod status;
mod string;
mod text;
mod threads;
mod threads_options;

pub use abi::*;
pub use callback::*;
pub use engine::*;
pub use engine_options::*;
pub use engine_state::*;
pub use error::*;
pub use event::*;
#[cfg(infer_faults)]
pub use fault::*;
pub use histogram::*;
pub use kernels::*;
pub use kv_cache::*;
pub use kv_cache_options::*;
pub use kv_seq::*;
pub use kv_view::*;
pub use metadata::*;
pub use model::*;
pub use model_options::*;
pub use options::*;
pub use queue::*;
pub use request::*;
pub use request_options::*;
pub use stats::*;
pub use status::*;
pub use text::*;
pub use threads::*;
pub use threads_options::*;
