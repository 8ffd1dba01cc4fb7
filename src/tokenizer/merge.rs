//! Merging of adjacent symbols, the core that SPM and byte-pair encoding share.
//!
//! As long as any two adjacent symbols can merge, the pair of lowest rank is merged, the leftmost one among
//! equals. New pairs may have a lower rank than the one just merged and then come first. Short words are
//! scanned; longer ones use the [`RankQueue`], so that the cost grows linearly with the text.

use super::TokenizerError;
use super::queue::RankQueue;
use super::vocab::NONE;
use crate::memory;

/// Words up to this many symbols are merged by scanning, which is quadratic but quicker.
const SHORT: usize = 40;
/// Rank of a pair that cannot merge.
const NEVER: u32 = u32::MAX;

/// Which pairs merge. Ranks are below [`MergeRules::ranks`].
pub(super) trait MergeRules {
    /// Number of ranks.
    fn ranks(&self) -> usize;
    /// Rank and id of the merged symbol; `text` is the text the two symbols cover.
    fn merge(&self, left: u32, right: u32, text: &[u8]) -> Option<(u32, u32)>;
}

/// A piece of the word: it ends where the next one starts.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u32,
    id: u32,
    prev: u32,
    next: u32,
    /// Rank of the pair with the next symbol.
    rank: u32,
}

/// Working memory, reused from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: Option<RankQueue>,
    steps: u64,
}

impl Merger {
    /// Steps taken so far; grows linearly with the text.
    pub(super) fn steps(&self) -> u64 {
        self.steps + self.queue.as_ref().map_or(0, |q| q.steps)
    }

    /// Forgets the last word and makes room for one of up to `symbols` symbols.
    pub(super) fn clear(&mut self, symbols: usize) -> Result<(), TokenizerError> {
        self.symbols.clear();
        if self.symbols.capacity() < symbols {
            self.symbols = memory::with_capacity(symbols.max(64), "the symbols of a text")?;
        }
        Ok(())
    }

    /// Appends a symbol that starts at byte `start` of the word; `id` is its token or [`NONE`].
    pub(super) fn push(&mut self, start: usize, id: u32) {
        let i = self.symbols.len() as u32;
        self.symbols.push(Symbol {
            start: start as u32,
            id,
            prev: i.wrapping_sub(1),
            next: i + 1,
            rank: NEVER,
        });
    }

    /// Merges the symbols of `word` and hands each that remains, as id and text, to `emit`.
    pub(super) fn run<R: MergeRules>(
        &mut self,
        rules: &R,
        word: &[u8],
        mut emit: impl FnMut(u32, &[u8]) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let n = self.symbols.len();
        self.steps += n as u64;
        if n > SHORT {
            self.run_long(rules, word)?;
        } else {
            self.run_short(rules, word);
        }
        let end = self.symbols.len() as u32;
        let mut i = 0;
        while i < end {
            let symbol = self.symbols[i as usize];
            emit(
                symbol.id,
                &word[symbol.start as usize..self.end(symbol.next, word)],
            )?;
            i = symbol.next;
        }
        Ok(())
    }

    /// Byte at which the symbol before `next` ends.
    fn end(&self, next: u32, word: &[u8]) -> usize {
        self.symbols
            .get(next as usize)
            .map_or(word.len(), |s| s.start as usize)
    }

    fn pair<R: MergeRules>(&mut self, rules: &R, word: &[u8], left: u32) -> Option<(u32, u32)> {
        self.steps += 1;
        let l = self.symbols[left as usize];
        let r = self.symbols.get(l.next as usize)?;
        let text = &word[l.start as usize..self.end(r.next, word)];
        rules.merge(l.id, r.id, text)
    }

    fn rank<R: MergeRules>(&mut self, rules: &R, word: &[u8], left: u32) -> u32 {
        let rank = self.pair(rules, word, left).map_or(NEVER, |(rank, _)| rank);
        self.symbols[left as usize].rank = rank;
        rank
    }

    /// Merges symbol `i` with the next one and takes that out of the list.
    fn join(&mut self, i: u32, id: u32) {
        let right = self.symbols[i as usize].next;
        let after = self.symbols[right as usize].next;
        self.symbols[i as usize].id = id;
        self.symbols[i as usize].next = after;
        // The absorbed symbol can no longer match an entry of the queue.
        self.symbols[right as usize].rank = NEVER;
        if let Some(next) = self.symbols.get_mut(after as usize) {
            next.prev = i;
        }
    }

    fn run_short<R: MergeRules>(&mut self, rules: &R, word: &[u8]) {
        let n = self.symbols.len() as u32;
        for i in 0..n {
            self.rank(rules, word, i);
        }
        loop {
            let (mut best, mut at) = (NEVER, 0);
            let mut i = 0;
            while i < n {
                self.steps += 1;
                let symbol = &self.symbols[i as usize];
                if symbol.rank < best {
                    (best, at) = (symbol.rank, i);
                }
                i = symbol.next;
            }
            if best == NEVER {
                break;
            }
            let Some((_, id)) = self.pair(rules, word, at) else {
                break;
            };
            self.join(at, id);
            self.rank(rules, word, at);
            let prev = self.symbols[at as usize].prev;
            if prev != NONE {
                self.rank(rules, word, prev);
            }
        }
    }

    fn run_long<R: MergeRules>(&mut self, rules: &R, word: &[u8]) -> Result<(), TokenizerError> {
        let mut queue = match self.queue.take() {
            Some(queue) => queue,
            None => RankQueue::new(rules.ranks())?,
        };
        for i in 0..self.symbols.len() as u32 {
            let rank = self.rank(rules, word, i);
            if rank != NEVER {
                queue.push(rank, i)?;
            }
        }
        while let Some((rank, i)) = queue.pop()? {
            // An entry whose pair changed since it was queued is out of date.
            if self.symbols[i as usize].rank != rank {
                continue;
            }
            let Some((_, id)) = self.pair(rules, word, i) else {
                continue;
            };
            self.join(i, id);
            for left in [self.symbols[i as usize].prev, i] {
                if left == NONE {
                    continue;
                }
                let rank = self.rank(rules, word, left);
                if rank != NEVER {
                    queue.push(rank, left)?;
                }
            }
        }
        self.queue = Some(queue);
        Ok(())
    }
}
