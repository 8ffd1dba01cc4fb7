//! `infer bench --tier`: the cold tier of an engine. How soon a long prompt begins when its keys and values come back from
//! the disk, in the same engine, in another one and in another process, beside computing it; and what steps take while blocks
//! are written.
//!
//! With `--tier-workload` [`workload`] serves the loads of [`loads`] with no cache, with memory and with both tiers.
//!
//! Rates of reading leave out one decode step, which every prompt takes. Before every read the files are taken out of the page cache. The disk's own rates are measured in the same directory, in
//! the same run.

pub mod disk;
mod loads;
mod steps;
mod workload;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event, Finish, HistogramKind, Poll};
use infer::kv::BLOCK_TOKENS;
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};
use serde_json::{Value, json};

use super::median;
use super::serving::Subject;
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Output, Style, styled};
use disk::Rates;

const REPETITIONS: u32 = 5;
/// How much sooner a prompt is to begin.
const TARGET: f64 = 50.0;
/// Tokens whose steps are measured as a comparison.
const DECODED: usize = 24;

/// The flags.
#[derive(clap::Args)]
#[command(next_help_heading = "Cold tier")]
pub struct Tiering {
    /// Measure the cold tier: a long prompt read back from the disk beside computing it, and steps while blocks are
    /// written.
    #[arg(long, conflicts_with_all = ["prompt_tokens", "generate_tokens", "batch", "depth", "serving", "founding"])]
    pub tier: bool,
    /// Directory on the disk to measure; it must not be there yet and is removed afterwards. By default one for temporary files.
    #[arg(long, value_name = "PATH", requires = "tier")]
    tier_dir: Option<PathBuf>,
    /// Tokens of the prefix that is read back; the prompt has one more.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1 << 20), requires = "tier")]
    tier_tokens: u32,
    /// Serve a load whose prefixes come back, with working sets of several times the memory for keys and values, with no
    /// cache, with memory alone and with memory and disk.
    #[arg(long, value_name = "WORD", requires = "tier", conflicts_with = "tier_tokens")]
    tier_workload: Option<loads::Which>,
    /// A fifth of the load, and working sets of five times the memory only.
    #[arg(long, requires = "tier_workload")]
    tier_quick: bool,
    /// Key of the load's random numbers.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "tier_workload")]
    tier_seed: u64,
    /// Clients that each wait for an answer before they ask again.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), requires = "tier_workload")]
    tier_clients: u32,
    /// Write a bar chart of the loads.
    #[arg(long, value_name = "PATH", requires = "tier_workload")]
    tier_svg: Option<PathBuf>,
    /// Read the prompt from a directory that is there, and say how long that took: what another process does.
    #[arg(long, hide = true, requires = "tier_dir")]
    tier_again: bool,
}

/// A directory of the measurement's own.
struct Scratch(PathBuf);

