//! Speculative decoding: a sequence proposes its next tokens, and one step verifies all of them.
//!
//! The rows of the proposed tokens follow the row of the last one. From each row the token is chosen that would be chosen
//! there without them, with the same random number and the same tokens before it; as long as it is the proposed one, the
//! next row counts too. So the tokens are those of plain decoding, greedy or sampled, whatever is proposed; a wrong
//! proposal costs its row. Keys and values of rows that do not count are forgotten before anybody sees them.

mod cost;
mod draft;
mod ngram;
#[cfg(all(test, not(infer_models)))]
mod tests;

use std::sync::Arc;

use super::sequence::Sequence;
use super::stats::Counters;
use super::worker::Worker;
use crate::error::Result;
use crate::kv::{BLOCK_TOKENS, SequenceId};
use crate::memory;
use crate::model::{ComponentTimes, Compute, Model};
use crate::options::{EngineOptions, MAX_SPECULATION_TOKENS};
use cost::{Chances, Cost, Prospect};
pub(super) use draft::{DraftModel, check_vocabulary};
use ngram::NgramIndex;

/// Words of the option `speculation`.
pub(crate) const SPECULATIONS: &[&str] = &["auto", "off", "ngram", "draft"];

/// Most drafted rows of a step, unless one sequence alone may have more.
const MOST_ROWS: usize = 32;

impl EngineOptions {
    /// Drafted rows that a step may have; the options are resolved.
    pub(crate) fn draft_rows(&self) -> usize {
        match self.speculation {
            "ngram" | "draft" => self
                .speculation_tokens
                .saturating_mul(self.max_running)
                .min(MOST_ROWS.max(self.speculation_tokens)),
            _ => 0,
        }
    }

    /// Rows of a step of the draft model.
    pub(crate) fn draft_model_rows(&self) -> usize {
        draft::CHUNK.min(self.prefill_chunk) + self.max_running
    }

    /// Tokens by which a sequence grows at most until it gives up what left a window: a piece of a prompt, or what is
    /// generated in two steps.
    pub(crate) fn growth(&self) -> usize {
        self.prefill_chunk.max(2 * (1 + MAX_SPECULATION_TOKENS))
    }

    /// The same for the cache of the draft model.
    pub(crate) fn draft_model_growth(&self) -> usize {
        self.draft_model_rows() + 1 + MAX_SPECULATION_TOKENS
    }

    /// The draft model, if drafts are to come from it; the options are resolved.
    pub(crate) fn drafting_model(&self) -> Option<&Arc<Model>> {
        self.draft_model.as_ref().filter(|_| self.speculation == "draft")
    }
}

/// What the scheduler needs to propose.
pub(super) struct Speculation {
    /// `None` when tokens are looked up in the prompt and what was generated.
    pub(super) draft: Option<DraftModel>,
    /// Tokens for one sequence and for a step.
    most: usize,
    rows: usize,
    adaptive: bool,
    cost: Cost,
    /// Puts other tokens in the place of what was proposed.
    #[cfg(test)]
    pub(super) spoil: Option<fn(&mut [u32])>,
}

impl Speculation {
    /// As the resolved options say; `None` when it is off.
    pub(super) fn new(options: &EngineOptions, draft: Option<DraftModel>) -> Option<Box<Self>> {
        let rows = options.draft_rows();
        let speculation = || Self {
            draft,
            most: options.speculation_tokens,
            rows,
            adaptive: options.speculation_adaptive,
            cost: Cost::default(),
            #[cfg(test)]
            spoil: None,
        };
        (rows > 0).then(|| Box::new(speculation()))
    }

    fn prospect(&self, generating: usize) -> Option<Prospect> {
        if self.adaptive {
            self.cost.prospect(generating)
        } else {
            Some(Prospect::boundless())
        }
    }
}

/// What a sequence proposes, and how its proposals fared.
#[derive(Debug)]
pub(crate) struct Drafts {
    /// Tokens that may follow the last one; verified in this step or never.
    pub(super) tokens: Vec<u32>,
    /// Tokens that a draft model is to propose.
    wanted: usize,
    kind: usize,
    chances: Chances,
    /// `None` with a draft model.
    index: Option<NgramIndex>,
}

impl Drafts {
    /// For a sequence of up to `max_len` tokens.
    ///
    /// # Errors
    /// When memory is short.
    pub(super) fn new(options: &EngineOptions, max_len: usize) -> Result<Self> {
        let index = match options.speculation {
            "draft" => None,
            _ => Some(NgramIndex::new(max_len)?),
        };
        Ok(Self {
            tokens: memory::with_capacity(MAX_SPECULATION_TOKENS, "the drafts of a request")?,
            wanted: 0,
            kind: 0,
            chances: Chances::default(),
            index,
        })
    }

    /// Forgets which tokens the sequence has.
    pub(super) fn forget(&mut self) {
        if let Some(index) = &mut self.index {
            index.clear();
        }
    }

