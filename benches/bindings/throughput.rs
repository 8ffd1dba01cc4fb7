//! The job of `benches/bindings` by the Rust interface: one thread reads all requests from a queue.
//!
//!     throughput MODEL TOKENS PROMPT...

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event, FinishReason, Queue};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};

/// Generated at first and not measured, so that buffers have grown and caches are warm.
const WARM_UP: usize = 4;

/// What a request brought.
#[derive(Default)]
struct Stream {
    tokens: Vec<u32>,
    text: String,
}

/// Submits all prompts and reads their events to the end.
fn complete(engine: &Engine, prompts: &[String], max_tokens: usize) -> Result<Vec<Stream>, Box<dyn Error>> {
    let queue = Arc::new(Queue::default());
    let options = prompts.iter().zip(0..).map(|(prompt, tag)| RequestOptions {
        prompt: Prompt::Text(prompt.clone()),
        max_tokens,
        temperature: 0.0,
        ignore_end_of_generation: true,
        tag,
        queue: Some(Arc::clone(&queue)),
        ..RequestOptions::default()
    });
    let requests = engine.submit_batch(options.collect())?;
    let mut streams: Vec<Stream> = requests.iter().map(|_| Stream::default()).collect();
    let mut events = vec![Event::default(); 64];
    let mut running = requests.len();
    while running > 0 {
        let n = queue.next(None, &mut events)?;
        for event in &events[..n] {
            let stream = &mut streams[event.tag as usize];
            stream.tokens.extend_from_slice(&event.tokens);
            stream.text.push_str(&event.text);
            if let Some(finish) = &event.finish {
                if finish.reason != FinishReason::Length {
                    return Err(format!("request {} ended by {}", event.tag, finish.reason.name()).into());
                }
                running -= 1;
            }
        }
    }
    Ok(streams)
}

/// Processor time of all threads of this process (`CLOCK_PROCESS_CPUTIME_ID`) or of this one
/// (`CLOCK_THREAD_CPUTIME_ID`), which is the only one that is not the library's.
fn cpu_time(clock: libc::clockid_t) -> Duration {
    #![allow(unsafe_code, reason = "the standard library does not tell processor time")]
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the struct.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// FNV-1a over the ids, each as four bytes, and the text of all requests.
fn checksum(streams: &[Stream]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for stream in streams {
        let ids = stream.tokens.iter().flat_map(|id| id.to_le_bytes());
        for byte in ids.chain(stream.text.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, max_tokens, prompts @ ..] = &args[..] else {
        return Err("usage: throughput MODEL TOKENS PROMPT...".into());
    };
    let model = Model::load(Path::new(path), &ModelOptions::default(), &mut |_| true)?;
    let options = EngineOptions {
        threads: 2,
        max_running: 16,
        ..EngineOptions::default()
    };
    let engine = Engine::new(model, options)?;
    complete(&engine, prompts, WARM_UP)?;

    let clocks = [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID];
    let (begin, cpu_begin) = (Instant::now(), clocks.map(cpu_time));
    let streams = complete(&engine, prompts, max_tokens.parse()?)?;
    let seconds = begin.elapsed().as_secs_f64();
    let [cpu, host] = [0, 1].map(|i| cpu_time(clocks[i]) - cpu_begin[i]);

    let tokens: usize = streams.iter().map(|s| s.tokens.len()).sum();
    println!(
        "{{\"tokens\": {tokens}, \"seconds\": {seconds:.6}, \"tokens_per_second\": {:.1}, \"us_per_token\": {:.3}, \
         \"cpu_seconds\": {:.6}, \"host_cpu_seconds\": {:.6}, \"checksum\": \"{:016x}\"}}",
        tokens as f64 / seconds,
        seconds * 1e6 / tokens as f64,
        cpu.as_secs_f64(),
        host.as_secs_f64(),
        checksum(&streams)
    );
    Ok(())
}
