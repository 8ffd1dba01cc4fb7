//! One completion on its way: tokens, position, text and the conditions that end it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cold::Ticket;
use super::event::{Finish, FinishReason, Mailbox};
use super::outputs::Outputs;
use super::queue::Outbox;
use super::speculation::Drafts;
use super::stop::StopMatcher;
use crate::error::{Error, Result};
use crate::kv::prefix::{Key, Prefix};
use crate::kv::{KvCache, SequenceId};
use crate::memory;
use crate::model::{ModelInfo, Wants};
use crate::options::{ContextOverflow, EngineOptions, RequestOptions};
use crate::sample::{NoiseKey, SamplingParams};
use crate::tokenizer::{Detokenizer, Tokenizer};

/// A completion. Its tokens are the prompt and what was generated; those before `computed` are in the cache.
pub(crate) struct Sequence {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Which completion of its request.
    choice: u32,
    /// When it came, among the sequences of its engine.
    pub(crate) arrival: u64,
    pub(crate) priority: u64,
    /// How often others that came later were served before it.
    pub(crate) overtaken: u32,
    pub(crate) tokens: Vec<u32>,
    pub(crate) computed: usize,
    /// Tokens it had when it was admitted: up to there it reads, from there on it generates.
    goal: usize,
    /// Nothing was computed since it was admitted.
    untouched: bool,
    pub(crate) slot: Option<SequenceId>,
    /// Where its cached prefixes begin; `None` when it takes no part in them.
    pub(crate) root: Option<Key>,
    pub(crate) cache_prompt: bool,
    pub(crate) cache_salt: String,
    /// What it waits for from the second tier.
    pub(crate) load: Option<Ticket>,
    /// It has looked there, since it got its place or while it waits for one.
    pub(crate) sought: bool,
    /// It was counted among those that looked there.
    pub(crate) counted: bool,
    /// Tokens of the prompt that were not computed.
    pub(crate) cached: usize,
    pub(crate) params: SamplingParams,
    /// What may come next; `None` when it is not to speculate.
    pub(crate) drafts: Option<Drafts>,
    /// Tokens at the end that are only tried.
    tried: usize,
    seed: u64,
    n_prompt: usize,
    max_tokens: usize,
    /// Most tokens of prompt and completion that it holds at a time.
    max_len: usize,
    overflow: ContextOverflow,
    /// Tokens at the beginning that stay when others are dropped.
    keep: usize,
    /// Tokens that were dropped so that it could go on.
    dropped: usize,
    stop_ids: Vec<u32>,
    ignore_end: bool,
    render_special: bool,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    deadline: Option<Instant>,
    /// Why it cannot go on; it ends at the beginning of the next step.
    pub(crate) failure: Option<Arc<Error>>,
    /// What it asks for beside text and tokens.
    pub(crate) outputs: Outputs,
    /// Shown text not delivered yet, and working memory for the next piece.
    text: String,
    piece: String,
    delivered: usize,
}

/// How a completion ended.
pub(crate) struct Ending {
    pub(crate) reason: FinishReason,
    stop: Option<String>,
    error: Option<Arc<Error>>,
}

/// How long a token took.
pub(crate) enum TokenTime {
    /// The first one, since the submission.
    First(Duration),
    /// Since the one before it.
    Next(Duration),
}

impl Ending {
    pub(crate) fn plain(reason: FinishReason) -> Self {
        Self {
            reason,
            stop: None,
            error: None,
        }
    }

    fn stopped(stop: String) -> Self {
        Self {
            reason: FinishReason::Stop,
            stop: Some(stop),
            error: None,
        }
    }

    pub(crate) fn failed(error: Arc<Error>) -> Self {
        Self {
            reason: FinishReason::Error,
            stop: None,
            error: Some(error),
        }
    }
}