impl Scratch {
    /// Creates it; its parents as well.
    fn new(path: PathBuf) -> Result<Self, Failure> {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
            .and_then(|()| make(&path))
            .map_err(|e| disk::failure("create", &path, &e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what is left is in the directory that the user named, or among the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The directory that is asked for, or a new one for temporary files.
fn directory(args: &Tiering) -> PathBuf {
    match &args.tier_dir {
        Some(path) => path.clone(),
        None => std::env::temp_dir().join(format!("infer-bench-tier-{}", std::process::id())),
    }
}

/// When the first token of a prompt came.
#[derive(Debug, Clone, Copy)]
struct First {
    seconds: f64,
    cached: usize,
}

fn first_token(engine: &Engine, ids: &[u32]) -> Result<First, Failure> {
    let finish = answer(engine, ids, 1)?;
    Ok(First {
        seconds: finish.time_to_first_token.as_secs_f64(),
        cached: finish.cached_tokens,
    })
}

/// Reads a prompt and generates so many tokens.
fn answer(engine: &Engine, ids: &[u32], n: usize) -> Result<Finish, Failure> {
    let request = engine.submit(request(ids, n))?;
    let mut event = Event::default();
    while request.next(None, &mut event)? == Poll::Event {
        match event.finish.take() {
            None => {}
            Some(Finish { error: Some(e), .. }) => return Err(Failure::Failed(e.to_string())),
            Some(finish) => return Ok(finish),
        }
    }
    Err(Failure::Failed("a request ended without saying so".to_string()))
}

fn request(ids: &[u32], max_tokens: usize) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(ids.to_vec()),
        max_tokens,
        ignore_end_of_generation: true,
        ..RequestOptions::default()
    }
}

/// The same tokens in every process.
fn prompt(model: &Model, seed: u64, n: usize) -> Vec<u32> {
    let vocabulary = model.info().n_vocab as u64;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (3 + state % (vocabulary - 3).max(1)) as u32
    };
    (0..n).map(|_| next()).collect()
}

/// Waits until what memory gave up is on the disk.
fn settle(engine: &Engine) {
    while engine.stats().kv_cold_queued > 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Measures and prints.
pub fn run(args: &Tiering, path: &Path, subject: Subject<'_>, json: bool) -> Outcome {
    if let Some(which) = args.tier_workload {
        return workload::run(args, which, &subject, json);
    }
    let (model, tokens) = (subject.model, args.tier_tokens as usize);
    let context = model.info().context_length;
    if tokens + DECODED + 2 > context {
        return Err(Failure::Usage(format!(
            "--tier-tokens {tokens}: the model attends to {context} tokens, and {DECODED} more are generated"
        )));
    }
    let directory = directory(args);
    let options = EngineOptions {
        context_length: tokens + DECODED + 2,
        max_running: 1,
        kv_cold_dir: directory.to_string_lossy().into_owned(),
        kv_cold_patience_ms: 600_000,
        ..subject.options.clone()
    };
    // One more than the prefix: the last token is always computed.
    let ids = prompt(model, 1, tokens + 1);
    if args.tier_again {
        let first = first_token(&Engine::new(Arc::clone(model), options)?, &ids)?;
        let mut out = Output::new();
        out.json(&json!({"seconds": first.seconds, "cached_tokens": first.cached}))?;
        out.flush()?;
        return Ok(OK);
    }
    let scratch = Scratch::new(directory)?;
    let repetitions = subject.repetitions.unwrap_or(REPETITIONS) as usize;

    let mut engine = Engine::new(Arc::clone(model), options.clone())?;
    // A short prompt first, so that the long one does not pay for the first use of the machine.
    first_token(&engine, &prompt(model, 2, 64))?;
    let computed = first_token(&engine, &ids)?;
    let begin = Instant::now();
    answer(&engine, &ids, DECODED)?;
    let step = begin.elapsed().as_secs_f64() / DECODED as f64;

    let block = super::block_bytes(model, model.resolve(&options).kv_type)?;
    let mut rows = Vec::new();
    let mut rates = Vec::new();
    let mut add = |name: &str, firsts: &[First], rate: &Rates| {
        let mut seconds: Vec<f64> = firsts.iter().map(|f| f.seconds).collect();
        let seconds = median(&mut seconds);
        let bytes = (tokens / BLOCK_TOKENS) as u64 * block;
        // The prompt's last token is computed after reading.
        let reading = (seconds - step).max(1e-9);
        rows.push(json!({
            "name": name,
            "seconds": seconds,
            "runs": firsts.iter().map(|f| f.seconds).collect::<Vec<_>>(),
            "cached_tokens": firsts.iter().map(|f| f.cached).min(),
            "times_faster": computed.seconds / seconds,
            "decode_steps": seconds / step,
            "gb_s": bytes as f64 / reading / 1e9,
            "of_disk_read": bytes as f64 / reading / rate.read,
        }));
    };
    // Each way takes turns with the disk's own rate.
    let mut evicted = Vec::new();
    let mut restarted = Vec::new();
    let mut elsewhere = Vec::new();
    let mut reading = Value::Null;
    for _ in 0..repetitions {
        rates.push(Rates::measure(&scratch.0)?);
        engine.trim(u64::MAX);
        settle(&engine);
        disk::forget_files(&scratch.0)?;
        evicted.push(first_token(&engine, &ids)?);
        drop(engine);
        disk::forget_files(&scratch.0)?;
        engine = Engine::new(Arc::clone(model), options.clone())?;
        restarted.push(first_token(&engine, &ids)?);
        let times = engine.histogram(HistogramKind::ColdReadTime);
        reading = json!({"count": times.count(), "p50": times.quantile(0.5) * 1e-9, "p99": times.quantile(0.99) * 1e-9});
        drop(engine);
        disk::forget_files(&scratch.0)?;
        elsewhere.push(in_another_process(args, path, subject.options, &scratch.0)?);
        engine = Engine::new(Arc::clone(model), options.clone())?;
    }
    let rate = Rates {
        write: median(&mut rates.iter().map(|r| r.write).collect::<Vec<_>>()),
        read: median(&mut rates.iter().map(|r| r.read).collect::<Vec<_>>()),
    };
    add("given up by memory", &evicted, &rate);
    add("engine created anew", &restarted, &rate);
    add("another process", &elsewhere, &rate);
    drop(engine);

    let steps = steps::measure(model, &options, repetitions)?;
    let report = json!({
        "machine": subject.about["machine"],
        "model": subject.about["model"],
        "kv_type": model.resolve(&options).kv_type,
        "disk": rate.json(),
        "prompt_tokens": tokens,
        "computed_seconds": computed.seconds,
        "decode_step_seconds": step,
        "target_times_faster": TARGET,
        "prefixes": rows,
        "block_bytes": block,
        "block_read_seconds": reading,
        "steps": steps,
    });
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        print(&mut out, &report)?;
    }
    out.flush()?;
    Ok(OK)
}

/// A directory that nobody else can read or write.
fn make(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// What a process does that has just begun: load the model, open the directory, read the prompt.
fn in_another_process(
    args: &Tiering,
    path: &Path,
    options: &EngineOptions,
    directory: &Path,
) -> Result<First, Failure> {
    let failed = |what: &str| Failure::Failed(format!("cannot measure another process: {what}"));
    let program = std::env::current_exe().map_err(|e| failed(&e.to_string()))?;
    let mut command = Command::new(program);
    command.args(["--json", "bench", "--tier", "--tier-again", "--model"]);
    command.arg(path).arg("--tier-dir").arg(directory);
    command.arg("--tier-tokens").arg(args.tier_tokens.to_string());
    command
        .args(["--kv-type", options.kv_type])
        .args(["--cpu-level", options.cpu_level]);
    command.args(["--threads", &options.threads.to_string()]);
    let output = command.output().map_err(|e| failed(&e.to_string()))?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(&String::from_utf8_lossy(&output.stderr)))?;
    match (answer["seconds"].as_f64(), answer["cached_tokens"].as_u64()) {
        (Some(seconds), Some(cached)) => Ok(First {
            seconds,
            cached: cached as usize,
        }),
        _ => Err(failed("it answered nothing")),
    }
}

fn print(out: &mut Output, report: &Value) -> Result<(), Failure> {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    out.text(&format!(
        "disk       write {:.2} GB/s, read {:.2} GB/s\n",
        number(&report["disk"]["write_gb_s"]),
        number(&report["disk"]["read_gb_s"])
    ))?;
    out.text(&format!(
        "prompt     {} tokens, computed in {:.2} s; a decode step takes {:.1} ms\n",
        report["prompt_tokens"],
        number(&report["computed_seconds"]),
        number(&report["decode_step_seconds"]) * 1e3
    ))?;
    let heading = format!(
        "{:<22} {:>10} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "from the disk", "first, ms", "cached", "faster", "steps", "GB/s", "of disk"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for row in report["prefixes"].as_array().into_iter().flatten() {
        out.text(&format!(
            "{:<22} {:>10.1} {:>8} {:>7.0}x {:>8.1} {:>9.2} {:>8.2}\n",
            row["name"].as_str().unwrap_or_default(),
            number(&row["seconds"]) * 1e3,
            row["cached_tokens"],
            number(&row["times_faster"]),
            number(&row["decode_steps"]),
            number(&row["gb_s"]),
            number(&row["of_disk_read"]),
        ))?;
    }
    let reading = &report["block_read_seconds"];
    out.text(&format!(
        "a block of {:.2} MB is read and verified in {:.2} ms (p50), {:.2} ms (p99)\n",
        number(&report["block_bytes"]) / 1e6,
        number(&reading["p50"]) * 1e3,
        number(&reading["p99"]) * 1e3
    ))?;
    let steps = &report["steps"];
    for name in ["off", "on"] {
        let t = &steps[name];
        out.text(&format!(
            "steps, tier {name:<4} p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, most {:.2} ms of {}\n",
            number(&t["p50"]) * 1e3,
            number(&t["p99"]) * 1e3,
            number(&t["p99_9"]) * 1e3,
            number(&t["max"]) * 1e3,
            t["count"],
        ))?;
    }
    out.text(&format!(
        "           {} blocks given up and {} written meanwhile, {:.1} MB/s\n",
        steps["evictions"],
        steps["spills"],
        number(&steps["written_mb_s"])
    ))
}
