//! Chat templates: messages to the prompt a model was trained on.
//!
//! Templates are written for Python's jinja2 as Hugging Face's tokenizers set it up, and that is the
//! reference here: `trim_blocks`, `lstrip_blocks`, loop controls, `tojson` as `json.dumps` without HTML
//! escaping, `raise_exception`, `strftime_now`, `{% generation %}` without effect, values printed as Python
//! prints them, and Python's methods on strings and dicts. minijinja does the rest.
//!
//! A template comes with a model file, from strangers. Its size, the instructions it runs, its depth of
//! recursion and the text it puts out are bounded. Not bounded is the memory of strings that it builds
//! inside expressions (`x ~ x` repeatedly); minijinja has no limit to set for that.

mod clock;
mod generator;
mod json;
mod methods;
mod print;
mod source;

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, ErrorKind, Value};

use super::{Tokenizer, TokenizerError};
use crate::gguf::Metadata;

/// Longest template, in bytes. Published ones have up to 20 KB.
const MAX_SOURCE: usize = 1 << 20;
/// Instructions that one rendering may run.
const FUEL: u64 = 10_000_000;
/// Longest prompt, in bytes.
const MAX_OUTPUT: usize = 256 << 20;
const NAME: &str = "chat_template";

/// A chat template cannot be used, or could not be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The source is too long.
    #[error("cannot use the chat template: it has {bytes} bytes, at most {limit} are accepted")]
    TooLong {
        /// Length of the source.
        bytes: usize,
        /// Longest accepted.
        limit: usize,
    },
    /// The source is not a template that can be compiled.
    #[error("cannot compile the chat template: {0}")]
    Syntax(String),
    /// The template ran more instructions than allowed: it does not end, or takes too long.
    #[error("rendering the chat template was stopped after {limit} instructions")]
    OutOfFuel {
        /// Instructions allowed.
        limit: u64,
    },
    /// The template put out more than allowed.
    #[error("rendering the chat template was stopped: its output exceeds {limit} bytes")]
    OutputTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// The template refused the messages through `raise_exception`.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    /// An operation of the template failed, on the template's or the messages' account.
    #[error("cannot render the chat template: {0}")]
    Render(String),
}

/// What a template is rendered with.
#[derive(Debug, Clone)]
pub struct ChatInput<'a> {
    /// An array of objects with `role`, `content` and whatever else the template reads.
    pub messages: &'a serde_json::Value,
    /// An array of function descriptions. Absent, the template finds `tools` undefined.
    pub tools: Option<&'a serde_json::Value>,
    /// Whether the prompt ends with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables by name, such as `enable_thinking`. They win over the ones above.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl<'a> ChatInput<'a> {
    /// Messages alone, with the beginning of the assistant's turn.
    pub fn new(messages: &'a serde_json::Value) -> Self {
        Self {
            messages,
            tools: None,
            add_generation_prompt: true,
            extra: serde_json::Map::new(),
        }
    }
}

