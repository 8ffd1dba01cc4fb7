//! From the logits of a step to tokens and log probabilities, and what they end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::alerts::Alert;
use super::event::FinishReason;
use super::outputs::Chosen;
use super::sequence::{Ending, Sequence, TokenTime};
use super::stats::{Counters, nanoseconds};
use super::worker::Worker;
use crate::error::Error;
use crate::histogram::HistogramKind;
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
                let (chosen, params, key) = (&mut chosen[0], &s.params, s.noise_key(len));
                if let Some(token) = s.scored(len) {
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
        for (sequence, ending) in self.running.iter().zip(&mut self.endings) {
            if sequence.only_reads() && !sequence.in_prefill() {
                ending.get_or_insert_with(|| Ending::plain(FinishReason::Length));
            }
        }
    }

    /// Takes what was chosen from the rows of a sequence: after the first one as long as they continue what was taken.
    /// Answers how it ends, if it does.
    fn take(&mut self, index: usize, rows: Range<usize>, now: Instant) -> Option<Ending> {
        let tokenizer = self.model.tokenizer_if_any();
        let sequence = &mut self.running[index];
        let (mut ending, mut right, mut wrong) = (None, 0, false);
        for (Sampled { len, .. }, chosen) in self.sampled[rows.clone()].iter().zip(&self.chosen[rows]) {
            let Some(token) = chosen.token else {
                let message = "the model produced no finite logit".to_string();
                ending = Some(Ending::failed(Arc::new(Error::InvalidModel(message))));
                break;
            };
            if sequence.scored(*len).is_some() {
                sequence.outputs.push_prompt(chosen.logprob);
                continue;
            }
            if right > 0 {
                sequence.keep_draft(&mut self.kv);
            }
            let draft = sequence.draft(right);
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
            ending = sequence.accept(token, tokenizer);
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
