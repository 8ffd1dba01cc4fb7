//! Speed of prompts and of decoding, beside what the machine allows at that moment.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use infer::engine::Engine;
use infer::kernel::{Kernels, ThreadPool};
use infer::kv::{BLOCK_TOKENS, Geometry};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions};
use serde_json::{Value, json};

use super::limit::{Cost, Rates};
use super::machine::{Machine, Memory};
use super::measure::{self, Bench};
use super::probe::{Probe, Sample};
use super::{Args, median, table};
use crate::exit::{Failure, OK, Outcome};
use crate::loading;
use crate::output::Output;
use crate::progress::Progress;

/// Numbers as the command line gives them: `512,8192`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(Vec<usize>);

/// Runs of each measurement when no number is asked for.
const REPETITIONS: u32 = 5;
/// Largest number of a list.
const MAX_COUNT: usize = 1 << 24;
/// Most sequences at once.
const MAX_BATCH: usize = 4096;

impl std::str::FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let n = part.trim().parse().ok().filter(|n| *n <= MAX_COUNT);
            n.ok_or_else(|| {
                let part: String = part.chars().take(40).collect();
                format!("expected whole numbers from 0 to {MAX_COUNT} separated by commas, found '{part}'")
            })
        };
        let mut counts: Vec<usize> = Vec::new();
        for n in text.split(',').map(number) {
            let n = n?;
            if !counts.contains(&n) {
                counts.push(n);
            }
        }
        Ok(Counts(counts))
    }
}

/// What a measurement is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// A prompt of this many tokens.
    Prompt { tokens: usize },
    /// Steps of `batch` sequences that hold `depth` tokens each.
    Decode { batch: usize, depth: usize },
}

impl Case {
    fn kind(self) -> &'static str {
        match self {
            Case::Prompt { .. } => "pp",
            Case::Decode { batch: 1, .. } => "tg",
            Case::Decode { .. } => "batched_tg",
        }
    }
}

/// A run: its speed and what the machine gave.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Tokens per second, of all sequences together.
    speed: f64,
    /// The most the machine would have allowed.
    limit: f64,
    now: Sample,
}

/// The runs of a case.
#[derive(Debug)]
struct Measured {
    case: Case,
    runs: Vec<Run>,
}

impl Measured {
    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        median(&mut values)
    }

    /// Difference of the fastest and the slowest run over the median.
    fn spread(&self) -> f64 {
        let speeds = self.runs.iter().map(|r| r.speed);
        let (slowest, fastest) = speeds.fold((f64::INFINITY, 0.0f64), |(a, b), s| (a.min(s), b.max(s)));
        (fastest - slowest) / self.median(|r| r.speed)
    }

    fn json(&self, generate: usize, threads: usize) -> Value {
        let (prompt, generate, batch, depth) = match self.case {
            Case::Prompt { tokens } => (tokens, 0, 1, 0),
            Case::Decode { batch, depth } => (0, generate, batch, depth),
        };
        json!({
            "kind": self.case.kind(),
            "prompt_tokens": prompt,
            "generate_tokens": generate,
            "batch": batch,
            "depth": depth,
            "threads": threads,
            "tokens_per_second": self.median(|r| r.speed),
            "runs": self.runs.iter().map(|r| r.speed).collect::<Vec<_>>(),
            "spread": self.spread(),
            "limit_tokens_per_second": self.median(|r| r.limit),
            "fraction_of_limit": self.median(|r| r.speed / r.limit),
            "bandwidth_gb_s": self.median(|r| r.now.bandwidth) / 1e9,
            "clock_ghz": self.median(|r| r.now.clock) / 1e9,
        })
    }
}

