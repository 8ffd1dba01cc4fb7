//! Drafts from a second, smaller model with the same vocabulary.
//!
//! It chooses its tokens as the target would, with the same random numbers, so that both take the same token where their
//! distributions are alike. Its keys and values are of its own and only a hint: whatever is missing of them is computed
//! once more, a piece per step.

use std::sync::Arc;

use crate::engine::sequence::Sequence;
use crate::error::{Error, Result};
use crate::kernel::{ThreadPool, for_each_row_mut};
use crate::kv::{Geometry, KvCache, SequenceId};
use crate::memory;
use crate::model::{ComponentTimes, Compute, Model, Row, Step, Wants, Workspace};
use crate::options::{EngineOptions, MAX_SPECULATION_TOKENS};
use crate::sample::Samplers;

/// Most tokens of the past that it reads in one step.
pub(super) const CHUNK: usize = 128;

/// A second model and what it computes with.
pub(in crate::engine) struct DraftModel {
    model: Arc<Model>,
    pub(in crate::engine) kv: KvCache,
    workspace: Workspace,
    /// One for each sequence that can run.
    known: Vec<Known>,
    rows: Vec<Row>,
    /// The sequences whose next token is being proposed, in row order.
    turns: Vec<Turn>,
    chosen: Vec<Option<u32>>,
    /// Whether it had more to read than what the last step brought.
    pub(super) behind: bool,
}

/// What the cache holds of a sequence.
#[derive(Debug, Clone)]
struct Known {
    /// Which one, by its arrival and the tokens it had dropped; `None` when of none.
    sequence: Option<(u64, usize)>,
    slot: SequenceId,
    /// Tokens of the sequence, and after them tokens that were proposed.
    base: usize,
    proposed: [u32; MAX_SPECULATION_TOKENS],
    n_proposed: usize,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    running: usize,
    known: usize,
    left: usize,
}

impl DraftModel {
    /// Memory for the draft model of an engine with these resolved options.
    ///
    /// # Errors
    /// A model without weights, memory that is short.
    pub(in crate::engine) fn new(
        model: &Arc<Model>,
        options: &EngineOptions,
        geometry: &Geometry,
        budget: u64,
        threads: usize,
    ) -> Result<Self> {
        let what = "the scheduler";
        let (running, context) = (options.max_running, options.context_length);
        let max_rows = options.draft_model_rows();
        let mut kv = KvCache::for_steps(geometry, running, context, options.draft_model_growth(), budget)?;
        let mut known = memory::with_capacity(running, what)?;
        while let Some(slot) = kv.open() {
            known.push(Known {
                sequence: None,
                slot,
                base: 0,
                proposed: [0; MAX_SPECULATION_TOKENS],
                n_proposed: 0,
            });
        }
        Ok(Self {
            workspace: Workspace::new(
                &model.body()?.widths(),
                max_rows,
                running,
                threads,
                context,
                options.attention(),
            )?,
            model: Arc::clone(model),
            kv,
            known,
            rows: memory::with_capacity(max_rows, what)?,
            turns: memory::with_capacity(running, what)?,
            chosen: memory::with_capacity(running, what)?,
            behind: false,
        })
    }

    /// Bytes of key/value blocks in use now.
    pub(in crate::engine) fn bytes_used(&self) -> u64 {
        self.kv.usage().bytes_used
    }

    /// Proposes as many tokens for each sequence as it wants, or none where something comes between.
    pub(super) fn propose(
        &mut self,
        compute: Compute<'_>,
        samplers: &Samplers,
        running: &mut [Sequence],
        shutdown: &dyn Fn() -> bool,
        times: &mut ComponentTimes,
    ) {
        self.begin(running);
        while !self.rows.is_empty() {
            if self.forward(compute, shutdown, times).is_err() {
                // The step itself will say what is wrong, if anything is.
                break;
            }
            self.choose(compute, samplers, running);
            self.go_on(running);
        }
        for sequence in running {
            sequence.take_back_drafts();
        }
    }

    /// Releases what is held of sequences that do not run.
    pub(in crate::engine) fn forget_others(&mut self, running: &[Sequence]) {
        for known in &mut self.known {
            let runs = |arrival| running.iter().any(|s| s.arrival == arrival);
            if known.sequence.is_some_and(|(arrival, _)| !runs(arrival)) {
                self.kv.truncate(known.slot, 0);
                known.sequence = None;
            }
        }
    }

    /// The first rows: all tokens that the cache lacks of each sequence that wants drafts.
    fn begin(&mut self, running: &[Sequence]) {
        self.rows.clear();
        self.turns.clear();
        self.behind = false;
        let mut room = self.workspace.max_rows() - running.len();
        for (index, sequence) in running.iter().enumerate() {
            let wanted = sequence.drafts.as_ref().map_or(0, |d| d.wanted);
            let name = Some((sequence.arrival, sequence.dropped()));
            if wanted == 0 {
                continue;
            }
            let own = |k: &Known| k.sequence.is_some_and(|(arrival, _)| arrival == sequence.arrival);
            let place = self.known.iter().position(own);
            let Some(place) = place.or_else(|| self.known.iter().position(|k| k.sequence.is_none())) else {
                continue;
            };
            let known = &mut self.known[place];
            let valid = if known.sequence == name {
                known.agrees_with(&sequence.tokens)
            } else {
                0
            };
            let slot = known.slot;
            let valid = self.kv.truncate(slot, valid);
            (known.sequence, known.base, known.n_proposed) = (name, valid, 0);
            let missing = sequence.tokens.len() - valid;
            self.behind |= missing > MAX_SPECULATION_TOKENS;
            // One row for each sequence is left over, so the newest token always finds room.
            let n = missing.min(room + 1);
            if self.kv.reserve(slot, n + wanted).is_err() {
                self.kv.truncate(slot, 0);
                known.sequence = None;
                continue;
            }
            room -= n - 1;
            known.base += n;
            for position in valid..valid + n {
                self.rows.push(Row {
                    token: sequence.tokens[position],
                    position: position as u32,
                    sequence: slot,
                    wants: match position + 1 == sequence.tokens.len() {
                        true => Wants::Logits,
                        false => Wants::Nothing,
                    },
                });
            }
            if n == missing {
                self.turns.push(Turn {
                    running: index,
                    known: place,
                    left: wanted,
                });
            }
        }
    }

