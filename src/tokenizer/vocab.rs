//! The vocabulary: token texts, kinds and scores by id, and ids by text.

use super::TokenizerError;
use crate::gguf::Metadata;
use crate::memory;

/// What a token stands for, after `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for text the vocabulary cannot express.
    Unknown,
    /// Steers the model and is no text, like `<s>`.
    Control,
    /// Added text that is matched before the tokenizer splits anything.
    UserDefined,
    /// A gap in the vocabulary.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

/// One entry of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Token<'a> {
    /// Text as the file has it: spaces and bytes may be escaped in the tokenizer's manner.
    pub text: &'a str,
    /// What it stands for.
    pub kind: TokenKind,
    /// Merge priority of SPM vocabularies, higher first; 0 where the file has no scores.
    pub score: f32,
}

/// Marks "no token" in tables of ids.
pub(super) const NONE: u32 = u32::MAX;

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Texts lie in one string, found by a table of ids with linear probing.
#[derive(Debug)]
pub(super) struct Vocabulary {
    texts: String,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    slots: Vec<u32>,
    longest: usize,
}

impl Vocabulary {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let tokens = metadata
            .strings(TOKENS)?
            .ok_or_else(|| crate::gguf::GgufError::MissingKey(TOKENS.to_string()))?;
        let n = tokens.len();
        if n == 0 {
            return Err(TokenizerError::EmptyVocabulary);
        }
        if n >= i32::MAX as usize {
            return Err(TokenizerError::VocabularyTooLarge {
                what: format!("{n} tokens"),
                limit: i32::MAX as u64,
            });
        }
        let mut vocab = Self {
            texts: String::new(),
            ends: memory::with_capacity(n, "the vocabulary's offsets")?,
            kinds: read_kinds(metadata, n)?,
            scores: read_scores(metadata, n)?,
            slots: memory::filled(NONE, (n * 2).next_power_of_two(), "the vocabulary's index")?,
            longest: 0,
        };
        vocab.add_texts(tokens)?;
        Ok(vocab)
    }

    fn add_texts(&mut self, tokens: &[String]) -> Result<(), TokenizerError> {
        let mut total = 0usize;
        for text in tokens {
            total = total.saturating_add(text.len().max("[EMPTY_4294967295]".len()));
        }
        if total >= u32::MAX as usize {
            return Err(TokenizerError::VocabularyTooLarge {
                what: format!("{total} bytes of text"),
                limit: u32::MAX.into(),
            });
        }
        let texts: Vec<u8> = memory::with_capacity(total, "the vocabulary's texts")?;
        // An empty vector is valid UTF-8 and keeps its capacity.
        self.texts = String::from_utf8(texts).unwrap_or_default();
        for (id, text) in tokens.iter().enumerate() {
            if text.is_empty() {
                // A name of its own, as in llama.cpp: several empty texts are no duplicates.
                self.texts.push_str(&format!("[EMPTY_{id}]"));
            } else {
                self.texts.push_str(text);
            }
            self.ends.push(self.texts.len() as u32);
            let id = id as u32;
            let slot = self.slot_of(self.text(id).as_bytes());
            let first = self.slots[slot];
            if first != NONE {
                return Err(TokenizerError::DuplicateToken {
                    text: self.text(id).to_string(),
                    first,
                    second: id,
                });
            }
            self.slots[slot] = id;
            self.longest = self.longest.max(self.text(id).len());
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Length in bytes of the longest text.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Text of `id`, which must be below [`Self::len`].
    pub(super) fn text(&self, id: u32) -> &str {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        &self.texts[start..self.ends[id] as usize]
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds[id as usize]
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        self.kinds[id as usize] = kind;
    }

    pub(super) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    pub(super) fn get(&self, id: u32) -> Option<Token<'_>> {
        ((id as usize) < self.len()).then(|| Token {
            text: self.text(id),
            kind: self.kind(id),
            score: self.score(id),
        })
    }

    /// The id whose text is `text`, or `None`.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let id = self.slots[self.slot_of(text)];
        (id != NONE).then_some(id)
    }

    /// The slot that holds `text`, or the empty one where it would go. At least half of the slots are empty.
    fn slot_of(&self, text: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(text) as usize & mask;
        loop {
            let id = self.slots[slot];
            if id == NONE || self.text(id).as_bytes() == text {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Multiply-and-fold over words of eight bytes.
fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0x9E37_79B9_7F4A_7C15u64 ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        h = mix(h ^ u64::from_le_bytes(word));
    }
    let rest = chunks.remainder();
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    mix(h ^ u64::from_le_bytes(word))
}

/// A 64-bit mix whose every output bit depends on every input bit.
pub(super) fn mix(x: u64) -> u64 {
    let product = u128::from(x ^ 0xA076_1D64_78BD_642F) * 0xE703_7ED1_A0B4_28DB_u128;
    (product as u64) ^ (product >> 64) as u64
}

fn read_kinds(metadata: &Metadata, n: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    let Some(types) = metadata.integers(TYPES)? else {
        return Ok(memory::filled(
            TokenKind::Normal,
            n,
            "the vocabulary's token kinds",
        )?);
    };
    check_length(TYPES, n, types.len())?;
    let mut kinds = memory::with_capacity(n, "the vocabulary's token kinds")?;
    for (id, &found) in types.iter().enumerate() {
        kinds.push(match found {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            0 | 5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return Err(TokenizerError::UnknownTokenType { id, found }),
        });
    }
    Ok(kinds)
}

fn read_scores(metadata: &Metadata, n: usize) -> Result<Vec<f32>, TokenizerError> {
    let mut scores = memory::with_capacity(n, "the vocabulary's scores")?;
    match metadata.f32s(SCORES) {
        Ok(None) => return Ok(Vec::new()),
        Ok(Some(found)) => {
            check_length(SCORES, n, found.len())?;
            scores.extend_from_slice(found);
        }
        Err(wrong_type) => {
            let Ok(Some(found)) = metadata.integers(SCORES) else {
                return Err(wrong_type.into());
            };
            check_length(SCORES, n, found.len())?;
            scores.extend(found.iter().map(|&v| v as f32));
        }
    }
    match scores.iter().position(|s| s.is_nan()) {
        Some(id) => Err(TokenizerError::BadScore { id }),
        None => Ok(scores),
    }
}

fn check_length(key: &'static str, expected: usize, found: usize) -> Result<(), TokenizerError> {
    if expected == found {
        return Ok(());
    }
    Err(TokenizerError::LengthMismatch { key, expected, found })
}
