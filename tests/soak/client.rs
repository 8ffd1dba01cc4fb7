//! One of those who use an engine, and what it checks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::faults;
use super::kinds::{self, Part};
use infer::Error;
use infer::engine::{Engine, Event, FinishReason, Queue, Request};
use infer::kernel::KernelError;
use infer::options::{Prompt, RequestOptions};
use infer::tokenizer::TokenizerError;

/// Engines that share a pool of threads.
pub const ENGINES: usize = 3;
/// Requests that a client leaves open at most.
const OPEN: usize = 9;
const SALTS: [&str; 3] = ["", "a", "b"];

/// A small generator for the test's own decisions (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) as usize % n
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Counts {
    pub finished: u64,
    /// Cancelled or late, with what they had until then.
    pub cut_short: u64,
    pub abandoned: u64,
    pub failed: u64,
    /// Submissions and states for which memory was refused.
    pub without_memory: u64,
    pub refused: u64,
    pub restored: u64,
    /// Of the finished ones together.
    pub time: Duration,
    pub longest: Duration,
}

impl Counts {
    pub fn add(&mut self, other: Counts) {
        self.finished += other.finished;
        self.cut_short += other.cut_short;
        self.abandoned += other.abandoned;
        self.failed += other.failed;
        self.without_memory += other.without_memory;
        self.refused += other.refused;
        self.restored += other.restored;
        self.time += other.time;
        self.longest = self.longest.max(other.longest);
    }
}

struct Open {
    request: Request,
    kind: usize,
    tag: u64,
    queued: bool,
    cancelled: bool,
    has_deadline: bool,
    parts: Vec<Part>,
}

impl Open {
    fn ended(&self) -> bool {
        self.parts.iter().all(|part| part.finish.is_some())
    }
}

fn is_memory(error: &Error) -> bool {
    matches!(
        error,
        Error::Memory(_)
            | Error::Tokenizer(TokenizerError::Memory(_))
            | Error::Kernel(KernelError::Memory(_))
    )
}

pub struct Client<'a> {
    engines: &'a [Engine; ENGINES],
    engine: &'a Engine,
    kinds: &'a [RequestOptions],
    expected: &'a [Vec<Part>],
    random: Random,
    queue: Arc<Queue>,
    open: VecDeque<Open>,
    events: Vec<Event>,
    tags: u64,
    counts: Counts,
}

impl<'a> Client<'a> {
    pub fn new(
        engines: &'a [Engine; ENGINES],
        engine: usize,
        kinds: &'a [RequestOptions],
        expected: &'a [Vec<Part>],
        round: u32,
        seed: usize,
    ) -> Self {
        let seed = (u64::from(round) << 32) + seed as u64 + 1;
        Self {
            engines,
            engine: &engines[engine],
            kinds,
            expected,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            queue: Arc::new(Queue::default()),
            open: VecDeque::new(),
            events: vec![Event::default(); 5],
            tags: 0,
            counts: Counts::default(),
        }
    }

    /// Does this and that until `end`, and then reads what is left.
    pub fn run(&mut self, end: Instant) -> Counts {
        while Instant::now() < end {
            match self.random.below(16) {
                0..=6 if self.open.len() < OPEN => {
                    let n = 1 + self.random.below(3) / 2 * 2;
                    self.submit(n);
                }
                7 if !self.open.is_empty() => {
                    let i = self.random.below(self.open.len());
                    // Its reader goes away.
                    self.counts.abandoned += 1;
                    self.open.swap_remove_back(i);
                }
                8 if !self.open.is_empty() => {
                    let i = self.random.below(self.open.len());
                    self.open[i].request.cancel();
                    self.open[i].cancelled = true;
                }
                9 => self.disturb(),
                10 => std::thread::sleep(Duration::from_millis(self.random.below(4) as u64)),
                _ => self.read_first(),
            }
        }
        while !self.open.is_empty() {
            self.read_first();
        }
        std::mem::take(&mut self.counts)
    }

    fn submit(&mut self, n: usize) {
        let mut batch = Vec::new();
        let mut about = Vec::new();
        for _ in 0..n {
            let kind = self.random.below(self.kinds.len());
            let queued = self.random.below(2) == 0;
            let deadline_ms = match self.random.below(12) {
                0 => 1 + self.random.below(60) as u64,
                _ => 0,
            };
            self.tags += 1;
            batch.push(RequestOptions {
                tag: self.tags,
                priority: self.random.below(1001) as u64,
                cache_salt: SALTS[self.random.below(SALTS.len())].to_string(),
                cache_prompt: self.random.below(8) > 0,
                deadline_ms,
                queue: queued.then(|| Arc::clone(&self.queue)),
                ..self.kinds[kind].clone()
            });
            about.push((kind, self.tags, queued, deadline_ms > 0));
        }
        match self.engine.submit_batch(batch) {
            Ok(requests) => {
                for (request, (kind, tag, queued, has_deadline)) in requests.into_iter().zip(about) {
                    assert_eq!(request.tag(), tag);
                    self.open.push_back(Open {
                        request,
                        kind,
                        tag,
                        queued,
                        cancelled: false,
                        has_deadline,
                        parts: vec![Part::default(); self.kinds[kind].n],
                    });
                }
            }
            Err(Error::Busy(_)) => self.counts.refused += 1,
            Err(e) => self.refused_memory(&e),
        }
    }

