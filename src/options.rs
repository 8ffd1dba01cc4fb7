//! The one table of options: name, type, range, default and documentation of each.
//!
//! Command-line flags, the setters of the C API and the reference pages come from [`TABLE`]. The typed structs
//! ([`ModelOptions`], [`EngineOptions`], [`RequestOptions`], [`ThreadsOptions`]) are filled from their text
//! defaults here, so a default exists in one place only.

use std::sync::Arc;

/// The object an option belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Loading a model.
    Model,
    /// Creating an engine.
    Engine,
    /// Submitting a request.
    Request,
    /// Creating a thread pool.
    Threads,
}

impl Object {
    /// The word used in messages and in the C API: `model`, `engine`, `request`, `threads`.
    pub fn name(self) -> &'static str {
        match self {
            Object::Model => "model",
            Object::Engine => "engine",
            Object::Request => "request",
            Object::Threads => "threads",
        }
    }
}

/// Type and range of an option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, both ends included.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A finite number, both ends included unless `min_exclusive`.
    Float {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
        /// Whether `min` itself is refused.
        min_exclusive: bool,
    },
    /// One of a list of words.
    Choice(&'static [&'static str]),
    /// Free text.
    Text,
}

impl Kind {
    /// The type's name: `bool`, `integer`, `float`, `choice`, `text`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Integer { .. } => "integer",
            Kind::Float { .. } => "float",
            Kind::Choice(_) => "choice",
            Kind::Text => "text",
        }
    }

    /// The range as a person writes it: `1..=4096`, `0 < x <= 1`, `f32|f16|bf16|q8`.
    pub fn range(self) -> String {
        match self {
            Kind::Bool => "true|false".to_string(),
            Kind::Integer { min, max: u64::MAX } => format!("{min} or more"),
            Kind::Integer { min, max } => format!("{min}..={max}"),
            Kind::Float {
                min,
                max,
                min_exclusive: true,
            } => format!("{min} < x <= {max}"),
            Kind::Float {
                min,
                max,
                min_exclusive: false,
            } => format!("{min} <= x <= {max}"),
            Kind::Choice(words) => words.join("|"),
            Kind::Text => "any text".to_string(),
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// What the option belongs to.
    pub object: Object,
    /// Its name, unique within the object.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// The default as text, in the form [`OptionSet::set`] accepts.
    pub default: &'static str,
    /// What it does, with units.
    pub doc: &'static str,
}

/// An option is unknown or its value is outside its range.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown {object} option '{name}'; expected one of: {known}")]
    Unknown {
        /// The object's name.
        object: &'static str,
        /// The name that was given.
        name: String,
        /// Every name of the object.
        known: String,
    },
    /// The value does not parse or is outside the range.
    #[error("{object} option '{name}': expected {kind} in the range {range}, found '{found}'")]
    Value {
        /// The object's name.
        object: &'static str,
        /// The option.
        name: &'static str,
        /// Type name.
        kind: &'static str,
        /// Allowed values.
        range: String,
        /// The value that was given.
        found: String,
    },
}

/// A value that passed its row's check.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    /// Of a [`Kind::Bool`].
    Bool(bool),
    /// Of a [`Kind::Integer`].
    Integer(u64),
    /// Of a [`Kind::Float`].
    Float(f64),
    /// Of a [`Kind::Choice`].
    Choice(&'static str),
    /// Of a [`Kind::Text`].
    Text(String),
}

