//! What memory and a second tier find of each load, what is written for it, and what it would mean for the time to the
//! first token by a simple model.

use std::collections::HashMap;

use infer::kv::BLOCK_TOKENS;
use infer::kv::prefix::PolicyKind;

use super::chart::{Bar, Panel};
use super::play::{Served, play};
use super::tier::Tier;
use super::traces::{self, Trace};

/// The model: a network of 1B weights in 4 bits on a few cores, and a plain SSD.
const PREFILL: f64 = 280.0;
const BLOCK_BYTES: f64 = 1024.0 * 1024.0;
const DISK: f64 = 1.5e9;
const STEP: f64 = 0.025;

/// Size of the tier in sizes of memory.
const TIER: usize = 10;
/// Sizes of what is wanted again, in sizes of memory.
const RATIOS: [usize; 3] = [2, 5, 20];
const POLICIES: [PolicyKind; 3] = [PolicyKind::Lru, PolicyKind::S3Fifo, PolicyKind::Adaptive];

/// Most blocks that are at one time between their first and their last use.
fn wanted_again(trace: &Trace) -> usize {
    let mut uses: HashMap<u32, (usize, usize)> = HashMap::new();
    for (i, request) in trace.requests.iter().enumerate() {
        for block in &request.blocks {
            uses.entry(*block).or_insert((i, i)).1 = i;
        }
    }
    let mut change = vec![0isize; trace.requests.len() + 1];
    for (first, last) in uses.into_values().filter(|(first, last)| first < last) {
        change[first] += 1;
        change[last] -= 1;
    }
    let mut now = 0;
    let sizes = change.iter().map(|c| {
        now += c;
        now
    });
    sizes.max().unwrap_or(0).unsigned_abs()
}

/// Seconds to the first token.
fn first_token(served: &Served) -> f64 {
    let computed = served.asked - served.memory - served.disk;
    (computed * BLOCK_TOKENS) as f64 / PREFILL + served.disk as f64 * BLOCK_BYTES / DISK + STEP
}

/// One way to serve a load.
struct Way {
    name: String,
    kind: Option<PolicyKind>,
    tier: Option<bool>,
}

fn ways() -> Vec<Way> {
    let mut ways = vec![Way {
        name: "no cache".to_string(),
        kind: None,
        tier: None,
    }];
    let tiers = [
        (None, "memory"),
        (Some(false), "memory + SSD, takes all"),
        (Some(true), "memory + SSD"),
    ];
    for (tier, name) in tiers {
        ways.extend(POLICIES.map(|kind| Way {
            name: format!("{name}, {}", kind.name()),
            kind: Some(kind),
            tier,
        }));
    }
    ways
}

/// Prints a table per load and answers the panels of the chart.
pub fn report() -> Vec<Panel> {
    println!(
        "\nTwo tiers. Prefill {PREFILL} tok/s, blocks of {BLOCK_TOKENS} tokens and {BLOCK_BYTES} bytes, disk {DISK} bytes/s, \
         decode step {STEP} s; the tier has {TIER} times the blocks of memory."
    );
    let loads: [fn(usize, u64) -> Trace; 5] = [
        traces::chats,
        traces::system_prompt,
        |capacity, seed| traces::many_agents(capacity, seed, 2.0),
        traces::scan,
        traces::one_scan,
    ];
    loads.into_iter().flat_map(of_load).collect()
}

fn of_load(load: fn(usize, u64) -> Trace) -> Vec<Panel> {
    let trace = load(0, 0);
    let wanted = wanted_again(&trace);
    println!(
        "\n**{}** ({wanted} blocks wanted again at most)\n\n\
         | wanted / memory | way | found in memory | on disk | tokens computed | written per 1000 tokens | \
         first token p50 | p99 |\n|---|---|---|---|---|---|---|---|",
        trace.name
    );
    let mut panels = Vec::new();
    for ratio in RATIOS {
        let trace = Trace {
            capacity: wanted / ratio,
            ..load(0, 0)
        };
        let ways = ways();
        let results: Vec<(Vec<Served>, usize)> = std::thread::scope(|scope| {
            let runs: Vec<_> = ways
                .iter()
                .map(|way| scope.spawn(|| serve(&trace, way)))
                .collect();
            runs.into_iter().filter_map(|run| run.join().ok()).collect()
        });
        let mut bars = Vec::new();
        for (way, (served, written)) in ways.iter().zip(results) {
            let row = Row::new(&trace, &served, written);
            row.print(ratio, &way.name);
            bars.push(Bar {
                label: way.name.clone(),
                memory: row.memory,
                disk: row.disk,
                text: format!("{:.1} / {:.1} s", row.p50, row.p99),
            });
        }
        panels.push(Panel {
            title: format!("{}, {ratio} x", trace.name),
            bars,
        });
    }
    panels
}

/// What became of every request, and the blocks written.
fn serve(trace: &Trace, way: &Way) -> (Vec<Served>, usize) {
    let Some(kind) = way.kind else {
        let nothing = |asked| Served {
            asked,
            ..Served::default()
        };
        return (trace.requests.iter().map(|r| nothing(r.prompt)).collect(), 0);
    };
    let mut tier = way.tier.map(|choosy| Tier::new(trace.capacity * TIER, choosy));
    let served = play(trace, kind, &mut tier);
    (served, tier.map_or(0, |tier| tier.written))
}

/// Shares are in percent.
struct Row {
    memory: f64,
    disk: f64,
    computed: f64,
    written: f64,
    p50: f64,
    p99: f64,
}

impl Row {
    fn new(trace: &Trace, served: &[Served], written: usize) -> Self {
        let sum = |of: fn(&Served) -> usize| served.iter().map(of).sum::<usize>() as f64;
        let asked = sum(|s| s.asked);
        let mut times: Vec<f64> = served.iter().map(first_token).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            times
                .get((times.len() as f64 * share) as usize)
                .copied()
                .unwrap_or(0.0)
        };
        let tokens = trace.requests.iter().map(|r| r.blocks.len()).sum::<usize>() * BLOCK_TOKENS;
        Self {
            memory: sum(|s| s.memory) * 100.0 / asked,
            disk: sum(|s| s.disk) * 100.0 / asked,
            computed: (asked - sum(|s| s.memory + s.disk)) * BLOCK_TOKENS as f64,
            written: written as f64 * 1000.0 / tokens as f64,
            p50: at(0.5),
            p99: at(0.99),
        }
    }

    fn print(&self, ratio: usize, name: &str) {
        println!(
            "| {ratio} | {name} | {:.1} % | {:.1} % | {:.2} M | {:.2} | {:.2} s | {:.2} s |",
            self.memory,
            self.disk,
            self.computed / 1e6,
            self.written,
            self.p50,
            self.p99
        );
    }
}
