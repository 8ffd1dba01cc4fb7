//! Any vocabulary is refused or encodes any text, and where it has every byte, the text comes back.
//!
//! The input is text in fields separated by the byte 0x1E: flags, tokens, merges or scores, special tokens,
//! and the text to encode. Lists are separated by 0x1F.

use infer::gguf::{Array, Metadata, Value};
use infer::tokenizer::Tokenizer;

/// Builds a tokenizer from `data` and encodes with it.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut fields = text.split('\u{1E}');
    let mut field = || fields.next().unwrap_or_default();
    let flags = field().bytes().fold(0u32, |n, b| n << 1 | u32::from(b & 1));
    let (tokens, merges, specials, input) = (field(), field(), field(), field());
    let list = |text: &str| -> Vec<String> {
        text.split('\u{1F}')
            .filter(|t| !t.is_empty())
            .map(String::from)
            .collect()
    };
    let (spm, all_bytes) = (flags & 1 == 1, flags & 2 == 2);
    let mut texts = Vec::new();
    let mut types = Vec::new();
    if spm {
        texts.extend(["<unk>", "<s>", "</s>"].map(String::from));
        types.extend([2, 3, 3]);
    }
    if all_bytes {
        for byte in 0..=255u8 {
            texts.push(if spm {
                format!("<0x{byte:02X}>")
            } else {
                byte_char(byte).to_string()
            });
            types.push(if spm { 6 } else { 1 });
        }
    }
    for token in list(tokens) {
        texts.push(token);
        types.push(1);
    }
    let normal = texts.len();
    for token in list(specials) {
        texts.push(token);
        types.push(if flags & 4 == 4 { 3 } else { 4 });
    }
    let mut m = Metadata::new();
    let strings = |v: Vec<String>| Value::Array(Array::String(v));
    m.insert(
        "tokenizer.ggml.model",
        Value::String(if spm { "llama" } else { "gpt2" }.into()),
    );
    let pre = ["gpt-2", "llama-bpe", "qwen2", "default"][(flags >> 3) as usize % 4];
    m.insert("tokenizer.ggml.pre", Value::String(pre.into()));
    let scores = list(merges)
        .iter()
        .map(|s| s.len() as f32)
        .chain(std::iter::repeat(0.0))
        .take(texts.len())
        .collect();
    m.insert("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    m.insert("tokenizer.ggml.tokens", strings(texts));
    m.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    m.insert("tokenizer.ggml.merges", strings(list(merges)));
    let Ok(Some(tokenizer)) = Tokenizer::from_metadata(&m) else {
        return;
    };
    for parse_special in [false, true] {
        let Ok(ids) = tokenizer.encode(input, true, parse_special) else {
            continue;
        };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        tokenizer.decode(&ids, true);
    }
    let plain = (normal..tokenizer.n_vocab()).next().is_none();
    let unchanged = (0..normal as u32).all(|id| {
        let token = tokenizer.token(id).expect("an id of the vocabulary");
        !tokenizer.is_end_of_generation(id) || token.text == "</s>"
    });
    // Without a token for the escaped space, its bytes are all there is.
    let spaces = !spm || tokenizer.find("\u{2581}").is_some();
    if spaces && all_bytes && plain && unchanged && !input.contains('\u{2581}') {
        let ids = tokenizer
            .encode(input, false, false)
            .expect("every byte has a token");
        assert_eq!(tokenizer.decode(&ids, true), input);
    }
}

/// GPT-2's printable character for a byte.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).expect("a character of Latin Extended-A")
}