const fn row(
    object: Object,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> OptionSpec {
    OptionSpec {
        object,
        name,
        kind,
        default,
        doc,
    }
}

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const fn float(min: f64, max: f64) -> Kind {
    Kind::Float {
        min,
        max,
        min_exclusive: false,
    }
}

/// Largest number of tokens a request can ask for.
pub const MAX_TOKENS_LIMIT: u64 = i32::MAX as u64;

/// Words for a CPU level, in the C API, the command and `INFER_CPU_LEVEL` alike.
pub const CPU_LEVELS: &[&str] = &["auto", "scalar", "avx2", "avx512", "neon"];

/// Words for the element type of the KV cache.
pub const KV_TYPES: &[&str] = &["f32", "f16", "bf16", "q8"];

/// Every option there is.
pub const TABLE: &[OptionSpec] = &[
    row(
        Object::Model,
        "load_mode",
        Kind::Choice(&["read", "mmap"]),
        "read",
        "How tensor data gets into memory. read: copied into memory of the process, so that nothing another process does to the file can harm it. mmap: pages of the file itself; the file must not be truncated or rewritten while the model lives, or the process is killed.",
    ),
    row(
        Object::Model,
        "load_threads",
        integer(0, 256),
        "0",
        "Threads that read the file; 0 chooses by the machine.",
    ),
    row(
        Object::Model,
        "memory_budget",
        integer(0, u64::MAX),
        "0",
        "Bytes the model's weights may take; a larger model is refused before anything is allocated. 0 means no budget.",
    ),
    row(
        Object::Model,
        "vocabulary_only",
        Kind::Bool,
        "false",
        "Load metadata and tokenizer without weights; such a model tokenizes but cannot run.",
    ),
    row(
        Object::Model,
        "check_tensors",
        Kind::Bool,
        "false",
        "Read every weight once and refuse a file with NaN or infinite values.",
    ),
    row(
        Object::Engine,
        "cpu_level",
        Kind::Choice(CPU_LEVELS),
        "auto",
        "Kernels to use: auto is the best the CPU has, lowered by the environment variable INFER_CPU_LEVEL; a level the CPU lacks is an error.",
    ),
    row(
        Object::Engine,
        "threads",
        integer(0, 1024),
        "0",
        "Worker threads of the engine's own pool, the scheduling thread included; 0 is the number of CPUs this process may use. Ignored when a shared pool is given.",
    ),
    row(
        Object::Engine,
        "kv_type",
        Kind::Choice(KV_TYPES),
        "f16",
        "Element type of cached keys and values.",
    ),
    row(
        Object::Engine,
        "context_length",
        integer(0, 1 << 31),
        "0",
        "Tokens of prompt and completion a sequence can hold; 0 is what the model was trained for.",
    ),
    row(
        Object::Engine,
        "kv_budget",
        integer(0, u64::MAX),
        "0",
        "Bytes of memory for cached keys and values; 0 is enough for max_running sequences, at most half of the memory free when the engine is created.",
    ),
    row(
        Object::Engine,
        "max_running",
        integer(1, 4096),
        "32",
        "Sequences that are computed at the same time.",
    ),
    row(
        Object::Engine,
        "max_queued",
        integer(1, 1 << 20),
        "1024",
        "Requests that may wait; one more is refused as busy.",
    ),
    row(
        Object::Engine,
        "prefill_chunk",
        integer(1, 1 << 16),
        "256",
        "Prompt tokens computed in one step, shared by all sequences that are reading their prompt.",
    ),
    row(
        Object::Engine,
        "max_prompt_bytes",
        integer(1, 1 << 32),
        "16777216",
        "Longest prompt text in bytes; a longer one is refused before it is tokenized.",
    ),
    row(
        Object::Engine,
        "exact",
        Kind::Bool,
        "false",
        "Compute with dequantized weights and f32 activations: slow, for comparing results.",
    ),
    row(
        Object::Engine,
        "manual_step",
        Kind::Bool,
        "false",
        "No scheduling thread: the host calls step until it reports that nothing is left to do.",
    ),
    row(
        Object::Request,
        "max_tokens",
        integer(1, MAX_TOKENS_LIMIT),
        "256",
        "Tokens to generate at most; the context may end a completion earlier.",
    ),
    row(
        Object::Request,
        "temperature",
        float(0.0, 1000.0),
        "0.7",
        "Divides the logits; 0 takes the most likely token, the lowest id on ties.",
    ),
    row(
        Object::Request,
        "top_k",
        integer(0, u32::MAX as u64),
        "0",
        "Keep the k most likely tokens; 0 keeps all.",
    ),
    row(
        Object::Request,
        "top_p",
        Kind::Float {
            min: 0.0,
            max: 1.0,
            min_exclusive: true,
        },
        "0.9",
        "Keep the most likely tokens whose probabilities add up to p; 1 keeps all.",
    ),
    row(
        Object::Request,
        "min_p",
        float(0.0, 1.0),
        "0",
        "Keep tokens at least this probable relative to the most likely one; 0 keeps all.",
    ),
    row(
        Object::Request,
        "repetition_penalty",
        Kind::Float {
            min: 0.0,
            max: 100.0,
            min_exclusive: true,
        },
        "1",
        "Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.",
    ),
    row(
        Object::Request,
        "repetition_window",
        integer(0, 1 << 20),
        "64",
        "How many of the last tokens, prompt included, count as recent.",
    ),
    row(
        Object::Request,
        "seed",
        integer(0, u64::MAX),
        "0",
        "Key of the random numbers; the same request with the same seed gives the same tokens.",
    ),
    row(
        Object::Request,
        "deadline_ms",
        integer(0, 1 << 40),
        "0",
        "Milliseconds after submission at which the request ends with what it has; 0 means none.",
    ),
    row(
        Object::Request,
        "ignore_end_of_generation",
        Kind::Bool,
        "false",
        "Go on when the model produces an end token.",
    ),
    row(
        Object::Request,
        "add_special",
        Kind::Bool,
        "true",
        "Add the begin and end tokens the model asks for to a prompt given as text.",
    ),
    row(
        Object::Request,
        "parse_special",
        Kind::Bool,
        "true",
        "Read the texts of special tokens in a prompt as these tokens.",
    ),
    row(
        Object::Request,
        "render_special",
        Kind::Bool,
        "false",
        "Write the texts of generated special tokens into the output.",
    ),
    row(
        Object::Request,
        "tag",
        integer(0, u64::MAX),
        "0",
        "A number of the caller's that comes back in every event.",
    ),
    row(
        Object::Threads,
        "threads",
        integer(0, 1024),
        "0",
        "Threads of the pool, the calling thread included; 0 is the number of CPUs this process may use.",
    ),
    row(
        Object::Threads,
        "cpus",
        Kind::Text,
        "",
        "CPUs to bind the threads to, as a list like 0-3,8; empty leaves placement to the system.",
    ),
    row(
        Object::Threads,
        "name",
        Kind::Text,
        "infer",
        "Name of the threads, up to 10 bytes; a number is appended.",
    ),
];

/// The options of one object, in table order.
pub fn of(object: Object) -> impl Iterator<Item = &'static OptionSpec> {
    TABLE.iter().filter(move |s| s.object == object)
}

