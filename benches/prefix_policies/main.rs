//! How many blocks of prompts each eviction policy of the prefix cache finds again, beside what is possible, and what a
//! second tier adds.
//!
//! `cargo bench --bench prefix_policies` plays made-up loads through the index with numbers for blocks: no model, no
//! clock, the same figures on every machine. `-- --svg FILE` also draws those of the two tiers.
//! `benches/record/prefix-policies.md` has them.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod bound;
mod chart;
mod optimum;
mod play;
mod talks;
mod tier;
mod tiers;
mod traces;

use infer::kv::prefix::PolicyKind;
use traces::Trace;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Without `--bench` this is a run of the tests, which has no time for it.
    if !args.iter().any(|a| a == "--bench") {
        return;
    }
    let loads: [(Load, usize); 8] = [
        (traces::chats, 2000),
        (traces::chats, 6000),
        (traces::system_prompt, 1000),
        (traces::system_prompt, 2500),
        (traces::agents, 2000),
        (traces::agents, 6000),
        (traces::scan, 1500),
        (traces::scan, 2500),
    ];
    let others: [(Load, usize); 6] = [
        (traces::office, 2000),
        (traces::office, 8000),
        (traces::tools, 1500),
        (traces::tools, 5000),
        (traces::mixed, 2500),
        (traces::mixed, 7000),
    ];
    println!("The loads that the policy was made with:\n");
    table(&loads, &[0], &PolicyKind::ALL);
    println!("\nOther seeds, the mean of three:\n");
    table(&loads, &[1, 2, 3], &BEST);
    println!("\nOther loads, the mean of three seeds:\n");
    table(&others, &[0, 1, 2], &BEST);
    let panels = tiers::report();
    if let Some(path) = args.iter().skip_while(|a| *a != "--svg").nth(1) {
        let chart = chart::draw(
            "Share of the prompts' blocks found in memory (dark) and on SSD (light)",
            "By size of what is wanted again in sizes of memory; the modelled time to the first token, p50 / p99. \
             A simulation of what the cache decides, not a timing.",
            &panels,
        );
        if let Err(error) = std::fs::write(path, chart) {
            println!("writing {path}: {error}");
        }
    }
}

/// Those that the others are compared with, the first and the last as [`Shares::above_lru`] has them.
const BEST: [PolicyKind; 3] = [PolicyKind::Lru, PolicyKind::S3Fifo, PolicyKind::Adaptive];

type Load = fn(usize, u64) -> Trace;

/// Shares of the prompts' blocks, in percent.
struct Shares {
    name: &'static str,
    policies: Vec<f64>,
    optimum: f64,
    bound: Option<f64>,
}

impl Shares {
    fn of(trace: &Trace, kinds: &[PolicyKind]) -> Self {
        let asked: usize = trace.requests.iter().map(|r| r.prompt).sum();
        let percent = |hits: f64| hits * 100.0 / asked as f64;
        let hits = |kind| {
            play::play(trace, kind, &mut None)
                .iter()
                .map(|s| s.memory)
                .sum::<usize>() as f64
        };
        let policies = std::thread::scope(|scope| {
            let runs: Vec<_> = kinds.iter().map(|kind| scope.spawn(|| hits(*kind))).collect();
            let shares = runs.into_iter().map(|run| percent(run.join().unwrap_or(0.0)));
            shares.collect()
        });
        Self {
            name: trace.name,
            policies,
            optimum: percent(optimum::hits(trace) as f64),
            bound: bound::hits(trace).map(percent),
        }
    }

    fn above_lru(&self) -> f64 {
        match self.policies[..] {
            [lru, .., adaptive] => adaptive - lru,
            _ => 0.0,
        }
    }
}

fn table(loads: &[(Load, usize)], seeds: &[u64], kinds: &[PolicyKind]) {
    print!("| load | blocks |");
    for kind in kinds {
        print!(" {} |", kind.name());
    }
    println!(" bound | optimum | of the gap to the bound | to the optimum | least above lru |");
    println!("|---|---|{}---|---|---|---|---|", "---|".repeat(kinds.len()));
    for &(load, capacity) in loads {
        let shares = |seed: &u64| Shares::of(&load(capacity, *seed), kinds);
        let rows: Vec<Shares> = seeds.iter().map(shares).collect();
        let mean = |of: &dyn Fn(&Shares) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        let (above, optimum) = (mean(&Shares::above_lru), mean(&|s| s.optimum));
        let lru = mean(&|s| s.policies[0]);
        print!("| {} | {capacity} |", rows[0].name);
        for i in 0..kinds.len() {
            print!(" {:.1} |", mean(&|s| s.policies[i]));
        }
        let closed = |best: f64| format!("{:.0} %", above * 100.0 / (best - lru));
        let bound = rows[0].bound.map(|_| mean(&|s| s.bound.unwrap_or(0.0)));
        let least = rows.iter().map(Shares::above_lru).fold(f64::INFINITY, f64::min);
        println!(
            " {} | {optimum:.1} | {} | {} | {least:+.1} |",
            bound.map_or("".to_string(), |b| format!("{b:.1}")),
            bound.map_or("".to_string(), closed),
            closed(optimum)
        );
    }
}