/// A compiled chat template. Immutable; share it between threads.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Texts of special tokens by variable name.
    special: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// The template of a file, `tokenizer.chat_template`; `None` when the file has none. A template that
    /// cannot be compiled is an error of its own, so that the model stays usable without it.
    ///
    /// # Errors
    /// The outer one when the key is no string; the inner ones are those of [`Self::new`].
    pub fn from_metadata(
        metadata: &Metadata,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Result<Self, TemplateError>>, TokenizerError> {
        let Some(source) = metadata.str("tokenizer.chat_template")? else {
            return Ok(None);
        };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).map(|t| t.text);
        let bos = text(tokenizer.bos()).unwrap_or_default();
        let eos = text(tokenizer.eos()).unwrap_or_default();
        Ok(Some(Self::new(source, bos, eos).map(|mut template| {
            for (name, id) in [
                ("unk_token", tokenizer.unknown()),
                ("pad_token", tokenizer.pad()),
                ("sep_token", tokenizer.sep()),
            ] {
                let value = text(id).map(|text| (name, text.to_string()));
                template.special.extend(value);
            }
            template
        })))
    }

    /// Compiles a template. `bos` and `eos` are the texts of those tokens, for `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// A source over 1 MiB, or one that is no valid template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::TooLong {
                bytes: source.len(),
                limit: MAX_SOURCE,
            });
        }
        let mut environment = environment()?;
        environment
            .add_template_owned(NAME, source::prepare(source))
            .map_err(|e| TemplateError::Syntax(describe(&e)))?;
        let mut template = Self {
            environment,
            special: vec![("bos_token", bos.to_string()), ("eos_token", eos.to_string())],
        };
        template.set_clock(clock::now);
        Ok(template)
    }

    /// Replaces the source of `strftime_now`, which by default is the system's clock in UTC. It gets the
    /// format, as of Python's `strftime`, and answers the text.
    pub fn set_clock(&mut self, clock: impl Fn(&str) -> String + Send + Sync + 'static) {
        let clock = Arc::new(clock);
        self.environment
            .add_function("strftime_now", move |format: &str| clock(format));
    }

    /// The prompt for these messages. Special tokens are text in it: encode it with `parse_special`, and
    /// without `add_special`, since the template writes the begin token itself.
    ///
    /// # Errors
    /// What the template raises or does wrong with these messages; a bound of this module exceeded.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TemplateError> {
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), json::to_value(input.messages)),
            ("add_generation_prompt".into(), input.add_generation_prompt.into()),
        ];
        for (name, text) in &self.special {
            context.push((name.to_string(), text.as_str().into()));
        }
        if let Some(tools) = input.tools {
            context.push(("tools".into(), json::to_value(tools)));
        }
        for (name, value) in &input.extra {
            context.push((name.clone(), json::to_value(value)));
        }
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| TemplateError::Syntax(describe(&e)))?;
        let mut out = Bounded::default();
        let context = Value::from_pairs(context);
        // A defect of the template engine must not take the caller down with it.
        let rendered = std::panic::catch_unwind(AssertUnwindSafe(|| {
            template
                .render_captured_to(context, &mut out)
                .map(drop)
                .map_err(|e| classify(&e))
        }));
        if out.exceeded {
            return Err(TemplateError::OutputTooLong { limit: MAX_OUTPUT });
        }
        rendered.unwrap_or_else(|_| {
            let message = "the template engine failed on an operation of the template";
            Err(TemplateError::Render(message.to_string()))
        })?;
        // Templates write text only; a fragment cut inside a character cannot occur.
        Ok(String::from_utf8(out.bytes).unwrap_or_default())
    }
}

fn environment() -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|e| TemplateError::Syntax(describe(&e)))?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&print::str(value)?),
        }
        .map_err(|_| minijinja::Error::new(ErrorKind::WriteFailure, "the output is too long"))
    });
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", json::tojson);
    methods::add_tests(&mut environment);
    generator::add_filters(&mut environment);
    methods::add_filters(&mut environment);
    environment.add_function("raise_exception", |message: Rest<Value>, _: Kwargs| {
        let text = message.first().map(ToString::to_string).unwrap_or_default();
        Err::<Value, _>(
            minijinja::Error::new(ErrorKind::InvalidOperation, "refused").with_source(Refusal(text)),
        )
    });
    Ok(environment)
}

/// Text given to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn classify(error: &minijinja::Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel { limit: FUEL };
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return TemplateError::Refused(refusal.0.clone());
        }
        if let Some(inner) = cause.downcast_ref::<minijinja::Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return TemplateError::OutOfFuel { limit: FUEL };
        }
        source = cause.source();
    }
    TemplateError::Render(describe(error))
}

/// The error and its line, without the template's name, which users have never heard of.
fn describe(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// Output up to the limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + new.len() > MAX_OUTPUT || self.bytes.try_reserve(new.len()).is_err() {
            self.exceeded = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(new);
        Ok(new.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
