//! `infer bench --latency`: the time between two tokens of steady answers, alone and while long prompts keep coming.

use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event, FinishReason, Queue, Request};
use infer::kv::BLOCK_TOKENS;
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};
use serde_json::{Value, json};

use super::founding::short;
use super::percentile::Sorted;
use super::serving::{self, Serving};
use super::workload::{Kind, Recipe, Workload};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Lines, Output, Style, printable, styled};
use crate::progress::Progress;

/// Sequences that answer when no number is asked for.
const SEQUENCES: usize = 8;
/// Prompts that are read or wait at any time.
const PROMPTS: usize = 2;
/// Tokens of each answer before anything is measured.
const WARM_UP: usize = 4;
/// Most tokens of each answer that are measured.
const STEPS: usize = 1000;
/// Different prompts; more begin with the first again, but nothing of them is cached.
const DIFFERENT: usize = 8;
const REPETITIONS: u32 = 3;
/// How much longer than alone the 99th percentile may be.
const TARGET: f64 = 3.0;

/// A state that is measured.
struct Phase {
    name: String,
    /// Value of the option `prefill_budget` while prompts keep coming; `None` is without prompts.
    prefill_budget: Option<f64>,
    gaps: Vec<f64>,
    seconds: f64,
    prompt_tokens: u64,
}

/// Measures and prints.
pub fn run(args: &Serving, subject: serving::Subject<'_>, json: bool) -> Outcome {
    let (model, about) = (subject.model, subject.about);
    let recipe = Recipe {
        kind: Kind::Documents,
        requests: Some(DIFFERENT * 4),
        ..args.recipe()
    };
    let prompts: Vec<Vec<u32>> = Workload::new(&recipe, model)?
        .requests
        .into_iter()
        .step_by(4)
        .map(|r| r.ids)
        .collect();
    let repetitions = args.repetitions(subject.repetitions, REPETITIONS);
    let subject = Subject::new(args, model, subject.options, prompts)?;
    let mut phases = vec![Phase::new("alone", None)];
    let default = subject.options.prefill_budget;
    for budget in [default, 0.0] {
        if phases.iter().all(|p| p.prefill_budget != Some(budget)) {
            let name = format!("prompts, prefill_budget {budget}");
            phases.push(Phase::new(&name, Some(budget)));
        }
    }
    let total = u64::from(repetitions) * phases.len() as u64;
    let mut progress = Progress::new("measuring", total);
    let mut done = 0;
    for _ in 0..repetitions {
        for phase in &mut phases {
            subject.measure(model, phase)?;
            done += 1;
            progress.set(done);
        }
    }
    progress.clear();

    let report = subject.report(about, phases, repetitions);
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        print(&mut out, &report)?;
    }
    out.flush()?;
    Ok(OK)
}

impl Phase {
    fn new(name: &str, prefill_budget: Option<f64>) -> Self {
        Self {
            name: name.to_string(),
            prefill_budget,
            gaps: Vec::new(),
            seconds: 0.0,
            prompt_tokens: 0,
        }
    }
}

/// What is measured.
struct Subject {
    options: EngineOptions,
    /// The long prompts.
    prompts: Vec<Vec<u32>>,
    sequences: usize,
    steps: usize,
    max_seconds: f64,
}

impl Subject {
    fn new(
        args: &Serving,
        model: &Arc<Model>,
        options: &EngineOptions,
        prompts: Vec<Vec<u32>>,
    ) -> Result<Self, Failure> {
        let context = model.info().context_length;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + 1;
        let sequences = args.sequences().unwrap_or(SEQUENCES);
        let steps = STEPS.min((context / 2).saturating_sub(WARM_UP));
        let own = steps + WARM_UP + BLOCK_TOKENS + 1;
        if longest.max(own) > context || steps == 0 {
            return Err(Failure::Usage(format!(
                "--latency: {} tokens of context are needed, but the model attends to {context}",
                longest.max(own)
            )));
        }
        let kv_type = model.resolve(options).kv_type;
        let block = super::block_bytes(model, kv_type)?;
        let blocks = sequences * own.div_ceil(BLOCK_TOKENS) + PROMPTS * (longest.div_ceil(BLOCK_TOKENS) + 1);
        Ok(Self {
            options: EngineOptions {
                manual_step: true,
                batching: true,
                context_length: longest.max(own),
                max_running: sequences + PROMPTS,
                max_queued: sequences + PROMPTS,
                kv_budget: block.saturating_mul(blocks as u64),
                ..options.clone()
            },
            prompts,
            sequences,
            steps,
            max_seconds: args.max_seconds,
        })
    }

