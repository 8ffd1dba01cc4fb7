//! Loads of talks: conversations and agents that come back with all that was said before.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::traces::{Contents, Random, Request, Trace};

/// What can be known of a load of talks before it is played.
pub struct Returns {
    /// Blocks that all talks begin with.
    pub shared: usize,
    /// Pauses between turns, drawn like those of the load, in rising order.
    pub pauses: Vec<f64>,
    /// The share of talks with at least so many turns.
    pub at_least: Vec<f64>,
}

/// Something that asks, waits for its answer, thinks, and asks again with all of it in front.
struct Talk {
    blocks: Vec<u32>,
    turn: usize,
    turns: usize,
}

/// The parameters of a load of talks.
pub struct Talks {
    pub shared: usize,
    /// Blocks of its own that a talk begins with.
    pub own: (usize, usize),
    pub question: (usize, usize),
    pub answer: (usize, usize),
    /// Seconds between the beginnings of two talks, in the mean.
    pub every: f64,
    pub turns: fn(&mut Random) -> usize,
    pub pause: fn(&mut Random) -> f64,
    /// Of so many turns in a hundred the answer is asked for anew: another branch.
    pub again: usize,
}

impl Talks {
    /// So many requests, in the order of their times.
    pub fn play(&self, requests: usize, seed: u64, contents: &mut Contents) -> Vec<Request> {
        let mut random = Random(seed);
        let mut system = Vec::new();
        contents.add(self.shared, &mut system);
        let mut out = Vec::new();
        let mut open: Vec<Talk> = Vec::new();
        // Microseconds, and the talk; none is the beginning of a new one.
        let mut events = BinaryHeap::from([Reverse((0u64, None))]);
        while out.len() < requests {
            let Some(Reverse((now, talk))) = events.pop() else {
                break;
            };
            let index = match talk {
                Some(index) => index,
                None => {
                    let mut blocks = system.clone();
                    contents.add(random.between(self.own.0, self.own.1), &mut blocks);
                    let turns = (self.turns)(&mut random);
                    open.push(Talk {
                        blocks,
                        turn: 0,
                        turns,
                    });
                    let pause = -random.unit().ln() * self.every;
                    events.push(Reverse((now + (pause * 1e6) as u64, None)));
                    open.len() - 1
                }
            };
            let pause = (self.pause)(&mut random);
            let question = random.between(self.question.0, self.question.1);
            let answer = random.between(self.answer.0, self.answer.1);
            let again = self.again > 0 && random.between(1, 100) <= self.again;
            let talk: &mut Talk = &mut open[index];
            contents.add(question, &mut talk.blocks);
            let prompt = talk.blocks.len();
            contents.add(answer, &mut talk.blocks);
            talk.turn += 1;
            out.push(Request {
                blocks: talk.blocks.clone(),
                prompt,
                time: now as f64 / 1e6,
                turn: talk.turn,
            });
            if again {
                talk.blocks.truncate(prompt - question);
            }
            if talk.turn < talk.turns {
                events.push(Reverse((now + (pause * 1e6) as u64, Some(index))));
            } else {
                talk.blocks = Vec::new();
            }
        }
        out
    }

    fn returns(&self) -> Returns {
        let mut random = Random(0xD15C);
        let draws = 20_000;
        let mut pauses: Vec<f64> = (0..draws).map(|_| (self.pause)(&mut random)).collect();
        pauses.sort_by(f64::total_cmp);
        let turns: Vec<usize> = (0..draws).map(|_| (self.turns)(&mut random)).collect();
        let share = |k| turns.iter().filter(|t| **t >= k).count() as f64 / draws as f64;
        Returns {
            shared: self.shared,
            pauses,
            at_least: (0..=turns.iter().copied().max().unwrap_or(0) + 1)
                .map(share)
                .collect(),
        }
    }

    /// The load, with what can be known of it where every turn continues the last.
    pub fn trace(&self, name: &'static str, capacity: usize, seed: u64) -> Trace {
        Trace {
            name,
            capacity,
            requests: self.play(12000, seed, &mut Contents::default()),
            returns: (self.again == 0).then(|| self.returns()),
        }
    }
}
