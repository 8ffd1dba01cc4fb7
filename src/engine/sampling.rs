//! From the logits of a step to tokens, and what they end.

use std::sync::Arc;
use std::time::Instant;

use super::alerts::Alert;
use super::histogram::HistogramKind;
use super::sequence::{Ending, TokenTime};
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
    }

    /// Takes the next token of every sequence whose logits are there.
    pub(super) fn sample(&mut self, now: Instant) {
        self.endings.clear();
        self.endings.resize_with(self.running.len(), || None);
        self.choose();
        let tokenizer = self.model.tokenizer_if_any();
        for (&Sampled { sequence: index, .. }, &chosen) in self.sampled.iter().zip(&self.chosen) {
            let sequence = &mut self.running[index];
            let Some(token) = chosen else {
                let message = "the model produced no finite logit".to_string();
                self.endings[index] = Some(Ending::failed(Arc::new(Error::InvalidModel(message))));
                continue;
            };
            Counters::add(&self.counters.generated_tokens, 1);
            let tag = sequence.mailbox.tag();
            match sequence.note_token(now) {
                TokenTime::First(time) => {
                    let time = nanoseconds(time);
                    self.counters.answered(time);
                    self.alerts.check(Alert::TimeToFirstToken, time, tag);
                }
                TokenTime::Next(time) => {
                    let time = nanoseconds(time);
                    self.counters.record(HistogramKind::InterTokenTime, time);
                    self.alerts.check(Alert::InterTokenTime, time, tag);
                }
            }
            self.endings[index] = sequence.accept(token, tokenizer);
        }
    }
}
