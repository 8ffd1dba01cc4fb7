//! Prompt lookup: what followed the last tokens when they came before.
//!
//! Every pair of neighbouring tokens is entered in a table of hash chains, as in the search window of LZ77 compressors: the
//! chains lead from the last pair to the places where it came before, latest first, and of those the one that agrees with
//! the end over the most tokens says what comes next. A token is entered once; a search looks at a bounded number of places,
//! however long the text.

use crate::memory::{self, MemoryError};

/// Fewest tokens that have to agree.
const LEAST: usize = 2;
/// Agreement beyond this many tokens makes no difference.
const MOST: usize = 16;
/// Places a search looks at.
const PLACES: usize = 32;
/// Most chains.
const CHAINS: usize = 1 << 16;
/// The end of a chain.
const NONE: u32 = u32::MAX;

/// Where pairs of tokens stand in one sequence. Its memory is touched when it is used, so that requests that wait take none.
#[derive(Debug)]
pub(super) struct NgramIndex {
    /// By the hash of a pair: the position after the latest one. Empty before the first use.
    latest: Vec<u32>,
    /// By position, for those of the tokens that are entered: the one before it in its chain.
    earlier: Vec<u32>,
    chains: usize,
    /// Most tokens.
    room: usize,
}

/// Earlier tokens that agree with the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// Where what followed them begins.
    pub(super) next: usize,
    /// How many agree.
    pub(super) len: usize,
}

impl NgramIndex {
    /// An index for up to `tokens` tokens, empty.
    ///
    /// # Errors
    /// When memory is short.
    pub(super) fn new(tokens: usize) -> Result<Self, MemoryError> {
        let what = "the index of a request's tokens";
        let chains = tokens.next_power_of_two().min(CHAINS);
        Ok(Self {
            latest: memory::with_capacity(chains, what)?,
            earlier: memory::with_capacity(tokens + 1, what)?,
            chains,
            room: tokens,
        })
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.latest.clear();
        self.earlier.clear();
    }

    fn chain(&self, pair: &[u32]) -> usize {
        let key = u64::from(pair[0]) << 32 | u64::from(pair[1]);
        // Fibonacci hashing: the upper bits of the product are well mixed.
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        mixed as usize & (self.chains - 1)
    }

    /// Enters the tokens after those that are entered, and answers the longest of the latest earlier agreements with the end.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Option<Match> {
        if tokens.len() > self.room {
            return None;
        }
        self.latest.resize(self.chains, NONE);
        for end in self.earlier.len()..=tokens.len() {
            let before = if end < LEAST {
                NONE
            } else {
                let chain = self.chain(&tokens[end - LEAST..end]);
                std::mem::replace(&mut self.latest[chain], end as u32)
            };
            self.earlier.push(before);
        }
        let mut place = self.earlier[tokens.len()];
        let mut best: Option<Match> = None;
        for _ in 0..PLACES {
            if place == NONE {
                break;
            }
            let next = place as usize;
            let len = agreement(&tokens[..next], tokens);
            if len >= LEAST && best.is_none_or(|best| len > best.len) {
                best = Some(Match { next, len });
                if len == MOST {
                    break;
                }
            }
            place = self.earlier[next];
        }
        best
    }
}

/// How many tokens two texts end with in common.
fn agreement(a: &[u32], b: &[u32]) -> usize {
    let ends = a.iter().rev().zip(b.iter().rev());
    ends.take(MOST).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by comparing every place.
    fn naive(tokens: &[u32]) -> Option<Match> {
        let mut best: Option<Match> = None;
        for next in (LEAST..tokens.len()).rev() {
            let len = agreement(&tokens[..next], tokens);
            if len >= LEAST && best.is_none_or(|best| len > best.len) {
                best = Some(Match { next, len });
            }
        }
        best
    }

    fn random(state: &mut u64, below: u64) -> u32 {
        *state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((*state >> 33) % below) as u32
    }

    #[test]
    fn it_finds_what_a_full_search_finds_token_by_token_or_at_once() {
        let mut state = 5;
        for vocabulary in [3, 20, 400] {
            // Few enough that no chain is longer than a search.
            let n = PLACES.min(vocabulary as usize * 20) + vocabulary as usize;
            let tokens: Vec<u32> = (0..n).map(|_| random(&mut state, vocabulary)).collect();
            let mut steady = NgramIndex::new(n).unwrap();
            for len in 1..=n {
                let found = steady.find(&tokens[..len]);
                assert_eq!(found, naive(&tokens[..len]), "{vocabulary} {len}");
                assert_eq!(NgramIndex::new(n).unwrap().find(&tokens[..len]), found);
                assert_eq!(steady.find(&tokens[..len]), found, "asked twice");
            }
        }
    }

    #[test]
    fn a_longer_agreement_wins_over_a_later_one() {
        let mut index = NgramIndex::new(20).unwrap();
        let tokens = [9, 1, 2, 3, 50, 8, 2, 3, 60, 9, 1, 2, 3];
        assert_eq!(index.find(&tokens), Some(Match { next: 4, len: 4 }));
        index.clear();
        assert_eq!(index.find(&tokens[..8]), Some(Match { next: 4, len: 2 }));
    }

    #[test]
    fn a_text_beyond_its_room_finds_nothing() {
        let mut index = NgramIndex::new(4).unwrap();
        assert_eq!(index.find(&[1, 2, 1, 2]), Some(Match { next: 2, len: 2 }));
        assert_eq!(index.find(&[1, 2, 1, 2, 1]), None);
    }
}
