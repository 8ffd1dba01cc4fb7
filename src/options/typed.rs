//! The options of each object as a struct, filled from the table.

use std::fmt::Write;
use std::sync::Arc;

use super::{Object, OptionError, OptionSet, OptionValue, find};
use crate::kv::prefix::Secret;
use crate::kv::tier::{Backend, StorageOptions};

macro_rules! option_struct {
    ($(#[$doc:meta])* $name:ident, $object:expr, { $($field:ident : $ty:ty = $variant:ident as $conv:expr),* $(,)? },
     { $($(#[$extra_doc:meta])* $extra:ident : $extra_ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            $(#[doc = concat!("The option `", stringify!($field), "` of [`TABLE`](super::TABLE).")] pub $field: $ty,)*
            $($(#[$extra_doc])* pub $extra: $extra_ty,)*
        }
        impl Default for $name {
            fn default() -> Self {
                let mut this = Self { $($field: Default::default(),)* $($extra: Default::default(),)* };
                this.set_defaults();
                this
            }
        }
        impl OptionSet for $name {
            const OBJECT: Object = $object;
            fn assign(&mut self, name: &'static str, value: OptionValue) {
                match (name, value) {
                    $((stringify!($field), OptionValue::$variant(v)) => self.$field = $conv(v),)*
                    _ => debug_assert!(false, "the table and the struct disagree on '{name}'"),
                }
            }
            fn check(&self) -> Result<(), OptionError> {
                // One buffer for all of them: every request is checked.
                let mut text = String::with_capacity(32);
                $({
                    text.clear();
                    // Writing into a string does not fail.
                    let _ = write!(text, "{}", self.$field);
                    find($object, stringify!($field))?.check(&text)?;
                })*
                Ok(())
            }
        }
    };
}

fn same<T>(v: T) -> T {
    v
}
fn to_usize(v: u64) -> usize {
    usize::try_from(v).unwrap_or(usize::MAX)
}
fn to_u32(v: u64) -> u32 {
    u32::try_from(v).unwrap_or(u32::MAX)
}
fn to_f32(v: f64) -> f32 {
    v as f32
}

option_struct! {
    /// Options of loading a model.
    ModelOptions, Object::Model, {
        load_mode: &'static str = Choice as same,
        load_threads: usize = Integer as to_usize,
        memory_budget: u64 = Integer as same,
        vocabulary_only: bool = Bool as same,
        check_tensors: bool = Bool as same,
    }, {}
}

/// Opens storage of one's own for blocks that memory gives up: see [`tier`](crate::kv::tier).
pub type OpenStorage =
    Arc<dyn Fn(&StorageOptions) -> std::io::Result<(Arc<dyn Backend>, Secret)> + Send + Sync>;

/// Receives structured log records of one engine. It must not call that engine: it may be called from inside it.
pub type LogCallback = Arc<dyn Fn(&LogRecord<'_>) + Send + Sync>;

/// One log record: a whole line.
#[derive(Debug)]
pub struct LogRecord<'a> {
    /// Severity.
    pub level: LogLevel,
    /// The part of the library that speaks: `engine`, `model`.
    pub target: &'a str,
    /// A sentence.
    pub message: &'a str,
    /// Key/value pairs as one JSON object, `{}` when there are none.
    pub fields: &'a str,
}

/// Severity of a log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the usual words")]
#[repr(u32)]
pub enum LogLevel {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
}

option_struct! {
    /// Options of creating an engine.
    EngineOptions, Object::Engine, {
        preset: &'static str = Choice as same,
        cpu_level: &'static str = Choice as same,
        threads: usize = Integer as to_usize,
        kv_type: &'static str = Choice as same,
        context_length: usize = Integer as to_usize,
        kv_budget: u64 = Integer as same,
        max_running: usize = Integer as to_usize,
        batching: bool = Bool as same,
        policy: &'static str = Choice as same,
        max_overtaken: u32 = Integer as to_u32,
        max_queued: usize = Integer as to_usize,
        prefill_chunk: usize = Integer as to_usize,
        prefill_budget: f64 = Float as same,
        max_prompt_bytes: usize = Integer as to_usize,
        f16_products: &'static str = Choice as same,
        prefix_cache: bool = Bool as same,
        prefix_policy: &'static str = Choice as same,
        kv_cold_dir: String = Text as same,
        kv_cold_bytes: u64 = Integer as same,
        kv_cold_policy: &'static str = Choice as same,
        kv_cold_persist: bool = Bool as same,
        kv_cold_queue_bytes: usize = Integer as to_usize,
        kv_cold_patience_ms: u64 = Integer as same,
        kv_cold_test_mode: bool = Bool as same,
        speculation: &'static str = Choice as same,
        speculation_tokens: usize = Integer as to_usize,
        speculation_adaptive: bool = Bool as same,
        flash_attention: bool = Bool as same,
        exact: bool = Bool as same,
        manual_step: bool = Bool as same,
        alert_queue_time_ms: u64 = Integer as same,
        alert_time_to_first_token_ms: u64 = Integer as same,
        alert_inter_token_ms: u64 = Integer as same,
        alert_kv_used_percent: u64 = Integer as same,
        alert_preemptions_per_minute: u64 = Integer as same,
    }, {
        /// A pool shared with other engines; `None` creates one of `threads` threads.
        shared_threads: Option<Arc<crate::kernel::ThreadPool>>,
        /// A smaller model with the same vocabulary that proposes tokens: see the option `speculation`.
        draft_model: Option<Arc<crate::model::Model>>,
        /// Where log records go; `None` is silence.
        log: Option<LogCallback>,
        /// Opens storage for the cold tier that is not a directory.
        cold_storage: Option<OpenStorage>,
    }
}

/// What a request starts from.
#[derive(Debug, Clone, Default)]
pub enum Prompt {
    /// Nothing was set; submitting is an error.
    #[default]
    None,
    /// Text, tokenized at submission on the caller's thread.
    Text(String),
    /// Token ids, used as they are.
    Ids(Vec<u32>),
    /// A conversation, rendered by the model's chat template and then tokenized: a JSON array of messages
    /// with `role` and `content`.
    Messages(serde_json::Value),
}

option_struct! {
    /// Options of a request.
    RequestOptions, Object::Request, {
        max_tokens: usize = Integer as to_usize,
        n: usize = Integer as to_usize,
        priority: u64 = Integer as same,
        context_overflow: &'static str = Choice as same,
        context_keep: usize = Integer as to_usize,
        temperature: f32 = Float as to_f32,
        top_k: usize = Integer as to_usize,
        top_p: f32 = Float as to_f32,
        min_p: f32 = Float as to_f32,
        repetition_penalty: f32 = Float as to_f32,
        repetition_window: usize = Integer as to_usize,
        seed: u64 = Integer as same,
        deadline_ms: u64 = Integer as same,
        ignore_end_of_generation: bool = Bool as same,
        add_special: bool = Bool as same,
        parse_special: bool = Bool as same,
        render_special: bool = Bool as same,
        logprobs: bool = Bool as same,
        top_logprobs: usize = Integer as to_usize,
        prompt_logprobs: bool = Bool as same,
        embedding: &'static str = Choice as same,
        embedding_normalize: bool = Bool as same,
        cache_prompt: bool = Bool as same,
        cache_salt: String = Text as same,
        speculation: bool = Bool as same,
        tag: u64 = Integer as same,
    }, {
        /// What to continue.
        prompt: Prompt,
        /// Texts that end the completion and are not part of it.
        stop: Vec<String>,
        /// Token ids that end the completion.
        stop_ids: Vec<u32>,
        /// Where events go instead of the request itself.
        queue: Option<Arc<crate::engine::Queue>>,
    }
}

/// What happens when a context is full: the option `context_overflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextOverflow {
    /// A prompt too long is refused, a completion ends.
    Error,
    /// The oldest tokens of a prompt too long are dropped.
    Truncate,
    /// That, and a completion drops its oldest tokens and goes on.
    Shift,
}

/// Which states of a prompt make its embedding: the option `embedding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The last token's.
    Last,
    /// The first token's, `cls`.
    First,
}

impl RequestOptions {
    /// The option `embedding`; `None` when it is off.
    pub fn pooling(&self) -> Option<Pooling> {
        match self.embedding {
            "mean" => Some(Pooling::Mean),
            "last" => Some(Pooling::Last),
            "cls" => Some(Pooling::First),
            _ => None,
        }
    }

    /// The option `context_overflow`.
    pub fn overflow(&self) -> ContextOverflow {
        match self.context_overflow {
            "truncate" => ContextOverflow::Truncate,
            "shift" => ContextOverflow::Shift,
            _ => ContextOverflow::Error,
        }
    }
}

option_struct! {
    /// Options of creating a thread pool.
    ThreadsOptions, Object::Threads, {
        threads: usize = Integer as to_usize,
        cpus: String = Text as same,
        name: String = Text as same,
    }, {
        /// Runs on each worker thread when it starts, with its number.
        on_start: Option<Arc<dyn Fn(usize) + Send + Sync>>,
        /// Runs on each worker thread before it ends, with its number.
        on_stop: Option<Arc<dyn Fn(usize) + Send + Sync>>,
    }
}

option_struct! {
    /// Options of creating a key/value cache for programs with an attention of their own.
    KvCacheOptions, Object::KvCache, {
        n_layers: usize = Integer as to_usize,
        n_kv_heads: usize = Integer as to_usize,
        head_dim: usize = Integer as to_usize,
        kv_type: &'static str = Choice as same,
        hot_tokens: usize = Integer as to_usize,
        policy: &'static str = Choice as same,
        identity: String = Text as same,
        cold_dir: String = Text as same,
        cold_bytes: u64 = Integer as same,
        cold_policy: &'static str = Choice as same,
        cold_persist: bool = Bool as same,
        cold_queue_bytes: usize = Integer as to_usize,
        cold_patience_ms: u64 = Integer as same,
        test_mode: bool = Bool as same,
    }, {
        /// Where log records go; `None` is silence.
        log: Option<LogCallback>,
        /// Opens storage for the cold tier that is not a directory.
        cold_storage: Option<OpenStorage>,
    }
}