    /// Measures a phase once, in an engine of its own.
    fn measure(&self, model: &Arc<Model>, phase: &mut Phase) -> Result<(), Failure> {
        let options = EngineOptions {
            prefill_budget: phase.prefill_budget.unwrap_or(self.options.prefill_budget),
            ..self.options.clone()
        };
        let mut running = Running::start(self, Engine::new(Arc::clone(model), options)?)?;
        while running.tokens.iter().any(|n| *n < WARM_UP) {
            running.step(&mut |_| {})?;
        }
        if phase.prefill_budget.is_some() {
            for _ in 0..PROMPTS {
                running.submit_prompt()?;
            }
        }
        let before = running.engine.stats().prompt_tokens;
        let started = Instant::now();
        let mut last = vec![0.0; self.sequences];
        for _ in 0..self.steps {
            running.step(&mut |i| {
                let now = started.elapsed().as_secs_f64();
                phase.gaps.push(now - last[i]);
                last[i] = now;
            })?;
            if started.elapsed().as_secs_f64() > self.max_seconds {
                break;
            }
        }
        phase.seconds += started.elapsed().as_secs_f64();
        phase.prompt_tokens += running.engine.stats().prompt_tokens - before;
        Ok(())
    }

    fn report(&self, about: Value, phases: Vec<Phase>, repetitions: u32) -> Value {
        let phases: Vec<(Phase, Sorted)> = phases
            .into_iter()
            .map(|mut p| {
                let gaps = Sorted::new(std::mem::take(&mut p.gaps));
                (p, gaps)
            })
            .collect();
        let alone = phases.first().and_then(|(_, gaps)| gaps.percentile(99.0));
        let ratio = |gaps: &Sorted| Some(gaps.percentile(99.0)? / alone?);
        let rows = phases.iter().map(|(phase, gaps)| {
            json!({
                "name": phase.name,
                "prefill_budget": phase.prefill_budget,
                "inter_token_seconds": gaps.json(),
                "p99_over_alone": ratio(gaps),
                "prompt_tokens_per_second": phase.prompt_tokens as f64 / phase.seconds.max(1e-9),
                "generated_tokens_per_second": gaps.len() as f64 / phase.seconds.max(1e-9),
                "seconds": phase.seconds,
            })
        });
        let mut report = about;
        let results = json!({
            "kind": "latency",
            "sequences": self.sequences,
            "prompts_at_a_time": PROMPTS,
            "prompt_tokens": self.prompts.iter().map(Vec::len).collect::<Vec<_>>(),
            "repetitions": repetitions,
            "max_seconds": self.max_seconds,
            "target_p99_over_alone": TARGET,
            "phases": rows.collect::<Vec<_>>(),
        });
        super::join(&mut report, results);
        report
    }
}

/// An engine with steady answers.
struct Running<'a> {
    subject: &'a Subject,
    engine: Engine,
    queue: Arc<Queue>,
    events: Vec<Event>,
    /// Kept so that they are not cancelled.
    answers: Vec<Request>,
    prompts: Vec<Option<Request>>,
    /// Prompts submitted so far.
    submitted: usize,
    /// Tokens of each answer.
    tokens: Vec<usize>,
}

impl<'a> Running<'a> {
    fn start(subject: &'a Subject, engine: Engine) -> Result<Self, Failure> {
        let mut running = Self {
            subject,
            engine,
            queue: Arc::default(),
            events: (0..subject.options.max_running)
                .map(|_| Event::default())
                .collect(),
            answers: Vec::new(),
            prompts: Vec::new(),
            submitted: 0,
            tokens: vec![0; subject.sequences],
        };
        for i in 0..subject.sequences {
            let prompt = &subject.prompts[i % subject.prompts.len()];
            let beginning = prompt[..prompt.len().min(BLOCK_TOKENS)].to_vec();
            // All of it is answered: room for the warm-up, for what is measured, and for the last.
            let request = running.request(i, beginning, subject.steps + WARM_UP + 1)?;
            running.answers.push(request);
        }
        Ok(running)
    }

