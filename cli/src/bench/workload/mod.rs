//! Made-up loads: what clients ask of an engine, when, and what they ask next.
//!
//! A load is a list of requests that a seed decides alone, whatever the machine. Lengths follow the model's context, so that
//! a small model works for seconds and a large one for minutes.

mod agents;
mod chat_service;
mod documents;
mod long;
mod sweep;
pub mod writer;

use infer::model::Model;
use serde_json::{Value, json};

use crate::exit::Failure;
use writer::Writer;

/// The context that the lengths in these files are meant for; a smaller one shrinks them all.
pub const NOMINAL_CONTEXT: usize = 8192;
/// Fewest tokens of any part.
const SHORTEST: usize = 4;
/// Priority of most requests.
const USUAL: u64 = 500;

/// Which load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Many users of a few assistants, each with a system prompt, in several turns.
    ChatService,
    /// Several questions on each of a few long documents.
    Documents,
    /// Unrelated prompts of all lengths.
    Sweep,
    /// A few prompts that nearly fill the context.
    Long,
    /// Programs that call tools: a long system prompt and contexts that grow by what the tools answer.
    Agents,
}

impl Kind {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ChatService => "chat-service",
            Kind::Documents => "documents",
            Kind::Sweep => "sweep",
            Kind::Long => "long",
            Kind::Agents => "agents",
        }
    }
}

/// What decides a load, besides the model.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Which.
    pub kind: Kind,
    /// Key of the random numbers.
    pub seed: u64,
    /// Factor of all lengths, beside that of the model's context. No length exceeds the context.
    pub scale: f64,
    /// Number of requests; `None` is the load's own.
    pub requests: Option<usize>,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The request whose prompt and answer this one's prompt begins with.
    pub after: Option<usize>,
    /// The prompt, or what follows the earlier answer.
    pub ids: Vec<u32>,
    /// Tokens to generate; every answer has as many.
    pub max_tokens: usize,
    /// When it comes, in mean times between two arrivals: since the beginning, or since the earlier answer.
    pub arrival: f64,
    /// The tenant whose cached prefixes it may use.
    pub salt: String,
    /// The option `priority`.
    pub priority: u64,
}

/// A load. Requests are ordered by conversation, so any number of first ones is complete in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// Its requests; what a request continues stands before it.
    pub requests: Vec<Request>,
}

impl Workload {
    /// Makes the load up.
    ///
    /// # Errors
    /// When the model's context is too short for it, or its tokenizer fails.
    pub fn new(recipe: &Recipe, model: &Model) -> Result<Self, Failure> {
        let context = model.info().context_length;
        let mut draft = Draft::new(recipe, model, context);
        match recipe.kind {
            Kind::ChatService => chat_service::fill(&mut draft)?,
            Kind::Documents => documents::fill(&mut draft)?,
            Kind::Sweep => sweep::fill(&mut draft)?,
            Kind::Long => long::fill(&mut draft)?,
            Kind::Agents => agents::fill(&mut draft)?,
        }
        let workload = Self {
            name: recipe.kind.name(),
            requests: draft.requests,
        };
        let longest = workload.longest();
        if longest > context {
            return Err(Failure::Usage(format!(
                "--workload {}: its longest sequence takes {longest} tokens, but the model attends to {context}",
                workload.name
            )));
        }
        Ok(workload)
    }

    /// Tokens of a request's prompt, by index.
    pub fn prompt_tokens(&self) -> Vec<usize> {
        let mut tokens: Vec<usize> = Vec::with_capacity(self.requests.len());
        for request in &self.requests {
            let before = request
                .after
                .map_or(0, |i| tokens[i] + self.requests[i].max_tokens);
            tokens.push(before + request.ids.len());
        }
        tokens
    }

    /// Tokens of the longest sequence with its answer.
    pub fn longest(&self) -> usize {
        let prompts = self.prompt_tokens();
        let whole = self.requests.iter().zip(prompts).map(|(r, p)| p + r.max_tokens);
        whole.max().unwrap_or(0)
    }

    /// Tokens of all prompts and answers.
    pub fn tokens(&self) -> usize {
        let prompts = self.prompt_tokens();
        self.requests
            .iter()
            .zip(prompts)
            .map(|(r, p)| p + r.max_tokens)
            .sum()
    }

    /// The first `n` requests.
    pub fn first(&self, n: usize) -> Self {
        Self {
            name: self.name,
            requests: self.requests[..n.min(self.requests.len())].to_vec(),
        }
    }

    /// As reports have it.
    pub fn json(&self) -> Value {
        let prompts = self.prompt_tokens();
        json!({
            "requests": self.requests.len(),
            "conversations": self.requests.iter().filter(|r| r.after.is_none()).count(),
            "prompt_tokens": prompts.iter().sum::<usize>(),
            "generated_tokens": self.requests.iter().map(|r| r.max_tokens).sum::<usize>(),
            "longest_sequence": self.longest(),
        })
    }
}

/// A load that is being made up.
struct Draft<'a> {
    writer: Writer<'a>,
    /// Tokens of a nominal token.
    factor: f64,
    /// Requests to make; `None` is as many as the load likes.
    wanted: Option<usize>,
    requests: Vec<Request>,
    /// When the next conversation begins.
    clock: f64,
}

impl<'a> Draft<'a> {
    fn new(recipe: &Recipe, model: &'a Model, context: usize) -> Self {
        let most = context as f64 / NOMINAL_CONTEXT as f64;
        Self {
            writer: Writer::new(recipe.seed, model),
            factor: (recipe.scale * most.min(1.0)).min(most),
            wanted: recipe.requests,
            requests: Vec::new(),
            clock: 0.0,
        }
    }

