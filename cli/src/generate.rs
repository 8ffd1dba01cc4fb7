//! `infer generate`: continues a prompt, streaming text or answering one JSON object.

use std::path::PathBuf;
use std::time::Duration;

use infer::engine::{Engine, Event, Finish, FinishReason, Poll, Request, Stats};
use infer::options::{EngineOptions, ModelOptions, Object, Prompt, RequestOptions};
use serde_json::{Value, json};

use crate::demo;
use crate::exit::{Failure, OK, Outcome};
use crate::flags::{Flags, Loading, Offer};
use crate::input::{self, Ids};
use crate::loading;
use crate::log;
use crate::output::Output;
use crate::progress::Progress;

/// Continue a prompt with generated text.
///
/// The prompt goes in as it is: the tokens the model wants at the begin are added and the texts of special tokens
/// are read as these tokens; --chat applies the model's chat template. It comes from --prompt, --file or --ids, or
/// from standard input when that is not a terminal. The text of the completion is streamed to standard output.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The prompt; it may be empty or begin with hyphens.
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file, byte for byte; - is standard input.
    #[arg(long, short, value_name = "PATH", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// The prompt as token ids, fed as they are; works for models without a usable tokenizer.
    #[arg(long, value_name = "1,2,3", allow_hyphen_values = true, conflicts_with_all = ["prompt", "file", "chat"])]
    ids: Option<Ids>,
    /// Add no begin token, and read the texts of special tokens as plain text.
    #[arg(long, conflicts_with_all = ["ids", "chat"])]
    no_special: bool,
    /// Send the prompt as a user's message through the model's chat template.
    #[arg(long)]
    chat: bool,
    /// With --chat: a system message that comes first.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, requires = "chat")]
    system: Option<String>,
    /// End the completion at this text, which is not part of it; may be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// End the completion at one of these token ids.
    #[arg(long, value_name = "1,2,3", allow_hyphen_values = true)]
    stop_ids: Option<Ids>,
    /// Print a line of statistics on standard error at the end.
    #[arg(long)]
    stats: bool,
    /// Print the whole log on standard error, as --log-level debug does.
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    sampling: Flags<Sampling>,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// Options of the request.
pub struct Sampling;

impl Offer for Sampling {
    const OBJECT: Object = Object::Request;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("max_tokens", None),
        ("temperature", None),
        ("top_k", None),
        ("top_p", None),
        ("min_p", None),
        ("repetition_penalty", None),
        ("repetition_window", None),
        ("seed", None),
        ("deadline_ms", None),
        ("ignore_end_of_generation", None),
        ("render_special", None),
        ("context_overflow", None),
        ("context_keep", None),
    ];
    const HEADING: &'static str = "Sampling";
}

/// Options of the engine. It runs one sequence.
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
        ("prefill_chunk", None),
        ("speculation", None),
        ("speculation_tokens", None),
        ("kv_cold_dir", None),
        ("kv_cold_bytes", None),
        ("kv_cold_policy", None),
        ("kv_cold_persist", None),
        ("max_prompt_bytes", None),
        ("f16_products", None),
        ("flash_attention", None),
        ("exact", None),
    ];
    const HEADING: &'static str = "Computing";
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let mut engine_options: EngineOptions = args.computing.options()?;
    engine_options.max_running = 1;
    if args.verbose {
        log::be_verbose();
    }
    engine_options.log = Some(log::callback());
    let mut request_options = request(args, engine_options.max_prompt_bytes as u64)?;

    let (model, load_time) = loading::load(&path, &args.loading.options::<ModelOptions>()?)?;
    let has_text = model.tokenizer().is_ok();
    let engine = Engine::new(model, engine_options)?;
    let prompt_ids = engine.prompt_ids(&request_options)?;
    request_options.prompt = Prompt::Ids(prompt_ids.clone());
    let request = engine.submit(request_options)?;

    let mut out = Output::new();
    let mut completion = Completion::default();
    let finish = read(&engine, &request, prompt_ids.len(), |event| {
        completion.add(event);
        if json {
            return Ok(());
        }
        if has_text {
            out.generated(&event.text)?;
        } else {
            for id in &event.tokens {
                out.text(&format!("{id} "))?;
            }
        }
        out.flush()
    })?;
    if !json && !completion.text.ends_with('\n') {
        out.text("\n")?;
        out.flush()?;
    }
    if finish.reason == FinishReason::Error {
        let why = finish.error.as_ref().map(|e| e.to_string());
        return Err(Failure::Failed(
            why.unwrap_or_else(|| "the generation failed without a reason".to_string()),
        ));
    }
    let stats = engine.stats();
    if args.stats {
        log::line("generate", &statistics(&finish, &stats, load_time));
    }
    if json {
        out.json(&json!({
            "model": path.to_string_lossy(),
            "prompt_ids": prompt_ids,
            "generated_ids": completion.ids,
            "text": completion.text,
            "finish_reason": finish.reason.name(),
            "stop": finish.stop,
            "cached_tokens": finish.cached_tokens,
            "timings": timings(&finish, &stats, load_time),
        }))?;
    }
    Ok(OK)
}

