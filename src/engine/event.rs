//! Events: what a reader learns about its request, and the mailbox they wait in.
//!
//! A mailbox holds at most one event for each completion of its request: what a slow reader has not fetched yet grows
//! together (text is appended, token ids are appended), so a reader that sleeps never stalls a step and never holds more
//! than its own output.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::queue::{Outbox, Queue, ReadyList};
use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventKind {
    /// New text or tokens.
    #[default]
    Output,
    /// The last event of a completion: the rest of the text and how it ended.
    Finished,
}

/// Which part of the answer a text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channel {
    /// The answer itself.
    #[default]
    Content,
    /// Thinking that precedes the answer.
    Reasoning,
    /// A call of a tool.
    Tool,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// `max_tokens` were generated, or the context is full; also how an embedding ends.
    Length,
    /// A stop string or stop id was found.
    Stop,
    /// The model produced an end-of-generation token.
    EndOfGeneration,
    /// The caller cancelled it, freed the request or freed the engine.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// It failed; the event carries the error.
    Error,
}

impl FinishReason {
    /// The word used in JSON and messages: `length`, `stop`, `end_of_generation`, `cancelled`, `deadline`, `error`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Length => "length",
            FinishReason::Stop => "stop",
            FinishReason::EndOfGeneration => "end_of_generation",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Deadline => "deadline",
            FinishReason::Error => "error",
        }
    }
}

/// How a completion ended, with its counts and times.
#[derive(Debug, Clone)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// The stop string that matched; a stop id is written as its number.
    pub stop: Option<String>,
    /// The failure, when `reason` is [`FinishReason::Error`].
    pub error: Option<Arc<Error>>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values were already cached.
    pub cached_tokens: usize,
    /// Tokens generated, the end token included.
    pub generated_tokens: usize,
    /// From submission to the first step that computed something for it.
    pub queue_time: Duration,
    /// From submission to the first generated token; zero when there was none.
    pub time_to_first_token: Duration,
    /// From submission to the end.
    pub total_time: Duration,
    /// Generated tokens after the first, per second; 0 when there were fewer than two.
    pub decode_tokens_per_second: f64,
}

/// One event. Readers reuse it: its buffers grow to what the reader needs, on the reader's thread.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// The request's tag.
    pub tag: u64,
    /// What it says.
    pub kind: EventKind,
    /// Which completion of the request, from 0.
    pub choice: u32,
    /// Which part of the answer.
    pub channel: Channel,
    /// New text: whole code points. It can lag behind `tokens` while a code point or a possible stop string is
    /// incomplete.
    pub text: String,
    /// New token ids, the end token included.
    pub tokens: Vec<u32>,
    /// With the option `logprobs`, the natural logarithm of the probability of each of `tokens`, by the model's
    /// distribution before penalty and temperature; else empty.
    pub logprobs: Vec<f32>,
    /// With the option `top_logprobs`, the ids of the most probable tokens at each place, most probable first, ties by
    /// id: those of the first token, of the second, and so on, [`Event::n_top_logprobs`] of each.
    pub top_tokens: Vec<u32>,
    /// The log probabilities of `top_tokens`.
    pub top_logprobs: Vec<f32>,
    /// With the option `prompt_logprobs`, the log probability of each token of the prompt after those before it, NaN for
    /// the first; all of them once, in the first event of the first completion that has anything else, else empty.
    pub prompt_logprobs: Vec<f32>,
    /// With the option `embedding`, the prompt's embedding, one number per element of the residual stream, in the last
    /// event; else empty.
    pub embedding: Vec<f32>,
    /// Set when `kind` is [`EventKind::Finished`].
    pub finish: Option<Finish>,
}

impl Event {
    fn clear(&mut self) {
        self.text.clear();
        self.tokens.clear();
        self.logprobs.clear();
        self.top_tokens.clear();
        self.top_logprobs.clear();
        self.prompt_logprobs.clear();
        self.embedding.clear();
        self.finish = None;
        self.kind = EventKind::Output;
    }

    /// How many of `top_tokens` and `top_logprobs` belong to each of `tokens`.
    pub fn n_top_logprobs(&self) -> usize {
        self.top_tokens.len() / self.tokens.len().max(1)
    }

