//! Stop strings in streamed text: found across token borders, and never shown in part.

/// Holds back text that may be the beginning of a stop string.
#[derive(Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher for these strings; none of them is empty.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes new text, appends to `out` what can be shown, and answers the stop string that was found, if any: the
    /// one that begins first, the longest of those that begin together.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<&str> {
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(i, stop)| Some((self.held.find(stop.as_str())?, std::cmp::Reverse(stop.len()), i)))
            .min();
        if let Some((start, _, i)) = found {
            out.push_str(&self.held[..start]);
            self.held.clear();
            return Some(&self.stops[i]);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let shown = self.held.len() - keep;
        out.push_str(&self.held[..shown]);
        self.held.drain(..shown);
        None
    }

    /// The end: what was held back is shown after all.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// Length of the longest proper prefix of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
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
}
