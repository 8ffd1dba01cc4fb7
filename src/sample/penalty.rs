//! Repetition penalty (arXiv:1909.05858): logits of recent tokens are divided when positive, multiplied when negative.

use crate::error::Result;
use crate::memory;

/// Which tokens were met, forgotten at once when the next sequence comes.
#[derive(Debug)]
pub struct Seen {
    round: u32,
    /// The round in which a token was last met.
    met: Vec<u32>,
}

impl Seen {
    /// Room for a vocabulary.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(n_vocab: usize) -> Result<Self> {
        Ok(Self {
            round: 0,
            met: memory::filled(0, n_vocab, "sampling")?,
        })
    }

    fn forget(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.met.fill(0);
            self.round = 1;
        }
    }
}

/// Applies the penalty once to each distinct id of `recent`; `seen` is working memory.
pub fn repetition(logits: &mut [f32], recent: &[u32], penalty: f32, seen: &mut Seen) {
    seen.forget();
    for &id in recent {
        let (Some(logit), Some(met)) = (logits.get_mut(id as usize), seen.met.get_mut(id as usize)) else {
            continue;
        };
        if std::mem::replace(met, seen.round) == seen.round {
            continue;
        }
        *logit = if *logit > 0.0 {
            *logit / penalty
        } else {
            *logit * penalty
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_met_is_forgotten_also_when_rounds_wrap() {
        let mut seen = Seen::new(2).unwrap();
        for round in [0, u32::MAX - 1, u32::MAX, 5] {
            seen.round = round;
            let mut logits = [8.0, 8.0];
            repetition(&mut logits, &[1, 1, 9], 2.0, &mut seen);
            assert_eq!(logits, [8.0, 4.0], "round {round}");
        }
    }
}
