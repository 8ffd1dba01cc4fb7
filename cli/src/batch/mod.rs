//! `infer batch`: many prompts from a file, computed together, one result per line as they finish.

mod job;
mod results;
mod statistics;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event, Finish, Queue, Request};
use infer::options::{EngineOptions, LogLevel, ModelOptions, Object, RequestOptions};
use serde_json::{Value, json};

use crate::demo;
use crate::exit::{FAILED, Failure, INTERRUPTED, OK, Outcome};
use crate::flags::{Flags, Loading, Offer};
use crate::generate::Sampling;
use crate::interrupt::{Interrupt, Otherwise};
use crate::loading;
use crate::log;
use crate::output::Output;
use crate::progress::Progress;
use results::Results;

/// Continue every prompt of a file, many at a time.
///
/// Each line of the input is a JSON object: {"prompt": "..."} or {"messages": [...]}, and where wanted "id" (a text
/// or a number that comes back), "stop" (a text or a list) and the options below by their names, such as
/// "max_tokens": 20. Empty lines are skipped. Each result is a line of the output, written when it is complete, so in
/// the order of completion: {"line": N, "id": ..., "text": ..., "finish_reason": ..., "prompt_tokens": N,
/// "generated_tokens": N} or {"line": N, "id": ..., "error": "..."}, where line counts the input's from 1.
///
/// An output that exists is continued: lines that have a result, be it an error, are not computed again (delete the
/// result to have them), and a last line that was cut off is. Ctrl-C ends at once and keeps what is complete. The exit code is 1 when a line failed.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// The prompts, one JSON object per line; - is standard input.
    #[arg(long, short, value_name = "PATH")]
    input: PathBuf,
    /// The results, one JSON object per line.
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Print statistics on standard error at the end: a line about the run, and a table of batch sizes and latencies.
    /// With --json they are in the object on standard output too.
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    sampling: Flags<Sampling>,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// Options of the engine.
pub struct Computing;

impl Offer for Computing {
    const OBJECT: Object = Object::Engine;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("preset", None),
        ("max_running", None),
        ("threads", None),
        ("cpu_level", None),
        ("kv_type", None),
        ("context_length", None),
        ("kv_budget", None),
        ("prefill_chunk", None),
        ("prefill_budget", None),
        ("policy", None),
        ("speculation", None),
        ("speculation_tokens", None),
        ("kv_cold_dir", None),
        ("kv_cold_bytes", None),
        ("kv_cold_policy", None),
        ("kv_cold_persist", None),
        ("max_prompt_bytes", None),
        ("f16_products", None),
        ("prefix_cache", None),
        ("flash_attention", None),
        ("exact", None),
    ];
    const HEADING: &'static str = "Computing";
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let mut engine_options: EngineOptions = args.computing.options()?;
    engine_options.log = Some(log::callback());
    let defaults: RequestOptions = args.sampling.options()?;
    // JSON may write every byte of a text as six.
    let limit = (engine_options.max_prompt_bytes as u64)
        .saturating_mul(6)
        .saturating_add(1 << 16);
    let mut input = Input::open(&args.input, limit)?;
    let results = Results::open(&args.output, &args.input)?;
    let (model, load_time) = loading::load(&path, &args.loading.options::<ModelOptions>()?)?;
    let engine = Engine::new(model, engine_options)?;
    let interrupt = Interrupt::install(Otherwise::Leave)?;

    let known = results.len();
    let mut batch = Batch {
        progress: Progress::counting("computing", || input.count().saturating_sub(known)),
        queue: Arc::new(Queue::default()),
        running: HashMap::new(),
        window: engine
            .options()
            .max_running
            .saturating_mul(2)
            .min(engine.options().max_queued),
        computed: 0,
        defaults,
        engine: &engine,
        results,
    };
    let before = batch.results.counts();
    if before.lines > 0 {
        let message = format!("{} lines have a result already", before.lines);
        log::record(
            LogLevel::Info,
            "batch",
            &message,
            json!({ "lines": before.lines }),
        );
    }
    interrupt.begin();
    let started = Instant::now();
    batch.run(&mut input, &interrupt)?;
    let seconds = started.elapsed().as_secs_f64();
    batch.progress.clear();
    batch.results.close()?;

    let counts = batch.results.counts();
    let interrupted = interrupt.is_asked();
    let stats = engine.stats();
    if args.stats {
        let line = format!(
            "{} lines in {seconds:.3} s, {} of them failed, {} had a result; {} prompt tokens ({:.1} per second), \
             {} generated ({:.1} per second), loaded in {:.3} s",
            counts.lines - before.lines,
            counts.failed - before.failed,
            before.lines,
            stats.prompt_tokens,
            rate(stats.prompt_tokens, seconds),
            stats.generated_tokens,
            rate(stats.generated_tokens, seconds),
            load_time.as_secs_f64(),
        );
        log::line("batch", &line);
        for line in statistics::table(&engine) {
            log::line("batch", &line);
        }
    }
    if json {
        let mut summary = json!({
            "output": args.output.to_string_lossy(),
            "lines": counts.lines,
            "failed": counts.failed,
            "lines_before": before.lines,
            "interrupted": interrupted,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "seconds": seconds,
        });
        if args.stats {
            summary["statistics"] = statistics::object(&engine);
        }
        Output::new().json(&summary)?;
    }
    if interrupted {
        return Ok(INTERRUPTED);
    }
    match counts.failed {
        0 => Ok(OK),
        _ if json => Ok(FAILED),
        n => Err(Failure::Failed(format!(
            "{n} of {} lines failed; their results in {} say why, and are computed again once they are deleted",
            counts.lines,
            args.output.display()
        ))),
    }
}

