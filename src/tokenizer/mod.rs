//! Text to token ids and back.
//!
//! [`Tokenizer`] is built from a GGUF file's `tokenizer.ggml.*` metadata: the vocabulary always, the encoder
//! for SentencePiece-style models (`llama`) and byte-level byte-pair encoding (`gpt2`) with the
//! pre-tokenizers that this version knows. With any other the vocabulary still loads and ids decode; only
//! [`Tokenizer::encode`] is an error that names what is missing. The behaviour is that of llama.cpp, whose
//! file format this is, at the commit vendored in llama-cpp-python 0.3.36.
//!
//! Encoding takes time and memory linear in the text. [`Detokenizer`] turns a stream of ids into text;
//! [`ChatTemplate`] renders messages to the prompt a model was trained on.

mod bpe;
mod detokenize;
mod error;
mod ids;
mod merge;
mod pretokenize;
mod queue;
mod special;
mod spm;
mod template;
#[cfg(test)]
mod tests;
mod vocab;

use std::ops::Range;

use crate::gguf::Metadata;
pub use detokenize::Detokenizer;
pub use error::TokenizerError;
pub use template::{ChatInput, ChatTemplate, TemplateError};
pub use vocab::{Token, TokenKind};

use bpe::Bpe;
use detokenize::Escape;
use ids::SpecialIds;
use merge::Merger;
use pretokenize::PreTokenizer;
use special::{Fragment, SpecialTokens, Strip};
use spm::Spm;
use vocab::Vocabulary;

/// Longest text accepted, in bytes: escaping may triple it, and offsets have 32 bits.
const MAX_TEXT: usize = 1 << 30;

/// A vocabulary and the encoder that goes with it. Immutable; share it between threads.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocabulary,
    ids: SpecialIds,
    model: String,
    pre: String,
    encoder: Encoder,
    /// Special tokens looked for when they are to be parsed.
    all_special: SpecialTokens,
    /// Those looked for in any case.
    user_defined: SpecialTokens,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    escape: Escape,
}

#[derive(Debug)]
enum Encoder {
    Spm(Spm),
    Bpe(Bpe),
    UnsupportedModel,
    UnsupportedPreTokenizer,
}