/// The row of an option.
pub fn find(object: Object, name: &str) -> Result<&'static OptionSpec, OptionError> {
    of(object)
        .find(|s| s.name == name)
        .ok_or_else(|| OptionError::Unknown {
            object: object.name(),
            name: name.chars().take(100).collect(),
            known: of(object).map(|s| s.name).collect::<Vec<_>>().join(", "),
        })
}

impl OptionSpec {
    /// Parses and checks a value.
    pub fn parse(&self, text: &str) -> Result<OptionValue, OptionError> {
        let parsed = match self.kind {
            Kind::Bool => match text {
                "true" | "1" => Some(OptionValue::Bool(true)),
                "false" | "0" => Some(OptionValue::Bool(false)),
                _ => None,
            },
            Kind::Integer { min, max } => text
                .parse::<u64>()
                .ok()
                .filter(|v| (min..=max).contains(v))
                .map(OptionValue::Integer),
            Kind::Float {
                min,
                max,
                min_exclusive,
            } => text
                .parse::<f64>()
                .ok()
                .filter(|&v| v >= min && v <= max && !(min_exclusive && v <= min))
                .map(OptionValue::Float),
            Kind::Choice(words) => words.iter().find(|w| **w == text).map(|w| OptionValue::Choice(w)),
            Kind::Text => Some(OptionValue::Text(text.to_string())),
        };
        parsed.ok_or_else(|| OptionError::Value {
            object: self.object.name(),
            name: self.name,
            kind: self.kind.name(),
            range: self.kind.range(),
            found: text.chars().take(100).collect(),
        })
    }
}

/// A struct of options that is filled by name.
pub trait OptionSet {
    /// Which rows of the table apply.
    const OBJECT: Object;

