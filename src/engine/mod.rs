//! The engine: a queue of requests, a scheduler, and the worker that computes them.

pub mod evaluate;
mod event;
mod queue;
mod stats;

use std::sync::Arc;
use std::time::Duration;

pub use event::{Channel, Event, EventKind, Finish, FinishReason, Poll};
pub use queue::{Queue, Wake};
pub use stats::{ComponentTimes, Stats};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::options::{EngineOptions, RequestOptions};

/// Stub.
pub struct Engine {
    model: Arc<Model>,
}

/// Stub.
pub struct Request {
    id: u64,
}

impl Request {
    /// Stub.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// Stub.
    pub fn tag(&self) -> u64 {
        0
    }
    /// Stub.
    pub fn cancel(&self) {}
    /// Stub.
    pub fn next(&self, _timeout: Option<Duration>, _event: &mut Event) -> Result<Poll> {
        Err(Error::Unsupported("stub".into()))
    }
}

impl Engine {
    /// Stub.
    pub fn new(_model: Arc<Model>, _options: EngineOptions) -> Result<Engine> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
    /// Stub.
    pub fn submit(&self, _options: RequestOptions) -> Result<Request> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn submit_batch(&self, _options: Vec<RequestOptions>) -> Result<Vec<Request>> {
        Err(Error::Unsupported("stub".into()))
    }
    /// Stub.
    pub fn wait(&self, _timeout: Option<Duration>, _max: usize, _found: &mut dyn FnMut(u64)) -> usize {
        0
    }
    /// Stub.
    pub fn drain(&self, _timeout: Option<Duration>) -> Result<bool> {
        Ok(true)
    }
    /// Stub.
    pub fn pause(&self) {}
    /// Stub.
    pub fn resume(&self) {}
    /// Stub.
    pub fn trim(&self, _bytes: u64) -> u64 {
        0
    }
    /// Stub.
    pub fn cache_clear(&self, _salt: &[u8]) -> Result<()> {
        Ok(())
    }
    /// Stub.
    pub fn step(&self) -> Result<bool> {
        Ok(false)
    }
    /// Stub.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// Stub.
    pub fn summary(&self) -> String {
        String::new()
    }
    /// Stub.
    pub fn metrics_text(&self) -> String {
        String::new()
    }
}