    /// What a host does beside submitting.
    fn disturb(&mut self) {
        let engine = self.engine;
        match self.random.below(6) {
            0 => drop(engine.trim(1 << 18)),
            1 => engine
                .cache_clear(SALTS[self.random.below(SALTS.len())].as_bytes())
                .unwrap(),
            2 => {
                engine.pause();
                std::thread::yield_now();
                engine.resume();
            }
            3 => assert!(!(engine.summary() + &engine.metrics_text()).is_empty()),
            4 => {
                let kind = &self.kinds[self.random.below(self.kinds.len())];
                let salt = SALTS[self.random.below(SALTS.len())].as_bytes();
                let options = RequestOptions {
                    prompt: match &kind.prompt {
                        Prompt::Text(text) => Prompt::Text(text.clone()),
                        _ => unreachable!("kinds have texts"),
                    },
                    ..RequestOptions::default()
                };
                let other = &self.engines[self.random.below(ENGINES)];
                let restored = engine.prompt_ids(&options).and_then(|ids| {
                    let state = engine.save_state(&ids, salt)?;
                    let n = other.restore_state(&state, salt)?;
                    assert!(n <= ids.len());
                    Ok(n)
                });
                match restored {
                    Ok(n) => self.counts.restored += u64::from(n > 0),
                    Err(e) => self.refused_memory(&e),
                }
            }
            _ => faults::arm(&mut |n| self.random.below(n)),
        }
    }

    /// Nothing else but an injected refusal of memory fails a call.
    fn refused_memory(&mut self, error: &Error) {
        let injected = is_memory(error) && error.to_string().contains("an injected fault");
        assert!(cfg!(infer_faults) && injected, "a refused call: {error:?}");
        self.counts.without_memory += 1;
    }

    /// Waits for the oldest request, and takes what comes for others on the way.
    fn read_first(&mut self) {
        let Some(first) = self.open.front_mut() else {
            return;
        };
        if !first.queued {
            first.parts = kinds::read(&first.request, first.parts.len());
        } else if !first.ended() {
            let n = self
                .queue
                .next(Some(Duration::from_secs(60)), &mut self.events)
                .unwrap();
            assert!(n > 0, "nothing came for a minute");
            for event in &mut self.events[..n] {
                // Those that were given up can have said something before.
                if let Some(open) = self.open.iter_mut().find(|o| o.tag == event.tag) {
                    open.parts[event.choice as usize].take(event);
                }
            }
        }
        if self.open.front().is_some_and(Open::ended)
            && let Some(open) = self.open.pop_front()
        {
            self.check(&open);
        }
    }

    fn check(&mut self, open: &Open) {
        for (part, expected) in open.parts.iter().zip(&self.expected[open.kind]) {
            let finish = part.finish.as_ref().unwrap();
            let reason = finish.reason;
            let what = format!("kind {} ended by {}", open.kind, reason.name());
            match reason {
                FinishReason::Cancelled => assert!(open.cancelled, "{what}"),
                FinishReason::Deadline => assert!(open.has_deadline, "{what}"),
                FinishReason::Error => {
                    let error = finish.error.as_ref().unwrap();
                    let injected = (matches!(**error, Error::Internal { .. }) || is_memory(error))
                        && error.to_string().contains("an injected fault");
                    assert!(cfg!(infer_faults) && injected, "{what}: {error:?}");
                    self.counts.failed += 1;
                    // What it had until then is right.
                    assert!(expected.tokens.starts_with(&part.tokens), "{what}");
                    assert!(expected.text.starts_with(&part.text), "{what}");
                    continue;
                }
                _ => {
                    let wanted = expected.finish.as_ref().unwrap();
                    assert_eq!(part.tokens, expected.tokens, "{what}");
                    assert_eq!(part.text, expected.text, "{what}");
                    assert_eq!((reason, &finish.stop), (wanted.reason, &wanted.stop), "{what}");
                    assert_eq!(finish.prompt_tokens, wanted.prompt_tokens, "{what}");
                    self.counts.finished += 1;
                    self.counts.time += finish.total_time;
                    self.counts.longest = self.counts.longest.max(finish.total_time);
                    continue;
                }
            }
            assert!(expected.tokens.starts_with(&part.tokens), "{what}");
            assert!(expected.text.starts_with(&part.text), "{what}");
            self.counts.cut_short += 1;
        }
    }
}
