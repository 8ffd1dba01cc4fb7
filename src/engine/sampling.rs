//! From the logits of a step to tokens and log probabilities, and what they end.

use std::sync::Arc;
use std::time::Instant;

use super::alerts::Alert;
use super::event::FinishReason;
use super::histogram::HistogramKind;
use super::outputs::Chosen;
use super::sequence::{Ending, TokenTime};
use super::stats::{Counters, nanoseconds};
use super::worker::Worker;
use crate::error::Error;
use crate::kernel::for_each_row_mut;
use crate::sample::{log_sum_exp, logprob};

/// A row with logits: what is chosen from them, or, of a prompt, which token they are to score.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampled {
    /// The sequence in `running`.
    pub(super) sequence: usize,
    /// Tokens of the sequence before the one to choose or to score.
    pub(super) len: usize,
}

impl Worker {
    /// Chooses or scores a token for every row with logits, each on some thread.
    fn choose(&mut self) {
        let rows = self.sampled.len();
        self.chosen.clear();
        self.chosen.resize(rows, Chosen::default());
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
                let (chosen, params, key) = (&mut chosen[0], &s.params, s.noise_key(len));
                if let Some(&token) = s.tokens.get(len) {
                    if let Some(log_sum) = log_sum_exp(kernels, logits) {
                        chosen.token = Some(token);
                        chosen.logprob = logprob(logits[token as usize], log_sum);
                    }
                } else if let Some(n) = s.outputs.top() {
                    let top = &mut chosen.top[..n];
                    let mut sampler = samplers.lend();
                    if let Some((token, logprob)) =
                        sampler.choose_scored(kernels, logits, params, &s.tokens[..len], key, top)
                    {
                        (chosen.token, chosen.logprob) = (Some(token), logprob);
                    }
                } else {
                    chosen.token = samplers
                        .lend()
                        .choose(kernels, logits, params, &s.tokens[..len], key);
                }
            },
        );
    }

    /// Takes the next token of every sequence whose logits are there.
    pub(super) fn sample(&mut self, now: Instant) {
        self.endings.clear();
        self.endings.resize_with(self.running.len(), || None);
        self.choose();
        let tokenizer = self.model.tokenizer_if_any();
        for (&Sampled { sequence: index, len }, chosen) in self.sampled.iter().zip(&self.chosen) {
            let sequence = &mut self.running[index];
            if self.endings[index].is_some() {
                continue;
            }
            let Some(token) = chosen.token else {
                let message = "the model produced no finite logit".to_string();
                self.endings[index] = Some(Ending::failed(Arc::new(Error::InvalidModel(message))));
                continue;
            };
            if len < sequence.tokens.len() {
                sequence.outputs.push_prompt(chosen.logprob);
                continue;
            }
            sequence.outputs.push(chosen);
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
        for (sequence, ending) in self.running.iter().zip(&mut self.endings) {
            if sequence.only_reads() && !sequence.in_prefill() {
                ending.get_or_insert_with(|| Ending::plain(FinishReason::Length));
            }
        }
    }
}