    fn append(&mut self, output: Output<'_>) {
        self.text.push_str(output.text);
        self.tokens.extend_from_slice(output.tokens);
        self.logprobs.extend_from_slice(output.logprobs);
        self.top_tokens.extend_from_slice(output.top_tokens);
        self.top_logprobs.extend_from_slice(output.top_logprobs);
        self.prompt_logprobs.extend_from_slice(output.prompt_logprobs);
        self.embedding.extend_from_slice(output.embedding);
    }

    /// Becomes a copy of what waits, but for its end, which it takes.
    fn copy(&mut self, pending: &mut Event) {
        self.kind = pending.kind;
        self.channel = pending.channel;
        self.text.clone_from(&pending.text);
        self.tokens.clone_from(&pending.tokens);
        self.logprobs.clone_from(&pending.logprobs);
        self.top_tokens.clone_from(&pending.top_tokens);
        self.top_logprobs.clone_from(&pending.top_logprobs);
        self.prompt_logprobs.clone_from(&pending.prompt_logprobs);
        self.embedding.clone_from(&pending.embedding);
        self.finish = pending.finish.take();
    }
}

/// What waiting for an event brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// The event was filled.
    Event,
    /// Nothing came in time.
    Timeout,
    /// The last event was already delivered.
    End,
}

/// What a step adds to a completion.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Output<'a> {
    /// Text to show.
    pub(crate) text: &'a str,
    /// Token ids.
    pub(crate) tokens: &'a [u32],
    /// As those of an [`Event`].
    pub(crate) logprobs: &'a [f32],
    pub(crate) top_tokens: &'a [u32],
    pub(crate) top_logprobs: &'a [f32],
    pub(crate) prompt_logprobs: &'a [f32],
    pub(crate) embedding: &'a [f32],
}

/// Where a mailbox announces that it has something, besides its own condition variable.
pub(crate) enum Announce {
    /// Its engine, for `wait`.
    Engine(Weak<ReadyList>),
    /// A completion queue. Weak, because a queue holds the mailboxes that have something for it; when it is dropped,
    /// nobody reads them any more.
    Queue(Weak<Queue>),
}

/// The channel between the worker and the reader of one request.
pub(crate) struct Mailbox {
    id: u64,
    tag: u64,
    announce: Announce,
    given_up: AtomicBool,
    /// Whether the engine's ready list holds this mailbox; guarded by that list's lock.
    pub(crate) listed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// One for each completion.
    choices: Vec<Choice>,
    /// The completion a reader sees first: each has its turn.
    next: usize,
    /// On a ready list already.
    announced: bool,
    reading: bool,
}

/// What waits of one completion.
#[derive(Default)]
struct Choice {
    pending: Event,
    /// Something is waiting for the reader.
    full: bool,
    /// The last event was put in.
    closed: bool,
}

impl Choice {
    fn append(&mut self, output: Output<'_>) {
        self.pending.append(output);
        self.full = true;
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.choices.iter().any(|c| c.full)
    }

    fn is_closed(&self) -> bool {
        self.choices.iter().all(|c| c.closed)
    }
}

