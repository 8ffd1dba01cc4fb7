//! Made-up loads, the same for the same seed. Contents are numbers of blocks: equal numbers are equal tokens.

use super::talks::{Returns, Talks};

/// One request: the blocks of its prompt, and those of its answer after them.
#[derive(Clone)]
pub struct Request {
    pub blocks: Vec<u32>,
    pub prompt: usize,
    /// When it comes, in seconds.
    pub time: f64,
    /// Which turn of a talk it is, from 1.
    pub turn: usize,
}

/// A load and a cache to serve it.
pub struct Trace {
    pub name: &'static str,
    pub capacity: usize,
    pub requests: Vec<Request>,
    /// How its talks come back, for loads that have nothing else.
    pub returns: Option<Returns>,
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.unit() * (high - low + 1) as f64) as usize
    }

    /// Positive, with a tail: the median is `median`, about one in forty is six times that.
    pub fn log_normal(&mut self, median: f64) -> f64 {
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        median * (0.9 * normal).exp()
    }

    /// Whole numbers from 1; those of at least `k` have a share of `k^-power`.
    pub fn heavy_tail(&mut self, power: f64, most: usize) -> usize {
        (self.unit().powf(-1.0 / power) as usize).clamp(1, most)
    }

    /// Rank below `n` by Zipf's law.
    fn zipf(&mut self, n: usize) -> usize {
        let total: f64 = (1..=n).map(|i| 1.0 / i as f64).sum();
        let mut left = self.unit() * total;
        for i in 0..n {
            left -= 1.0 / (i + 1) as f64;
            if left < 0.0 {
                return i;
            }
        }
        n - 1
    }
}

#[derive(Default)]
pub struct Contents(u32);

impl Contents {
    pub fn add(&mut self, n: usize, blocks: &mut Vec<u32>) {
        for _ in 0..n {
            self.0 += 1;
            blocks.push(self.0);
        }
    }
}

/// Conversations: most have few turns, some many.
const CHATS: Talks = Talks {
    shared: 8,
    own: (0, 0),
    question: (1, 4),
    answer: (2, 14),
    every: 4.0,
    turns: |random| random.heavy_tail(0.9, 60),
    pause: |random| random.log_normal(60.0),
    again: 0,
};

/// Conversations: most have few turns, some many.
pub fn chats(capacity: usize, seed: u64) -> Trace {
    CHATS.trace("chats of many turns", capacity, 0xC0FFEE + seed)
}

/// Agents whose context grows with each call of a tool.
pub fn agents(capacity: usize, seed: u64) -> Trace {
    many_agents(capacity, seed, 12.0)
}

/// Agents of which one begins every so many seconds.
pub fn many_agents(capacity: usize, seed: u64, every: f64) -> Trace {
    let talks = Talks {
        shared: 40,
        own: (2, 30),
        question: (1, 8),
        answer: (1, 4),
        every,
        turns: |random| random.between(5, 50),
        pause: |random| random.log_normal(8.0),
        again: 0,
    };
    talks.trace("agents with growing contexts", capacity, 0xA6E27 + seed)
}

/// One system prompt and a user each time; a few other applications beside it.
pub fn system_prompt(capacity: usize, seed: u64) -> Trace {
    let (mut random, mut contents) = (Random(0x5157E + seed), Contents::default());
    let mut systems = Vec::new();
    for i in 0..120 {
        let mut blocks = Vec::new();
        contents.add(if i == 0 { 64 } else { random.between(10, 60) }, &mut blocks);
        systems.push(blocks);
    }
    let requests = (0..12000)
        .map(|i| {
            let mut blocks = systems[random.zipf(systems.len())].clone();
            contents.add(random.between(2, 20), &mut blocks);
            let prompt = blocks.len();
            contents.add(random.between(2, 10), &mut blocks);
            Request {
                blocks,
                prompt,
                time: f64::from(i),
                turn: 1,
            }
        })
        .collect();
    Trace {
        name: "system prompts, many users",
        capacity,
        requests,
        returns: None,
    }
}

