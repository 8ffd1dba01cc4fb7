//! Serving a load: requests are submitted as they come, the engine is stepped on this thread, and every token's time is
//! noted after the step that made it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::{Engine, Event, FinishReason, Queue, Request, Stats};
use infer::options::{Prompt, RequestOptions};

use super::machine;
use super::workload::Workload;
use crate::exit::Failure;

/// How a load is offered.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Conversations that begin per second on average; `None` offers all at once, in the order of their arrival.
    pub rate: Option<f64>,
    /// Seconds after which serving ends, whatever is left.
    pub limit: Option<f64>,
}

/// What became of a request.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The generated ids.
    pub tokens: Vec<u32>,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Seconds from its arrival to the first token.
    pub first_token: f64,
    /// Whether it is complete.
    pub complete: bool,
}

/// What serving a load took.
#[derive(Debug, Clone, Default)]
pub struct Served {
    pub seconds: f64,
    /// Processor time of all threads; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// By index of the request.
    pub answers: Vec<Answer>,
    /// Seconds between two tokens of an answer, of all answers.
    pub gaps: Vec<f64>,
    /// Sequences in a step, on average.
    pub mean_sequences: f64,
    /// Bytes of keys and values per token of context, on average over the steps that read no prompt.
    pub kv_bytes_per_token: Option<f64>,
    pub stats: Stats,
}

impl Served {
    /// Tokens of prompts and answers that are complete.
    pub fn tokens(&self) -> usize {
        let complete = self.answers.iter().filter(|a| a.complete);
        complete.map(|a| a.prompt_tokens + a.tokens.len()).sum()
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens() as f64 / self.seconds.max(1e-9)
    }

    pub fn requests_per_second(&self) -> f64 {
        let complete = self.answers.iter().filter(|a| a.complete).count();
        complete as f64 / self.seconds.max(1e-9)
    }

    /// Seconds to the first token, of every request.
    pub fn first_tokens(&self) -> impl Iterator<Item = f64> + '_ {
        let complete = self.answers.iter().filter(|a| a.complete);
        complete.map(|a| a.first_token)
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Waits for the answer it continues.
    Later,
    /// Arrives at this second.
    Due(f64),
    Submitted,
    Done,
}

struct Server<'a> {
    engine: &'a Engine,
    workload: &'a Workload,
    rate: Option<f64>,
    queue: Arc<Queue>,
    stages: Vec<Stage>,
    /// The prompt of a submitted request, for those that continue it.
    prompts: Vec<Vec<u32>>,
    requests: Vec<Option<Request>>,
    /// The second of the latest token of a request.
    latest: Vec<f64>,
    due: Vec<f64>,
    started: Instant,
    served: Served,
}

/// Events fetched at once.
const EVENTS: usize = 64;

/// Serves a load on an engine that steps by hand.
///
/// # Errors
/// When a request fails or is refused.
pub fn serve(engine: &Engine, workload: &Workload, offered: Offered) -> Result<Served, Failure> {
    let n = workload.requests.len();
    let seconds = |arrival: f64| offered.rate.map_or(0.0, |rate| arrival / rate);
    let stages = workload.requests.iter().map(|r| match r.after {
        None => Stage::Due(seconds(r.arrival)),
        Some(_) => Stage::Later,
    });
    let mut server = Server {
        engine,
        workload,
        rate: offered.rate,
        queue: Arc::default(),
        stages: stages.collect(),
        prompts: vec![Vec::new(); n],
        requests: (0..n).map(|_| None).collect(),
        latest: vec![0.0; n],
        due: vec![0.0; n],
        started: Instant::now(),
        served: Served {
            answers: vec![Answer::default(); n],
            ..Served::default()
        },
    };
    server.run(offered.limit)?;
    Ok(server.served)
}

