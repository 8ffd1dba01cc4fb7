//! Events as C sees them, and the buffers they point into.

use std::ffi::c_char;

use super::error::{self, ErrorState, infer_error};
use super::guard::{Failure, invalid};
use super::handle::Handle;
use super::memory::{self, AbiStruct};
use super::string;
use crate::engine::{Channel, Event, EventKind, FinishReason};

/// What an event says.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_event_kind {
    /// New text or tokens.
    INFER_EVENT_OUTPUT = 1,
    /// The last event: the rest of the text, and how the completion ended.
    INFER_EVENT_FINISHED = 2,
}

/// Which part of the answer a text belongs to.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_channel {
    /// The answer itself.
    INFER_CHANNEL_CONTENT = 1,
    /// Thinking that precedes the answer.
    INFER_CHANNEL_REASONING = 2,
    /// A call of a tool.
    INFER_CHANNEL_TOOL = 3,
}

/// Why a completion ended.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_finish_reason {
    /// It has not ended.
    INFER_FINISH_NONE = 0,
    /// max_tokens were generated, or the context is full; also how an embedding ends.
    INFER_FINISH_LENGTH = 1,
    /// A stop text or stop id was found.
    INFER_FINISH_STOP = 2,
    /// The model produced a token that ends the completion.
    INFER_FINISH_END_OF_GENERATION = 3,
    /// It was cancelled, or its engine was freed.
    INFER_FINISH_CANCELLED = 4,
    /// Its deadline passed.
    INFER_FINISH_DEADLINE = 5,
    /// It failed; the event has the error.
    INFER_FINISH_ERROR = 6,
}

/// One event of a request. Initialize it with INFER_EVENT_INIT; it can be used again and again. The pointers belong to
/// the request or queue it was read from, and live until the next read there or until that is freed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_event {
    /// Set by INFER_EVENT_INIT.
    pub struct_size: u32,
    /// An infer_event_kind.
    pub kind: u32,
    /// The tag from the request's options.
    pub tag: u64,
    /// Which completion of the request, from 0.
    pub choice: u32,
    /// An infer_channel.
    pub channel: u32,
    /// New text: whole UTF-8 code points, never NULL, NUL-terminated. It can lag behind tokens while a code point or a
    /// possible stop text is incomplete.
    pub text: *const c_char,
    /// Bytes of text, the terminating NUL not counted.
    pub text_len: usize,
    /// New token ids, the one that ended the completion included.
    pub tokens: *const u32,
    /// Number of tokens.
    pub n_tokens: usize,
    /// An infer_finish_reason; INFER_FINISH_NONE unless kind is INFER_EVENT_FINISHED. This and what follows, up to
    /// decode_tokens_per_second, is zero before the end.
    pub finish_reason: u32,
    /// Always 0.
    pub reserved: u32,
    /// The stop text that was found, or the number of a stop id, NUL-terminated; NULL unless the reason is
    /// INFER_FINISH_STOP.
    pub stop: *const c_char,
    /// Bytes of stop.
    pub stop_len: usize,
    /// The failure when the reason is INFER_FINISH_ERROR, else NULL. It is lent: do not free it.
    pub error: *const infer_error,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Prompt tokens that did not have to be computed, because their keys and values were cached.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Nanoseconds from submission to the first step that computed something for it.
    pub queue_time_ns: u64,
    /// Nanoseconds from submission to the first generated token; 0 when there was none.
    pub time_to_first_token_ns: u64,
    /// Nanoseconds from submission to the end.
    pub total_time_ns: u64,
    /// Generated tokens after the first, per second; 0 when there were fewer than two.
    pub decode_tokens_per_second: f64,
    /// With the request option logprobs, the natural logarithm of the probability of each of tokens, by the model's
    /// distribution before penalty and temperature; else NULL. This and the next three are there in every event with
    /// tokens.
    pub logprobs: *const f32,
    /// With the request option top_logprobs, the ids of the most probable tokens, most probable first, ties by id:
    /// n_top_logprobs for the first of tokens, then as many for the second, and so on; else NULL.
    pub top_tokens: *const u32,
    /// Log probabilities of top_tokens, in the same order; else NULL.
    pub top_logprobs: *const f32,
    /// How many of top_tokens and top_logprobs belong to each of tokens.
    pub n_top_logprobs: usize,
    /// With the request option prompt_logprobs, the log probability of each token of the prompt after those before it,
    /// NaN for the first. They come once, in one event of choice 0; else NULL.
    pub prompt_logprobs: *const f32,
    /// Number of prompt_logprobs: the prompt's tokens, or 0.
    pub n_prompt_logprobs: usize,
    /// With the request option embedding, the prompt's embedding, in the event of the kind INFER_EVENT_FINISHED; else
    /// NULL.
    pub embedding: *const f32,
    /// Numbers in embedding: the model's n_embd, or 0.
    pub n_embedding: usize,
}

// SAFETY: repr(C), struct_size first, u32 fields come in pairs, pointers and sizes in even numbers, and so leave no padding, zero is a value of every field.
unsafe impl AbiStruct for infer_event {
    const NAME: &'static str = "infer_event";
    const MIN: usize = std::mem::offset_of!(infer_event, finish_reason);
}

/// Most events that one call gives.
const MAX_EVENTS: usize = 4096;