/// Questions about some documents, and now and then somebody reads through a whole archive, once.
pub fn scan(capacity: usize, seed: u64) -> Trace {
    Trace {
        name: "questions, and scans",
        capacity,
        requests: questions(12000, 0x5CA2 + seed, 60, 30, 2.0, &mut Contents::default()),
        returns: None,
    }
}

/// So many questions about documents between two scans of so many prompts.
fn questions(
    n: usize,
    seed: u64,
    between: usize,
    scans: usize,
    every: f64,
    contents: &mut Contents,
) -> Vec<Request> {
    let mut random = Random(seed);
    let mut documents = Vec::new();
    for _ in 0..60 {
        let mut blocks = Vec::new();
        contents.add(random.between(20, 80), &mut blocks);
        documents.push(blocks);
    }
    let mut requests = Vec::new();
    let mut time = 0.0;
    while requests.len() < n {
        for _ in 0..between {
            let mut blocks = documents[random.zipf(documents.len())].clone();
            contents.add(2, &mut blocks);
            let prompt = blocks.len();
            contents.add(random.between(1, 6), &mut blocks);
            time += every;
            requests.push(Request {
                blocks,
                prompt,
                time,
                turn: 1,
            });
        }
        for _ in 0..scans {
            let mut blocks = Vec::new();
            contents.add(64, &mut blocks);
            let prompt = blocks.len();
            contents.add(2, &mut blocks);
            time += every;
            requests.push(Request {
                blocks,
                prompt,
                time,
                turn: 1,
            });
        }
    }
    requests
}

/// For validation: conversations at work. The number of turns has no memory; most pauses are short, some last a meeting.
pub fn office(capacity: usize, seed: u64) -> Trace {
    let talks = Talks {
        shared: 24,
        own: (0, 40),
        question: (1, 6),
        answer: (4, 20),
        every: 9.0,
        turns: |random| 1 + (-random.unit().ln() * 7.0) as usize,
        pause: |random| match random.between(1, 5) {
            1 => random.log_normal(900.0),
            _ => random.log_normal(30.0),
        },
        again: 0,
    };
    talks.trace("office chats", capacity, 0x0FF1CE + seed)
}

/// For validation: agents with tools that fail: a third of the turns is taken back and tried again from before; now
/// and then a person has to agree first.
pub fn tools(capacity: usize, seed: u64) -> Trace {
    let talks = Talks {
        shared: 90,
        own: (5, 60),
        question: (1, 20),
        answer: (1, 6),
        every: 25.0,
        turns: |random| random.heavy_tail(0.7, 80),
        pause: |random| match random.between(1, 12) {
            1 => random.log_normal(120.0),
            _ => random.log_normal(4.0),
        },
        again: 33,
    };
    talks.trace("agents that retry", capacity, 0x7001 + seed)
}

/// For validation: chats, questions about documents and scans, at the same time.
pub fn mixed(capacity: usize, seed: u64) -> Trace {
    let mut contents = Contents::default();
    let mut requests = CHATS.play(6000, 0x31ED + seed, &mut contents);
    let end = requests.last().map_or(0.0, |r| r.time);
    requests.extend(questions(
        6000,
        0x31EE + seed,
        200,
        20,
        end / 6000.0,
        &mut contents,
    ));
    requests.sort_by(|a, b| a.time.total_cmp(&b.time));
    Trace {
        name: "chats, questions and scans",
        capacity,
        requests,
        returns: None,
    }
}

/// Questions about documents, and in their midst one scan of a large archive.
pub fn one_scan(capacity: usize, seed: u64) -> Trace {
    Trace {
        name: "questions, and one large scan",
        capacity,
        requests: questions(10_500, 0x0115 + seed, 5000, 1500, 2.0, &mut Contents::default()),
        returns: None,
    }
}