    /// Stores a checked value under a name of the table.
    fn assign(&mut self, name: &'static str, value: OptionValue);

    /// Sets an option from text, checked against its row.
    fn set(&mut self, name: &str, text: &str) -> Result<(), OptionError> {
        let spec = find(Self::OBJECT, name)?;
        self.assign(spec.name, spec.parse(text)?);
        Ok(())
    }

    /// Checks every option against its row: the fields are public, so values need not have come through `set`.
    ///
    /// # Errors
    /// The first value that is outside its range.
    fn check(&self) -> Result<(), OptionError>;

    /// Fills every option with its default.
    fn set_defaults(&mut self) {
        for spec in of(Self::OBJECT) {
            if let Ok(value) = spec.parse(spec.default) {
                self.assign(spec.name, value);
            }
        }
    }
}

macro_rules! option_struct {
    ($(#[$doc:meta])* $name:ident, $object:expr, { $($field:ident : $ty:ty = $variant:ident as $conv:expr),* $(,)? },
     { $($(#[$extra_doc:meta])* $extra:ident : $extra_ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            $(#[doc = concat!("The option `", stringify!($field), "` of [`TABLE`].")] pub $field: $ty,)*
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
                $(find($object, stringify!($field))?.parse(&self.$field.to_string())?;)*
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

/// Receives structured log records of one engine.
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
        cpu_level: &'static str = Choice as same,
        threads: usize = Integer as to_usize,
        kv_type: &'static str = Choice as same,
        context_length: usize = Integer as to_usize,
        kv_budget: u64 = Integer as same,
        max_running: usize = Integer as to_usize,
        max_queued: usize = Integer as to_usize,
        prefill_chunk: usize = Integer as to_usize,
        max_prompt_bytes: usize = Integer as to_usize,
        exact: bool = Bool as same,
        manual_step: bool = Bool as same,
    }, {
        /// A pool shared with other engines; `None` creates one of `threads` threads.
        shared_threads: Option<Arc<crate::kernel::ThreadPool>>,
        /// Where log records go; `None` is silence.
        log: Option<LogCallback>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_range_and_reaches_its_field() {
        for spec in TABLE {
            spec.parse(spec.default).unwrap();
        }
        let r = RequestOptions::default();
        assert_eq!((r.max_tokens, r.temperature, r.top_p), (256, 0.7, 0.9));
        assert!(r.add_special && r.parse_special);
        assert_eq!(EngineOptions::default().kv_type, "f16");
        assert_eq!(ModelOptions::default().load_mode, "read");
        assert_eq!(ThreadsOptions::default().name, "infer");
    }

    #[test]
    fn values_outside_the_range_are_refused_with_range_and_value() {
        let mut r = RequestOptions::default();
        for (name, value) in [
            ("max_tokens", "0"),
            ("max_tokens", "-1"),
            ("max_tokens", "99999999999"),
            ("temperature", "NaN"),
            ("temperature", "-0.1"),
            ("temperature", "inf"),
            ("top_p", "0"),
            ("top_p", "1.01"),
            ("min_p", "2"),
            ("repetition_penalty", "0"),
            ("add_special", "yes"),
        ] {
            let e = r.set(name, value).unwrap_err().to_string();
            assert!(e.contains(name) && e.contains(value), "{e}");
        }
        let e = r.set("tempature", "1").unwrap_err().to_string();
        assert!(e.contains("temperature"), "{e}");
    }

    #[test]
    fn fields_set_directly_are_checked_as_well() {
        assert!(ModelOptions::default().check().is_ok());
        assert!(EngineOptions::default().check().is_ok());
        assert!(ThreadsOptions::default().check().is_ok());
        let mut r = RequestOptions::default();
        assert!(r.check().is_ok());
        (r.top_p, r.seed) = (1.0, u64::MAX);
        assert!(r.check().is_ok());
        r.min_p = f32::NAN;
        assert!(r.check().unwrap_err().to_string().contains("min_p"));
    }

    #[test]
    fn names_are_unique_within_an_object() {
        for (i, a) in TABLE.iter().enumerate() {
            assert!(
                !TABLE[..i]
                    .iter()
                    .any(|b| b.object == a.object && b.name == a.name),
                "{}",
                a.name
            );
        }
    }
}
