use crate::gguf::GgufError;
use crate::memory::MemoryError;

/// A tokenizer could not be built from a file's metadata, or could not encode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A metadata key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// Memory for the vocabulary or for a text could not be obtained.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The token list has no entries.
    #[error("cannot build the tokenizer: 'tokenizer.ggml.tokens' is empty, expected at least one token")]
    EmptyVocabulary,
    /// More tokens or longer texts than 32-bit ids and offsets can address.
    #[error(
        "cannot build the tokenizer: 'tokenizer.ggml.tokens' has {what}, more than this version addresses ({limit})"
    )]
    VocabularyTooLarge {
        /// What there is too much of: "5000000000 tokens".
        what: String,
        /// The largest count accepted.
        limit: u64,
    },
    /// A per-token array does not have one entry per token.
    #[error(
        "cannot build the tokenizer: '{key}' has {found} entries, expected one for each of the {expected} tokens"
    )]
    LengthMismatch {
        /// The array's key.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Entries of the array.
        found: usize,
    },
    /// Two ids have the same text, so encoding would be ambiguous.
    #[error(
        "cannot build the tokenizer: tokens {first} and {second} have the same text {text:?}, expected each text once"
    )]
    DuplicateToken {
        /// The common text.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A token's type is none of those the format knows.
    #[error(
        "cannot build the tokenizer: 'tokenizer.ggml.token_type' gives token {id} the type {found}, expected 0 to 6"
    )]
    UnknownTokenType {
        /// The token.
        id: usize,
        /// The value in the file.
        found: i64,
    },
    /// A token's score is not a number, so merges have no order.
    #[error(
        "cannot build the tokenizer: 'tokenizer.ggml.scores' gives token {id} a score that is not a number"
    )]
    BadScore {
        /// The token.
        id: usize,
    },
    /// A token of type byte does not name a byte.
    #[error(
        "cannot build the tokenizer: token {id} has type byte and the text {text:?}, expected a text like <0x0A>"
    )]
    MalformedByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A merge is not two texts with a space between them.
    #[error(
        "cannot build the tokenizer: merge {index} of 'tokenizer.ggml.merges' is {text:?}, expected two token texts separated by one space"
    )]
    MalformedMerge {
        /// Index in the array.
        index: usize,
        /// The entry.
        text: String,
    },
    /// A merge names a part, or makes a token, that the vocabulary does not have.
    #[error(
        "cannot build the tokenizer: merge {index} of 'tokenizer.ggml.merges' needs the token {text:?}, which the vocabulary does not have"
    )]
    UnknownMerge {
        /// Index in the array.
        index: usize,
        /// The absent token.
        text: String,
    },
    /// A special token id is not an id of the vocabulary.
    #[error(
        "cannot build the tokenizer: '{key}' is {id}, expected an id below the {n_vocab} tokens of the vocabulary"
    )]
    SpecialIdOutOfRange {
        /// The key that holds the id.
        key: &'static str,
        /// The id.
        id: u64,
        /// Number of tokens.
        n_vocab: usize,
    },
    /// The kind of tokenizer is not implemented; the vocabulary can still be read and ids decoded.
    #[error(
        "cannot encode text: the tokenizer model '{0}' is not supported by this version (supported: llama, gpt2)"
    )]
    UnsupportedModel(String),
    /// The pre-tokenizer is not implemented; the vocabulary can still be read and ids decoded.
    #[error(
        "cannot encode text: the pre-tokenizer '{0}' is not supported by this version (supported: llama-bpe, gpt-2, qwen2, default and their aliases)"
    )]
    UnsupportedPreTokenizer(String),
    /// The text is longer than offsets can address.
    #[error("cannot encode a text of {bytes} bytes: at most {limit} bytes are accepted")]
    TextTooLong {
        /// Length of the text.
        bytes: usize,
        /// Longest accepted.
        limit: usize,
    },
    /// A character has no token, and the vocabulary has neither the byte tokens nor an unknown token for it.
    #[error("cannot encode the byte 0x{byte:02X}: the vocabulary has no token for it and no unknown token")]
    Unencodable {
        /// The byte.
        byte: u8,
    },
}
