//! The `infer` command: generates text with GGUF models, and shows and checks them.
//!
//! One file per subcommand; [`flags`] makes command-line flags of the library's table of options, [`input`]
//! reads texts and ids, [`demo`] finds the model used without `--model`, [`progress`] draws bars on a terminal,
//! [`output`] writes to standard output, and [`exit`] turns results into exit codes.

mod check;
mod demo;
mod exit;
mod flags;
mod generate;
mod input;
mod inspect;
mod loading;
mod logits;
mod output;
mod progress;
mod tokenize;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Generate text with GGUF language models on CPUs; inspect and check model files.
#[derive(Parser)]
#[command(name = "infer", version, after_help = exit::HELP, max_term_width = 100, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    /// Print exactly one JSON object on standard output; everything else goes to standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Inspect(inspect::Args),
    Check(check::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return exit::not_a_command(&message),
    };
    let result = match &cli.command {
        Command::Generate(args) => generate::run(args, cli.json),
        Command::Inspect(args) => inspect::run(args, cli.json),
        Command::Check(args) => check::run(args, cli.json),
        Command::Tokenize(args) => tokenize::run(args, cli.json),
        Command::Logits(args) => logits::run(args, cli.json),
    };
    exit::report(result, cli.json)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
