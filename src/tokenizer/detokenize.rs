//! Token ids back to text, as a stream.
//!
//! Tokens are bytes, and a character may be spread over several of them: what is handed out are always
//! whole code points. Over a whole stream the text equals [`String::from_utf8_lossy`] of its bytes.

use super::Tokenizer;
use super::bpe::char_to_byte;
use super::spm::{SPACE, named_byte};
use super::vocab::TokenKind;

/// How token texts are turned into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// U+2581 stands for a space.
    Space,
    /// Every character stands for a byte.
    Bytes,
    /// Texts are as they are.
    Plain,
}

/// State of one stream of tokens: at most three bytes of an unfinished character.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    pending: [u8; 4],
    len: usize,
    strip_space: bool,
}

impl Detokenizer {
    /// For text that continues another: a leading space is kept.
    pub fn continuation() -> Self {
        Self::default()
    }

    /// For a text from its start: the space that the tokenizer put before the text is taken off again.
    pub fn from_start(tokenizer: &Tokenizer) -> Self {
        Self {
            strip_space: tokenizer.add_space_prefix(),
            ..Self::default()
        }
    }

    /// Appends to `out` the text that is complete with token `id`. Control and unknown tokens have text only
    /// if `render_special` is set; ids outside the vocabulary have none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, render_special: bool, out: &mut String) {
        let Some(token) = tokenizer.token(id) else {
            return;
        };
        match token.kind {
            TokenKind::Control | TokenKind::Unknown if !render_special => {}
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                self.text(token.text, out);
            }
            TokenKind::Unused => {}
            TokenKind::Byte => match named_byte(token.text) {
                Some(byte) => self.bytes(&[byte], out),
                None => self.text(token.text, out),
            },
            TokenKind::Normal => match tokenizer.escape() {
                Escape::Plain => self.text(token.text, out),
                Escape::Space => {
                    for (i, part) in token.text.split(SPACE).enumerate() {
                        if i > 0 {
                            self.text(" ", out);
                        }
                        self.text(part, out);
                    }
                }
                Escape::Bytes => self.unescape(token.text, out),
            },
        }
    }

    /// Ends the stream: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if self.len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.len = 0;
    }

    /// Whether bytes of an unfinished character are held back.
    pub fn is_pending(&self) -> bool {
        self.len > 0
    }

    fn unescape(&mut self, text: &str, out: &mut String) {
        let mut buffer = [0u8; 64];
        let mut n = 0;
        for c in text.chars() {
            if n + 4 > buffer.len() {
                self.bytes(&buffer[..n], out);
                n = 0;
            }
            match char_to_byte(c) {
                Some(byte) => {
                    buffer[n] = byte;
                    n += 1;
                }
                None => n += c.encode_utf8(&mut buffer[n..]).len(),
            }
        }
        self.bytes(&buffer[..n], out);
    }

    fn text(&mut self, text: &str, out: &mut String) {
        self.bytes(text.as_bytes(), out);
    }

    fn bytes(&mut self, mut bytes: &[u8], out: &mut String) {
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        while self.len > 0 && !bytes.is_empty() {
            self.pending[self.len] = bytes[0];
            match std::str::from_utf8(&self.pending[..self.len + 1]) {
                Ok(text) => {
                    out.push_str(text);
                    self.len = 0;
                    bytes = &bytes[1..];
                }
                Err(e) if e.error_len().is_none() => {
                    self.len += 1;
                    bytes = &bytes[1..];
                }
                // The new byte does not continue the character: that one is lost, the byte starts afresh.
                Err(_) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.len = 0;
                }
            }
        }
        while !bytes.is_empty() {
            let error = match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            out.push_str(std::str::from_utf8(valid).unwrap_or_default());
            match error.error_len() {
                Some(bad) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    bytes = &rest[bad..];
                }
                None => {
                    self.len = rest.len();
                    self.pending[..rest.len()].copy_from_slice(rest);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_bytes_gives_what_lossy_conversion_of_all_of_them_gives() {
        let mut seed = 3u64;
        let mut random = move |n: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let interesting = [
            0x20, 0x41, 0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xEF, 0xF0, 0x9F, 0x98,
            0x80, 0xF4, 0xF5, 0xFF, 0x90, 0x8F,
        ];
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random(12))
                .map(|_| interesting[random(interesting.len() as u64) as usize])
                .collect();
            let mut stream = Detokenizer::continuation();
            let mut out = String::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(1 + random(rest.len() as u64) as usize);
                stream.bytes(now, &mut out);
                rest = later;
            }
            stream.finish(&mut out);
            assert_eq!(out, String::from_utf8_lossy(&bytes), "{bytes:X?}");
        }
    }
}
