//! `infer score`: how probable a model finds a text, token by token.

use std::path::PathBuf;

use infer::engine::Engine;
use infer::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};
use serde_json::json;

use crate::demo;
use crate::embed::{Computing, only_event};
use crate::exit::{OK, Outcome};
use crate::flags::{Flags, Loading};
use crate::input;
use crate::loading;
use crate::log;
use crate::output::{Lines, Output, printable};
use crate::tokenize::texts;

/// Print the log probability of each token of a text, their sum, and the perplexity.
///
/// Log probabilities are natural logarithms, each given all tokens before it; the first token has none. The tokens the
/// model wants at the begin are added and the texts of special tokens are read as these tokens, unless --no-special is
/// given. infer perplexity measures a long text instead, in chunks.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The text.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Read the text from a file, byte for byte; - is standard input, which is also read without a text.
    #[arg(long, short, value_name = "PATH", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Add no begin token, and read the texts of special tokens as plain text.
    #[arg(long)]
    no_special: bool,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let mut engine_options: EngineOptions = args.computing.options()?;
    engine_options.log = Some(log::callback());
    let limit = engine_options.max_prompt_bytes as u64;
    let text = input::text(args.text.as_ref(), args.file.as_ref(), "a text", limit)?;
    let (model, _) = loading::load(&path, &args.loading.options::<ModelOptions>()?)?;
    let ids = model.tokenize(&text, !args.no_special, !args.no_special)?;
    let tokens = texts(model.tokenizer()?, &ids);
    let engine = Engine::new(model, engine_options)?;
    let request = engine.submit(RequestOptions {
        prompt: Prompt::Ids(ids.clone()),
        prompt_logprobs: true,
        max_tokens: 0,
        ..RequestOptions::default()
    })?;
    let logprobs = only_event(&request)?.prompt_logprobs;

    let scored = logprobs.len() - 1;
    let sum: f64 = logprobs[1..].iter().map(|&x| f64::from(x)).sum();
    let perplexity = (scored > 0).then(|| (-sum / scored as f64).exp());
    let mut out = Output::new();
    if json {
        // The first is no number, which JSON writes as null.
        out.json(&json!({
            "model": path.to_string_lossy(),
            "ids": ids,
            "tokens": tokens,
            "logprobs": logprobs,
            "scored_tokens": scored,
            "sum": sum,
            "perplexity": perplexity,
        }))?;
    } else {
        for ((id, token), logprob) in ids.iter().zip(&tokens).zip(&logprobs) {
            let logprob = match logprob.is_nan() {
                true => "-".to_string(),
                false => format!("{logprob:.4}"),
            };
            out.text(&format!("{logprob}\t{id}\t{}\n", printable(token, Lines::Escape)))?;
        }
        let perplexity = perplexity.map_or(String::new(), |p| format!(", perplexity {p:.4}"));
        out.text(&format!("sum {sum:.4} of {scored} tokens{perplexity}\n"))?;
    }
    out.flush()?;
    Ok(OK)
}
