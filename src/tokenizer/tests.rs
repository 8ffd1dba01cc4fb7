//! Encoding against a naive reference, and the growth of its cost.

use super::*;
use crate::gguf::{Array, Value};

/// Deterministic random numbers below `n`.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(3);
    move |n| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n.max(1)
    }
}

fn strings(values: impl IntoIterator<Item = impl Into<String>>) -> Value {
    Value::Array(Array::String(values.into_iter().map(Into::into).collect()))
}

/// A byte-level vocabulary: all bytes, then the results of the merges.
fn bpe(pre: &str, merges: &[(String, String)]) -> Metadata {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| bpe::byte_to_char(b).to_string()).collect();
    for (l, r) in merges {
        let joined = format!("{l}{r}");
        if !tokens.contains(&joined) {
            tokens.push(joined);
        }
    }
    let mut m = Metadata::new();
    m.insert("tokenizer.ggml.model", Value::String("gpt2".into()));
    m.insert("tokenizer.ggml.pre", Value::String(pre.into()));
    m.insert("tokenizer.ggml.tokens", strings(tokens));
    m.insert(
        "tokenizer.ggml.merges",
        strings(merges.iter().map(|(l, r)| format!("{l} {r}"))),
    );
    m
}

/// An SPM vocabulary: control tokens, bytes, then `words` with their scores.
fn spm(words: &[(String, f32)]) -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![2, 3, 3];
    let mut scores = vec![0.0; 3];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
        scores.push(0.0);
    }
    for (word, score) in words {
        if !tokens.contains(word) {
            tokens.push(word.clone());
            types.push(1);
            scores.push(*score);
        }
    }
    let mut m = Metadata::new();
    m.insert("tokenizer.ggml.model", Value::String("llama".into()));
    m.insert("tokenizer.ggml.tokens", strings(tokens));
    m.insert("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    m.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    m
}

fn build(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(metadata).unwrap().unwrap()
}

/// Merges the pair of lowest rank, leftmost first, until none is left, looking at all pairs each time.
fn naive(mut pieces: Vec<String>, rank: impl Fn(&str, &str) -> Option<usize>) -> Vec<String> {
    loop {
        let best = (1..pieces.len())
            .filter_map(|i| Some((rank(&pieces[i - 1], &pieces[i])?, i)))
            .min();
        let Some((_, i)) = best else { return pieces };
        let right = pieces.remove(i);
        pieces[i - 1].push_str(&right);
    }
}

/// Random merges over a small alphabet, where a merge may rank before those that make its parts.
fn random_merges(pick: &mut impl FnMut(usize) -> usize) -> Vec<(String, String)> {
    let mut pieces: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    let mut merges = Vec::new();
    for _ in 0..3 + pick(20) {
        let (l, r) = (
            pieces[pick(pieces.len())].clone(),
            pieces[pick(pieces.len())].clone(),
        );
        if l.len() + r.len() < 12 && !merges.contains(&(l.clone(), r.clone())) {
            pieces.push(format!("{l}{r}"));
            merges.push((l, r));
        }
    }
    for i in (1..merges.len()).rev() {
        merges.swap(i, pick(i + 1));
    }
    merges
}

#[test]
fn byte_pair_encoding_equals_the_naive_reference_for_merges_in_any_order() {
    let mut pick = random(1);
    for round in 0..300 {
        let merges = random_merges(&mut pick);
        let tokenizer = build(&bpe("gpt-2", &merges));
        for _ in 0..10 {
            // Short words and long ones take different ways.
            let n = if pick(2) == 0 { pick(40) } else { pick(400) };
            let run = 1 + pick(8);
            let mut text = String::new();
            while text.len() < n {
                let c = ['a', 'b', 'c'][pick(3)];
                (0..1 + pick(run)).for_each(|_| text.push(c));
            }
            let expected = naive(text.chars().map(String::from).collect(), |l, r| {
                merges.iter().position(|(ml, mr)| ml == l && mr == r)
            });
            let ids = tokenizer.encode(&text, false, false).unwrap();
            let got: Vec<&str> = ids.iter().map(|&id| tokenizer.token(id).unwrap().text).collect();
            assert_eq!(got, expected, "round {round}, {text:?}, {merges:?}");
        }
    }
}