/// Measures and prints.
pub fn run(
    args: &Args,
    path: &Path,
    options: EngineOptions,
    model_options: &ModelOptions,
    machine: &Machine,
    json: bool,
) -> Outcome {
    let plan = Plan::new(args)?;
    let (level, pool) = super::computing(&options)?;
    let probe = Probe::new(Arc::clone(&pool))?;

    let (model, load_time) = loading::load(path, model_options)?;
    let info = model.info();
    let chunk = model.resolve(&options).prefill_chunk;
    plan.check(info.context_length, chunk)?;
    let engine_options = plan.engine_options(&model, options, Arc::clone(&pool))?;
    let kv_type = super::kv_type(&model, &engine_options)?;
    let cores = machine.cores.min(pool.threads());
    let kernels = Kernels::for_level(level)
        .ok_or_else(|| infer::Error::Unsupported(format!("kernels of level {}", level.name())))?;
    let rates = Rates::measure(kernels);
    let subject = Subject {
        cost: Cost::of(path, &model, rates, kv_type, cores)?,
        bench: Bench::new(Arc::clone(&model), engine_options)?,
        probe,
    };
    plan.check_memory(subject.bench.engine())?;
    let measured = plan.measure(&subject)?;

    let threads = pool.threads();
    let memory = Memory::now().less(subject.probe.bytes());
    let mut report = super::about(path, &model, machine);
    let results = json!({
        "options": {
            "cpu_level": level.name(),
            "kv_type": kv_type.name(),
            "prefill_chunk": subject.bench.engine().options().prefill_chunk,
            "f16_products": subject.bench.engine().options().f16_products,
            "exact": subject.bench.engine().options().exact,
        },
        "multiply_adds_per_cycle": rates.json(),
        "load_seconds": load_time.as_secs_f64(),
        "peak_rss_bytes": memory.peak,
        "rss_anon_bytes": memory.anonymous,
        "results": measured.iter().map(|m| m.json(plan.generate, threads)).collect::<Vec<_>>(),
    });
    super::join(&mut report, results);
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        table::print(&mut out, &report)?;
    }
    out.flush()?;
    Ok(OK)
}

/// What is measured, and the limits of it.
struct Subject {
    bench: Bench,
    cost: Cost,
    probe: Probe,
}

/// What the command line asks for.
struct Plan {
    prompts: Vec<usize>,
    generate: usize,
    batches: Vec<usize>,
    depths: Vec<usize>,
    repetitions: usize,
}

impl Plan {
    fn new(args: &Args) -> Result<Self, Failure> {
        let plan = Self {
            prompts: args.prompt_tokens.0.iter().copied().filter(|n| *n > 0).collect(),
            generate: args.generate_tokens as usize,
            batches: args.batch.0.clone(),
            depths: args.depth.0.clone(),
            repetitions: args.repetitions.unwrap_or(REPETITIONS) as usize,
        };
        if let Some(n) = plan.batches.iter().find(|n| !(1..=MAX_BATCH).contains(*n)) {
            return Err(Failure::Usage(format!(
                "--batch {n}: expected 1 to {MAX_BATCH} sequences"
            )));
        }
        if plan.prompts.is_empty() && plan.generate == 0 {
            return Err(Failure::Usage(
                "nothing to measure: --prompt-tokens and --generate-tokens are both 0".to_string(),
            ));
        }
        Ok(plan)
    }

    /// Whether the runs at this depth follow one another in the same sequences, because filling them takes long.
    fn continues(&self, batch: usize, depth: usize) -> bool {
        depth > 0 && !self.shares_prompt(batch, depth)
    }

    /// Whether the prompts that are measured fill the sequence that is decoded.
    fn shares_prompt(&self, batch: usize, depth: usize) -> bool {
        self.generate > 0
            && batch == 1
            && self.batches.contains(&1)
            && self.depths.contains(&depth)
            && self.prompts.contains(&depth)
    }

    /// Steps that are decoded after a context was filled.
    fn steps(&self, batch: usize, depth: usize) -> usize {
        if self.continues(batch, depth) {
            self.generate * self.repetitions
        } else {
            self.generate
        }
    }

    /// Tokens a sequence needs room for.
    fn longest(&self, chunk: usize) -> usize {
        self.lengths(chunk).map(|(_, n)| n).max().unwrap_or(0)
    }