/// Checks an array of events and answers how many of its elements a call may fill.
pub(crate) fn check_array(
    events: *mut infer_event,
    capacity: usize,
    stride: usize,
) -> Result<usize, Failure> {
    memory::check(events.cast_const(), "events")?;
    if capacity == 0 {
        return Err(invalid("capacity: expected room for at least 1 event, found 0"));
    }
    if stride < infer_event::MIN || !stride.is_multiple_of(align_of::<infer_event>()) {
        return Err(invalid(format!(
            "stride: expected sizeof(infer_event), which is {} in this library, found {stride}",
            size_of::<infer_event>()
        )));
    }
    if capacity
        .checked_mul(stride)
        .is_none_or(|bytes| bytes > isize::MAX as usize)
    {
        return Err(invalid(format!(
            "events: {capacity} elements of {stride} bytes are more than memory can hold"
        )));
    }
    Ok(capacity.min(MAX_EVENTS))
}

/// Events of the library and what C needs beside them.
#[derive(Default)]
pub(crate) struct Slots {
    events: Vec<Event>,
    extras: Vec<Extra>,
}

#[derive(Default)]
struct Extra {
    stop: String,
    error: Option<Box<Handle<ErrorState>>>,
}

impl Slots {
    /// `n` events to fill, at least one.
    pub(crate) fn events(&mut self, n: usize) -> &mut [Event] {
        let n = n.max(1);
        if self.events.len() < n {
            self.events.resize_with(n, Event::default);
            self.extras.resize_with(n, Extra::default);
        }
        &mut self.events[..n]
    }

    /// The event as C sees it, pointing into this slot.
    pub(crate) fn publish(&mut self, slot: usize) -> infer_event {
        let (event, extra) = (&mut self.events[slot], &mut self.extras[slot]);
        extra.error = None;
        let text_len = event.text.len();
        event.text.push('\0');
        let mut ours = infer_event {
            struct_size: 0,
            kind: match event.kind {
                EventKind::Output => infer_event_kind::INFER_EVENT_OUTPUT,
                EventKind::Finished => infer_event_kind::INFER_EVENT_FINISHED,
            } as u32,
            tag: event.tag,
            choice: event.choice,
            channel: match event.channel {
                Channel::Content => infer_channel::INFER_CHANNEL_CONTENT,
                Channel::Reasoning => infer_channel::INFER_CHANNEL_REASONING,
                Channel::Tool => infer_channel::INFER_CHANNEL_TOOL,
            } as u32,
            text: event.text.as_ptr().cast(),
            text_len,
            tokens: event.tokens.as_ptr(),
            n_tokens: event.tokens.len(),
            finish_reason: infer_finish_reason::INFER_FINISH_NONE as u32,
            reserved: 0,
            stop: std::ptr::null(),
            stop_len: 0,
            error: std::ptr::null(),
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            queue_time_ns: 0,
            time_to_first_token_ns: 0,
            total_time_ns: 0,
            decode_tokens_per_second: 0.0,
            logprobs: pointer(&event.logprobs),
            top_tokens: pointer(&event.top_tokens),
            top_logprobs: pointer(&event.top_logprobs),
            n_top_logprobs: event.n_top_logprobs(),
            prompt_logprobs: pointer(&event.prompt_logprobs),
            n_prompt_logprobs: event.prompt_logprobs.len(),
            embedding: pointer(&event.embedding),
            n_embedding: event.embedding.len(),
        };
        if let Some(finish) = &event.finish {
            let nanoseconds = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
            ours.finish_reason = reason(finish.reason) as u32;
            if let Some(stop) = &finish.stop {
                extra.stop = string::terminated(stop);
                ours.stop = extra.stop.as_ptr().cast();
                ours.stop_len = extra.stop.len() - 1;
            }
            if let Some(found) = &finish.error {
                extra.error = error::lent(found);
                ours.error = error::lent_pointer(extra.error.as_deref());
            }
            ours.prompt_tokens = finish.prompt_tokens as u64;
            ours.cached_tokens = finish.cached_tokens as u64;
            ours.generated_tokens = finish.generated_tokens as u64;
            ours.queue_time_ns = nanoseconds(finish.queue_time);
            ours.time_to_first_token_ns = nanoseconds(finish.time_to_first_token);
            ours.total_time_ns = nanoseconds(finish.total_time);
            ours.decode_tokens_per_second = finish.decode_tokens_per_second;
        }
        ours
    }

    /// Publishes the first `n` slots to an array of the caller.
    ///
    /// # Safety
    /// The array passed [`check_array`] with at least `n` elements.
    pub(crate) unsafe fn publish_array(&mut self, n: usize, events: *mut infer_event, stride: usize) {
        for i in 0..n {
            let ours = self.publish(i);
            // SAFETY: element i of an array with at least n elements that are `stride` bytes apart.
            unsafe { memory::write_struct(&ours, events.byte_add(i * stride), stride) };
        }
    }
}

/// NULL where there is nothing.
fn pointer<T>(values: &[T]) -> *const T {
    match values {
        [] => std::ptr::null(),
        values => values.as_ptr(),
    }
}

fn reason(reason: FinishReason) -> infer_finish_reason {
    match reason {
        FinishReason::Length => infer_finish_reason::INFER_FINISH_LENGTH,
        FinishReason::Stop => infer_finish_reason::INFER_FINISH_STOP,
        FinishReason::EndOfGeneration => infer_finish_reason::INFER_FINISH_END_OF_GENERATION,
        FinishReason::Cancelled => infer_finish_reason::INFER_FINISH_CANCELLED,
        FinishReason::Deadline => infer_finish_reason::INFER_FINISH_DEADLINE,
        FinishReason::Error => infer_finish_reason::INFER_FINISH_ERROR,
    }
}
