//! Vocabularies that contradict themselves are errors that say what is wrong; odd ones are accepted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; skipped ones say so"
)]

use infer::gguf::{Array, Metadata, Value};
use infer::tokenizer::{ChatTemplate, TokenKind, Tokenizer, TokenizerError};

fn strings(values: &[&str]) -> Value {
    Value::Array(Array::String(values.iter().map(|s| s.to_string()).collect()))
}

fn text(value: &str) -> Value {
    Value::String(value.to_string())
}

/// Metadata without what is given as `None`.
fn metadata(entries: &[(&str, Option<Value>)]) -> Metadata {
    let mut m = Metadata::new();
    for (key, value) in entries {
        if let Some(value) = value {
            m.insert(format!("tokenizer.{key}"), value.clone());
        }
    }
    m
}

/// A small SPM vocabulary in which the given keys are replaced or added.
fn spm(changes: &[(&str, Value)]) -> Metadata {
    let mut entries: Vec<(&str, Option<Value>)> = vec![
        ("ggml.model", Some(text("llama"))),
        (
            "ggml.tokens",
            Some(strings(&[
                "<unk>",
                "<s>",
                "</s>",
                "<0x0A>",
                "\u{2581}",
                "a",
                "b",
                "ab",
                "\u{2581}ab",
            ])),
        ),
        (
            "ggml.scores",
            Some(Value::Array(Array::F32(vec![
                0.0, 0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0,
            ]))),
        ),
        (
            "ggml.token_type",
            Some(Value::Array(Array::I32(vec![2, 3, 3, 6, 1, 1, 1, 1, 1]))),
        ),
    ];
    for (key, value) in changes {
        entries.retain(|(k, _)| k != key);
        entries.push((key, Some(value.clone())));
    }
    metadata(&entries)
}

fn bpe(merges: Option<Value>) -> Metadata {
    metadata(&[
        ("ggml.model", Some(text("gpt2"))),
        ("ggml.pre", Some(text("gpt-2"))),
        ("ggml.tokens", Some(strings(&["a", "b", "ab", "Ġ"]))),
        ("ggml.merges", merges),
    ])
}

fn error(metadata: &Metadata) -> TokenizerError {
    match Tokenizer::from_metadata(metadata) {
        Err(e) => e,
        Ok(_) => panic!("the vocabulary was accepted"),
    }
}

fn load(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(metadata).unwrap().unwrap()
}

#[test]
fn a_file_without_a_tokenizer_has_none_and_is_no_error() {
    assert!(Tokenizer::from_metadata(&Metadata::new()).unwrap().is_none());
    for name in ["none", "no_vocab"] {
        let m = metadata(&[("ggml.model", Some(text(name)))]);
        assert!(Tokenizer::from_metadata(&m).unwrap().is_none());
    }
}

#[test]
fn missing_and_empty_token_lists_are_errors() {
    let e = error(&metadata(&[("ggml.model", Some(text("llama")))]));
    assert!(e.to_string().contains("tokenizer.ggml.tokens"), "{e}");
    let e = error(&metadata(&[
        ("ggml.model", Some(text("llama"))),
        ("ggml.tokens", Some(strings(&[]))),
    ]));
    assert!(matches!(e, TokenizerError::EmptyVocabulary));
    let e = error(&spm(&[("ggml.tokens", Value::Array(Array::I32(vec![1])))]));
    assert!(matches!(e, TokenizerError::Metadata(_)), "{e}");
}

#[test]
fn arrays_of_other_lengths_than_the_tokens_are_errors() {
    let e = error(&spm(&[("ggml.scores", Value::Array(Array::F32(vec![0.0; 8])))]));
    assert_eq!(
        e.to_string(),
        "cannot build the tokenizer: 'tokenizer.ggml.scores' has 8 entries, expected one for each of the 9 tokens"
    );
    let e = error(&spm(&[(
        "ggml.token_type",
        Value::Array(Array::I32(vec![1; 10])),
    )]));
    assert!(
        e.to_string()
            .contains("'tokenizer.ggml.token_type' has 10 entries"),
        "{e}"
    );
}

#[test]
fn a_text_that_two_tokens_have_is_an_error_but_empty_texts_are_not() {
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "x", "a", "b", "ab", "a"];
    let e = error(&spm(&[("ggml.tokens", strings(&tokens))]));
    assert!(
        e.to_string().contains("tokens 5 and 8 have the same text \"a\""),
        "{e}"
    );
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "", "a", "b", "", ""];
    assert_eq!(load(&spm(&[("ggml.tokens", strings(&tokens))])).n_vocab(), 9);
}

