//! `infer bench --compare`: the same load with everything off, with each feature alone, with everything on, and with
//! everything but one.
//!
//! Every run is a fresh engine over the same loaded model. Repetitions take turns, so that a machine that drifts does so for
//! all of them.

mod chart;
mod configuration;
mod measured;
mod print;

use std::sync::Arc;

use infer::engine::Engine;
use infer::kernel::CpuLevel;
use infer::kv::BLOCK_TOKENS;
use infer::model::Model;
use infer::options::EngineOptions;
use serde_json::{Value, json};

use super::serve::{Offered, Served, serve};
use super::serving::{Serving, Subject};
use super::workload::Workload;
use crate::exit::{FAILED, Failure, OK, Outcome};
use crate::output::{self, Output};
use crate::progress::Progress;
use configuration::{Configuration, Feature, Kind, configurations, features};
use measured::{Measured, Prices};

/// Repetitions when none are asked for.
const REPETITIONS: u32 = 3;
/// A load of fewer requests is shortened rather: batches and shared prefixes need several.
const FEWEST: usize = 8;
/// How much of what was computed in time those of a shortened load may take.
const SHORTENED: f64 = 0.7;
/// Most often that lengths are shortened.
const SHORTENINGS: usize = 4;

/// What the founding reports promised of everything together.
const PROMISED_SPEEDUP: f64 = 24.0;
/// The same of cost and memory, in percent saved.
const PROMISED_SAVING: f64 = 83.5;

/// Runs the comparison and prints it.
pub fn run(args: &Serving, subject: Subject<'_>, json: bool) -> Outcome {
    let (model, options) = (subject.model, subject.options);
    let on = model.resolve(options);
    let level = match CpuLevel::from_name(options.cpu_level).map_err(infer::Error::from)? {
        Some(level) => level,
        None => CpuLevel::selected().map_err(infer::Error::from)?,
    };
    let features = features(&args.features, |name| value(&on, level, name))?;
    let configurations = configurations(&features);
    let repetitions = args.repetitions(subject.repetitions, REPETITIONS);
    let offered = Offered {
        rate: args.rate,
        limit: None,
    };
    let load = Load::prepare(args, model, &on, &configurations[0], offered)?;

    let mut runs = vec![Vec::new(); configurations.len()];
    let mut progress = Progress::new("comparing", u64::from(repetitions) * runs.len() as u64);
    let mut done = 0;
    for repetition in 0..repetitions {
        let forth: Vec<usize> = (0..configurations.len()).collect();
        let order: Vec<usize> = match repetition % 2 {
            0 => forth,
            _ => forth.into_iter().rev().collect(),
        };
        for i in order {
            runs[i].push(load.serve(model, &configurations[i], offered)?);
            done += 1;
            progress.set(done);
        }
    }
    progress.clear();

    let prices = Prices {
        memory: args.memory_gb.map(|gb| (gb * 1e9) as u64),
        per_hour: args.cost_per_hour,
    };
    let measured = measured::all(&configurations, runs, &load.served_by(model), &prices)?;
    let report = report(args, subject.about, &features, &load, &measured, repetitions);
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        print::print(&mut out, &report)?;
    }
    out.flush()?;
    if let Some(path) = &args.svg {
        std::fs::write(path, chart::draw(&report))
            .map_err(|e| Failure::io(&format!("write the chart {}", path.display()), &e))?;
    }
    match measured.iter().find_map(|m| m.difference.as_ref()) {
        None => Ok(OK),
        Some(difference) => {
            output::stderr_line(&format!("infer: {difference}"));
            Ok(FAILED)
        }
    }
}

/// The value of a feature's option in these options, as text.
fn value(options: &EngineOptions, level: CpuLevel, name: &str) -> Option<String> {
    Some(match name {
        "cpu_level" => level.name().to_string(),
        "threads" => options.threads.to_string(),
        "batching" => options.batching.to_string(),
        "prefill_chunk" => options.prefill_chunk.to_string(),
        "flash_attention" => options.flash_attention.to_string(),
        "kv_type" => options.kv_type.to_string(),
        "prefix_cache" => options.prefix_cache.to_string(),
        "prefill_budget" => options.prefill_budget.to_string(),
        _ => return None,
    })
}

/// A load with an engine's options that fit it.
struct Load {
    /// What was asked for.
    asked: Workload,
    /// The same with the lengths that are measured.
    whole: Workload,
    /// Of these, what everything off completes in time.
    workload: Workload,
    /// The factor of lengths in the end.
    scale: f64,
    base: EngineOptions,
}

impl Load {
    /// Makes up the load and cuts it to what everything off completes within the time. Where these are few requests,
    /// lengths are shortened.
    fn prepare(
        args: &Serving,
        model: &Arc<Model>,
        on: &EngineOptions,
        off: &Configuration,
        offered: Offered,
    ) -> Result<Self, Failure> {
        let mut recipe = args.recipe();
        let asked = args.workload(&recipe, model)?;
        let mut best: Option<Self> = None;
        let mut longest = usize::MAX;
        for _ in 0..=SHORTENINGS {
            let whole = args.workload(&recipe, model)?;
            let mut load = Self::new(args, model, on, (asked.clone(), whole, recipe.scale))?;
            if load.whole.longest() == longest {
                break;
            }
            longest = load.whole.longest();
            let limited = Offered {
                limit: Some(args.max_seconds),
                ..offered
            };
            let served = load.serve(model, off, limited)?;
            let kept = affordable(&load.whole, &served);
            load.workload = load.whole.first(kept);
            let wanted = load.whole.first(FEWEST);
            if kept >= wanted.requests.len() {
                return Ok(load);
            }
            if kept > best.as_ref().map_or(0, |best| best.workload.requests.len()) {
                best = Some(load);
            }
            let computed = served.stats.prompt_tokens + served.stats.generated_tokens;
            let share = computed as f64 / wanted.tokens() as f64;
            recipe.scale *= (SHORTENED * share).min(SHORTENED);
        }
        best.ok_or_else(|| {
            Failure::Failed(format!(
                "--max-seconds {}: with everything off not even one short request is complete by then; give it more time, or leave out cpu_level with --features",
                args.max_seconds
            ))
        })
    }

