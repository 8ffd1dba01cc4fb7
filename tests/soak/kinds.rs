//! The requests there are, and what each of them brings alone.

use infer::engine::{Engine, Event, Finish, Poll, Request};
use infer::options::{Prompt, RequestOptions};

/// What came of one completion.
#[derive(Debug, Default, Clone)]
pub struct Part {
    pub text: String,
    pub tokens: Vec<u32>,
    pub finish: Option<Finish>,
}

impl Part {
    pub fn take(&mut self, event: &mut Event) {
        assert!(self.finish.is_none(), "an event after the last one");
        self.text.push_str(&event.text);
        self.tokens.extend_from_slice(&event.tokens);
        self.finish = event.finish.take();
    }
}

/// Prompts of 1 to about 200 tokens, greedy and sampled, with stop strings, several completions, and some that outgrow
/// the context and drop their beginning.
pub fn kinds() -> Vec<RequestOptions> {
    let sentence = "The prince looked at the soldiers who stood in the snow, and said nothing. ";
    (0..28usize)
        .map(|i| RequestOptions {
            prompt: Prompt::Text(sentence.repeat(i % 8 * i % 5 + 1)[i..].to_string()),
            max_tokens: if i % 9 == 8 { 300 } else { 1 + i * i % 90 },
            n: [1, 1, 1, 3][i % 4],
            temperature: [0.0, 0.7, 1.3][i % 3],
            top_k: [0, 40][i % 2],
            repetition_penalty: [1.0, 1.1][i / 2 % 2],
            seed: i as u64,
            stop: match i % 5 {
                0 => vec!["the".to_string()],
                _ => vec![],
            },
            context_overflow: ["truncate", "shift"][i / 9 % 2],
            context_keep: i % 7,
            ignore_end_of_generation: i % 9 == 8,
            ..RequestOptions::default()
        })
        .collect()
}

/// Reads a request to its end.
pub fn read(request: &Request, n: usize) -> Vec<Part> {
    let mut parts = vec![Part::default(); n];
    let mut event = Event::default();
    loop {
        match request
            .next(Some(std::time::Duration::from_secs(60)), &mut event)
            .unwrap()
        {
            Poll::Event => parts[event.choice as usize].take(&mut event),
            Poll::End => return parts,
            Poll::Timeout => panic!("nothing came for a minute"),
        }
    }
}

/// What each kind brings on an engine that has nothing else to do.
pub fn alone(engine: &Engine, kinds: &[RequestOptions]) -> Vec<Vec<Part>> {
    kinds
        .iter()
        .map(|kind| read(&engine.submit(kind.clone()).unwrap(), kind.n))
        .collect()
}
