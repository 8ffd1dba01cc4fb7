//! Serving loads whose prefixes come back, with working sets of several times the memory for keys and values: without a
//! prefix cache, with memory alone, and with memory and disk. All have to answer the same tokens.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use infer::engine::{Engine, Event, Finish, Poll, Stats};
use infer::kv::BLOCK_TOKENS;
use infer::options::EngineOptions;
use serde_json::{Value, json};

use super::super::percentile::Sorted;
use super::super::serving::Subject;
use super::super::svg::{Bar, Chart, Panel};
use super::loads::{Load, Which};
use super::{Scratch, Tiering, directory, request, settle};
use crate::exit::{FAILED, Failure, OK, Outcome};
use crate::output::{self, Output, Style, styled};

/// Working sets in pools of memory.
const SIZES: [usize; 3] = [2, 5, 20];
const QUICK_SIZES: [usize; 1] = [5];
/// Enough of the disk for everything.
const COLD_BYTES: u64 = 8 << 30;

/// One way to serve a load.
struct Way {
    name: &'static str,
    /// The policy of both tiers; `None` without a prefix cache.
    policy: Option<&'static str>,
    disk: bool,
}

const WAYS: [Way; 4] = [
    Way {
        name: "off",
        policy: None,
        disk: false,
    },
    Way {
        name: "ram",
        policy: Some("adaptive"),
        disk: false,
    },
    Way {
        name: "ram+ssd lru",
        policy: Some("lru"),
        disk: true,
    },
    Way {
        name: "ram+ssd adaptive",
        policy: Some("adaptive"),
        disk: true,
    },
];
/// The ways that a chart has.
const CHARTED: [&str; 3] = ["off", "ram", "ram+ssd adaptive"];

/// What serving a load brought.
struct Served {
    seconds: f64,
    first_tokens: Vec<f64>,
    /// By index of the request.
    answers: Vec<Vec<u32>>,
    stats: Stats,
}

/// What clients share.
struct Clients<'a> {
    engine: &'a Engine,
    load: &'a Load,
    next: AtomicUsize,
    done: Mutex<Done>,
    changed: Condvar,
}

#[derive(Default)]
struct Done {
    /// Prompt and answer of a request that ended.
    texts: Vec<Option<Vec<u32>>>,
    first_tokens: Vec<f64>,
    failure: Option<Failure>,
}

impl Clients<'_> {
    /// Takes requests until there are no more.
    fn work(&self) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= self.load.asks.len() {
                return;
            }
            let Some(ids) = self.prompt(i) else { return };
            let answer = answer(self.engine, &ids, self.load.asks[i].max_tokens);
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok((tokens, finish)) => {
                    done.texts[i] = Some([ids, tokens].concat());
                    done.first_tokens.push(finish.time_to_first_token.as_secs_f64());
                }
                Err(e) => done.failure = Some(e),
            }
            self.changed.notify_all();
        }
    }

    /// The prompt, when the request that it continues has ended; `None` after a failure.
    fn prompt(&self, i: usize) -> Option<Vec<u32>> {
        let ask = &self.load.asks[i];
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if done.failure.is_some() {
                return None;
            }
            match ask.after.map(|before| &done.texts[before]) {
                None => return Some(ask.ids.clone()),
                Some(Some(text)) => return Some([&text[..], &ask.ids].concat()),
                Some(None) => {}
            }
            done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Waits for the answer to a prompt.
fn answer(engine: &Engine, ids: &[u32], n: usize) -> Result<(Vec<u32>, Finish), Failure> {
    let request = engine.submit(request(ids, n))?;
    let (mut event, mut tokens) = (Event::default(), Vec::with_capacity(n));
    while request.next(None, &mut event)? == Poll::Event {
        tokens.extend_from_slice(&event.tokens);
        match event.finish.take() {
            None => {}
            Some(Finish { error: Some(e), .. }) => return Err(Failure::Failed(e.to_string())),
            Some(finish) => return Ok((tokens, finish)),
        }
    }
    Err(Failure::Failed("a request ended without saying so".to_string()))
}

fn serve(engine: &Engine, load: &Load, clients: usize) -> Result<Served, Failure> {
    let shared = Clients {
        engine,
        load,
        next: AtomicUsize::new(0),
        done: Mutex::new(Done {
            texts: vec![None; load.asks.len()],
            ..Done::default()
        }),
        changed: Condvar::new(),
    };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| shared.work());
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let done = shared.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = done.failure {
        return Err(failure);
    }
    settle(engine);
    let texts = done.texts.into_iter().zip(&load.prompts);
    Ok(Served {
        seconds,
        first_tokens: done.first_tokens,
        answers: texts
            .map(|(text, prompt)| text.map_or_else(Vec::new, |t| t[*prompt..].to_vec()))
            .collect(),
        stats: engine.stats(),
    })
}

