//! A byte-level BPE vocabulary of any size that encodes every text and gives it back.
//!
//! First the 256 bytes, then words of small letters, with and without a space before them, from short to long, until two
//! tokens are left for begin and end. Each word has one merge: the word without its last letter, and that letter.

use infer::gguf::{Array, Value};

/// Tokens, their types and the merges.
struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<String>,
}

/// Type numbers of GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Smallest vocabulary: all bytes, begin and end.
pub const SMALLEST: usize = 258;

/// The metadata of a vocabulary of `n` tokens, at least [`SMALLEST`], split by the rules named `pre`.
pub fn metadata(n: usize, pre: &str) -> Vec<(&'static str, Value)> {
    let Vocabulary { mut tokens, merges } = words(n.max(SMALLEST) - 2);
    let mut types = vec![NORMAL; tokens.len()];
    tokens.extend(["<|begin_of_text|>".to_string(), "<|end_of_text|>".to_string()]);
    types.extend([CONTROL; 2]);
    let (begin, end) = (tokens.len() as u32 - 2, tokens.len() as u32 - 1);
    vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String(pre.into())),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(merges))),
        ("tokenizer.ggml.bos_token_id", Value::U32(begin)),
        ("tokenizer.ggml.eos_token_id", Value::U32(end)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ]
}

fn words(n: usize) -> Vocabulary {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| byte_text(b).to_string()).collect();
    let mut merges = Vec::new();
    // Words of the length before: at first the letters and the space.
    let mut shorter: Vec<String> = (b'a'..=b'z')
        .chain([b' '])
        .map(|b| byte_text(b).to_string())
        .collect();
    while tokens.len() < n {
        let mut longer = Vec::new();
        for word in &shorter {
            for letter in 'a'..='z' {
                if tokens.len() == n {
                    break;
                }
                merges.push(format!("{word} {letter}"));
                longer.push(format!("{word}{letter}"));
                tokens.push(format!("{word}{letter}"));
            }
        }
        shorter = longer;
    }
    Vocabulary { tokens, merges }
}

/// GPT-2's printable character of a byte.
fn byte_text(byte: u8) -> char {
    let code = match byte {
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x121 + u32::from(byte - 0x7F),
        0xAD => 0x143,
        _ => u32::from(byte),
    };
    char::from_u32(code).unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_have_the_size_asked_for_and_no_token_twice() {
        for n in [SMALLEST, 1024, 49_152] {
            let Vocabulary { tokens, merges } = words(n - 2);
            assert_eq!(tokens.len(), n - 2);
            assert_eq!(merges.len(), n - SMALLEST);
            let all: std::collections::HashSet<&String> = tokens.iter().collect();
            assert_eq!(all.len(), tokens.len());
        }
    }
}
