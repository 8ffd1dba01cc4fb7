//! The GGUF file format.

mod metadata;

pub use metadata::{Array, Metadata, Value};

/// A GGUF file is malformed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// A metadata key holds a value of another type than its meaning needs.
    #[error("metadata key '{key}': expected {expected}, found {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What the key's meaning needs.
        expected: &'static str,
        /// What the file holds.
        found: &'static str,
    },
    /// A metadata key that is needed is absent.
    #[error("metadata key '{0}' is missing")]
    MissingKey(String),
}