impl Sequence {
    /// A completion of a tokenized prompt; `context` is the most tokens it can hold.
    ///
    /// # Errors
    /// When memory is short.
    pub(crate) fn new(
        options: &RequestOptions,
        prompt: &[u32],
        info: &ModelInfo,
        context: usize,
        choice: u32,
        mailbox: Arc<Mailbox>,
    ) -> Result<Self> {
        let max_len = prompt.len().saturating_add(options.max_tokens).min(context);
        let mut tokens = memory::with_capacity(max_len, "the tokens of a request")?;
        tokens.extend_from_slice(prompt);
        let outputs = Outputs::new(options, prompt.len(), choice, info.n_embd, info.n_vocab)?;
        mailbox.reserve(choice as usize, (max_len - prompt.len()).min(256), outputs.top());
        let now = Instant::now();
        Ok(Self {
            mailbox,
            choice,
            arrival: 0,
            priority: options.priority,
            overtaken: 0,
            n_prompt: tokens.len(),
            goal: tokens.len(),
            untouched: true,
            tokens,
            computed: 0,
            slot: None,
            root: None,
            cache_prompt: options.cache_prompt,
            cache_salt: options.cache_salt.clone(),
            load: None,
            sought: false,
            counted: false,
            cached: 0,
            params: SamplingParams {
                temperature: options.temperature,
                top_k: options.top_k,
                top_p: options.top_p,
                min_p: options.min_p,
                repetition_penalty: options.repetition_penalty,
                repetition_window: options.repetition_window,
            },
            drafts: None,
            tried: 0,
            seed: options.seed,
            max_tokens: options.max_tokens,
            max_len,
            overflow: options.overflow(),
            keep: options.context_keep,
            dropped: 0,
            stop_ids: options.stop_ids.clone(),
            ignore_end: options.ignore_end_of_generation,
            render_special: options.render_special,
            detokenizer: Detokenizer::continuation(),
            stop: StopMatcher::new(options.stop.clone()),
            submitted: now,
            started: None,
            first_token: None,
            last_token: None,
            deadline: (options.deadline_ms > 0)
                .then(|| now.checked_add(Duration::from_millis(options.deadline_ms)))
                .flatten(),
            failure: None,
            outputs,
            text: String::with_capacity(256),
            // Without stop strings tokens go straight into the text.
            piece: String::with_capacity(if options.stop.is_empty() { 0 } else { 256 }),
            delivered: 0,
        })
    }

    /// Lets it speculate.
    ///
    /// # Errors
    /// When memory is short.
    pub(crate) fn speculate(&mut self, options: &EngineOptions) -> Result<()> {
        self.drafts = Some(Drafts::new(options, self.max_len)?);
        Ok(())
    }

    /// Drafts that it has use for: with the token after the last one they reach the end it has in any case.
    pub(crate) fn room_for_drafts(&self) -> usize {
        let left = (self.max_tokens - self.generated()).min(self.max_len - self.tokens.len());
        left.saturating_sub(1)
    }