impl Server<'_> {
    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn run(&mut self, limit: Option<f64>) -> Result<(), Failure> {
        let mut events: Vec<Event> = (0..EVENTS).map(|_| Event::default()).collect();
        let cpu = machine::cpu_seconds();
        self.started = Instant::now();
        let (mut sequences, mut bytes, mut tokens) = (0u64, 0u64, 0u64);
        let mut done = 0;
        while done < self.stages.len() && limit.is_none_or(|limit| self.now() < limit) {
            self.submit_due()?;
            if !self.stages.contains(&Stage::Submitted) {
                self.sleep();
                continue;
            }
            let more = self.engine.step()?;
            let ended = self.read(&mut events)?;
            done += ended;
            let stats = self.engine.stats();
            sequences += stats.running + ended as u64;
            if let Some(context) = self.context(&stats) {
                bytes += stats.kv_bytes_used;
                tokens += context;
            }
            if !more && ended == 0 && self.stages.contains(&Stage::Submitted) {
                return Err(Failure::Failed(
                    "the engine has nothing to do, but requests have not ended".to_string(),
                ));
            }
        }
        let served = &mut self.served;
        served.seconds = self.started.elapsed().as_secs_f64();
        served.cpu_seconds = cpu.and_then(|before| Some(machine::cpu_seconds()? - before));
        served.stats = self.engine.stats();
        served.mean_sequences = sequences as f64 / served.stats.steps.max(1) as f64;
        served.kv_bytes_per_token = (tokens > 0).then(|| bytes as f64 / tokens as f64);
        Ok(())
    }

    /// Submits what has arrived, the earliest first.
    fn submit_due(&mut self) -> Result<(), Failure> {
        let now = self.now();
        let mut due: Vec<(f64, f64, usize)> = Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            if let Stage::Due(at) = *stage
                && at <= now
            {
                due.push((at, self.workload.requests[i].arrival, i));
            }
        }
        due.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        for (at, _, i) in due {
            let request = &self.workload.requests[i];
            let mut prompt = match request.after {
                Some(before) => [&self.prompts[before][..], &self.served.answers[before].tokens].concat(),
                None => Vec::new(),
            };
            prompt.extend_from_slice(&request.ids);
            self.served.answers[i].prompt_tokens = prompt.len();
            self.served.answers[i].tokens.reserve(request.max_tokens);
            self.prompts[i].clone_from(&prompt);
            self.due[i] = at;
            self.requests[i] = Some(self.engine.submit(RequestOptions {
                prompt: Prompt::Ids(prompt),
                max_tokens: request.max_tokens,
                temperature: 0.0,
                ignore_end_of_generation: true,
                cache_salt: request.salt.clone(),
                priority: request.priority,
                tag: i as u64,
                queue: Some(Arc::clone(&self.queue)),
                ..RequestOptions::default()
            })?);
            self.stages[i] = Stage::Submitted;
        }
        Ok(())
    }

    /// Waits for the next arrival.
    fn sleep(&self) {
        let next = self.stages.iter().filter_map(|stage| match stage {
            Stage::Due(at) => Some(*at),
            _ => None,
        });
        let left = next.fold(f64::INFINITY, f64::min) - self.now();
        if left > 0.0 && left.is_finite() {
            std::thread::sleep(Duration::from_secs_f64(left));
        }
    }

    /// Notes what the step brought; answers how many requests it ended.
    fn read(&mut self, events: &mut [Event]) -> Result<usize, Failure> {
        let now = self.now();
        let mut ended = 0;
        loop {
            let n = self.queue.next(Some(Duration::ZERO), events)?;
            for event in &mut events[..n] {
                let i = event.tag as usize;
                let answer = &mut self.served.answers[i];
                for token in &event.tokens {
                    if answer.tokens.is_empty() {
                        answer.first_token = now - self.due[i];
                    } else {
                        self.served.gaps.push(now - self.latest[i]);
                    }
                    self.latest[i] = now;
                    answer.tokens.push(*token);
                }
                let Some(finish) = event.finish.take() else {
                    continue;
                };
                if finish.reason != FinishReason::Length {
                    let why = finish.error.map(|e| format!(": {e}")).unwrap_or_default();
                    return Err(Failure::Failed(format!(
                        "request {i} ended with '{}' after {} tokens, expected {}{why}",
                        finish.reason.name(),
                        answer.tokens.len(),
                        self.workload.requests[i].max_tokens
                    )));
                }
                answer.complete = true;
                ended += 1;
                self.complete(i, now);
            }
            if n == 0 {
                return Ok(ended);
            }
        }
    }

    /// Lets those come that continue an answer.
    fn complete(&mut self, i: usize, now: f64) {
        self.stages[i] = Stage::Done;
        self.requests[i] = None;
        for (j, next) in self.workload.requests.iter().enumerate() {
            if next.after == Some(i) {
                let pause = self.rate.map_or(0.0, |rate| next.arrival / rate);
                self.stages[j] = Stage::Due(now + pause);
            }
        }
    }

    /// Tokens that all running sequences hold together, each counted for itself; `None` while one reads its prompt.
    fn context(&self, stats: &Stats) -> Option<u64> {
        let (mut sequences, mut tokens) = (0, 0);
        for (stage, answer) in self.stages.iter().zip(&self.served.answers) {
            if *stage == Stage::Submitted && !answer.tokens.is_empty() {
                sequences += 1;
                // The latest token's keys and values are computed by the next step.
                tokens += (answer.prompt_tokens + answer.tokens.len() - 1) as u64;
            }
        }
        (sequences > 0 && sequences == stats.running).then_some(tokens)
    }
}

