//! Splitting text into words before byte-pair encoding, by `tokenizer.ggml.pre`.
//!
//! Each rule is defined by regular expressions over Unicode general categories in the model's original
//! tokenizer; llama.cpp's names and groups are used. The scanners below do the same without a regex engine:
//! they go forward only and look ahead by one character.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// How text is split before byte-pair encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Contractions in either case, words with one leading character, digits in groups of up to `digits`,
    /// punctuation with line ends, line ends, spaces.
    ///
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Words { digits: usize },
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// For files that name no rule: runs of punctuation apart, then as GPT-2, then numbers apart, in threes.
    Default,
}

/// The rule and what comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    pub(super) rule: Rule,
    /// A word that is a token is not merged from its bytes.
    pub(super) whole_words: bool,
    /// Whether texts begin with BOS unless the file says otherwise.
    pub(super) add_bos: bool,
}

impl PreTokenizer {
    /// The pre-tokenizer of that name; `None` when it is not supported.
    pub(super) fn named(name: &str) -> Option<Self> {
        let plain = |rule| Self {
            rule,
            whole_words: false,
            add_bos: false,
        };
        Some(match name {
            "" | "default" => plain(Rule::Default),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" => Self {
                rule: Rule::Words { digits: 3 },
                whole_words: true,
                add_bos: true,
            },
            "glm4" | "glm5" => Self {
                rule: Rule::Words { digits: 3 },
                whole_words: true,
                add_bos: false,
            },
            "dbrx" | "smaug-bpe" | "chatglm-bpe" => plain(Rule::Words { digits: 3 }),
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
            | "solar-open" | "grok-2" => plain(Rule::Words { digits: 1 }),
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "jina-v1-en"
            | "jina-v2-code" | "roberta-bpe" | "gigachat" | "a.x-4.0" | "mellum" | "modern-bert" | "mpt"
            | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" => plain(Rule::Gpt2),
            _ => return None,
        })
    }
}

/// What the rules tell apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            _ => Class::Other,
        };
    }
    if c.is_whitespace() {
        return Class::Space;
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

/// A position in a text.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn peek_class(&self) -> Option<Class> {
        self.peek().map(class)
    }

    fn advance(&mut self) {
        self.at += self.peek().map_or(0, char::len_utf8);
    }

    fn after(mut self) -> Self {
        self.advance();
        self
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.advance();
        }
    }

    fn skip_class(&mut self, wanted: Class) {
        self.skip(|c| class(c) == wanted);
    }

    /// Length of the English contraction that starts here, or 0.
    fn contraction(&self, any_case: bool) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let letter = |i: usize| {
            let byte = rest.get(i).copied().unwrap_or(0);
            if any_case { byte.to_ascii_lowercase() } else { byte }
        };
        if letter(0) != b'\'' {
            return 0;
        }
        match (letter(1), letter(2)) {
            (b's' | b't' | b'm' | b'd', _) => 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => 3,
            _ => 0,
        }
    }

    /// A run of white space; the last character of a longer one is left for the word that follows.
    fn spaces(&mut self) {
        let mut last = self.at;
        let first_end = self.after().at;
        while self.peek_class() == Some(Class::Space) {
            last = self.at;
            self.advance();
        }
        if self.peek().is_some() && self.at > first_end {
            self.at = last;
        }
    }
}

/// Hands each word of `text` to `word`, in order; together they are the text.
pub(super) fn split<'a, E>(
    rule: Rule,
    text: &'a str,
    word: &mut impl FnMut(&'a str) -> Result<(), E>,
) -> Result<(), E> {
    match rule {
        Rule::Words { digits } => scan(text, |c| words(c, digits), word),
        Rule::Gpt2 => scan(text, gpt2, word),
        Rule::Default => scan(text, punctuation, &mut |part| {
            scan(part, gpt2, &mut |part| {
                scan(part, numbers, &mut |part| scan(part, triples, word))
            })
        }),
    }
}

