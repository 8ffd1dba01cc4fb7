//! Logits of every position of a token sequence, without an engine.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::options::EngineOptions;

/// Stub.
pub fn logits(
    _model: &Model,
    _ids: &[u32],
    _options: &EngineOptions,
    _sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    Err(Error::Unsupported("stub".into()))
}