impl Tokenizer {
    /// Builds the tokenizer of a file; `Ok(None)` when the file has none (no `tokenizer.ggml.model`, or
    /// "none").
    ///
    /// # Errors
    /// A vocabulary that contradicts itself: see [`TokenizerError`]. A tokenizer model or pre-tokenizer that
    /// is not supported is no error here.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>, TokenizerError> {
        let model = match metadata.str("tokenizer.ggml.model")? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(model) => model,
        };
        let pre = metadata.str("tokenizer.ggml.pre")?.unwrap_or_default();
        let mut vocab = Vocabulary::from_metadata(metadata)?;
        check_byte_tokens(&vocab)?;
        let ids = SpecialIds::read(metadata, &mut vocab, model)?;
        let mut add_bos = matches!(model, "llama" | "bert");
        let add_eos = model == "t5";
        let encoder = match model {
            "llama" => Encoder::Spm(Spm::new(&vocab)?),
            "gpt2" => match PreTokenizer::named(pre) {
                Some(rule) => {
                    add_bos = rule.add_bos;
                    Encoder::Bpe(Bpe::new(metadata, &vocab, rule)?)
                }
                None => {
                    add_bos = matches!(pre, "tekken" | "chameleon");
                    Encoder::UnsupportedPreTokenizer
                }
            },
            _ => Encoder::UnsupportedModel,
        };
        let strip = strips(metadata, &vocab)?;
        let special = |kinds: &[TokenKind]| {
            let ids = (0..vocab.len() as u32).filter(|&id| kinds.contains(&vocab.kind(id)));
            SpecialTokens::new(&vocab, ids.map(|id| (id, strip(id))))
        };
        Ok(Some(Self {
            all_special: special(&[TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown])?,
            user_defined: special(&[TokenKind::UserDefined])?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(add_eos),
            add_space_prefix: metadata
                .bool("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(model == "llama"),
            escape: match model {
                "gpt2" => Escape::Bytes,
                "llama" | "t5" | "bert" | "gemma4" => Escape::Space,
                _ => Escape::Plain,
            },
            model: model.to_string(),
            pre: pre.to_string(),
            vocab,
            ids,
            encoder,
        }))
    }

    /// Token ids of `text`. `add_special` adds the begin and end tokens that the file asks for;
    /// `parse_special` makes texts of control tokens in `text` those tokens. User-defined tokens are matched
    /// in either case.
    ///
    /// # Errors
    /// An unsupported tokenizer model or pre-tokenizer, by name; a text over 1 GiB; memory that cannot be
    /// obtained; a character for which the vocabulary has no token of any kind.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encode_counting(text, add_special, parse_special)?.0)
    }

    /// As [`Self::encode`], with the number of elementary steps taken, for tests of its growth.
    #[doc(hidden)]
    pub fn encode_counting(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<(Vec<u32>, u64), TokenizerError> {
        self.check_supported()?;
        if text.len() > MAX_TEXT {
            return Err(TokenizerError::TextTooLong {
                bytes: text.len(),
                limit: MAX_TEXT,
            });
        }
        let mut ids = Vec::new();
        if let (true, true, Some(bos)) = (add_special, self.add_bos, self.ids.bos) {
            special::push(&mut ids, bos)?;
        }
        let mut merger = Merger::default();
        let mut after_special = true;
        let special = if parse_special {
            &self.all_special
        } else {
            &self.user_defined
        };
        for fragment in special.split(text)? {
            match fragment {
                Fragment::Token(id) => {
                    special::push(&mut ids, id)?;
                    after_special = true;
                }
                Fragment::Text(range) => {
                    self.encode_text(text, range, after_special, &mut merger, &mut ids)?;
                    after_special = false;
                }
            }
        }
        if let (true, true, Some(eos)) = (add_special, self.add_eos, self.ids.eos) {
            special::push(&mut ids, eos)?;
        }
        let steps = merger.steps() + text.len() as u64 + ids.len() as u64;
        Ok((ids, steps))
    }

    fn encode_text(
        &self,
        text: &str,
        range: Range<usize>,
        after_special: bool,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        // Special tokens match whole characters, so the range ends where characters do.
        let text = text.get(range).unwrap_or_default();
        match &self.encoder {
            Encoder::Spm(spm) => {
                let prefix = self.add_space_prefix && after_special;
                spm.encode(&self.vocab, self.ids.unknown, text, prefix, merger, ids)
            }
            Encoder::Bpe(bpe) => bpe.encode(&self.vocab, text, merger, ids),
            Encoder::UnsupportedModel | Encoder::UnsupportedPreTokenizer => self.check_supported(),
        }
    }

    /// Whether [`Self::encode`] can work; the error names the tokenizer model or pre-tokenizer that it
    /// cannot work with.
    pub fn check_supported(&self) -> Result<(), TokenizerError> {
        match self.encoder {
            Encoder::Spm(_) | Encoder::Bpe(_) => Ok(()),
            Encoder::UnsupportedModel => Err(TokenizerError::UnsupportedModel(self.model.clone())),
            Encoder::UnsupportedPreTokenizer => {
                Err(TokenizerError::UnsupportedPreTokenizer(self.pre.clone()))
            }
        }
    }

    /// Text of a whole sequence of ids: the space that the tokenizer put before the text is taken off. See
    /// [`Detokenizer`] for streams and continuations.
    pub fn decode(&self, ids: &[u32], render_special: bool) -> String {
        let mut stream = Detokenizer::from_start(self);
        let mut out = String::new();
        for &id in ids {
            stream.push(self, id, render_special, &mut out);
        }
        stream.finish(&mut out);
        out
    }

    /// State for decoding a stream of generated tokens, which continue a prompt.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::continuation()
    }

    /// Number of tokens. The model may have more embedding rows than that.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token `id`, or `None` outside the vocabulary.
    pub fn token(&self, id: u32) -> Option<Token<'_>> {
        self.vocab.get(id)
    }

    /// The id whose text in the file is `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.vocab.find(text.as_bytes())
    }

    /// `tokenizer.ggml.model`: "llama", "gpt2", …
    pub fn model_name(&self) -> &str {
        &self.model
    }

    /// `tokenizer.ggml.pre`, empty when the file has none.
    pub fn pre_tokenizer_name(&self) -> &str {
        &self.pre
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// End of turn, named by the file or known by its text.
    pub fn eot(&self) -> Option<u32> {
        self.ids.eot
    }

    /// End of message, named by the file or known by its text.
    pub fn eom(&self) -> Option<u32> {
        self.ids.eom
    }

    /// Stands for text without a token.
    pub fn unknown(&self) -> Option<u32> {
        self.ids.unknown
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.ids.padding
    }

    /// Separator of the parts of an input.
    pub fn sep(&self) -> Option<u32> {
        self.ids.separator
    }

    /// Whether a text begins with BOS.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a text ends with EOS.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether a space is put before a text.
    pub fn add_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Tokens after which generation ends, ascending: the file's eos, eot and eom and those known by their
    /// text. With none, generation goes on to its limit.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.ids.end_of_generation
    }

    /// Whether generation ends after `id`.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ids.end_of_generation.binary_search(&id).is_ok()
    }

    fn escape(&self) -> Escape {
        self.escape
    }
}

fn check_byte_tokens(vocab: &Vocabulary) -> Result<(), TokenizerError> {
    let malformed = (0..vocab.len() as u32)
        .find(|&id| vocab.kind(id) == TokenKind::Byte && spm::named_byte(vocab.text(id)).is_none());
    match malformed {
        None => Ok(()),
        Some(id) => Err(TokenizerError::MalformedByteToken {
            id,
            text: vocab.text(id).to_string(),
        }),
    }
}

/// What each special token strips. The format has no key for it; llama.cpp knows these models by name.
fn strips(metadata: &Metadata, vocab: &Vocabulary) -> Result<impl Fn(u32) -> Strip + use<>, TokenizerError> {
    let name = metadata
        .str("general.name")?
        .unwrap_or_default()
        .to_ascii_lowercase();
    let pre = metadata.str("tokenizer.ggml.pre")?.unwrap_or_default();
    let arch = metadata.str("general.architecture")?.unwrap_or_default();
    let any = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let mut left = None;
    let mut right = false;
    if any(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
        || any(arch, &["nomic-bert-moe", "jina-bert-v3"])
    {
        left = vocab.find(b"<mask>");
    } else if any(&name, &["phi-3", "phi3"]) {
        right = true;
    } else if name.contains("modern-bert") {
        left = vocab.find(b"[MASK]");
    }
    let keep = ["<unk>", "<s>", "<|endoftext|>"].map(|text| vocab.find(text.as_bytes()));
    Ok(move |id| Strip {
        left: left == Some(id),
        right: right && !keep.contains(&Some(id)),
    })
}