#[test]
fn spm_equals_the_naive_reference_with_equal_scores_and_spaces_inside_tokens() {
    let mut pick = random(2);
    let letters = ["a", "b", "\u{2581}", "é"];
    for round in 0..300 {
        let mut words: Vec<(String, f32)> = letters.iter().take(3).map(|l| (l.to_string(), -9.0)).collect();
        for _ in 0..4 + pick(24) {
            let word: String = (0..2 + pick(4)).map(|_| letters[pick(4)]).collect();
            words.push((word, -(pick(6) as f32)));
        }
        let metadata = spm(&words);
        let tokenizer = build(&metadata);
        for _ in 0..10 {
            let n = if pick(2) == 0 { pick(30) } else { pick(300) };
            let text: String = (0..n).map(|_| ["a", "b", " ", "é"][pick(4)]).collect();
            let escaped = format!("\u{2581}{}", text.replace(' ', "\u{2581}"));
            let pieces = naive(escaped.chars().map(String::from).collect(), |l, r| {
                let id = tokenizer.find(&format!("{l}{r}"))?;
                Some(100 + (-tokenizer.token(id).unwrap().score) as usize)
            });
            let expected: Vec<u32> = match text.is_empty() {
                true => Vec::new(),
                false => pieces
                    .iter()
                    .flat_map(|piece| match tokenizer.find(piece) {
                        Some(id) => vec![id],
                        None => piece.bytes().map(|b| 3 + u32::from(b)).collect(),
                    })
                    .collect(),
            };
            let ids = tokenizer.encode(&text, false, false).unwrap();
            assert_eq!(ids, expected, "round {round}, {text:?}, {words:?}");
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
}

#[test]
fn special_tokens_are_found_as_by_searching_for_the_longest_first() {
    let mut pick = random(3);
    for round in 0..300 {
        let mut metadata = spm(&[]);
        let mut specials: Vec<String> = Vec::new();
        for _ in 0..1 + pick(6) {
            let text: String = (0..1 + pick(4)).map(|_| ['x', 'y', 'z'][pick(3)]).collect();
            if !specials.contains(&text) {
                specials.push(text);
            }
        }
        // A fixed order among tokens of equal length: the reference's is unspecified.
        specials.sort_by_key(|s| std::cmp::Reverse(s.len()));
        specials.dedup_by_key(|s| s.len());
        let Some(Value::Array(Array::String(mut tokens))) = metadata.get("tokenizer.ggml.tokens").cloned()
        else {
            panic!()
        };
        let first = tokens.len() as u32;
        tokens.extend(specials.iter().cloned());
        let mut types = vec![2, 3, 3];
        types.resize(259, 6);
        types.resize(tokens.len(), 4);
        let scores = vec![0.0; tokens.len()];
        metadata = Metadata::new();
        metadata.insert("tokenizer.ggml.model", Value::String("llama".into()));
        metadata.insert("tokenizer.ggml.tokens", strings(tokens));
        metadata.insert("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
        metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        let tokenizer = build(&metadata);
        for _ in 0..20 {
            let text: String = (0..pick(40)).map(|_| ['x', 'y', 'z', 'w'][pick(4)]).collect();
            let mut parts: Vec<Result<String, u32>> = vec![Ok(text.clone())];
            for (i, special) in specials.iter().enumerate() {
                parts = parts
                    .into_iter()
                    .flat_map(|part| match part {
                        Ok(text) => {
                            let mut out = Vec::new();
                            for (k, piece) in text.split(special.as_str()).enumerate() {
                                if k > 0 {
                                    out.push(Err(first + i as u32));
                                }
                                out.push(Ok(piece.to_string()));
                            }
                            out
                        }
                        token => vec![token],
                    })
                    .collect();
            }
            parts.retain(|part| part.as_ref().is_ok_and(|text| !text.is_empty()) || part.is_err());
            let got: Vec<Result<String, u32>> = tokenizer
                .user_defined
                .split(&text)
                .unwrap()
                .into_iter()
                .map(|fragment| match fragment {
                    Fragment::Text(range) => Ok(text[range].to_string()),
                    Fragment::Token(id) => Err(id),
                })
                .collect();
            assert_eq!(got, parts, "round {round}, {text:?}, {specials:?}");
        }
    }
}

/// Steps for `unit` repeated to 10 MB over those for 1 MB.
fn growth(tokenizer: &Tokenizer, unit: &str) -> f64 {
    let steps = |bytes: usize| {
        let text = unit.repeat(bytes / unit.len());
        tokenizer.encode_counting(&text, true, true).unwrap().1 as f64
    };
    steps(10 << 20) / steps(1 << 20)
}

/// Merges that make runs of one letter up to 16, spaces up to 8, and an emoji of its bytes.
fn run_merges() -> Vec<(String, String)> {
    let bytes = |text: &str| -> String { text.bytes().map(bpe::byte_to_char).collect() };
    let mut merges = Vec::new();
    for (letter, longest) in [("a", 16), (" ", 8)] {
        for n in 2..=longest {
            merges.push((bytes(&letter.repeat(n - n / 2)), bytes(&letter.repeat(n / 2))));
        }
    }
    let emoji = bytes("🙂");
    let ends: Vec<usize> = emoji
        .char_indices()
        .map(|(i, _)| i)
        .chain([emoji.len()])
        .collect();
    for end in 1..4 {
        merges.push((emoji[..ends[end]].into(), emoji[ends[end]..ends[end + 1]].into()));
    }
    merges
}

// Slow: encodes 66 MB.
#[test]
fn the_cost_of_encoding_grows_linearly_with_the_text() {
    let spm_words: Vec<(String, f32)> = ["a", "\u{2581}"]
        .iter()
        .flat_map(|letter| (1..=16).map(|n| (letter.repeat(n), -(n as f32))))
        .collect();
    for tokenizer in [build(&spm(&spm_words)), build(&bpe("gpt-2", &run_merges()))] {
        for unit in ["a", " ", "🙂"] {
            let ratio = growth(&tokenizer, unit);
            assert!(ratio <= 11.0, "{} {unit:?}: {ratio}", tokenizer.model_name());
        }
    }
}