fn rate(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}

/// The work between the input and the results.
struct Batch<'a> {
    engine: &'a Engine,
    queue: Arc<Queue>,
    defaults: RequestOptions,
    /// By line.
    running: HashMap<u64, Running>,
    /// Most requests that wait or run: enough that the engine never waits for us, and a bound of our memory.
    window: usize,
    results: Results,
    progress: Progress,
    computed: u64,
}

/// A line that is being computed. Dropping it cancels.
struct Running {
    _request: Request,
    id: Option<Value>,
    text: String,
}

impl Batch<'_> {
    fn run(&mut self, input: &mut Input, interrupt: &Interrupt) -> Result<(), Failure> {
        let mut events = vec![Event::default(); self.window.clamp(1, 64)];
        let mut ended = false;
        while !interrupt.is_asked() {
            while !ended && self.running.len() < self.window && !interrupt.is_asked() {
                match input.next()? {
                    Some((line, text)) => self.start(line, text)?,
                    None => ended = true,
                }
            }
            if self.running.is_empty() {
                if ended {
                    return Ok(());
                }
                continue;
            }
            // The signal wakes nobody, so it is looked for now and then.
            let n = self.queue.next(Some(Duration::from_millis(100)), &mut events)?;
            for event in &mut events[..n] {
                self.take(event)?;
            }
            self.progress.set(self.computed);
        }
        Ok(())
    }

    /// Submits a line that has no result yet.
    fn start(&mut self, line: u64, text: Result<Vec<u8>, String>) -> Result<(), Failure> {
        let (id, job) = match text {
            Ok(text) if text.trim_ascii().is_empty() => return Ok(()),
            Ok(text) => job::parse(&text, &self.defaults),
            Err(why) => (None, Err(why)),
        };
        if self.results.has(line, id.as_ref())? {
            return Ok(());
        }
        let submitted = job.and_then(|mut options| {
            options.tag = line;
            options.queue = Some(Arc::clone(&self.queue));
            self.engine.submit(options).map_err(|e| e.to_string())
        });
        match submitted {
            Ok(request) => {
                let running = Running {
                    _request: request,
                    id,
                    text: String::new(),
                };
                self.running.insert(line, running);
                Ok(())
            }
            Err(why) => self.failed(line, id, &why),
        }
    }

    /// Takes what a line has produced, and writes its result when that was all.
    fn take(&mut self, event: &mut Event) -> Result<(), Failure> {
        let Some(running) = self.running.get_mut(&event.tag) else {
            return Ok(());
        };
        running.text.push_str(&event.text);
        let Some(finish) = event.finish.take() else {
            return Ok(());
        };
        let line = event.tag;
        let Some(Running { id, text, .. }) = self.running.remove(&line) else {
            return Ok(());
        };
        match &finish.error {
            Some(why) => self.failed(line, id, &why.to_string()),
            None => {
                self.results.write(line, id, false, completion(text, &finish))?;
                self.computed += 1;
                Ok(())
            }
        }
    }

    /// Reports a line that failed, here and in the results.
    fn failed(&mut self, line: u64, id: Option<Value>, why: &str) -> Result<(), Failure> {
        let message = format!("line {line}: {why}");
        self.progress.suspend(|| {
            log::record(LogLevel::Warn, "batch", &message, json!({ "line": line }));
        });
        self.results.write(line, id, true, vec![("error", json!(why))])?;
        self.computed += 1;
        Ok(())
    }
}