    /// How many conversations to begin at most when the load itself would have `own`.
    fn conversations(&self, own: usize) -> usize {
        self.wanted.unwrap_or(own)
    }

    /// Whether there are enough requests.
    fn is_full(&self) -> bool {
        self.wanted.is_some_and(|n| self.requests.len() >= n)
    }

    fn scaled(&self, nominal: usize) -> usize {
        ((nominal as f64 * self.factor).round() as usize).max(SHORTEST)
    }

    /// Text of a nominal length.
    fn text(&mut self, nominal: usize) -> Result<Vec<u32>, Failure> {
        let n = self.scaled(nominal);
        self.writer.ids(n)
    }

    /// A nominal length from a range, both ends included.
    fn between(&mut self, shortest: usize, longest: usize) -> usize {
        shortest + self.writer.random.below(longest - shortest + 1)
    }

    /// When the next conversation begins: arrivals are a Poisson process.
    fn next_arrival(&mut self) -> f64 {
        self.clock += self.writer.random.exponential();
        self.clock
    }

    /// Time somebody takes to answer.
    fn pause(&mut self) -> f64 {
        self.writer.random.exponential()
    }

    /// Adds a request with an answer of a nominal length; answers its index.
    fn push(&mut self, request: Request, answer: usize) -> usize {
        let max_tokens = self.scaled(answer);
        self.requests.push(Request {
            max_tokens,
            ..request
        });
        self.requests.len() - 1
    }
}

/// A request of nobody in particular.
pub fn request(ids: Vec<u32>, arrival: f64) -> Request {
    Request {
        after: None,
        ids,
        max_tokens: 0,
        arrival,
        salt: String::new(),
        priority: USUAL,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::ValueEnum;

    use super::*;

    fn model() -> Arc<Model> {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");
        Model::load(model.as_ref(), &Default::default(), &mut |_| true).unwrap()
    }

    fn recipe(kind: Kind, seed: u64) -> Recipe {
        Recipe {
            kind,
            seed,
            scale: 1.0,
            requests: None,
        }
    }

    #[test]
    fn a_seed_decides_everything() {
        let model = model();
        for kind in Kind::value_variants() {
            let make = |seed| Workload::new(&recipe(*kind, seed), &model).unwrap();
            assert_eq!(make(7), make(7), "{kind:?}");
            assert_ne!(make(7), make(8), "{kind:?}");
        }
    }

    #[test]
    fn every_load_fits_the_context_and_continues_only_what_is_before() {
        let model = model();
        let context = model.info().context_length;
        for kind in Kind::value_variants() {
            for scale in [0.1, 1.0, 100.0] {
                let recipe = Recipe {
                    scale,
                    ..recipe(*kind, 1)
                };
                let load = Workload::new(&recipe, &model).unwrap();
                assert!(load.longest() <= context, "{kind:?}");
                for (i, r) in load.requests.iter().enumerate() {
                    assert!(r.after.is_none_or(|a| a < i), "{kind:?}");
                    assert!(r.ids.len() >= SHORTEST && r.max_tokens >= SHORTEST, "{kind:?}");
                    assert!(r.arrival >= 0.0 && r.arrival.is_finite(), "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_number_of_requests_is_met() {
        let model = model();
        for kind in Kind::value_variants() {
            for n in [1, 5, 50] {
                let recipe = Recipe {
                    requests: Some(n),
                    ..recipe(*kind, 1)
                };
                let load = Workload::new(&recipe, &model).unwrap();
                assert_eq!(load.requests.len(), n, "{kind:?}");
            }
        }
    }

    #[test]
    fn loads_are_what_their_names_say() {
        let model = model();
        let make = |kind| Workload::new(&recipe(kind, 1), &model).unwrap();
        let context = model.info().context_length;

        let chats = make(Kind::ChatService);
        let mut assistants: Vec<_> = chats.requests.iter().map(|r| &r.salt).collect();
        assistants.sort();
        assistants.dedup();
        assert!((2..=4).contains(&assistants.len()));
        assert!(chats.requests.iter().filter(|r| r.after.is_some()).count() > chats.requests.len() / 3);

        let documents = make(Kind::Documents);
        let prompts = &documents.requests;
        let shared = |a: &Request, b: &Request| a.ids.iter().zip(&b.ids).take_while(|(a, b)| a == b).count();
        assert!(shared(&prompts[0], &prompts[1]) > prompts[0].ids.len() / 2);

        let sweep = make(Kind::Sweep);
        for pair in sweep.requests.windows(2) {
            assert!(shared(&pair[0], &pair[1]) < 16);
        }

        let long = make(Kind::Long);
        assert!(long.prompt_tokens().iter().all(|n| *n > context / 2));

        let agents = make(Kind::Agents);
        let prompts = agents.prompt_tokens();
        for (i, r) in agents.requests.iter().enumerate() {
            if let Some(before) = r.after {
                assert!(prompts[i] > prompts[before]);
            }
        }
    }

    #[test]
    fn a_first_part_is_complete_in_itself() {
        let load = Workload::new(&recipe(Kind::ChatService, 3), &model()).unwrap();
        for n in 1..load.requests.len() {
            let part = load.first(n);
            assert_eq!(part.requests.len(), n);
            assert!(part.prompt_tokens().iter().all(|p| *p > 0));
        }
    }
}
