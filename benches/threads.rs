//! How decoding shares the CPUs: with more threads than CPUs, with another engine on the same pool, beside programs that
//! use every CPU; and what one slow worker costs. Everything is measured in turns, and the ratios are of neighbouring runs.
//!
//!     cargo bench --bench threads [-- MODEL]

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures and stops at the first error"
)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use infer::engine::{Engine, Request};
use infer::kernel::{Parts, ThreadPool, ThreadPoolOptions};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};

/// Decoded tokens of a run, and how long it lasts at most.
const TOKENS: usize = 400;
const LONGEST: Duration = Duration::from_secs(1);
/// Runs of each kind.
const ROUNDS: usize = 5;
/// An argument that makes this program use a CPU until it is ended.
const SPIN: &str = "--use-a-cpu";

fn main() {
    let mut path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tolstoy-3m-Q8_0.gguf");
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            SPIN => spin(),
            "--bench" => {}
            other => path = PathBuf::from(other),
        }
    }
    let model = Model::load(&path, &ModelOptions::default(), &mut |_| true).unwrap();
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("{}, {cpus} CPUs", path.display());
    more_threads_than_cpus(&model, cpus);
    two_engines_on_one_pool(&model, cpus);
    beside_other_programs(&model, cpus);
    a_slow_worker(cpus);
}

/// Never returns.
fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn pool(threads: usize) -> Arc<ThreadPool> {
    let options = ThreadPoolOptions {
        threads: Some(threads),
        ..ThreadPoolOptions::default()
    };
    Arc::new(ThreadPool::new(options).unwrap())
}

/// An engine that this program steps, and its one request, whose prompt has been read.
struct Decoding {
    engine: Engine,
    _request: Request,
}

impl Decoding {
    fn new(model: &Arc<Model>, pool: &Arc<ThreadPool>) -> Self {
        let options = EngineOptions {
            shared_threads: Some(Arc::clone(pool)),
            manual_step: true,
            context_length: 512,
            max_running: 1,
            ..EngineOptions::default()
        };
        let engine = Engine::new(Arc::clone(model), options).unwrap();
        let request = engine
            .submit(RequestOptions {
                prompt: Prompt::Ids(vec![1, 20, 30]),
                temperature: 0.0,
                max_tokens: TOKENS + 50,
                ignore_end_of_generation: true,
                ..RequestOptions::default()
            })
            .unwrap();
        for _ in 0..10 {
            engine.step().unwrap();
        }
        Self {
            engine,
            _request: request,
        }
    }

    /// The time of each step of a run in milliseconds.
    fn steps(&self) -> Vec<f64> {
        let begin = Instant::now();
        let step = |_| {
            let start = Instant::now();
            self.engine.step().unwrap();
            start.elapsed().as_secs_f64() * 1e3
        };
        (0..TOKENS)
            .take_while(|_| begin.elapsed() < LONGEST)
            .map(step)
            .collect()
    }
}