    /// Batches with the tokens each of their sequences needs room for.
    fn lengths(&self, chunk: usize) -> impl Iterator<Item = (usize, usize)> {
        let prompts = self
            .prompts
            .iter()
            .map(move |n| (1, measure::longest(1, *n, 0, chunk)));
        let decoding = self.decoding().map(move |(batch, depth)| {
            let room = self.steps(batch, depth);
            (batch, measure::longest(batch, depth, room, chunk))
        });
        prompts.chain(decoding)
    }

    fn decoding(&self) -> impl Iterator<Item = (usize, usize)> {
        let depths = if self.generate > 0 { &self.depths[..] } else { &[] };
        depths
            .iter()
            .flat_map(|depth| self.batches.iter().map(move |batch| (*batch, *depth)))
    }

    /// Refuses what the model was not made for.
    fn check(&self, context: usize, chunk: usize) -> Result<(), Failure> {
        for &n in &self.prompts {
            let needed = measure::longest(1, n, 0, chunk);
            if needed > context {
                return Err(Failure::Usage(format!(
                    "--prompt-tokens {n}: the model attends to {context} tokens, and {needed} are needed with those generated"
                )));
            }
        }
        for (batch, depth) in self.decoding() {
            let steps = self.steps(batch, depth);
            let needed = measure::longest(batch, depth, steps, chunk);
            if needed > context {
                return Err(Failure::Usage(format!(
                    "--depth {depth}: {steps} tokens are to be decoded after it, for which {needed} are needed in all, but the model attends to {context} tokens"
                )));
            }
        }
        Ok(())
    }

    /// Options of an engine that has room for all of it.
    fn engine_options(
        &self,
        model: &Model,
        options: EngineOptions,
        pool: Arc<ThreadPool>,
    ) -> Result<EngineOptions, Failure> {
        let geometry = Geometry::new(super::kv_type(model, &options)?, model.body()?.layer_shapes())?;
        let blocks = |(batch, tokens): (usize, usize)| batch as u64 * tokens.div_ceil(BLOCK_TOKENS) as u64;
        let chunk = model.resolve(&options).prefill_chunk;
        let most = self.lengths(chunk).map(blocks).max().unwrap_or(1);
        let max_running = self.lengths(chunk).map(|(batch, _)| batch).max().unwrap_or(1);
        Ok(EngineOptions {
            context_length: self.longest(chunk),
            max_running,
            max_queued: max_running,
            kv_budget: most.saturating_mul(geometry.block_bytes() as u64),
            shared_threads: Some(pool),
            ..options
        })
    }

    /// Refuses what memory has no room for before anything is measured.
    fn check_memory(&self, engine: &Engine) -> Result<(), Failure> {
        let needed = engine.stats().kv_bytes_budget;
        let free = infer::memory::available();
        if engine.context_length() < self.longest(engine.options().prefill_chunk) || needed > free {
            return Err(Failure::Failed(format!(
                "the keys and values of --batch and --depth take {} of memory, but {} are free",
                crate::output::bytes(needed),
                crate::output::bytes(free)
            )));
        }
        Ok(())
    }

