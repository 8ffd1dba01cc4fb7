//! The `infer` command: generates text with GGUF models, and shows and checks them.
//!
//! One file or folder per subcommand ([`pages`] has two); [`flags`] makes command-line flags of the library's table of options, [`input`]
//! reads texts and ids, [`demo`] finds the model used without `--model`, [`progress`] draws bars on a terminal,
//! [`target`] writes files, [`output`] to standard output, [`log`] to standard error, [`interrupt`] listens to Ctrl-C, and [`exit`] turns
//! results into exit codes.

mod batch;
mod bench;
mod chat;
mod check;
mod demo;
mod embed;
mod exit;
mod flags;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod loading;
mod log;
mod logits;
mod output;
mod pages;
mod perplexity;
mod progress;
mod quantize;
mod score;
mod synth;
mod target;
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
    #[command(flatten)]
    log: log::Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Chat(Box<chat::Args>),
    Batch(Box<batch::Args>),
    Bench(Box<bench::Args>),
    Inspect(inspect::Args),
    Check(check::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
    Perplexity(perplexity::Args),
    Score(score::Args),
    Embed(embed::Args),
    Quantize(quantize::Args),
    Synth(synth::Args),
    Completions(pages::CompletionsArgs),
    Man(pages::ManArgs),
}

/// The command line.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return exit::not_a_command(&message),
    };
    log::install(&cli.log);
    let result = match &cli.command {
        Command::Generate(args) => generate::run(args, cli.json),
        Command::Chat(args) => chat::run(args, cli.json),
        Command::Batch(args) => batch::run(args, cli.json),
        Command::Bench(args) => bench::run(args, cli.json),
        Command::Inspect(args) => inspect::run(args, cli.json),
        Command::Check(args) => check::run(args, cli.json),
        Command::Tokenize(args) => tokenize::run(args, cli.json),
        Command::Logits(args) => logits::run(args, cli.json),
        Command::Perplexity(args) => perplexity::run(args, cli.json),
        Command::Score(args) => score::run(args, cli.json),
        Command::Embed(args) => embed::run(args, cli.json),
        Command::Quantize(args) => quantize::run(args, cli.json),
        Command::Synth(args) => synth::run(args, cli.json),
        Command::Completions(args) => pages::completions(args, cli.json),
        Command::Man(args) => pages::man(args, cli.json),
    };
    exit::report(result, cli.json)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
