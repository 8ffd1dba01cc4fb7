//! Special token ids: those the file names, and those known by their text.
//!
//! The texts are those after which llama.cpp ends generation, with its exceptions: models in the harmony and
//! solar formats do not end at `<|end|>`, and some vocabularies have `</s>` as ordinary text.

use super::TokenizerError;
use super::vocab::{TokenKind, Vocabulary};
use crate::gguf::Metadata;

/// Special token ids of a vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpecialIds {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) eot: Option<u32>,
    pub(super) eom: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) padding: Option<u32>,
    pub(super) separator: Option<u32>,
    /// Ascending; may be empty.
    pub(super) end_of_generation: Vec<u32>,
}

/// Turn ends, most specific first.
const TURN_ENDS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
    "<|endoftext|>",
];

const GENERATION_ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fill-in-the-middle tokens that are never text: by key, and by text where the key is absent.
const FILL_IN: [(&str, &[&str]); 3] = [
    (
        "tokenizer.ggml.fim_pre_token_id",
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        "tokenizer.ggml.fim_suf_token_id",
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        "tokenizer.ggml.fim_mid_token_id",
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
];

/// Fill-in-the-middle tokens that also end generation.
const FILL_IN_ENDS: [(&str, &[&str]); 3] = [
    (
        "tokenizer.ggml.fim_pad_token_id",
        &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &[
            "<|fim_repo|>",
            "<|repo_name|>",
            "<fim-repo>",
            "<REPO>",
            "<reponame>",
        ],
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// The older names of the first three fill-in keys.
const FILL_IN_OLD: [&str; 3] = [
    "tokenizer.ggml.prefix_token_id",
    "tokenizer.ggml.suffix_token_id",
    "tokenizer.ggml.middle_token_id",
];

/// Tokens of the harmony format that are shown as text.
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl SpecialIds {
    /// Reads the ids and corrects the kinds of tokens known by their text.
    pub(super) fn read(
        metadata: &Metadata,
        vocab: &mut Vocabulary,
        model: &str,
    ) -> Result<Self, TokenizerError> {
        let key = |key: &'static str| id_at(metadata, vocab, key);
        // SPM files need not name the ids that SentencePiece gives by default.
        let spm = |id: u32| (model == "llama" && (id as usize) < vocab.len()).then_some(id);
        let mut ids = Self {
            bos: key("tokenizer.ggml.bos_token_id")?.or(spm(1)),
            eos: key("tokenizer.ggml.eos_token_id")?.or(spm(2)),
            eot: key("tokenizer.ggml.eot_token_id")?,
            eom: key("tokenizer.ggml.eom_token_id")?,
            unknown: key("tokenizer.ggml.unknown_token_id")?.or(spm(0)),
            padding: key("tokenizer.ggml.padding_token_id")?,
            separator: key("tokenizer.ggml.seperator_token_id")?,
            end_of_generation: Vec::new(),
        };
        for unused_here in ["tokenizer.ggml.mask_token_id", "tokenizer.ggml.cls_token_id"] {
            key(unused_here)?;
        }
        let mut fill_in = [None; 6];
        for (id, (key, _)) in fill_in.iter_mut().zip(FILL_IN.iter().chain(&FILL_IN_ENDS)) {
            *id = id_at(metadata, vocab, key)?;
        }
        for (id, old) in fill_in.iter_mut().zip(FILL_IN_OLD) {
            *id = id.or(id_at(metadata, vocab, old)?);
        }
        ids.eot = ids.eot.or_else(|| control(vocab, &TURN_ENDS));
        ids.eom = ids.eom.or_else(|| control(vocab, &["<|eom_id|>"]));
        for (id, (_, texts)) in fill_in.iter_mut().zip(FILL_IN.iter().chain(&FILL_IN_ENDS)) {
            *id = id.or_else(|| control(vocab, texts));
        }
        let mut ends: Vec<u32> = GENERATION_ENDS
            .iter()
            .filter_map(|text| control(vocab, &[text]))
            .chain(fill_in[3..].iter().flatten().copied())
            .chain([ids.eos, ids.eot, ids.eom].into_iter().flatten())
            .collect();
        for text in SHOWN {
            if let Some(id) = vocab.find(text.as_bytes()) {
                vocab.set_kind(id, TokenKind::UserDefined);
            }
        }
        except(vocab, &mut ends);
        ends.sort_unstable();
        ends.dedup();
        ids.end_of_generation = ends;
        Ok(ids)
    }
}

fn id_at(metadata: &Metadata, vocab: &Vocabulary, key: &'static str) -> Result<Option<u32>, TokenizerError> {
    let Some(id) = metadata.u64(key)? else {
        return Ok(None);
    };
    match u32::try_from(id) {
        Ok(small) if (small as usize) < vocab.len() => Ok(Some(small)),
        _ => Err(TokenizerError::SpecialIdOutOfRange {
            key,
            id,
            n_vocab: vocab.len(),
        }),
    }
}

/// The first of `texts` that is a token, which becomes a control token.
fn control(vocab: &mut Vocabulary, texts: &[&str]) -> Option<u32> {
    let id = texts.iter().find_map(|text| vocab.find(text.as_bytes()))?;
    vocab.set_kind(id, TokenKind::Control);
    Some(id)
}

fn except(vocab: &mut Vocabulary, ends: &mut Vec<u32>) {
    let has = |text: &str| vocab.find(text.as_bytes()).is_some_and(|id| ends.contains(&id));
    let called = has("<|call|>") || has("<|calls|>");
    let harmony = called && (has("<|return|>") || has("<|flush|>"));
    let plain_s = has("<|tool_response>") || has("<|plamo:eos|>");
    let mut drop = |text: &str, kind: TokenKind| {
        if let Some(id) = vocab.find(text.as_bytes())
            && ends.contains(&id)
        {
            ends.retain(|&end| end != id);
            vocab.set_kind(id, kind);
        }
    };
    if harmony {
        drop("<|end|>", TokenKind::UserDefined);
    }
    if plain_s {
        drop("</s>", TokenKind::Normal);
    }
}
