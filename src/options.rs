//! The one table of options.
/// An option is unknown or its value is outside its range.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {}