/// Applies `next`, which moves the cursor past one word, until the text is used up.
fn scan<'a, E>(
    text: &'a str,
    next: impl Fn(&mut Cursor<'a>),
    word: &mut impl FnMut(&'a str) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor { text, at: 0 };
    while cursor.at < text.len() {
        let start = cursor.at;
        next(&mut cursor);
        if cursor.at == start {
            cursor.advance();
        }
        word(&text[start..cursor.at])?;
    }
    Ok(())
}

fn words(cursor: &mut Cursor<'_>, digits: usize) {
    let Some(c) = cursor.peek() else { return };
    let contraction = cursor.contraction(true);
    if contraction > 0 {
        cursor.at += contraction;
        return;
    }
    let first = class(c);
    if first == Class::Letter
        || (first != Class::Number
            && !matches!(c, '\r' | '\n')
            && cursor.after().peek_class() == Some(Class::Letter))
    {
        cursor.advance();
        cursor.skip_class(Class::Letter);
        return;
    }
    if first == Class::Number {
        for _ in 0..digits {
            if cursor.peek_class() == Some(Class::Number) {
                cursor.advance();
            }
        }
        return;
    }
    let after_space = if c == ' ' { cursor.after() } else { *cursor };
    if after_space.peek_class() == Some(Class::Other) {
        *cursor = after_space;
        cursor.skip_class(Class::Other);
        cursor.skip(|c| matches!(c, '\r' | '\n'));
        return;
    }
    // White space: up to the last line end, if there is one.
    let mut ahead = *cursor;
    let mut line_end = None;
    while let Some(c) = ahead.peek()
        && class(c) == Class::Space
    {
        ahead.advance();
        if matches!(c, '\r' | '\n') {
            line_end = Some(ahead.at);
        }
    }
    match line_end {
        Some(end) => cursor.at = end,
        None => cursor.spaces(),
    }
}

fn gpt2(cursor: &mut Cursor<'_>) {
    let Some(c) = cursor.peek() else { return };
    let contraction = cursor.contraction(false);
    if contraction > 0 {
        cursor.at += contraction;
        return;
    }
    let after_space = if c == ' ' { cursor.after() } else { *cursor };
    match after_space.peek_class() {
        Some(Class::Space) | None => cursor.spaces(),
        Some(class) => {
            *cursor = after_space;
            cursor.skip_class(class);
        }
    }
}

/// `[\p{P}\$\+<=>\^~\|]+` and what lies between.
fn punctuation(cursor: &mut Cursor<'_>) {
    let is_punctuation = |c: char| {
        matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
            || c.general_category_group() == GeneralCategoryGroup::Punctuation
    };
    let kind = cursor.peek().is_some_and(is_punctuation);
    cursor.skip(|c| is_punctuation(c) == kind);
}

/// `\p{N}+` and what lies between.
fn numbers(cursor: &mut Cursor<'_>) {
    let kind = cursor.peek_class() == Some(Class::Number);
    cursor.skip(|c| (class(c) == Class::Number) == kind);
}

/// `[0-9][0-9][0-9]` and what lies between.
fn triples(cursor: &mut Cursor<'_>) {
    let bytes = cursor.text.as_bytes();
    let triple = |at: usize| {
        bytes
            .get(at..at + 3)
            .is_some_and(|b| b.iter().all(u8::is_ascii_digit))
    };
    if triple(cursor.at) {
        cursor.at += 3;
        return;
    }
    while cursor.at < bytes.len() && !triple(cursor.at) {
        cursor.at += 1;
        while !cursor.text.is_char_boundary(cursor.at) {
            cursor.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(rule: Rule, text: &str) -> Vec<&str> {
        let mut out = Vec::new();
        split::<()>(rule, text, &mut |w| {
            out.push(w);
            Ok(())
        })
        .unwrap();
        assert_eq!(out.concat(), text);
        out
    }

    #[test]
    fn words_keep_one_leading_character_and_group_digits() {
        let three = Rule::Words { digits: 3 };
        assert_eq!(pieces(three, "Hello world"), ["Hello", " world"]);
        assert_eq!(
            pieces(three, "(x) 12345 I'LL"),
            ["(x", ")", " ", "123", "45", " I", "'LL"]
        );
        assert_eq!(
            pieces(three, "a  \n\n  b!?\n"),
            ["a", "  \n\n", " ", " b", "!?\n"]
        );
        assert_eq!(pieces(Rule::Words { digits: 1 }, "123"), ["1", "2", "3"]);
        assert_eq!(pieces(three, "x   "), ["x", "   "]);
        assert_eq!(pieces(three, "\t\tx"), ["\t", "\tx"]);
    }

    #[test]
    fn gpt2_attaches_one_space_to_what_follows() {
        assert_eq!(pieces(Rule::Gpt2, "it's  12 %%"), ["it", "'s", " ", " 12", " %%"]);
        assert_eq!(pieces(Rule::Gpt2, "IT'S\n\nx"), ["IT", "'", "S", "\n", "\n", "x"]);
        assert_eq!(
            pieces(Rule::Gpt2, "é½ \u{3000}a"),
            ["é", "½", " ", "\u{3000}", "a"]
        );
    }

    #[test]
    fn the_default_takes_punctuation_and_numbers_apart() {
        assert_eq!(
            pieces(Rule::Default, "a 12345.b"),
            ["a", " ", "123", "45", ".", "b"]
        );
        assert_eq!(pieces(Rule::Default, "it's"), ["it", "'", "s"]);
    }
}
