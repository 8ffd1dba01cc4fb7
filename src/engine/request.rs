//! Requests: from options to a queued sequence, and the handle their caller keeps.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Shared;
use super::event::{Announce, Event, Mailbox, Poll};
use super::sequence::Sequence;
use crate::error::{Error, Result};
use crate::options::{ContextOverflow, OptionSet, Prompt, RequestOptions};

/// Most stop strings or stop ids of a request.
const MAX_STOPS: usize = 1024;
/// Longest stop string in bytes.
const MAX_STOP_BYTES: usize = 4096;
/// Most bytes of all stop strings of a request.
const MAX_STOP_TOTAL: usize = 1 << 16;

/// A submitted request. Dropping it cancels it without waiting.
pub struct Request {
    mailbox: Arc<Mailbox>,
    engine: Weak<Shared>,
}

impl Request {
    pub(super) fn new(sequence: &Sequence, engine: &Arc<Shared>) -> Self {
        Self {
            mailbox: Arc::clone(&sequence.mailbox),
            engine: Arc::downgrade(engine),
        }
    }

    /// A number unique within the process.
    pub fn id(&self) -> u64 {
        self.mailbox.id()
    }

    /// The tag from its options.
    pub fn tag(&self) -> u64 {
        self.mailbox.tag()
    }

    /// Waits for the next event. `None` waits without limit. Everything produced since the last call comes in one
    /// event; its buffers are reused.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the request reports to a queue, [`Error::Reentrant`] while another thread
    /// reads it.
    pub fn next(&self, timeout: Option<Duration>, event: &mut Event) -> Result<Poll> {
        if self.mailbox.is_queued() {
            return Err(Error::InvalidArgument(
                "this request reports to a completion queue: read its events there".to_string(),
            ));
        }
        self.mailbox.wait(timeout, event)
    }

    /// Asks for its end; the last event says `cancelled` unless it had ended before. Any thread, any number of times.
    pub fn cancel(&self) {
        if !self.mailbox.is_closed() {
            self.give_up();
        }
    }