    /// A load that was asked for, with the lengths to measure and their scale.
    fn new(
        args: &Serving,
        model: &Arc<Model>,
        on: &EngineOptions,
        (asked, whole, scale): (Workload, Workload, f64),
    ) -> Result<Self, Failure> {
        let longest = whole.longest();
        let sequences = args.sequences().unwrap_or(on.max_running);
        // The same memory for all of them: enough for every sequence with the widest type, if there is so much.
        let widest = super::block_bytes(model, "f32")?;
        let context = (longest.div_ceil(BLOCK_TOKENS) as u64).saturating_mul(widest);
        let wanted = context.saturating_mul(sequences as u64);
        let base = EngineOptions {
            manual_step: true,
            context_length: longest,
            max_running: sequences,
            max_queued: whole.requests.len(),
            kv_budget: wanted.min(infer::memory::available() / 2).max(context),
            ..on.clone()
        };
        Ok(Self {
            asked,
            workload: whole.clone(),
            whole,
            scale,
            base,
        })
    }

    fn serve(
        &self,
        model: &Arc<Model>,
        configuration: &Configuration,
        offered: Offered,
    ) -> Result<Served, Failure> {
        let engine = Engine::new(Arc::clone(model), configuration.apply(&self.base)?)?;
        serve(&engine, &self.workload, offered)
    }

    fn served_by<'a>(&'a self, model: &'a Model) -> measured::Subject<'a> {
        measured::Subject {
            model,
            base: &self.base,
            context: self.asked.longest(),
        }
    }
}

/// How many first requests of a load have together no more tokens than were completed.
fn affordable(workload: &Workload, served: &Served) -> usize {
    if served.answers.iter().all(|a| a.complete) {
        return workload.requests.len();
    }
    let prompts = workload.prompt_tokens();
    let mut left = served.tokens();
    let affordable = workload.requests.iter().zip(prompts).take_while(|(r, prompt)| {
        let tokens = prompt + r.max_tokens;
        let fits = tokens <= left;
        left = left.saturating_sub(tokens);
        fits
    });
    affordable.count()
}

fn report(
    args: &Serving,
    about: Value,
    features: &[Feature],
    load: &Load,
    measured: &[Measured],
    repetitions: u32,
) -> Value {
    let everything = measured.iter().find(|m| m.configuration.kind == Kind::On);
    let speedup = everything.map_or(1.0, |m| m.speedup);
    let founding = json!({
        "throughput": { "promised": PROMISED_SPEEDUP, "measured": speedup },
        "cost_saved_percent": { "promised": PROMISED_SAVING, "measured": 100.0 * (1.0 - 1.0 / speedup) },
        "kv_memory_saved_percent": {
            "promised": PROMISED_SAVING,
            "measured": everything.and_then(|m| m.kv_saved).map(|saved| 100.0 * saved),
        },
    });
    let mut report = about;
    let results = json!({
        "kind": "compare",
        "workload": {
            "name": load.workload.name,
            "seed": args.seed,
            "scale_asked": args.recipe().scale,
            "scale": load.scale,
            "rate": args.rate,
            "asked": load.asked.json(),
            "measured": load.workload.json(),
        },
        "repetitions": repetitions,
        "max_seconds": args.max_seconds,
        "max_running": load.base.max_running,
        "kv_budget": load.base.kv_budget,
        "context_length": load.base.context_length,
        "memory_gb": args.memory_gb,
        "cost_per_hour": args.cost_per_hour,
        "features": features.iter().map(|f| json!({ "name": f.name, "off": f.off, "on": f.on })).collect::<Vec<_>>(),
        "configurations": measured.iter().map(Measured::json).collect::<Vec<_>>(),
        "identical": measured.iter().all(|m| m.difference.is_none()),
        "founding": founding,
    });
    super::join(&mut report, results);
    report
}

#[cfg(test)]
mod tests {
    use super::super::serve::Answer;
    use super::super::workload::Request;
    use super::*;

    #[test]
    fn a_load_is_cut_at_the_tokens_that_were_completed() {
        let request = |ids: usize| Request {
            after: None,
            ids: vec![0; ids],
            max_tokens: 10,
            arrival: 0.0,
            salt: String::new(),
            priority: 500,
        };
        let workload = Workload {
            name: "x",
            requests: vec![request(90), request(40), request(10)],
        };
        let answered = |complete: [bool; 3]| Served {
            answers: complete
                .iter()
                .zip(&workload.requests)
                .map(|(&complete, r)| Answer {
                    tokens: vec![0; r.max_tokens],
                    prompt_tokens: r.ids.len(),
                    complete,
                    ..Answer::default()
                })
                .collect(),
            ..Served::default()
        };
        let count = |complete| affordable(&workload, &answered(complete));
        assert_eq!(count([true, true, true]), 3);
        assert_eq!(count([true, true, false]), 2);
        assert_eq!(count([true, false, true]), 1);
        assert_eq!(count([false, true, true]), 0);
        assert_eq!(count([false, false, false]), 0);
    }
}
