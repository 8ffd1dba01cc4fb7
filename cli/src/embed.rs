//! `infer embed`: texts as vectors.

use std::path::PathBuf;

use infer::engine::{Engine, Event, FinishReason, Request};
use infer::options::{EngineOptions, ModelOptions, Object, Prompt, RequestOptions};
use serde_json::json;

use crate::demo;
use crate::exit::{Failure, OK, Outcome};
use crate::flags::{Flags, Loading, Offer};
use crate::input;
use crate::loading;
use crate::log;
use crate::output::Output;

/// Print the embeddings of texts: the model's last states, pooled over the tokens of each.
///
/// A line of numbers for each text; without texts, --file or standard input is one. The tokens the model wants at the
/// begin are added and the texts of special tokens are read as these tokens. Texts are computed together.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The texts.
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Read one text from a file, byte for byte; - is standard input, which is also read without texts.
    #[arg(long, short, value_name = "PATH", conflicts_with = "texts")]
    file: Option<PathBuf>,
    /// Which states count: the mean of all, that of the last token, or that of the first.
    #[arg(long, value_name = "WORD", default_value = "mean", value_parser = ["mean", "last", "cls"])]
    pooling: String,
    #[command(flatten)]
    embedding: Flags<Embedding>,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// Options of the request.
pub struct Embedding;

impl Offer for Embedding {
    const OBJECT: Object = Object::Request;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] =
        &[("embedding_normalize", None), ("context_overflow", None)];
    const HEADING: &'static str = "Embedding";
}

/// Options of the engine, also for `infer score`.
pub struct Computing;

impl Offer for Computing {
    const OBJECT: Object = Object::Engine;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("preset", None),
        ("threads", None),
        ("cpu_level", None),
        ("kv_type", None),
        ("context_length", None),
        ("kv_budget", None),
        ("max_running", None),
        ("prefill_chunk", None),
        ("max_prompt_bytes", None),
        ("f16_products", None),
        ("flash_attention", None),
        ("exact", None),
    ];
    const HEADING: &'static str = "Computing";
}

/// The only event of a request that generates nothing.
pub fn only_event(request: &Request) -> Result<Event, Failure> {
    let mut event = Event::default();
    request.next(None, &mut event)?;
    let finish = event.finish.as_ref();
    match finish.filter(|f| f.reason == FinishReason::Length) {
        Some(_) => Ok(event),
        None => Err(Failure::Failed(match finish.and_then(|f| f.error.as_ref()) {
            Some(error) => error.to_string(),
            None => "the request ended before its prompt was read".to_string(),
        })),
    }
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let mut engine_options: EngineOptions = args.computing.options()?;
    engine_options.log = Some(log::callback());
    let mut options: RequestOptions = args.embedding.options()?;
    infer::options::OptionSet::set(&mut options, "embedding", &args.pooling)?;
    let texts = match args.texts.as_slice() {
        [] => {
            let limit = engine_options.max_prompt_bytes as u64;
            vec![input::text(None, args.file.as_ref(), "a text", limit)?]
        }
        texts => texts.to_vec(),
    };
    let (model, _) = loading::load(&path, &args.loading.options::<ModelOptions>()?)?;
    let n_embd = model.info().n_embd;
    let engine = Engine::new(model, engine_options)?;

    let mut out = Output::new();
    let mut embeddings = Vec::new();
    for texts in texts.chunks(engine.options().max_queued.max(1)) {
        let prompts = texts.iter().map(|text| RequestOptions {
            prompt: Prompt::Text(text.clone()),
            ..options.clone()
        });
        for request in engine.submit_batch(prompts.collect())? {
            let event = only_event(&request)?;
            if json {
                let tokens = event.finish.as_ref().map(|f| f.prompt_tokens);
                embeddings.push(json!({ "tokens": tokens, "embedding": event.embedding }));
            } else {
                let numbers: Vec<String> = event.embedding.iter().map(f32::to_string).collect();
                out.text(&format!("{}\n", numbers.join(" ")))?;
            }
        }
    }
    if json {
        out.json(&json!({
            "model": path.to_string_lossy(),
            "pooling": args.pooling,
            "normalized": options.embedding_normalize,
            "n_embd": n_embd,
            "embeddings": embeddings,
        }))?;
    }
    out.flush()?;
    Ok(OK)
}