/// Tokens per second of steps that took these milliseconds.
fn speed(steps: &[f64]) -> f64 {
    steps.len() as f64 * 1e3 / steps.iter().sum::<f64>()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn decode(model: &Arc<Model>, threads: usize) -> Vec<f64> {
    Decoding::new(model, &pool(threads)).steps()
}

fn more_threads_than_cpus(model: &Arc<Model>, cpus: usize) {
    let counts = [1, cpus, 2 * cpus, 8 * cpus, 32 * cpus];
    let mut speeds = vec![Vec::new(); counts.len()];
    let mut ratios = vec![Vec::new(); counts.len()];
    for _ in 0..ROUNDS {
        for (i, &threads) in counts.iter().enumerate() {
            let base = speed(&decode(model, cpus));
            let this = speed(&decode(model, threads));
            speeds[i].push(this);
            ratios[i].push(this / base);
        }
    }
    for ((threads, speeds), ratios) in counts.iter().zip(speeds).zip(ratios) {
        println!(
            "{threads:3} threads: {:6.0} tokens/s, {:.2} of {cpus} threads",
            median(speeds),
            median(ratios)
        );
    }
}

fn two_engines_on_one_pool(model: &Arc<Model>, cpus: usize) {
    let (mut ratios, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let pool = pool(cpus);
        let alone = speed(&Decoding::new(model, &pool).steps());
        let engines = [Decoding::new(model, &pool), Decoding::new(model, &pool)];
        let begin = Barrier::new(2);
        let counts: Vec<(usize, f64)> = std::thread::scope(|s| {
            let threads: Vec<_> = engines
                .iter()
                .map(|e| {
                    let begin = &begin;
                    s.spawn(move || {
                        begin.wait();
                        let start = Instant::now();
                        let mut n = 0;
                        while n < TOKENS && start.elapsed() < LONGEST {
                            e.engine.step().unwrap();
                            n += 1;
                        }
                        (n, start.elapsed().as_secs_f64())
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let tokens = counts.iter().map(|c| c.0).sum::<usize>() as f64;
        let seconds = counts.iter().map(|c| c.1).fold(0.0, f64::max);
        let least = counts.iter().map(|c| c.0).min().unwrap() as f64;
        ratios.push(tokens / seconds / alone);
        shares.push(least / tokens);
    }
    println!(
        "two engines on one pool: {:.2} of one alone in total, the slower one has {:.2} of it",
        median(ratios),
        median(shares)
    );
}

/// Processes that use a CPU each, until dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn new(n: usize) -> Self {
        let this = std::env::current_exe().unwrap();
        Self(
            (0..n)
                .map(|_| Command::new(&this).arg(SPIN).spawn().unwrap())
                .collect(),
        )
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn beside_other_programs(model: &Arc<Model>, cpus: usize) {
    let (mut ratios, mut worst, mut idle_worst) = (Vec::new(), Vec::new(), Vec::new());
    let longest = |steps: &[f64]| steps.iter().copied().fold(0.0, f64::max) / median(steps.to_vec());
    for _ in 0..ROUNDS {
        let idle = decode(model, cpus);
        let hogs = Hogs::new(cpus);
        std::thread::sleep(Duration::from_millis(100));
        let beside = decode(model, cpus);
        drop(hogs);
        ratios.push(speed(&beside) / speed(&idle));
        worst.push(longest(&beside));
        idle_worst.push(longest(&idle));
    }
    println!(
        "beside {cpus} programs that use a CPU each: {:.2} of the speed, longest step {:.1} × the median ({:.1} without)",
        median(ratios),
        median(worst),
        median(idle_worst)
    );
}

/// One product cut as products are, of which a worker computes every part three times.
fn a_slow_worker(cpus: usize) {
    const PANELS: usize = 512;
    const SLOWER: usize = 3;
    if cpus < 2 {
        return println!("a slow worker: needs two CPUs");
    }
    let pool = pool(cpus);
    let compute = |slow: usize, panels: std::ops::Range<usize>, worker: usize| {
        for _ in 0..panels.len() * if worker == slow { SLOWER } else { 1 } {
            black_box((0..2000u64).fold(1, |a, b| black_box(a * 3 + b)));
        }
    };
    let parts = Parts::new(PANELS, cpus);
    let time = |slow: usize| {
        let start = Instant::now();
        for _ in 0..50 {
            pool.run(parts.of(PANELS), &|i, worker| {
                compute(slow, parts.range(PANELS, i), worker)
            });
        }
        start.elapsed().as_secs_f64()
    };
    let shares = (0..4 * ROUNDS).map(|_| {
        let (even, uneven) = (time(usize::MAX), time(1));
        let summed = (cpus - 1) as f64 + 1.0 / SLOWER as f64;
        even / uneven * cpus as f64 / summed
    });
    println!(
        "one of {cpus} workers {SLOWER} × slower: {:.2} of the summed speed",
        median(shares.collect())
    );
}
