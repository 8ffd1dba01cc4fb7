//! Made-up loads, the same for the same seed. Contents are numbers of blocks: equal numbers are equal tokens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One request: the blocks of its prompt, and those of its answer after them.
pub struct Request {
    pub blocks: Vec<u32>,
    pub prompt: usize,
}

/// A load and a cache to serve it.
pub struct Trace {
    pub name: &'static str,
    pub capacity: usize,
    pub requests: Vec<Request>,
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.unit() * (high - low + 1) as f64) as usize
    }

    /// Positive, with a tail: the median is `median`, about one in forty is six times that.
    fn log_normal(&mut self, median: f64) -> f64 {
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        median * (0.9 * normal).exp()
    }

    /// Whole numbers from 1; those of at least `k` have a share of `k^-power`.
    fn heavy_tail(&mut self, power: f64, most: usize) -> usize {
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
struct Contents(u32);

impl Contents {
    fn add(&mut self, n: usize, blocks: &mut Vec<u32>) {
        for _ in 0..n {
            self.0 += 1;
            blocks.push(self.0);
        }
    }
}

/// Something that asks, waits for its answer, thinks, and asks again with all of it in front.
struct Talk {
    blocks: Vec<u32>,
    turns: usize,
}

/// Runs talks against each other in time. `begin` makes one and the pause before the next begins; `turn` gives the
/// blocks of a question and of its answer and the pause before the next.
fn talks(
    requests: usize,
    random: &mut Random,
    contents: &mut Contents,
    mut begin: impl FnMut(&mut Random, &mut Contents) -> (Talk, f64),
    mut turn: impl FnMut(&mut Random) -> (usize, usize, f64),
) -> Vec<Request> {
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
                let (talk, pause) = begin(random, contents);
                open.push(talk);
                events.push(Reverse((now + (pause * 1e6) as u64, None)));
                open.len() - 1
            }
        };
        let (question, answer, pause) = turn(random);
        let talk: &mut Talk = &mut open[index];
        contents.add(question, &mut talk.blocks);
        let prompt = talk.blocks.len();
        contents.add(answer, &mut talk.blocks);
        out.push(Request {
            blocks: talk.blocks.clone(),
            prompt,
        });
        talk.turns -= 1;
        if talk.turns > 0 {
            events.push(Reverse((now + (pause * 1e6) as u64, Some(index))));
        } else {
            talk.blocks = Vec::new();
        }
    }
    out
}

/// Conversations: most have few turns, some many.
pub fn chats(capacity: usize) -> Trace {
    let (mut random, mut contents) = (Random(0xC0FFEE), Contents::default());
    let mut system = Vec::new();
    contents.add(8, &mut system);
    let begin = |random: &mut Random, _: &mut Contents| {
        let turns = random.heavy_tail(0.9, 60);
        let blocks = system.clone();
        (Talk { blocks, turns }, -random.unit().ln() * 4.0)
    };
    let turn = |random: &mut Random| {
        let pause = random.log_normal(60.0);
        (random.between(1, 4), random.between(2, 14), pause)
    };
    Trace {
        name: "chats of many turns",
        capacity,
        requests: talks(12000, &mut random, &mut contents, begin, turn),
    }
}

/// One system prompt and a user each time; a few other applications beside it.
pub fn system_prompt(capacity: usize) -> Trace {
    let (mut random, mut contents) = (Random(0x5157E), Contents::default());
    let mut systems = Vec::new();
    for i in 0..120 {
        let mut blocks = Vec::new();
        contents.add(if i == 0 { 64 } else { random.between(10, 60) }, &mut blocks);
        systems.push(blocks);
    }
    let requests = (0..12000)
        .map(|_| {
            let mut blocks = systems[random.zipf(systems.len())].clone();
            contents.add(random.between(2, 20), &mut blocks);
            let prompt = blocks.len();
            contents.add(random.between(2, 10), &mut blocks);
            Request { blocks, prompt }
        })
        .collect();
    Trace {
        name: "system prompts, many users",
        capacity,
        requests,
    }
}

/// Agents whose context grows with each call of a tool.
pub fn agents(capacity: usize) -> Trace {
    let (mut random, mut contents) = (Random(0xA6E27), Contents::default());
    let mut tools = Vec::new();
    contents.add(40, &mut tools);
    let begin = |random: &mut Random, contents: &mut Contents| {
        let mut blocks = tools.clone();
        contents.add(random.between(2, 30), &mut blocks);
        let turns = random.between(5, 50);
        (Talk { blocks, turns }, -random.unit().ln() * 12.0)
    };
    let turn = |random: &mut Random| {
        let pause = random.log_normal(8.0);
        (random.between(1, 8), random.between(1, 4), pause)
    };
    Trace {
        name: "agents with growing contexts",
        capacity,
        requests: talks(12000, &mut random, &mut contents, begin, turn),
    }
}

/// Questions about some documents, and now and then somebody reads through a whole archive, once.
pub fn scan(capacity: usize) -> Trace {
    let (mut random, mut contents) = (Random(0x5CA2), Contents::default());
    let mut documents = Vec::new();
    for _ in 0..60 {
        let mut blocks = Vec::new();
        contents.add(random.between(20, 80), &mut blocks);
        documents.push(blocks);
    }
    let mut requests = Vec::new();
    while requests.len() < 12000 {
        for _ in 0..60 {
            let mut blocks = documents[random.zipf(documents.len())].clone();
            contents.add(2, &mut blocks);
            let prompt = blocks.len();
            contents.add(random.between(1, 6), &mut blocks);
            requests.push(Request { blocks, prompt });
        }
        for _ in 0..30 {
            let mut blocks = Vec::new();
            contents.add(64, &mut blocks);
            let prompt = blocks.len();
            contents.add(2, &mut blocks);
            requests.push(Request { blocks, prompt });
        }
    }
    Trace {
        name: "questions, and scans",
        capacity,
        requests,
    }
}
