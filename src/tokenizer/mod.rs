//! Text to token ids and back.
/// A tokenizer could not be built, or could not encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {}