    /// Tokens that were dropped so that it could go on.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped
    }

    /// The draft after so many others.
    pub(crate) fn draft(&self, index: usize) -> Option<u32> {
        self.drafts.as_ref()?.tokens.get(index).copied()
    }

    /// Does without drafts in this step.
    pub(crate) fn drop_drafts(&mut self) {
        if let Some(drafts) = &mut self.drafts {
            drafts.tokens.clear();
        }
    }

    /// Drafts of this step.
    pub(crate) fn drafted(&self) -> usize {
        self.drafts.as_ref().map_or(0, |drafts| drafts.tokens.len())
    }

    /// Counts the keys and values of the next draft, which was right.
    pub(crate) fn keep_draft(&mut self, kv: &mut KvCache) {
        if let Some(slot) = self.slot {
            kv.advance(slot, 1);
            self.computed += 1;
        }
    }

    /// Appends a token to those it has, until [`Sequence::stop_trying`].
    pub(crate) fn try_token(&mut self, token: u32) {
        self.tokens.push(token);
        self.tried += 1;
    }

    /// Likewise all of its drafts.
    pub(crate) fn try_drafts(&mut self) {
        if let Some(drafts) = &self.drafts {
            self.tokens.extend_from_slice(&drafts.tokens);
            self.tried += drafts.tokens.len();
        }
    }

    /// Makes the tokens that were tried its drafts.
    pub(crate) fn take_back_drafts(&mut self) {
        if let Some(drafts) = &mut self.drafts {
            let tried = &self.tokens[self.tokens.len() - self.tried..];
            drafts.tokens.extend_from_slice(tried);
        }
        self.stop_trying();
    }

    /// Removes the tokens that were tried.
    pub(crate) fn stop_trying(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.tried);
        self.tried = 0;
    }

    /// Tokens it needs memory for: its own, the next one and `growth` more.
    pub(crate) fn next_tokens(&self, growth: usize) -> usize {
        (self.tokens.len() + 1 + growth).min(self.max_len)
    }

    /// Whether nothing was computed since it was admitted: something might be found instead.
    pub(crate) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Whether the other is a completion of the same prompt, and both have nothing else yet.
    pub(crate) fn is_sibling(&self, other: &Sequence) -> bool {
        let fresh = |s: &Sequence| s.generated() == 0;
        fresh(self) && fresh(other) && self.choice != other.choice && self.mailbox.id() == other.mailbox.id()
    }

    /// Whether another completion of the same prompt reads for this one too.
    pub(crate) fn follows(&self) -> bool {
        self.choice > 0 && self.generated() == 0
    }

    /// Takes a place among the running ones.
    pub(crate) fn admit(&mut self, slot: SequenceId) {
        self.slot = Some(slot);
        self.goal = self.tokens.len();
        self.untouched = true;
        self.sought = false;
    }

    /// Begins after a prefix that is in the cache.
    pub(crate) fn adopt(&mut self, kv: &mut KvCache, prefix: &Prefix) {
        if let (Some(slot), Some(root)) = (self.slot, self.root) {
            kv.adopt(slot, root, prefix);
            self.begin_after(prefix.len());
        }
    }

    /// Its tokens up to the first one whose row gives something that is wanted, that one included: what comes before it
    /// may be taken from elsewhere. The row of the last one is always computed.
    pub(crate) fn findable(&self) -> &[u32] {
        let last = self.tokens.len() - 1;
        &self.tokens[..=self.outputs.first_wanted().map_or(last, |first| first.min(last))]
    }

    /// What the row of the token at a position is computed for.
    pub(crate) fn wants(&self, position: usize) -> Wants {
        match self.outputs.wants(position) {
            Wants::Nothing if position + 1 == self.tokens.len() && !self.only_reads() => Wants::Logits,
            wants => wants,
        }
    }

    /// The token after `len` of them, where it is scored rather than chosen.
    pub(crate) fn scored(&self, len: usize) -> Option<u32> {
        self.tokens.get(len).copied().filter(|_| len < self.goal)
    }

    /// As many of its next `n` rows as want no more than so many rows of logits.
    pub(crate) fn rows_within(&self, n: usize, logit_rows: usize) -> usize {
        let mut wanting =
            (self.computed..self.computed + n).filter(|&position| self.wants(position) == Wants::Logits);
        wanting
            .nth(logit_rows)
            .map_or(n, |position| position - self.computed)
    }

    /// Whether it ends when it has read its prompt.
    pub(crate) fn only_reads(&self) -> bool {
        self.max_tokens == 0
    }

    /// Begins with what another completion holds of the same prompt, up to the first row that is wanted.
    pub(crate) fn follow(&mut self, kv: &mut KvCache, from: SequenceId) {
        if let Some(slot) = self.slot {
            let len = kv.len(from).min(self.findable().len() - 1);
            let len = kv.share(from, slot, len);
            self.begin_after(len);
        }
    }

    fn begin_after(&mut self, len: usize) {
        self.computed = len;
        if self.started.is_none() {
            self.cached = len;
        }
    }

    /// Tokens that are not in the cache yet.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it is reading what it was admitted with, rather than generating.
    pub(crate) fn in_prefill(&self) -> bool {
        self.computed < self.goal
    }

    /// Notes that computing begins; answers how long it waited, the first time.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Duration> {
        self.untouched = false;
        if self.started.is_some() {
            return None;
        }
        self.started = Some(now);
        Some(now.saturating_duration_since(self.submitted))
    }

    /// What names the random number of the token after `len` of its tokens.
    pub(crate) fn noise_key(&self, len: usize) -> NoiseKey {
        NoiseKey {
            seed: self.seed,
            completion: self.choice,
            position: (self.dropped + len) as u32,
            draw: 0,
        }
    }

    fn generated(&self) -> usize {
        self.dropped + self.tokens.len() - self.n_prompt
    }

    /// Generated tokens that the reader has not got.
    fn undelivered(&self) -> &[u32] {
        &self.tokens[self.n_prompt + self.delivered - self.dropped..]
    }

    /// Makes room in a full context: half of the tokens that need not stay are dropped, the oldest ones, and the rest is
    /// read again.
    fn shift(&mut self) {
        let keep = self.keep.min(self.tokens.len() / 2);
        let drop = (self.tokens.len() - keep).div_ceil(2);
        self.tokens.drain(keep..keep + drop);
        self.dropped += drop;
        self.computed = 0;
        self.goal = self.tokens.len();
        self.untouched = true;
        if let Some(drafts) = &mut self.drafts {
            drafts.forget();
        }
    }

    /// Whether its caller wants its end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.mailbox.is_given_up()
    }

    /// Why it has to end whatever it would generate.
    pub(crate) fn interrupted(&self, now: Instant) -> Option<Ending> {
        if self.is_cancelled() {
            return Some(Ending::plain(FinishReason::Cancelled));
        }
        if let Some(error) = &self.failure {
            return Some(Ending::failed(Arc::clone(error)));
        }
        self.deadline
            .filter(|&d| now >= d)
            .map(|_| Ending::plain(FinishReason::Deadline))
    }

    /// When it has to end at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Notes when a token came. Answers how long it took.
    pub(crate) fn note_token(&mut self, now: Instant) -> TokenTime {
        self.first_token.get_or_insert(now);
        match self.last_token.replace(now) {
            None => TokenTime::First(now.saturating_duration_since(self.submitted)),
            Some(last) => TokenTime::Next(now.saturating_duration_since(last)),
        }
    }

    /// Takes a generated token. Answers how it ends, if it does.
    pub(crate) fn accept(&mut self, token: u32, tokenizer: Option<&Tokenizer>) -> Option<Ending> {
        self.tokens.push(token);
        if !self.ignore_end && tokenizer.is_some_and(|t| t.is_end_of_generation(token)) {
            return Some(Ending::plain(FinishReason::EndOfGeneration));
        }
        if self.stop_ids.contains(&token) {
            return Some(Ending::stopped(token.to_string()));
        }
        if let Some(tokenizer) = tokenizer {
            self.piece.clear();
            let to = match self.stop.is_empty() {
                true => &mut self.text,
                false => &mut self.piece,
            };
            self.detokenizer.push(tokenizer, token, self.render_special, to);
            if let Some(stop) = self.stop.push(&self.piece, &mut self.text) {
                return Some(Ending::stopped(stop.to_string()));
            }
        }
        if self.generated() >= self.max_tokens {
            return Some(Ending::plain(FinishReason::Length));
        }
        let full = self.tokens.len() >= self.max_len;
        if full && self.overflow == ContextOverflow::Shift {
            self.shift();
            return None;
        }
        full.then(|| Ending::plain(FinishReason::Length))
    }

    /// Gives new text and tokens to the reader.
    pub(crate) fn deliver(&mut self, outbox: &mut Outbox) {
        let output = self.outputs.beside(&self.text, self.undelivered());
        if !output.text.is_empty() || !output.tokens.is_empty() {
            self.mailbox.push(self.choice as usize, output, outbox);
            self.outputs.delivered();
            self.delivered = self.generated();
            self.text.clear();
        }
    }

    /// Gives the rest and the end to the reader. Its blocks must be released before.
    pub(crate) fn finish(mut self, ending: Ending, outbox: &mut Outbox) {
        self.stop_trying();
        // A stop string ends the text exactly where it begins; otherwise nothing stays held back.
        if ending.stop.is_none() || self.stop_ids.contains(self.tokens.last().unwrap_or(&u32::MAX)) {
            self.piece.clear();
            self.detokenizer.finish(&mut self.piece);
            if self.stop.push(&self.piece, &mut self.text).is_none() {
                self.stop.finish(&mut self.text);
            }
        }
        let now = Instant::now();
        let n_generated = self.generated();
        let decode_time = self
            .first_token
            .map_or(0.0, |t| now.saturating_duration_since(t).as_secs_f64());
        let finish = Finish {
            reason: ending.reason,
            stop: ending.stop,
            error: ending.error,
            prompt_tokens: self.n_prompt,
            cached_tokens: self.cached,
            generated_tokens: n_generated,
            queue_time: self
                .started
                .unwrap_or(now)
                .saturating_duration_since(self.submitted),
            time_to_first_token: self
                .first_token
                .map_or(Duration::ZERO, |t| t.saturating_duration_since(self.submitted)),
            total_time: now.saturating_duration_since(self.submitted),
            decode_tokens_per_second: if n_generated > 1 && decode_time > 0.0 {
                (n_generated - 1) as f64 / decode_time
            } else {
                0.0
            },
        };
        let output = self.outputs.beside(&self.text, self.undelivered());
        self.mailbox.finish(self.choice as usize, output, finish, outbox);
    }
}