    fn request(&self, tag: usize, prompt: Vec<u32>, max_tokens: usize) -> Result<Request, Failure> {
        Ok(self.engine.submit(RequestOptions {
            prompt: Prompt::Ids(prompt),
            max_tokens,
            temperature: 0.0,
            ignore_end_of_generation: true,
            cache_prompt: false,
            tag: tag as u64,
            queue: Some(Arc::clone(&self.queue)),
            ..RequestOptions::default()
        })?)
    }

    /// Submits the next long prompt, which ends with its first token.
    fn submit_prompt(&mut self) -> Result<(), Failure> {
        let prompt = self.subject.prompts[self.submitted % self.subject.prompts.len()].clone();
        let request = self.request(self.subject.sequences + self.submitted, prompt, 1)?;
        self.prompts.push(Some(request));
        self.submitted += 1;
        Ok(())
    }

    /// A step; calls `token` for every token of a steady answer. A prompt that is read is followed by another.
    fn step(&mut self, token: &mut dyn FnMut(usize)) -> Result<(), Failure> {
        self.engine.step()?;
        let mut read = 0;
        loop {
            let n = self.queue.next(Some(Duration::ZERO), &mut self.events)?;
            for event in &mut self.events[..n] {
                let i = event.tag as usize;
                if i < self.subject.sequences {
                    self.tokens[i] += event.tokens.len();
                    event.tokens.iter().for_each(|_| token(i));
                }
                let Some(finish) = event.finish.take() else {
                    continue;
                };
                if i < self.subject.sequences || finish.reason != FinishReason::Length {
                    let why = finish.error.map(|e| format!(": {e}")).unwrap_or_default();
                    return Err(Failure::Failed(format!(
                        "a request ended with '{}' while it was measured{why}",
                        finish.reason.name()
                    )));
                }
                self.prompts[i - self.subject.sequences] = None;
                read += 1;
            }
            if n == 0 {
                break;
            }
        }
        (0..read).try_for_each(|_| self.submit_prompt())
    }
}

fn print(out: &mut Output, report: &Value) -> Result<(), Failure> {
    let text = |v: &Value| printable(v.as_str().unwrap_or_default(), Lines::Escape).into_owned();
    let digits = |v: &Value| v.as_f64().map_or("-".to_string(), short);
    let milliseconds = |v: &Value| v.as_f64().map_or("-".to_string(), |s| short(1e3 * s));
    let machine = &report["machine"];
    let lengths: Vec<u64> = report["prompt_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect();
    let lines = [
        (
            "machine",
            format!("{}, {}", text(&machine["cpu"]), text(&machine["layout"])),
        ),
        ("model", text(&report["model"]["description"])),
        (
            "load",
            format!(
                "{} answers, {} prompts of {} to {} tokens at any time",
                report["sequences"],
                report["prompts_at_a_time"],
                lengths.iter().min().unwrap_or(&0),
                lengths.iter().max().unwrap_or(&0),
            ),
        ),
    ];
    for (name, line) in lines {
        out.text(&format!("{name:<10} {line}\n"))?;
    }
    let heading = format!(
        "\n{:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>11} {:>12} {:>12}",
        "between two tokens, ms",
        "gaps",
        "p50",
        "p99",
        "p99.9",
        "max",
        "p99 / alone",
        "answers t/s",
        "prompts t/s"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for row in report["phases"].as_array().into_iter().flatten() {
        let gaps = &row["inter_token_seconds"];
        out.text(&format!(
            "{:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>11} {:>12} {:>12}\n",
            text(&row["name"]),
            gaps["count"].to_string(),
            milliseconds(&gaps["p50"]),
            milliseconds(&gaps["p99"]),
            milliseconds(&gaps["p99_9"]),
            milliseconds(&gaps["max"]),
            digits(&row["p99_over_alone"]),
            digits(&row["generated_tokens_per_second"]),
            digits(&row["prompt_tokens_per_second"]),
        ))?;
    }
    out.text(&format!(
        "\nthe target with the usual prefill_budget is a p99 of at most {} times that alone\n",
        digits(&report["target_p99_over_alone"])
    ))
}