impl Mailbox {
    /// A mailbox for a number of completions.
    pub(crate) fn new(tag: u64, choices: usize, announce: Announce) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let mut state = State::default();
        state.choices.resize_with(choices, Choice::default);
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            tag,
            announce,
            given_up: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// Unique within the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    pub(crate) fn is_queued(&self) -> bool {
        matches!(self.announce, Announce::Queue(_))
    }

    /// Room for a whole completion, so that the decode step never allocates here; `top` is how many log probabilities
    /// each token has beside its own, if it has any.
    pub(crate) fn reserve(&self, choice: usize, tokens: usize, top: Option<usize>) {
        let mut s = self.lock();
        let pending = &mut s.choices[choice].pending;
        if let Some(top) = top {
            pending.logprobs.reserve(tokens);
            pending.top_tokens.reserve(tokens * top);
            pending.top_logprobs.reserve(tokens * top);
        }
        pending.tokens.reserve(tokens);
        pending.text.reserve(tokens.saturating_mul(8));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue it reports to, if it does and the queue is still there.
    pub(crate) fn queue(&self) -> Option<Arc<Queue>> {
        match &self.announce {
            Announce::Queue(queue) => queue.upgrade(),
            Announce::Engine(_) => None,
        }
    }

    /// Adds output of a completion and tells the reader; a queue's reader when the outbox is flushed.
    pub(crate) fn push(self: &Arc<Self>, choice: usize, output: Output<'_>, outbox: &mut Outbox) {
        let mut s = self.lock();
        let c = &mut s.choices[choice];
        if c.closed {
            return;
        }
        c.append(output);
        self.announce(s, outbox);
    }

    /// Adds the last output of a completion and its end; the reader is told as by [`Mailbox::push`].
    pub(crate) fn finish(
        self: &Arc<Self>,
        choice: usize,
        output: Output<'_>,
        finish: Finish,
        outbox: &mut Outbox,
    ) {
        let mut s = self.lock();
        let c = &mut s.choices[choice];
        if c.closed {
            return;
        }
        c.append(output);
        c.closed = true;
        c.pending.kind = EventKind::Finished;
        c.pending.finish = Some(finish);
        self.announce(s, outbox);
    }

    fn announce(self: &Arc<Self>, mut s: MutexGuard<'_, State>, outbox: &mut Outbox) {
        let first = !std::mem::replace(&mut s.announced, true);
        let reading = s.reading;
        drop(s);
        match &self.announce {
            Announce::Engine(list) => {
                if reading {
                    self.changed.notify_all();
                }
                if let Some(list) = list.upgrade() {
                    list.push(self);
                }
            }
            Announce::Queue(_) => {
                if first {
                    outbox.add(self);
                }
            }
        }
    }

    /// The request was freed: what waits and what comes is nobody's, unless a queue's. Answers whether the last event
    /// was put in before.
    pub(crate) fn abandon(&self) -> bool {
        let mut s = self.lock();
        let ended = s.is_closed();
        if !self.is_queued() {
            for choice in &mut s.choices {
                *choice = Choice {
                    closed: true,
                    ..Choice::default()
                };
            }
        }
        ended
    }

    /// Whether the last event was put in.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    /// The request is to end; answers whether that was known.
    pub(crate) fn give_up(&self) -> bool {
        self.given_up.swap(true, Relaxed)
    }

    /// Whether the request is to end.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    /// Whether an event waits.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Takes a waiting event if there is one, and answers whether another one is left.
    pub(crate) fn take(&self, event: &mut Event) -> (Poll, bool) {
        let mut s = self.lock();
        let poll = Self::take_locked(self.tag, &mut s, event);
        (poll, s.is_full())
    }

    fn take_locked(tag: u64, s: &mut State, event: &mut Event) -> Poll {
        let n = s.choices.len();
        let first = s.next;
        let Some(choice) = (0..n).map(|i| (first + i) % n).find(|&i| s.choices[i].full) else {
            return if s.is_closed() { Poll::End } else { Poll::Timeout };
        };
        let c = &mut s.choices[choice];
        // A copy, so that the worker keeps the buffers that have room: its step does not allocate.
        let pending = &mut c.pending;
        event.copy(pending);
        (event.tag, event.choice) = (tag, choice as u32);
        pending.clear();
        c.full = false;
        s.next = (choice + 1) % n;
        s.announced = s.is_full();
        Poll::Event
    }

    /// Waits until there is an event, the end, or the timeout. `None` waits without limit.
    pub(crate) fn wait(&self, timeout: Option<Duration>, event: &mut Event) -> Result<Poll> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut s = self.lock();
        if s.reading {
            return Err(Error::Reentrant(
                "another thread is reading this request: a request has one reader at a time".to_string(),
            ));
        }
        s.reading = true;
        let poll = loop {
            match Self::take_locked(self.tag, &mut s, event) {
                Poll::Timeout => {}
                other => break other,
            }
            s = match deadline {
                None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let now = Instant::now();
                    if now >= end {
                        break Poll::Timeout;
                    }
                    self.changed
                        .wait_timeout(s, end - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        };
        s.reading = false;
        Ok(poll)
    }
}