#[test]
fn scores_that_are_no_numbers_and_unknown_types_are_errors() {
    let mut scores = vec![0.0; 9];
    scores[4] = f32::NAN;
    let e = error(&spm(&[("ggml.scores", Value::Array(Array::F32(scores)))]));
    assert!(matches!(e, TokenizerError::BadScore { id: 4 }), "{e}");
    let mut types = vec![1; 9];
    types[2] = 7;
    let e = error(&spm(&[("ggml.token_type", Value::Array(Array::I32(types)))]));
    assert!(
        matches!(e, TokenizerError::UnknownTokenType { id: 2, found: 7 }),
        "{e}"
    );
}

#[test]
fn a_byte_token_that_names_no_byte_is_an_error() {
    for bad in ["<0x0G>", "<0x0>", "0x0A", "<0x00A>", "<0x+1>"] {
        let tokens = ["<unk>", "<s>", "</s>", bad, "x", "a", "b", "ab", "y"];
        let e = error(&spm(&[("ggml.tokens", strings(&tokens))]));
        assert!(
            matches!(e, TokenizerError::MalformedByteToken { id: 3, .. }),
            "{e}"
        );
    }
}

#[test]
fn merges_that_are_missing_unparsable_or_of_unknown_tokens_are_errors() {
    assert!(matches!(error(&bpe(None)), TokenizerError::Metadata(_)));
    for bad in ["", "a", "ab", "a ", " ", " a"] {
        let e = error(&bpe(Some(strings(&["a b", bad]))));
        assert!(
            matches!(e, TokenizerError::MalformedMerge { index: 1, .. }),
            "{bad:?}: {e}"
        );
    }
    for (bad, unknown) in [("a c", "c"), ("c a", "c"), ("b a", "ba"), ("a  b", " b")] {
        let e = error(&bpe(Some(strings(&[bad]))));
        assert!(
            e.to_string().contains(&format!(
                "merge 0 of 'tokenizer.ggml.merges' needs the token {unknown:?}"
            )),
            "{e}"
        );
    }
    let tokenizer = load(&bpe(Some(strings(&["a b", "a b"]))));
    assert_eq!(tokenizer.encode("abba", false, false).unwrap(), [2, 1, 0]);
}

#[test]
fn special_ids_outside_the_vocabulary_are_errors_that_name_the_key() {
    for key in [
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "padding",
        "seperator",
        "mask",
        "fim_pre",
        "fim_pad",
        "prefix",
    ] {
        let name = format!("ggml.{key}_token_id");
        let e = error(&spm(&[(&name, Value::U32(9))]));
        let expected =
            format!("'tokenizer.{name}' is 9, expected an id below the 9 tokens of the vocabulary");
        assert!(e.to_string().contains(&expected), "{e}");
        let e = error(&spm(&[(&name, Value::I32(-1))]));
        assert!(e.to_string().contains(&name), "{e}");
        load(&spm(&[(&name, Value::U32(8))]));
    }
}

#[test]
fn defaults_and_keys_decide_about_begin_and_end_tokens() {
    let tokenizer = load(&spm(&[]));
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.unknown()),
        (Some(1), Some(2), Some(0))
    );
    assert_eq!(tokenizer.encode("ab", true, false).unwrap(), [1, 8]);
    assert_eq!(tokenizer.encode("", true, false).unwrap(), [1]);
    assert_eq!(tokenizer.encode("", false, false).unwrap(), [] as [u32; 0]);
    let tokenizer = load(&spm(&[
        ("ggml.add_bos_token", Value::Bool(false)),
        ("ggml.add_eos_token", Value::Bool(true)),
        ("ggml.add_space_prefix", Value::Bool(false)),
    ]));
    assert_eq!(tokenizer.encode("ab", true, false).unwrap(), [7, 2]);
}

#[test]
fn special_texts_are_tokens_only_when_they_are_to_be_parsed() {
    let tokenizer = load(&spm(&[]));
    assert_eq!(
        tokenizer.encode("<s>ab</s>ab", false, true).unwrap(),
        [1, 8, 2, 8]
    );
    let plain = tokenizer.encode("<s>", false, false).unwrap();
    assert!(!plain.contains(&1), "{plain:?}");
    assert_eq!(tokenizer.decode(&[1, 8, 2], false), "ab");
    assert_eq!(tokenizer.decode(&[1, 8, 2], true), "<s> ab</s>");
}

#[test]
fn a_character_without_any_token_is_the_unknown_token_or_an_error() {
    assert_eq!(load(&spm(&[])).encode("\nq", false, false).unwrap(), [4, 3, 0]);
    let one = metadata(&[
        ("ggml.model", Some(text("llama"))),
        ("ggml.tokens", Some(strings(&["a"]))),
        ("ggml.add_space_prefix", Some(Value::Bool(false))),
    ]);
    // The default id of the unknown token is 0, which this vocabulary has.
    assert_eq!(load(&one).encode("b", false, false).unwrap(), [0]);
}