/// Measures and prints.
pub fn run(args: &Tiering, which: Which, subject: &Subject<'_>, json: bool) -> Outcome {
    let model = subject.model;
    let clients = args.tier_clients as usize;
    let block = super::super::block_bytes(model, model.resolve(subject.options).kv_type)?;
    let scratch = Scratch::new(directory(args))?;
    let mut rows = Vec::new();
    let mut differing = None;
    for which in which.all() {
        let load = Load::new(which, args.tier_seed, args.tier_quick, model)?;
        if load.longest() > model.info().context_length {
            return Err(Failure::Usage(format!(
                "--tier-workload {}: its longest sequence takes {} tokens, but the model attends to {}",
                which.name(),
                load.longest(),
                model.info().context_length
            )));
        }
        let mut expected: Option<Vec<Vec<u32>>> = None;
        for times in if args.tier_quick { &QUICK_SIZES[..] } else { &SIZES } {
            let pool = (load.blocks / times) as u64 * block;
            for way in &WAYS {
                let options = EngineOptions {
                    context_length: load.longest() + 1,
                    max_running: clients,
                    kv_budget: pool,
                    prefix_cache: way.policy.is_some(),
                    prefix_policy: way.policy.unwrap_or("lru"),
                    kv_cold_policy: way.policy.unwrap_or("lru"),
                    kv_cold_dir: match way.disk {
                        true => scratch.0.join("cache").to_string_lossy().into_owned(),
                        false => String::new(),
                    },
                    kv_cold_bytes: COLD_BYTES,
                    // Every run begins with an empty directory.
                    kv_cold_persist: false,
                    ..subject.options.clone()
                };
                let served = serve(&Engine::new(Arc::clone(model), options)?, &load, clients)?;
                let expected = expected.get_or_insert_with(|| served.answers.clone());
                let same = *expected == served.answers;
                if !same && differing.is_none() {
                    differing = Some(format!("{}, {times}x, {}", which.name(), way.name));
                }
                let mut row = json!({
                    "load": which.name(),
                    "times": times,
                    "way": way.name,
                    "policy": way.policy,
                    "pool_bytes": pool,
                    "working_set_bytes": load.blocks as u64 * block,
                    "identical": same,
                });
                super::super::join(&mut row, figures(&load, served));
                rows.push(row);
            }
        }
    }
    let report = json!({
        "machine": subject.about["machine"],
        "model": subject.about["model"],
        "kv_type": model.resolve(subject.options).kv_type,
        "seed": args.tier_seed,
        "clients": clients,
        "quick": args.tier_quick,
        "identical": differing.is_none(),
        "rows": rows,
    });
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        print(&mut out, &report)?;
    }
    out.flush()?;
    if let Some(path) = &args.tier_svg {
        std::fs::write(path, chart(&report))
            .map_err(|e| Failure::io(&format!("write the chart {}", path.display()), &e))?;
    }
    match differing {
        None => Ok(OK),
        Some(row) => {
            output::stderr_line(&format!("infer: {row}: other tokens than without a cache"));
            Ok(FAILED)
        }
    }
}