/// What was generated so far.
#[derive(Default)]
struct Completion {
    ids: Vec<u32>,
    text: String,
}

impl Completion {
    fn add(&mut self, event: &Event) {
        self.ids.extend_from_slice(&event.tokens);
        self.text.push_str(&event.text);
    }
}

/// The request as the command line describes it.
fn request(args: &Args, max_prompt_bytes: u64) -> Result<RequestOptions, Failure> {
    let mut options: RequestOptions = args.sampling.options()?;
    options.add_special = !args.no_special;
    options.parse_special = !args.no_special;
    options.stop = args.stop.clone();
    options.stop_ids = args
        .stop_ids
        .as_ref()
        .map(|ids| ids.0.clone())
        .unwrap_or_default();
    options.prompt = if let Some(ids) = &args.ids {
        Prompt::Ids(ids.0.clone())
    } else {
        let text = input::text(
            args.prompt.as_ref(),
            args.file.as_ref(),
            "--prompt",
            max_prompt_bytes,
        )?;
        if args.chat {
            let system = args
                .system
                .iter()
                .map(|s| json!({ "role": "system", "content": s }));
            let user = json!({ "role": "user", "content": text });
            Prompt::Messages(Value::Array(system.chain([user]).collect()))
        } else {
            Prompt::Text(text)
        }
    };
    Ok(options)
}

/// Reads events to the end, with a progress bar until the first one.
fn read(
    engine: &Engine,
    request: &Request,
    prompt_tokens: usize,
    mut each: impl FnMut(&Event) -> Result<(), Failure>,
) -> Result<Finish, Failure> {
    let mut event = Event::default();
    let mut progress = Progress::new("reading the prompt", prompt_tokens as u64);
    let mut timeout = progress.is_enabled().then_some(Duration::from_millis(50));
    loop {
        match request.next(timeout, &mut event)? {
            Poll::Timeout => progress.set(engine.stats().prompt_tokens),
            Poll::End => {
                return Err(Failure::Failed(
                    "the completion ended without saying how".to_string(),
                ));
            }
            Poll::Event => {
                progress.clear();
                timeout = None;
                each(&event)?;
                if let Some(finish) = event.finish.take() {
                    return Ok(finish);
                }
            }
        }
    }
}

/// Times as JSON, in seconds and tokens per second.
fn timings(finish: &Finish, stats: &Stats, load_time: Duration) -> Value {
    json!({
        "load_seconds": load_time.as_secs_f64(),
        "queue_seconds": finish.queue_time.as_secs_f64(),
        "time_to_first_token_seconds": finish.time_to_first_token.as_secs_f64(),
        "prefill_tokens_per_second": stats.prefill_tokens_per_second(),
        "decode_tokens_per_second": finish.decode_tokens_per_second,
        "total_seconds": (load_time + finish.total_time).as_secs_f64(),
    })
}

/// The line of `--stats`.
fn statistics(finish: &Finish, stats: &Stats, load_time: Duration) -> String {
    format!(
        "{} prompt tokens ({:.1} per second), {} generated ({:.1} per second), first after {:.3} s, loaded in {:.3} s, ended by {}",
        finish.prompt_tokens,
        stats.prefill_tokens_per_second(),
        finish.generated_tokens,
        finish.decode_tokens_per_second,
        finish.time_to_first_token.as_secs_f64(),
        load_time.as_secs_f64(),
        finish.reason.name(),
    )
}