#[test]
fn end_of_generation_is_the_keys_and_the_known_texts_and_may_be_empty() {
    assert_eq!(load(&spm(&[])).end_of_generation(), [2]);
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        "x",
        "<|im_end|>",
        "<|eot_id|>",
        "y",
        "z",
    ];
    let m = spm(&[
        ("ggml.tokens", strings(&tokens)),
        ("ggml.eot_token_id", Value::U32(8)),
    ]);
    let tokenizer = load(&m);
    assert_eq!(tokenizer.end_of_generation(), [2, 5, 6, 8]);
    assert_eq!(tokenizer.token(5).unwrap().kind, TokenKind::Control);
    assert!(tokenizer.is_end_of_generation(6) && !tokenizer.is_end_of_generation(4));
    assert!(load(&bpe(Some(strings(&[])))).end_of_generation().is_empty());
}

#[test]
fn the_harmony_format_does_not_end_at_its_end_of_message() {
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "y",
        "z",
    ];
    let tokenizer = load(&spm(&[("ggml.tokens", strings(&tokens))]));
    assert_eq!(tokenizer.end_of_generation(), [2, 5, 6]);
    assert_eq!(tokenizer.token(4).unwrap().kind, TokenKind::UserDefined);
}

#[test]
fn an_unsupported_tokenizer_loads_and_decodes_and_names_itself_when_it_should_encode() {
    let m = spm(&[("ggml.model", text("t5"))]);
    let tokenizer = load(&m);
    assert_eq!(tokenizer.decode(&[8, 7], false), " abab");
    let e = tokenizer.encode("", false, false).unwrap_err();
    assert!(
        e.to_string()
            .contains("the tokenizer model 't5' is not supported"),
        "{e}"
    );
    let mut m = bpe(None);
    m = metadata(
        &m.iter()
            .map(|(k, v)| (k.trim_start_matches("tokenizer."), Some(v.clone())))
            .filter(|(k, _)| *k != "ggml.pre")
            .chain([("ggml.pre", Some(text("no-such-rule")))])
            .collect::<Vec<_>>(),
    );
    let e = load(&m).encode("a", false, false).unwrap_err();
    assert!(
        e.to_string()
            .contains("the pre-tokenizer 'no-such-rule' is not supported"),
        "{e}"
    );
}

#[test]
fn a_stream_gives_whole_characters_and_keeps_the_space_of_a_continuation() {
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0xF0>",
        "<0x9F>",
        "<0x99>",
        "<0x82>",
        "<0xFF>",
        "\u{2581}ab",
    ];
    let mut types = vec![1; 9];
    types[0] = 2;
    types[1..3].fill(3);
    types[3..8].fill(6);
    let tokenizer = load(&spm(&[
        ("ggml.tokens", strings(&tokens)),
        ("ggml.token_type", Value::Array(Array::I32(types))),
    ]));
    let mut stream = tokenizer.detokenizer();
    let mut seen = Vec::new();
    for id in [8, 3, 4, 5, 6, 7, 3, 8, 4, 99] {
        let mut out = String::new();
        stream.push(&tokenizer, id, false, &mut out);
        seen.push(out);
    }
    assert_eq!(
        seen,
        [
            " ab",
            "",
            "",
            "",
            "🙂",
            "\u{FFFD}",
            "",
            "\u{FFFD} ab",
            "\u{FFFD}",
            ""
        ]
    );
    let mut out = String::new();
    stream.push(&tokenizer, 3, false, &mut out);
    assert!(stream.is_pending());
    stream.finish(&mut out);
    assert_eq!(out, "\u{FFFD}");
    assert_eq!(tokenizer.decode(&[8, 8], false), "ab ab");
}

#[test]
fn the_template_of_a_file_gets_the_texts_of_its_tokens() {
    let m = spm(&[(
        "chat_template",
        text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"),
    )]);
    let tokenizer = load(&m);
    let template = ChatTemplate::from_metadata(&m, &tokenizer)
        .unwrap()
        .unwrap()
        .unwrap();
    let messages = serde_json::json!([{"role": "user", "content": "hi"}]);
    let input = infer::tokenizer::ChatInput::new(&messages);
    assert_eq!(template.render(&input).unwrap(), "<s>hi</s>");
    let m = spm(&[]);
    assert!(ChatTemplate::from_metadata(&m, &load(&m)).unwrap().is_none());
    let m = spm(&[("chat_template", Value::Bool(true))]);
    assert!(ChatTemplate::from_metadata(&m, &tokenizer).is_err());
}