/// The figures of a row.
fn figures(load: &Load, served: Served) -> Value {
    let stats = &served.stats;
    let (prompts, generated) = (load.prompt_tokens() as u64, load.generated_tokens() as u64);
    // What a request began with, so that blocks read in vain do not count.
    let read = stats.kv_cold_prefetch_useful * BLOCK_TOKENS as u64;
    let ssd = read.min(stats.prefix_hit_tokens);
    let ram = stats.prefix_hit_tokens - ssd;
    let rate = |tokens: u64| tokens as f64 / (stats.prefix_hit_tokens + stats.prompt_tokens).max(1) as f64;
    let served_tokens = prompts + generated;
    json!({
        "requests": load.asks.len(),
        "prompt_tokens": prompts,
        "generated_tokens": generated,
        "seconds": served.seconds,
        "tokens_per_second": served_tokens as f64 / served.seconds.max(1e-9),
        "first_token_seconds": Sorted::new(served.first_tokens).json(),
        "hit_rate_ram": rate(ram),
        "hit_rate_ssd": rate(ssd),
        "computed_tokens": stats.prompt_tokens,
        "recomputed_tokens": stats.prompt_tokens.saturating_sub(load.fresh as u64),
        "bytes_written": stats.kv_cold_bytes_written,
        "bytes_written_per_token": stats.kv_cold_bytes_written as f64 / served_tokens.max(1) as f64,
        "evictions": stats.prefix_evictions,
        "spills": stats.kv_cold_spills,
        "refusals": stats.kv_cold_refusals,
        "dropped": stats.kv_cold_dropped,
        "prefetch_useful": stats.kv_cold_prefetch_useful,
        "prefetch_useless": stats.kv_cold_prefetch_useless,
        "cold_hit_tokens": stats.kv_cold_hit_tokens,
        "cold_recomputed_tokens": stats.kv_cold_recomputed_tokens,
        "cold_errors": stats.kv_cold_errors,
        "preemptions": stats.preemptions,
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn rows(report: &Value) -> impl Iterator<Item = &Value> {
    report["rows"].as_array().into_iter().flatten()
}

fn print(out: &mut Output, report: &Value) -> Result<(), Failure> {
    out.text(&format!(
        "{} clients; hits and recomputed tokens are of prompts; written is bytes on the disk per token served\n",
        report["clients"]
    ))?;
    let heading = format!(
        "{:<7} {:>3}  {:<16} {:>6} {:>6} {:>8} {:>15} {:>8} {:>7} {:>6} {:>6} {:>4} {:>4} {:>12}  {}",
        "load",
        "x",
        "",
        "ram %",
        "ssd %",
        "again",
        "first p50/99 ms",
        "tokens/s",
        "written",
        "evict",
        "spill",
        "refu",
        "drop",
        "useful/less",
        "same"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for row in rows(report) {
        // Numbers as texts, which columns align.
        let text = |key: &str| {
            row[key]
                .as_str()
                .map_or_else(|| row[key].to_string(), str::to_string)
        };
        let first = |key: &str| 1e3 * number(&row["first_token_seconds"][key]);
        out.text(&format!(
            "{:<7} {:>3}  {:<16} {:>6.1} {:>6.1} {:>8} {:>15} {:>8.0} {:>7.0} {:>6} {:>6} {:>4} {:>4} {:>12}  {}\n",
            text("load"),
            text("times"),
            text("way"),
            100.0 * number(&row["hit_rate_ram"]),
            100.0 * number(&row["hit_rate_ssd"]),
            text("recomputed_tokens"),
            format!("{:.2}/{:.2}", first("p50"), first("p99")),
            number(&row["tokens_per_second"]),
            number(&row["bytes_written_per_token"]),
            text("evictions"),
            text("spills"),
            text("refusals"),
            text("dropped"),
            format!("{}/{}", row["prefetch_useful"], row["prefetch_useless"]),
            if row["identical"] == true { "yes" } else { "NO" },
        ))?;
    }
    Ok(())
}

/// Times to the first token and hits, load by load.
fn chart(report: &Value) -> String {
    let mut panels = Vec::new();
    for which in Which::All.all() {
        let mut panel = |axis: &str, value: &dyn Fn(&Value) -> f64, unit: &str| {
            let charted =
                |row: &&Value| row["load"] == which.name() && CHARTED.iter().any(|way| row["way"] == *way);
            let bar = |row: &Value| Bar {
                label: format!("{}x, {}", row["times"], row["way"].as_str().unwrap_or_default()),
                value: value(row),
                text: format!("{:.2}{unit}", value(row)),
                strong: row["policy"].is_string() && row["way"] != "ram",
            };
            let bars: Vec<Bar> = rows(report).filter(charted).map(bar).collect();
            if !bars.is_empty() {
                panels.push(Panel {
                    axis: format!("{}: {axis}", which.name()),
                    bars,
                });
            }
        };
        let first = |row: &Value, key: &str| 1e3 * number(&row["first_token_seconds"][key]);
        panel("time to the first token, p50", &|row| first(row, "p50"), " ms");
        panel("time to the first token, p99", &|row| first(row, "p99"), " ms");
        let hits = |row: &Value| 100.0 * (number(&row["hit_rate_ram"]) + number(&row["hit_rate_ssd"]));
        panel("prompt tokens found in memory or on the disk", &hits, " %");
    }
    let chart = Chart {
        title: "Prefix cache: none, memory, memory and disk".to_string(),
        subtitle: format!(
            "{}, {}; working sets of 2, 5 or 20 times the memory, {} clients",
            report["model"]["description"].as_str().unwrap_or_default(),
            report["machine"]["cpu"].as_str().unwrap_or_default(),
            report["clients"]
        ),
        panels,
    };
    chart.draw()
}
