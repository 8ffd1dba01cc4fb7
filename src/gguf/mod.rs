//! The GGUF file format.
/// A GGUF file is malformed.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {}
