//! `infer tokenize`: a text as token ids.

use std::path::PathBuf;

use infer::options::ModelOptions;
use infer::tokenizer::Tokenizer;
use serde_json::json;

use crate::demo;
use crate::exit::{OK, Outcome};
use crate::input;
use crate::loading;
use crate::output::{Lines, Output, printable};

/// Print the token ids of a text.
///
/// The tokens a model wants at the begin and end are added and the texts of special tokens are read as these
/// tokens, unless --no-special is given. A vocabulary-only file is enough.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file with the vocabulary.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The text; it may be empty or begin with hyphens.
    #[arg(
        long,
        short,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "file"
    )]
    text: Option<String>,
    /// Read the text from a file, byte for byte; - is standard input, which is also read without this flag.
    #[arg(long, short, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Add no begin and end tokens, and read the texts of special tokens as plain text.
    #[arg(long)]
    no_special: bool,
    /// Also print the text of each token.
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let text = input::text(args.text.as_ref(), args.file.as_ref(), "--text", u64::MAX)?;
    let options = ModelOptions {
        vocabulary_only: true,
        ..ModelOptions::default()
    };
    let (model, _) = loading::load(&path, &options)?;
    let ids = model.tokenize(&text, !args.no_special, !args.no_special)?;
    let tokens = if args.verbose {
        Some(texts(model.tokenizer()?, &ids))
    } else {
        None
    };

    let mut out = Output::new();
    match (json, tokens) {
        (true, None) => out.json(&json!({ "ids": ids }))?,
        (true, Some(tokens)) => out.json(&json!({ "ids": ids, "tokens": tokens }))?,
        (false, None) => {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            out.text(&format!("{}\n", ids.join(" ")))?;
        }
        (false, Some(tokens)) => {
            for (id, token) in ids.iter().zip(&tokens) {
                out.text(&format!("{id}\t{}\n", printable(token, Lines::Escape)))?;
            }
        }
    }
    out.flush()?;
    Ok(OK)
}

/// The text of each token, as it reads in the middle of a text.
pub fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let one = |&id: &u32| {
        let mut stream = tokenizer.detokenizer();
        let mut text = String::new();
        stream.push(tokenizer, id, true, &mut text);
        stream.finish(&mut text);
        text
    };
    ids.iter().map(one).collect()
}