    fn measure(&self, subject: &Subject) -> Result<Vec<Measured>, Failure> {
        let total = self.repetitions * (self.prompts.len() + self.decoding().count());
        let mut progress = Progress::counting("measuring", || total as u64);
        let mut done = 0;
        let mut tick = |runs: usize| {
            done += runs as u64;
            progress.set(done);
        };
        subject.warm_up(self.prompts.iter().copied().max().unwrap_or(1))?;
        let mut all = Vec::new();
        let mut shared = Vec::new();
        for &tokens in &self.prompts {
            let mut prompt = Measured {
                case: Case::Prompt { tokens },
                runs: Vec::new(),
            };
            let mut decode = Measured {
                case: Case::Decode {
                    batch: 1,
                    depth: tokens,
                },
                runs: Vec::new(),
            };
            let steps = if self.shares_prompt(1, tokens) {
                self.generate
            } else {
                0
            };
            for _ in 0..self.repetitions {
                let (run, sequence) = subject.prompt(tokens, steps)?;
                prompt.runs.push(run);
                tick(1);
                if steps > 0 {
                    decode.runs.push(subject.decode(&sequence, steps)?);
                    tick(1);
                }
                subject.bench.end(sequence)?;
            }
            all.push(prompt);
            if steps > 0 {
                shared.push(decode);
            }
        }
        for (batch, depth) in self.decoding() {
            let case = Case::Decode { batch, depth };
            if let Some(i) = shared.iter().position(|m| m.case == case) {
                all.push(shared.swap_remove(i));
                continue;
            }
            let mut runs = Vec::new();
            if self.continues(batch, depth) {
                let sequences = subject.bench.fill(batch, depth, self.steps(batch, depth))?;
                for _ in 0..self.repetitions {
                    runs.push(subject.decode(&sequences, self.generate)?);
                    tick(1);
                }
                subject.bench.end(sequences)?;
            } else {
                for _ in 0..self.repetitions {
                    let sequences = subject.bench.fill(batch, depth, self.generate)?;
                    runs.push(subject.decode(&sequences, self.generate)?);
                    subject.bench.end(sequences)?;
                    tick(1);
                }
            }
            all.push(Measured { case, runs });
        }
        Ok(all)
    }
}

impl Subject {
    /// Touches weights and the buffers of a prompt of `tokens` for the first time.
    fn warm_up(&self, tokens: usize) -> Result<(), Failure> {
        let chunk = self.bench.engine().options().prefill_chunk;
        let sequence = self.bench.fill(1, tokens.min(chunk), 0)?;
        self.bench.end(sequence)
    }

    /// Calls `work` between two probes.
    fn probed<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<(T, Sample), Failure> {
        let before = self.probe.sample();
        let answer = work()?;
        Ok((answer, before.or_better(self.probe.sample())))
    }

    /// Times a prompt; its sequence can decode `room` more tokens.
    fn prompt(&self, tokens: usize, room: usize) -> Result<(Run, measure::Filled), Failure> {
        let (sequence, now) = self.probed(|| self.bench.fill(1, tokens, room))?;
        let run = Run {
            speed: tokens as f64 / seconds(sequence.prefill),
            limit: self.cost.prefill(tokens, now),
            now,
        };
        Ok((run, sequence))
    }

    /// Times `steps` steps.
    fn decode(&self, sequences: &measure::Filled, steps: usize) -> Result<Run, Failure> {
        let (decoded, now) = self.probed(|| self.bench.decode(sequences, steps))?;
        let batch = decoded.tokens as usize / steps.max(1);
        Ok(Run {
            speed: decoded.tokens as f64 / seconds(decoded.time),
            limit: self.cost.decode(batch, decoded.context, now),
            now,
        })
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_numbers_between_commas_without_repetition() {
        let counts = |t: &str| t.parse::<Counts>().map(|c| c.0);
        assert_eq!(counts("512, 8192,512"), Ok(vec![512, 8192]));
        assert!(counts("").unwrap_err().contains("found ''"));
        assert!(counts("1,x").unwrap_err().contains("found 'x'"));
        assert!(counts("-1").is_err() && counts("99999999999").is_err());
    }

    #[test]
    fn spread_and_fraction_come_from_the_runs() {
        let run = |speed: f64, limit: f64| Run {
            speed,
            limit,
            now: Sample::default(),
        };
        let measured = Measured {
            case: Case::Decode { batch: 1, depth: 0 },
            runs: vec![run(9.0, 10.0), run(10.0, 20.0), run(11.0, 20.0)],
        };
        assert!((measured.spread() - 0.2).abs() < 1e-12);
        let json = measured.json(128, 2);
        assert_eq!(json["tokens_per_second"], 10.0);
        // The median of the fractions, each with the limit of its own moment.
        assert_eq!(json["fraction_of_limit"], 0.55);
    }
}