#[cfg(test)]
mod tests {
    use infer::model::Model;
    use infer::options::EngineOptions;

    use super::super::workload::{Kind, Recipe, Workload};
    use super::*;

    fn load() -> (Arc<Model>, Workload) {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");
        let model = Model::load(model.as_ref(), &Default::default(), &mut |_| true).unwrap();
        let recipe = Recipe {
            kind: Kind::ChatService,
            seed: 1,
            scale: 0.2,
            requests: Some(8),
        };
        let workload = Workload::new(&recipe, &model).unwrap();
        (model, workload)
    }

    fn engine(model: &Arc<Model>, batching: bool) -> Engine {
        let options = EngineOptions {
            threads: 1,
            kv_type: "f32",
            context_length: 256,
            manual_step: true,
            batching,
            ..EngineOptions::default()
        };
        Engine::new(Arc::clone(model), options).unwrap()
    }

    const AT_ONCE: Offered = Offered {
        rate: None,
        limit: None,
    };

    #[test]
    fn every_request_is_answered_and_every_token_has_its_time() {
        let (model, workload) = load();
        let served = serve(&engine(&model, true), &workload, AT_ONCE).unwrap();
        let prompts: Vec<_> = served.answers.iter().map(|a| a.prompt_tokens).collect();
        assert_eq!(prompts, workload.prompt_tokens());
        let lengths = |of: &dyn Fn(usize, usize) -> usize| -> usize {
            let pairs = prompts.iter().zip(&workload.requests);
            pairs.map(|(prompt, r)| of(*prompt, r.max_tokens)).sum()
        };
        assert_eq!(served.tokens(), lengths(&|prompt, answer| prompt + answer));
        assert_eq!(served.gaps.len(), lengths(&|_, answer| answer - 1));
        assert!(served.gaps.iter().all(|gap| *gap >= 0.0));
        assert!(served.first_tokens().all(|s| s > 0.0 && s <= served.seconds));
        assert!(served.mean_sequences > 1.0, "{}", served.mean_sequences);

        let alone = serve(&engine(&model, false), &workload, AT_ONCE).unwrap();
        assert_eq!(alone.mean_sequences, 1.0);
        for (a, b) in alone.answers.iter().zip(&served.answers) {
            assert_eq!(a.tokens, b.tokens);
        }
        let layers = model.body().unwrap().layer_shapes();
        let values: usize = layers
            .iter()
            .map(|l| l.n_kv_heads * (l.key_dim + l.value_dim))
            .sum();
        // What a token takes, half-empty blocks included.
        assert!(alone.kv_bytes_per_token.unwrap() >= (4 * values) as f64);
    }

    #[test]
    fn nobody_is_served_before_arriving() {
        let (model, workload) = load();
        let last = workload.requests.iter().filter(|r| r.after.is_none());
        let last = last.map(|r| r.arrival).fold(0.0, f64::max);
        let rate = Some(last / 0.3);
        let offered = Offered { rate, ..AT_ONCE };
        let served = serve(&engine(&model, true), &workload, offered).unwrap();
        assert!(served.answers.iter().all(|a| a.complete));
        assert!(served.seconds >= 0.3, "{}", served.seconds);
    }

    #[test]
    fn at_the_limit_serving_ends_with_what_is_complete() {
        let (model, workload) = load();
        let limit = Some(0.0);
        let served = serve(&engine(&model, true), &workload, Offered { limit, ..AT_ONCE }).unwrap();
        assert_eq!((served.tokens(), served.requests_per_second()), (0, 0.0));
    }
}
