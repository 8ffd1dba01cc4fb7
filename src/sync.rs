//! Locks, condition variables, atomics and threads for what wakes up and waits: those of the standard library.
//!
//! In a test build with `--cfg infer_models` (`.ci/proofs`) they are those of a model checker instead, which runs one
//! thread at a time and chooses at every access which one goes on: see `sync/model.rs`.

#[cfg(all(test, infer_models))]
pub(crate) mod model;

#[cfg(not(all(test, infer_models)))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread, thread_local,
};

#[cfg(all(test, infer_models))]
pub(crate) use {
    model::{Condvar, planted},
    shuttle::{
        hint::spin_loop,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU64, AtomicUsize},
        },
        thread, thread_local,
    },
};

/// Whether a model checker decides who runs: to it, waiting by spinning is only more to go through.
pub(crate) const MODELLED: bool = cfg!(all(test, infer_models));

/// Whether the code is to have a known defect, so that a model can show that it finds it.
#[cfg(not(all(test, infer_models)))]
pub(crate) const fn planted() -> bool {
    false
}
