//! What a request asks for beside text and tokens: log probabilities, and an embedding of its prompt.

use std::ops::Range;

use super::event::Output;
use super::worker::Worker;
use crate::error::Result;
use crate::memory;
use crate::model::Wants;
use crate::options::{MAX_SPECULATION_TOKENS, Pooling, RequestOptions};
use crate::sample::MAX_TOP_LOGPROBS;

const WHAT: &str = "the outputs of a request";

/// A token for a row with logits: the one chosen, or the one that follows in the prompt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chosen {
    /// `None` where no logit was a number.
    pub(super) token: Option<u32>,
    /// Its log probability, where one is wanted.
    pub(super) logprob: f32,
    /// The most probable tokens, as many as are wanted.
    pub(super) top: [(u32, f32); MAX_TOP_LOGPROBS],
}

/// What one completion asks for, and what of it is there.
pub(crate) struct Outputs {
    /// Log probabilities of generated tokens are wanted, and so many of the most probable ones.
    top: Option<usize>,
    /// Of the tokens that the reader has not got.
    logprobs: Vec<f32>,
    top_tokens: Vec<u32>,
    top_logprobs: Vec<f32>,
    prompt: PromptLogprobs,
    pooled: Option<Pooled>,
}

/// Log probabilities of the tokens of a prompt.
struct PromptLogprobs {
    /// Those known so far.
    known: Vec<f32>,
    /// Tokens of the prompt; 0 when theirs are not wanted.
    n: usize,
    delivered: bool,
}

/// States of a prompt's tokens, pooled in the order of their places.
struct Pooled {
    /// Places whose states count.
    places: Range<usize>,
    /// The first of them that was not added.
    next: usize,
    sum: Vec<f64>,
    normalize: bool,
    /// The result, when all were added.
    embedding: Vec<f32>,
}

impl Outputs {
    /// Outputs of a completion of a prompt of `n_prompt` tokens. The prompt's own come with the first completion only.
    ///
    /// # Errors
    /// When memory is short.
    pub(super) fn new(
        options: &RequestOptions,
        n_prompt: usize,
        choice: u32,
        n_embd: usize,
        n_vocab: usize,
    ) -> Result<Self> {
        let n = match options.prompt_logprobs && choice == 0 {
            true => n_prompt,
            false => 0,
        };
        let mut known = memory::with_capacity(n, WHAT)?;
        if n > 0 {
            // Nothing comes before the first token.
            known.push(f32::NAN);
        }
        let places = match options.pooling() {
            None => None,
            Some(Pooling::Mean) => Some(0..n_prompt),
            Some(Pooling::First) => Some(0..1),
            Some(Pooling::Last) => Some(n_prompt - 1..n_prompt),
        };
        let pooled = match places {
            None => None,
            Some(places) => Some(Pooled {
                next: places.start,
                places,
                sum: memory::filled(0.0, n_embd, WHAT)?,
                normalize: options.embedding_normalize,
                embedding: memory::with_capacity(n_embd, WHAT)?,
            }),
        };
        let top = options.logprobs.then(|| options.top_logprobs.min(n_vocab));
        // Of the tokens of one step.
        let tokens = top.map_or(0, |_| MAX_SPECULATION_TOKENS + 1);
        let most = tokens * top.unwrap_or(0);
        Ok(Self {
            top,
            logprobs: memory::with_capacity(tokens, WHAT)?,
            top_tokens: memory::with_capacity(most, WHAT)?,
            top_logprobs: memory::with_capacity(most, WHAT)?,
            prompt: PromptLogprobs {
                known,
                n,
                delivered: false,
            },
            pooled,
        })
    }

    /// How many of the most probable tokens are wanted at each place; `None` when no log probabilities are.
    pub(super) fn top(&self) -> Option<usize> {
        self.top
    }

    /// The first place of the prompt whose row gives something that is still wanted.
    pub(super) fn first_wanted(&self) -> Option<usize> {
        let p = &self.prompt;
        let scored = (p.known.len() < p.n).then(|| p.known.len() - 1);
        let pooled = self.pooled.as_ref();
        let pooled = pooled.map(|p| p.next).filter(|n| self.pooled_at(*n));
        scored.into_iter().chain(pooled).min()
    }

    /// What the row of a place is computed for, as far as these outputs go.
    pub(super) fn wants(&self, place: usize) -> Wants {
        let p = &self.prompt;
        if self.pooled_at(place) {
            Wants::State
        } else if place + 1 >= p.known.len() && place + 1 < p.n {
            Wants::Logits
        } else {
            Wants::Nothing
        }
    }

    fn pooled_at(&self, place: usize) -> bool {
        let pooled = self.pooled.as_ref();
        pooled.is_some_and(|p| place >= p.next && p.places.contains(&place))
    }

    /// Takes the log probability of the prompt's next token.
    pub(super) fn push_prompt(&mut self, logprob: f32) {
        self.prompt.known.push(logprob);
    }

    /// Takes what belongs to a generated token.
    pub(super) fn push(&mut self, chosen: &Chosen) {
        if let Some(top) = self.top {
            self.logprobs.push(chosen.logprob);
            let top = &chosen.top[..top];
            self.top_tokens.extend(top.iter().map(|(id, _)| *id));
            self.top_logprobs.extend(top.iter().map(|(_, logprob)| *logprob));
        }
    }

    /// Takes the state of the next place that wants one. The sum does not depend on how many come in a step.
    fn add_state(&mut self, state: &[f32]) {
        let Some(p) = &mut self.pooled else { return };
        for (sum, x) in p.sum.iter_mut().zip(state) {
            *sum += f64::from(*x);
        }
        p.next += 1;
        if p.next == p.places.end {
            let norm = p.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            let divisor = match p.normalize {
                true if norm > 0.0 => norm,
                true => 1.0,
                false => p.places.len() as f64,
            };
            p.embedding.extend(p.sum.iter().map(|x| (x / divisor) as f32));
        }
    }

    /// What of it is to be delivered beside this text and these tokens.
    pub(super) fn beside<'a>(&'a self, text: &'a str, tokens: &'a [u32]) -> Output<'a> {
        let p = &self.prompt;
        let complete = p.known.len() == p.n && !p.delivered;
        Output {
            text,
            tokens,
            logprobs: &self.logprobs,
            top_tokens: &self.top_tokens,
            top_logprobs: &self.top_logprobs,
            prompt_logprobs: if complete { &p.known } else { &[] },
            embedding: self.pooled.as_ref().map_or(&[], |p| &p.embedding),
        }
    }

    /// Notes that the reader has got it.
    pub(super) fn delivered(&mut self) {
        self.logprobs.clear();
        self.top_tokens.clear();
        self.top_logprobs.clear();
        let p = &mut self.prompt;
        p.delivered |= p.known.len() == p.n;
    }
}

impl Worker {
    /// Gives the states of a step to the sequences they were computed for.
    pub(super) fn take_states(&mut self) {
        let (states, width) = self.workspace.states();
        let mut states = states.chunks_exact(width.max(1));
        let mut rows = self.rows.iter();
        for (sequence, &n) in self.running.iter_mut().zip(&self.shares) {
            let wanting = rows.by_ref().take(n).filter(|r| r.wants == Wants::State);
            for state in wanting.filter_map(|_| states.next()) {
                sequence.outputs.add_state(state);
            }
        }
    }
}
