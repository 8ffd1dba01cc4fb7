//! What somebody should know: collected here, because the library prints nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many in a time.
const MOST: usize = 16;
const TIME: Duration = Duration::from_secs(60);

/// Sentences for a log, at most [`MOST`] in [`TIME`]; the others are counted.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: VecDeque<String>,
    begin: Option<Instant>,
    in_time: usize,
    left_out: usize,
}

impl Notices {
    pub fn add(&mut self, text: String) {
        self.add_at(text, Instant::now());
    }

    fn add_at(&mut self, text: String, now: Instant) {
        if self.begin.is_none_or(|begin| now.duration_since(begin) >= TIME) {
            self.begin = Some(now);
            self.in_time = 0;
        }
        if self.in_time == MOST || self.waiting.len() >= 4 * MOST {
            self.left_out += 1;
            return;
        }
        self.in_time += 1;
        self.waiting.push_back(text);
    }

    /// All of them; they are not told again.
    pub fn take(&mut self) -> Vec<String> {
        let mut all: Vec<_> = self.waiting.drain(..).collect();
        if self.left_out > 0 {
            all.push(format!("{} more notices were left out", self.left_out));
            self.left_out = 0;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_told() {
        let mut notices = Notices::default();
        let now = Instant::now();
        for i in 0..100 {
            notices.add_at(i.to_string(), now);
        }
        let all = notices.take();
        assert_eq!(all.len(), MOST + 1);
        assert_eq!(all[MOST], "84 more notices were left out");
        notices.add_at("later".to_string(), now + TIME / 2);
        assert_eq!(notices.take(), ["1 more notices were left out"]);
        notices.add_at("later".to_string(), now + TIME);
        assert_eq!(notices.take(), ["later"]);
        assert!(notices.take().is_empty());
    }
}
