//! Command-line flags made from the library's table of options: name, help, range and default come from there.

use std::marker::PhantomData;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use infer::options::{self, Kind, Object, OptionError, OptionSet, OptionSpec};

use crate::exit::Failure;

/// Which rows of the table a command offers.
pub trait Offer {
    /// The object the options belong to.
    const OBJECT: Object;
    /// Options offered, in the order of `--help`, with the command's own default where it has one.
    const OPTIONS: &'static [(&'static str, Option<&'static str>)];
    /// The heading of their section in `--help`.
    const HEADING: &'static str;
}

/// The options of an [`Offer`] as the command line set them.
pub struct Flags<O> {
    given: Vec<(&'static str, String)>,
    offer: PhantomData<O>,
}

impl<O: Offer> Flags<O> {
    fn rows() -> impl Iterator<Item = (&'static OptionSpec, Option<&'static str>)> {
        O::OPTIONS
            .iter()
            .filter_map(|&(name, default)| Some((options::find(O::OBJECT, name).ok()?, default)))
    }

    /// The library's defaults, the command's own, then what the command line says.
    pub fn options<S: OptionSet + Default>(&self) -> Result<S, Failure> {
        let mut set = S::default();
        for (spec, default) in Self::rows() {
            if let Some(text) = default {
                set.set(spec.name, text)?;
            }
        }
        for (name, text) in &self.given {
            set.set(name, text)?;
        }
        Ok(set)
    }
}

impl<O: Offer> clap::Args for Flags<O> {
    fn augment_args(command: Command) -> Command {
        Self::rows().fold(command, |command, (spec, default)| {
            command.arg(flag(spec, default).help_heading(O::HEADING))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<O: Offer> FromArgMatches for Flags<O> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (spec, _) in Self::rows() {
            if spec.kind == Kind::Bool {
                if matches.get_flag(spec.name) {
                    given.push((spec.name, (!is_on(spec)).to_string()));
                }
            } else if let Some(text) = matches.get_one::<String>(spec.name) {
                given.push((spec.name, text.clone()));
            }
        }
        Ok(Self {
            given,
            offer: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Whether a bool is true by default.
fn is_on(spec: &OptionSpec) -> bool {
    spec.default == "true"
}

/// One flag. A bool becomes a switch, which turns one that is true by default off: `--no-NAME`.
fn flag(spec: &'static OptionSpec, default: Option<&str>) -> Arg {
    let long = spec.name.replace('_', "-");
    if spec.kind == Kind::Bool {
        let (long, help) = match is_on(spec) {
            true => (format!("no-{long}"), format!("Turn off: {}", spec.doc)),
            false => (long, spec.doc.to_string()),
        };
        return Arg::new(spec.name)
            .long(long)
            .help(help)
            .action(ArgAction::SetTrue);
    }
    let arg = Arg::new(spec.name).long(long);
    arg.value_name(match spec.kind {
        Kind::Integer { .. } => "N",
        Kind::Float { .. } => "X",
        Kind::Choice(_) => "WORD",
        Kind::Bool | Kind::Text => "TEXT",
    })
    .help(format!(
        "{} [{}; default {}]",
        spec.doc,
        spec.kind.range(),
        default.unwrap_or(spec.default)
    ))
    // A negative number is answered with the range rather than taken for a flag.
    .allow_hyphen_values(true)
    .value_parser(ValueParser::new(
        move |text: &str| -> Result<String, OptionError> {
            spec.parse(text)?;
            Ok(text.to_string())
        },
    ))
}

/// Options of loading, for every command that loads a model.
pub struct Loading;

impl Offer for Loading {
    const OBJECT: Object = Object::Model;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("load_mode", None),
        ("load_threads", None),
        ("memory_budget", None),
    ];
    const HEADING: &'static str = "Loading";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_known<O: Offer>() {
        for (name, default) in O::OPTIONS {
            let spec = options::find(O::OBJECT, name).unwrap();
            spec.parse(default.unwrap_or(spec.default)).unwrap();
            assert!(spec.kind != Kind::Bool || default.is_none(), "{name} is a switch");
        }
    }

    #[test]
    fn a_switch_turns_off_what_is_on_by_default() {
        type Computing = Flags<crate::batch::Computing>;
        let options = |args: &[&'static str]| -> infer::options::EngineOptions {
            let command = <Computing as clap::Args>::augment_args(Command::new("x"));
            let matches = command.try_get_matches_from([&["x"], args].concat()).unwrap();
            Computing::from_arg_matches(&matches).unwrap().options().unwrap()
        };
        assert!(options(&[]).flash_attention && options(&[]).prefix_cache);
        let off = options(&["--no-flash-attention", "--no-prefix-cache", "--exact"]);
        assert!(!off.flash_attention && !off.prefix_cache && off.exact);
    }

    #[test]
    fn every_offered_option_is_in_the_table() {
        all_known::<Loading>();
        all_known::<crate::generate::Sampling>();
        all_known::<crate::generate::Computing>();
        all_known::<crate::logits::Computing>();
        all_known::<crate::embed::Embedding>();
        all_known::<crate::embed::Computing>();
        all_known::<crate::chat::Talking>();
        all_known::<crate::batch::Computing>();
        all_known::<crate::bench::Computing>();
    }
}
