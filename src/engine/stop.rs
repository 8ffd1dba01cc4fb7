//! Stop strings in streamed text: found across token borders, and never shown in part.

/// Holds back text that may be the beginning of a stop string. Every byte is looked at once per stop string
/// (Knuth, Morris and Pratt, 1977), however long the strings and whatever the text.
#[derive(Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    held: String,
}

#[derive(Debug)]
struct Stop {
    text: String,
    /// For each prefix, by its length minus one: the length of the longest shorter prefix that it ends with.
    borders: Vec<u32>,
    /// Length of the longest prefix that the text ends with.
    matched: usize,
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0u32; bytes.len()];
        let mut border = 0;
        for i in 1..bytes.len() {
            while border > 0 && bytes[border] != bytes[i] {
                border = borders[border - 1] as usize;
            }
            border += usize::from(bytes[border] == bytes[i]);
            borders[i] = border as u32;
        }
        Self {
            text,
            borders,
            matched: 0,
        }
    }

    /// Takes text; answers the number of its bytes up to the end of the first match.
    fn advance(&mut self, text: &[u8]) -> Option<usize> {
        let stop = self.text.as_bytes();
        for (i, byte) in text.iter().enumerate() {
            while self.matched > 0 && stop[self.matched] != *byte {
                self.matched = self.borders[self.matched - 1] as usize;
            }
            self.matched += usize::from(stop[self.matched] == *byte);
            if self.matched == stop.len() {
                self.matched = 0;
                return Some(i + 1);
            }
        }
        None
    }
}

impl StopMatcher {
    /// A matcher for these strings; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        Self {
            held: String::with_capacity(if longest > 0 { longest + 256 } else { 0 }),
            stops: stops
                .into_iter()
                .filter(|s| !s.is_empty())
                .map(Stop::new)
                .collect(),
        }
    }

    /// Whether there is nothing to find.
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Takes new text, appends to `out` what can be shown, and answers the stop string that was found, if any: the
    /// one that begins first, the longest of those that begin together.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<&str> {
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        let before = self.held.len();
        self.held.push_str(text);
        let found = self
            .stops
            .iter_mut()
            .enumerate()
            .filter_map(|(i, stop)| {
                let end = before + stop.advance(text.as_bytes())?;
                Some((end - stop.text.len(), std::cmp::Reverse(stop.text.len()), i))
            })
            .min();
        if let Some((start, _, i)) = found {
            out.push_str(&self.held[..start]);
            self.held.clear();
            self.stops.iter_mut().for_each(|stop| stop.matched = 0);
            return Some(&self.stops[i].text);
        }
        let keep = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let shown = self.held.len() - keep;
        out.push_str(&self.held[..shown]);
        self.held.drain(..shown);
        None
    }

    /// The end: what was held back is shown after all.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut m = StopMatcher::new(stops.iter().map(|s| (*s).to_string()).collect());
        let mut out = String::new();
        for piece in pieces {
            if let Some(stop) = m.push(piece, &mut out) {
                let stop = stop.to_string();
                return (out, Some(stop));
            }
        }
        m.finish(&mut out);
        (out, None)
    }

    #[test]
    fn a_stop_string_across_pieces_is_found_and_not_shown() {
        assert_eq!(
            run(&["END"], &["one E", "N", "D two"]),
            ("one ".into(), Some("END".into()))
        );
        assert_eq!(
            run(&["aab"], &["a", "a", "a", "b", "c"]),
            ("a".into(), Some("aab".into()))
        );
        assert_eq!(run(&["né"], &["o", "n", "é!"]), ("o".into(), Some("né".into())));
    }

    #[test]
    fn text_that_only_looked_like_a_stop_string_is_shown() {
        assert_eq!(run(&["END"], &["EN", "EM", "Y"]), ("ENEMY".into(), None));
        assert_eq!(run(&["END"], &["the EN"]), ("the EN".into(), None));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
        assert_eq!(run(&["éa"], &["xé", "b"]), ("xéb".into(), None));
    }

    #[test]
    fn the_first_and_then_the_longest_stop_string_wins() {
        assert_eq!(run(&["b", "abc"], &["xabcb"]), ("x".into(), Some("abc".into())));
        assert_eq!(run(&["ab", "abc"], &["xabcd"]), ("x".into(), Some("abc".into())));
    }

    #[test]
    fn nothing_is_held_longer_than_it_can_matter() {
        let mut m = StopMatcher::new(vec!["###".to_string()]);
        let mut out = String::new();
        m.push("a#", &mut out);
        assert_eq!(out, "a");
        m.push("b", &mut out);
        assert_eq!(out, "a#b");
    }

    /// The text as a whole, searched the slow way.
    fn naive(stops: &[&str], text: &str) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|i| text.is_char_boundary(*i)) {
            let found = stops
                .iter()
                .filter(|s| text[..end].ends_with(*s))
                .max_by_key(|s| s.len());
            if let Some(stop) = found {
                return (text[..end - stop.len()].to_string(), Some((*stop).to_string()));
            }
        }
        (text.to_string(), None)
    }

    #[test]
    fn streams_of_single_letters_match_the_slow_search() {
        let mut state = 1u64;
        let mut random = move |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..3000 {
            let mut word =
                |n: u64| -> String { (0..n).map(|_| ["a", "b", "é"][random(3) as usize]).collect() };
            let (a, b, text) = (word(4), word(3), word(40));
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<&str> = letters.iter().map(String::as_str).collect();
            assert_eq!(run(&[&a, &b], &pieces), naive(&[&a, &b], &text), "{a} {b} {text}");
        }
    }

    #[test]
    fn long_stop_strings_cost_no_more_than_their_number() {
        let stops = (0..16).map(|_| "a".repeat(4095) + "b").collect();
        let mut m = StopMatcher::new(stops);
        let mut out = String::new();
        let begin = std::time::Instant::now();
        for _ in 0..30_000 {
            assert!(m.push("a", &mut out).is_none());
        }
        let took = begin.elapsed();
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
        m.finish(&mut out);
        assert_eq!(out.len(), 30_000);
    }
}