fn completion(text: String, finish: &Finish) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("text", json!(text)),
        ("finish_reason", json!(finish.reason.name())),
    ];
    if let Some(stop) = &finish.stop {
        fields.push(("stop", json!(stop)));
    }
    fields.push(("prompt_tokens", json!(finish.prompt_tokens)));
    fields.push(("generated_tokens", json!(finish.generated_tokens)));
    fields
}

/// The lines of the input with their numbers.
struct Input {
    name: String,
    reader: Box<dyn BufRead>,
    /// The file, where it is one that can be read twice.
    file: Option<PathBuf>,
    limit: u64,
    line: u64,
}

impl Input {
    fn open(path: &Path, limit: u64) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let (reader, file): (Box<dyn BufRead>, _) = if path == Path::new("-") {
            (Box::new(std::io::stdin().lock()), None)
        } else {
            let file = File::open(path).map_err(|e| Failure::io(&format!("open {name}"), &e))?;
            let regular = file.metadata().is_ok_and(|m| m.is_file());
            (
                Box::new(BufReader::new(file)),
                regular.then(|| path.to_path_buf()),
            )
        };
        Ok(Self {
            name,
            reader,
            file,
            limit,
            line: 0,
        })
    }

    /// How many lines there are; 0 where nobody can tell. For a progress bar only.
    fn count(&self) -> u64 {
        let Some(mut file) = self.file.as_ref().and_then(|p| File::open(p).ok()) else {
            return 0;
        };
        let mut lines = 0;
        let mut last = b'\n';
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = file.read(&mut buffer) {
            lines += buffer[..n].iter().filter(|b| **b == b'\n').count() as u64;
            last = buffer[n - 1];
        }
        lines + u64::from(last != b'\n')
    }

    /// The next line, or why it is none, with its number.
    #[allow(clippy::type_complexity, reason = "a line is bytes or a reason")]
    fn next(&mut self) -> Result<Option<(u64, Result<Vec<u8>, String>)>, Failure> {
        let mut bytes = Vec::new();
        let name = &self.name;
        let failed = |e| Failure::io(&format!("read {name}"), &e);
        let read = (&mut self.reader)
            .take(self.limit.saturating_add(1))
            .read_until(b'\n', &mut bytes)
            .map_err(failed)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        // Some editors begin a file with a byte order mark.
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        if bytes.ends_with(b"\n") || bytes.len() as u64 <= self.limit {
            return Ok(Some((self.line, Ok(bytes))));
        }
        drop(bytes);
        self.reader.skip_until(b'\n').map_err(failed)?;
        let why = format!(
            "the line is longer than {} bytes, the limit for a line",
            self.limit
        );
        Ok(Some((self.line, Err(why))))
    }
}