    fn forward(
        &mut self,
        compute: Compute<'_>,
        shutdown: &dyn Fn() -> bool,
        times: &mut ComponentTimes,
    ) -> Result<()> {
        let mut step = Step {
            compute,
            rows: &self.rows,
            kv: &mut self.kv,
            workspace: &mut self.workspace,
            times,
            cancelled: shutdown,
        };
        let workers = if self.rows.len() > self.turns.len() {
            compute.pool.threads()
        } else {
            compute.pool.decode_workers()
        };
        let body = self.model.body();
        let done = body.and_then(|body| ThreadPool::with_workers(workers, || body.forward(&mut step)));
        if done.is_err() {
            // Tokens that were to be stored are not.
            for known in &mut self.known {
                known.sequence = None;
                self.kv.truncate(known.slot, 0);
            }
            return done;
        }
        for row in &self.rows {
            self.kv.advance(row.sequence, 1);
        }
        for known in &self.known {
            self.kv.slide(known.slot, None);
        }
        Ok(())
    }

    /// A token for each sequence whose turn it is, after those proposed before it.
    fn choose(&mut self, compute: Compute<'_>, samplers: &Samplers, running: &mut [Sequence]) {
        let turns = &self.turns;
        if turns.is_empty() {
            return;
        }
        self.chosen.clear();
        self.chosen.resize(turns.len(), None);
        let sequences = &*running;
        for_each_row_mut(
            compute.pool,
            turns.len(),
            self.workspace.logits(),
            (&mut self.chosen, 1),
            |row, logits, chosen| {
                let s = &sequences[turns[row].running];
                let key = s.noise_key(s.tokens.len());
                chosen[0] = samplers
                    .lend()
                    .choose(compute.kernels, logits, &s.params, &s.tokens, key);
            },
        );
        for (turn, &chosen) in self.turns.iter_mut().zip(&self.chosen) {
            match chosen {
                Some(token) => {
                    running[turn.running].try_token(token);
                    turn.left -= 1;
                }
                None => turn.left = 0,
            }
        }
    }

    /// The next rows: the tokens chosen last, of the sequences that want more.
    fn go_on(&mut self, running: &[Sequence]) {
        self.rows.clear();
        self.turns.retain(|turn| turn.left > 0);
        for turn in &self.turns {
            let (sequence, known) = (&running[turn.running], &mut self.known[turn.known]);
            let Some(&token) = sequence.tokens.last() else {
                continue;
            };
            self.rows.push(Row {
                token,
                position: (sequence.tokens.len() - 1) as u32,
                sequence: known.slot,
                wants: Wants::Logits,
            });
            known.proposed[known.n_proposed] = token;
            known.n_proposed += 1;
        }
    }
}

impl Known {
    /// How many tokens of the sequence are held.
    fn agrees_with(&self, tokens: &[u32]) -> usize {
        let base = self.base.min(tokens.len());
        let later = tokens[base..].iter().zip(&self.proposed[..self.n_proposed]);
        let held = base + later.take_while(|(a, b)| a == b).count();
        // The last one is computed again: its logits are wanted.
        held.min(tokens.len() - 1)
    }
}

/// Refuses a draft model whose tokens are not those of the target.
///
/// # Errors
/// Sizes that differ, or the first token that does.
pub(in crate::engine) fn check_vocabulary(target: &Model, draft: &Model) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::InvalidArgument(format!(
            "the draft model ({}) cannot propose tokens for the model ({}): {what}",
            draft.info().description,
            target.info().description,
        )))
    };
    let (n, m) = (target.info().n_vocab, draft.info().n_vocab);
    if n != m {
        return refuse(format!(
            "the model's vocabulary has {n} tokens, the draft's has {m}"
        ));
    }
    let (target, draft) = match (target.tokenizer_if_any(), draft.tokenizer_if_any()) {
        (Some(target), Some(draft)) => (target, draft),
        (None, None) => return Ok(()),
        (Some(_), None) => return refuse("the draft has no tokenizer to compare".to_string()),
        (None, Some(_)) => return refuse("the model has no tokenizer to compare".to_string()),
    };
    let text = |token: Option<crate::tokenizer::Token<'_>>| {
        token.map_or("none".to_string(), |t| format!("'{}' ({:?})", t.text, t.kind))
    };
    for id in 0..n as u32 {
        let (ours, theirs) = (target.token(id), draft.token(id));
        let same = match (&ours, &theirs) {
            (Some(a), Some(b)) => (a.text, a.kind) == (b.text, b.kind),
            (a, b) => a.is_none() && b.is_none(),
        };
        if !same {
            return refuse(format!(
                "token {id} is {} in the model and {} in the draft",
                text(ours),
                text(theirs)
            ));
        }
    }
    Ok(())
}
