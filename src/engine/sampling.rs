//! From the logits of a step to tokens, and what they end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::sequence::{Ending, Sequence};
use super::stats::{Counters, nanoseconds};
use super::worker::Worker;
use crate::error::Error;
use crate::kernel::for_each_row_mut;

/// A row with logits: what is chosen from them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampled {
    /// The sequence in `running`.
    pub(super) sequence: usize,
    /// Tokens of the sequence before the one to choose.
    pub(super) len: usize,
}

impl Worker {
    /// Chooses a token for every row with logits, each on some thread.
    fn choose(&mut self) {
        let rows = self.sampled.len();
        self.chosen.clear();
        self.chosen.resize(rows, None);
        // Drafts count as history of the rows after them.
        self.running.iter_mut().for_each(Sequence::try_drafts);
        let (kernels, running, sampled) = (self.kernels, &self.running, &self.sampled);
        let samplers = &self.samplers;
        for_each_row_mut(
            &self.pool,
            rows,
            self.workspace.logits(),
            (&mut self.chosen, 1),
            |row, logits, chosen| {
                let Sampled { sequence, len } = sampled[row];
                let s = &running[sequence];
                chosen[0] =
                    samplers
                        .lend()
                        .choose(kernels, logits, &s.params, &s.tokens[..len], s.noise_key(len));
            },
        );
        self.running.iter_mut().for_each(Sequence::stop_trying);
    }

    /// Takes the next token of every sequence whose logits are there, and those after it that its drafts bring.
    pub(super) fn sample(&mut self, now: Instant) {
        self.endings.clear();
        self.endings.resize_with(self.running.len(), || None);
        self.choose();
        let mut row = 0;
        while let Some(&Sampled { sequence, .. }) = self.sampled.get(row) {
            let of_it = |s: &&Sampled| s.sequence == sequence;
            let n = self.sampled[row..].iter().take_while(of_it).count();
            self.endings[sequence] = self.take(sequence, row..row + n, now);
            row += n;
        }
    }

    /// Takes what was chosen from the rows of a sequence: after the first one as long as they continue what was taken.
    /// Answers how it ends, if it does.
    fn take(&mut self, index: usize, rows: Range<usize>, now: Instant) -> Option<Ending> {
        let tokenizer = self.model.tokenizer_if_any();
        let sequence = &mut self.running[index];
        let (mut ending, mut right, mut wrong) = (None, 0, false);
        for &chosen in &self.chosen[rows] {
            let Some(token) = chosen else {
                let message = "the model produced no finite logit".to_string();
                ending = Some(Ending::failed(Arc::new(Error::InvalidModel(message))));
                break;
            };
            if right > 0 {
                sequence.keep_draft(&mut self.kv);
            }
            let draft = sequence.draft(right);
            Counters::add(&self.counters.generated_tokens, 1);
            let first;
            (ending, first) = sequence.accept(token, tokenizer, now);
            if let Some(first) = first {
                Counters::add(&self.counters.time_to_first_token, nanoseconds(first));
                Counters::raise(&self.counters.max_time_to_first_token, nanoseconds(first));
            }
            right += usize::from(draft == Some(token));
            wrong = draft.is_some_and(|draft| draft != token);
            if wrong || ending.is_some() {
                break;
            }
        }
        self.settle_drafts(index, right, wrong);
        ending
    }
}
