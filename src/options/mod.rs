//! The one table of options: name, type, range, default and documentation of each.
//!
//! Command-line flags, the setters of the C API and the reference pages come from [`TABLE`]. The typed structs
//! ([`ModelOptions`], [`EngineOptions`], [`RequestOptions`], [`ThreadsOptions`], [`KvCacheOptions`]) are filled from their text
//! defaults here, so a default exists in one place only.

pub mod preset;
mod table;
mod typed;

pub use table::{CPU_LEVELS, KV_TYPES, MAX_SPECULATION_TOKENS, MAX_TOKENS_LIMIT, TABLE};
pub use typed::{
    ContextOverflow, EngineOptions, KvCacheOptions, LogCallback, LogLevel, LogRecord, ModelOptions,
    OpenStorage, Pooling, Prompt, RequestOptions, ThreadsOptions,
};

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
    /// Creating a key/value cache.
    KvCache,
}

impl Object {
    /// The word used in messages and in the C API: `model`, `engine`, `request`, `threads`, `kv_cache`.
    pub fn name(self) -> &'static str {
        match self {
            Object::Model => "model",
            Object::Engine => "engine",
            Object::Request => "request",
            Object::Threads => "threads",
            Object::KvCache => "kv_cache",
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
        match self.kind {
            Kind::Text => Ok(OptionValue::Text(text.to_string())),
            _ => self.value(text).ok_or_else(|| self.refused(text)),
        }
    }

    /// Checks a value as [`OptionSpec::parse`] does, without a copy of a text.
    fn check(&self, text: &str) -> Result<(), OptionError> {
        match self.kind {
            Kind::Text => Ok(()),
            _ => self.value(text).map(drop).ok_or_else(|| self.refused(text)),
        }
    }

    /// What is no text of its own.
    fn value(&self, text: &str) -> Option<OptionValue> {
        match self.kind {
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
            Kind::Text => None,
        }
    }

    fn refused(&self, text: &str) -> OptionError {
        OptionError::Value {
            object: self.object.name(),
            name: self.name,
            kind: self.kind.name(),
            range: self.kind.range(),
            found: text.chars().take(100).collect(),
        }
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
        assert_eq!(EngineOptions::default().kv_type, "auto");
        assert_eq!(ModelOptions::default().load_mode, "read");
        assert_eq!(ThreadsOptions::default().name, "infer");
        assert_eq!(KvCacheOptions::default().hot_tokens, 2048);
    }

    #[test]
    fn values_outside_the_range_are_refused_with_range_and_value() {
        let mut r = RequestOptions::default();
        for (name, value) in [
            ("top_logprobs", "21"),
            ("embedding", "max"),
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
        assert!(KvCacheOptions::default().check().is_ok());
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