    /// Proposes what followed when the last tokens came before, up to `most` tokens of it. Where that is the end itself, it
    /// goes on with what it proposes: the end repeats.
    fn look_up(&mut self, tokens: &[u32], prospect: &mut Prospect, most: usize) {
        let Some(found) = self.index.as_mut().and_then(|index| index.find(tokens)) else {
            return;
        };
        self.kind = Chances::kind(found.len);
        for i in 0..self.chances.worth(self.kind, prospect, most) {
            let at = found.next + i;
            let token = match tokens.get(at) {
                Some(token) => *token,
                None => self.tokens[at - tokens.len()],
            };
            self.tokens.push(token);
        }
    }
}

impl Worker {
    /// Proposes tokens for the sequences that generate.
    pub(super) fn propose(&mut self, shutdown: &dyn Fn() -> bool, times: &mut ComponentTimes) {
        let plenty = self.memory_is_plenty();
        let Some(speculation) = &mut self.speculation else {
            return;
        };
        if let Some(draft) = &mut speculation.draft {
            draft.forget_others(&self.running);
            draft.behind = false;
        }
        for drafts in self.running.iter_mut().filter_map(|s| s.drafts.as_mut()) {
            drafts.tokens.clear();
            drafts.wanted = 0;
        }
        let generating = self.running.iter().filter(|s| !s.in_prefill()).count();
        let Some(mut prospect) = speculation.prospect(generating).filter(|_| plenty) else {
            return;
        };
        let mut left = speculation.rows;
        for sequence in self.running.iter_mut().filter(|s| !s.in_prefill()) {
            let most = sequence.room_for_drafts().min(speculation.most).min(left);
            let Some(drafts) = sequence.drafts.as_mut().filter(|_| most > 0) else {
                continue;
            };
            if speculation.draft.is_some() {
                drafts.kind = Chances::DRAFT;
                drafts.wanted = drafts.chances.worth(drafts.kind, &mut prospect, most);
                left -= drafts.wanted;
            } else {
                drafts.look_up(&sequence.tokens, &mut prospect, most);
                left -= drafts.tokens.len();
            }
        }
        if let Some(draft) = &mut speculation.draft {
            let compute = Compute {
                kernels: self.kernels,
                pool: &self.pool,
                precision: self.precision,
                attention: self.attention,
            };
            draft.propose(compute, &self.samplers, &mut self.running, shutdown, times);
        }
        #[cfg(test)]
        if let Some(spoil) = speculation.spoil {
            let drafts = self.running.iter_mut().filter_map(|s| s.drafts.as_mut());
            drafts.for_each(|drafts| spoil(&mut drafts.tokens));
        }
    }

    /// Whether all that this step needs without drafts leaves memory: a block for every sequence, a copy of one that is
    /// shared, and what is read of prompts.
    fn memory_is_plenty(&self) -> bool {
        let reading = self.running.iter().any(Sequence::in_prefill);
        let chunk = if reading { self.prefill_chunk } else { 0 };
        let needed = 2 * (self.running.len() + 1) + chunk.div_ceil(BLOCK_TOKENS);
        self.kv.available() >= needed
    }

    /// Takes memory for the next row of a sequence and its drafts, if nobody else is going to need it in this step; answers
    /// how many drafts are computed.
    pub(super) fn make_room_for_drafts(&mut self, index: usize, slot: SequenceId) -> usize {
        let n = self.running[index].drafted();
        if n > 0 && self.memory_is_plenty() && self.kv.reserve(slot, 1 + n).is_ok() {
            return n;
        }
        self.running[index].drop_drafts();
        0
    }

    /// Notes how the drafts of a sequence fared: `right` of them were, and whether one after them was `wrong`. Gives back
    /// the memory of those that were not.
    pub(super) fn settle_drafts(&mut self, index: usize, right: usize, wrong: bool) {
        let sequence = &mut self.running[index];
        let Some(drafts) = sequence.drafts.as_mut().filter(|d| !d.tokens.is_empty()) else {
            return;
        };
        let c = &self.counters;
        Counters::add(&c.draft_tokens, drafts.tokens.len() as u64);
        Counters::add(&c.accepted_tokens, right as u64);
        drafts.chances.record(drafts.kind, right, wrong);
        drafts.tokens.clear();
        if let Some(slot) = sequence.slot {
            self.kv.truncate(slot, self.kv.len(slot));
        }
    }

    /// Notes what a step took.
    pub(super) fn record_speculation(
        &mut self,
        prompt: usize,
        generating: usize,
        drafted: usize,
        seconds: f64,
    ) {
        if drafted > 0 {
            Counters::add(&self.counters.speculative_steps, 1);
        }
        // Only steps that had nothing else to do tell what drafts cost.
        let behind = |s: &Speculation| s.draft.as_ref().is_some_and(|draft| draft.behind);
        let measured = |s: &&mut Box<Speculation>| prompt == 0 && !behind(s);
        if let Some(speculation) = self.speculation.as_mut().filter(measured) {
            speculation.cost.record(generating, drafted, seconds);
        }
    }
}