    fn give_up(&self) {
        if self.mailbox.give_up() {
            return;
        }
        if let Some(shared) = self.engine.upgrade() {
            shared.lock().cancelled = true;
            shared.wake.notify_all();
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.mailbox.abandon() {
            self.give_up();
        }
    }
}

/// Checks the options and tokenizes the prompt; adds a sequence for each completion to `sequences`, whose caller drops them
/// when there is an error.
pub(super) fn prepare(
    shared: &Arc<Shared>,
    mut options: RequestOptions,
    sequences: &mut Vec<Sequence>,
) -> Result<()> {
    options.check()?;
    check_stops(&options)?;
    if options.n > shared.options.max_queued {
        return Err(Error::InvalidArgument(format!(
            "the request option n is {}, but the engine option max_queued lets {} completions wait",
            options.n, shared.options.max_queued
        )));
    }
    check_outputs(&options)?;
    if options.pooling().is_some() {
        options.max_tokens = 0;
    }
    if !options.stop.is_empty() {
        // Without text a stop string would never be found.
        shared.model.tokenizer()?;
    }
    let info = shared.model.info();
    let n_vocab = info.n_vocab;
    let mut prompt = prompt_ids(shared, &mut options)?;
    if prompt.is_empty() {
        return Err(Error::InvalidArgument(
            "the prompt has no tokens: give some text or ids to continue".to_string(),
        ));
    }
    if let Some((i, id)) = prompt.iter().enumerate().find(|(_, id)| **id as usize >= n_vocab) {
        return Err(Error::InvalidArgument(format!(
            "the prompt's id {i} is {id}, but the vocabulary has {n_vocab} tokens"
        )));
    }
    fit(shared, &options, &mut prompt)?;
    let announce = match options.queue.take() {
        Some(queue) => Announce::Queue(Arc::downgrade(&queue)),
        None => Announce::Engine(Arc::downgrade(&shared.ready)),
    };
    crate::memory::reserve(sequences, options.n, "the completions of a request")?;
    let mailbox = Mailbox::new(options.tag, options.n, announce);
    for choice in 0..options.n as u32 {
        let mailbox = Arc::clone(&mailbox);
        let mut sequence = Sequence::new(&options, &prompt, info, shared.context, choice, mailbox)?;
        if options.speculation && shared.options.draft_rows() > 0 {
            sequence.speculate(&shared.options)?;
        }
        sequences.push(sequence);
    }
    Ok(())
}

/// Makes a prompt fit the context if it may be shortened.
fn fit(shared: &Shared, options: &RequestOptions, prompt: &mut Vec<u32>) -> Result<()> {
    let context = shared.context;
    if options.overflow() == ContextOverflow::Error {
        // A prompt that is only read may fill the context.
        if prompt.len() + options.max_tokens.min(1) <= context {
            return Ok(());
        }
        let machine = &shared.machine;
        let memory = if context < shared.options.context_length {
            format!(
                ", because {} bytes of key/value cache hold no more at {} bytes per token (engine option kv_budget)",
                machine.kv_budget, machine.kv_token_bytes
            )
        } else {
            String::new()
        };
        return Err(Error::ContextOverflow(format!(
            "the prompt has {} tokens, but the context holds {context} of prompt and completion together{memory}",
            prompt.len(),
        )));
    }
    let room = options.max_tokens.min(context.div_ceil(2));
    let most = context.saturating_sub(room).max(1);
    if prompt.len() > most {
        let keep = options.context_keep.min(most / 2);
        prompt.drain(keep..keep + prompt.len() - most);
    }
    Ok(())
}

/// Refuses outputs that exclude each other.
fn check_outputs(options: &RequestOptions) -> Result<()> {
    let refuse = |sentence: String| Err(Error::InvalidArgument(sentence));
    if options.top_logprobs > 0 && !options.logprobs {
        return refuse(format!(
            "request option 'top_logprobs' is {}, which needs the option 'logprobs'",
            options.top_logprobs
        ));
    }
    if options.pooling().is_none() {
        return Ok(());
    }
    let embedding = options.embedding;
    for (name, given) in [
        ("logprobs", options.logprobs),
        ("prompt_logprobs", options.prompt_logprobs),
        ("n", options.n > 1),
    ] {
        if given {
            return refuse(format!(
                "request option 'embedding' is {embedding}: an embedding is one, of the prompt, without tokens; leave the option '{name}' at its default"
            ));
        }
    }
    Ok(())
}

fn check_stops(options: &RequestOptions) -> Result<()> {
    if options.stop.len() > MAX_STOPS || options.stop_ids.len() > MAX_STOPS {
        return Err(Error::InvalidArgument(format!(
            "the request has {} stop strings and {} stop ids; {MAX_STOPS} of each are allowed",
            options.stop.len(),
            options.stop_ids.len()
        )));
    }
    let total = options.stop.iter().map(String::len).sum::<usize>();
    if total > MAX_STOP_TOTAL {
        return Err(Error::InvalidArgument(format!(
            "the stop strings have {total} bytes together; {MAX_STOP_TOTAL} are allowed"
        )));
    }
    match options
        .stop
        .iter()
        .find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES)
    {
        None => Ok(()),
        Some(s) => Err(Error::InvalidArgument(format!(
            "a stop string has {} bytes; 1..={MAX_STOP_BYTES} are allowed",
            s.len()
        ))),
    }
}

/// The ids of the request's prompt, which is taken out of it.
pub(super) fn prompt_ids(shared: &Shared, options: &mut RequestOptions) -> Result<Vec<u32>> {
    let model = &shared.model;
    match std::mem::take(&mut options.prompt) {
        Prompt::None => Err(Error::InvalidArgument("the request has no prompt".to_string())),
        Prompt::Ids(ids) => Ok(ids),
        Prompt::Text(text) => {
            check_length(shared, text.len())?;
            model.tokenize(&text, options.add_special, options.parse_special)
        }
        Prompt::Messages(messages) => {
            let text = model.apply_chat_template(&messages, true)?;
            check_length(shared, text.len())?;
            // Most templates write the begin token themselves.
            let tokenizer = model.tokenizer()?;
            let begin = tokenizer.bos().and_then(|id| tokenizer.token(id));
            let written = begin.is_some_and(|t| text.starts_with(t.text));
            model.tokenize(&text, options.add_special && !written, true)
        }
    }
}

fn check_length(shared: &Shared, bytes: usize) -> Result<()> {
    let limit = shared.options.max_prompt_bytes;
    if bytes <= limit {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "the prompt has {bytes} bytes; the engine option max_prompt_bytes allows {limit}"
    )))
}
