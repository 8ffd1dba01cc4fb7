//! Loads whose prefixes come back after others: a list of requests in the order in which clients take them.

use std::collections::HashSet;

use infer::kv::BLOCK_TOKENS;
use infer::model::Model;

use super::super::workload::writer::Writer;
use crate::exit::Failure;

/// Which load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Conversations of three turns that come back after all others.
    Chats,
    /// One system prompt and many users, each with a profile.
    System,
    /// Programs with the same instructions and contexts that grow.
    Agents,
    /// Questions on the same texts with a scan of other texts in between.
    Scan,
    /// One after the other.
    All,
}

impl Which {
    /// The loads that this asks for.
    pub fn all(self) -> Vec<Self> {
        match self {
            Which::All => vec![Which::Chats, Which::System, Which::Agents, Which::Scan],
            one => vec![one],
        }
    }

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Which::Chats => "chats",
            Which::System => "system",
            Which::Agents => "agents",
            Which::Scan => "scan",
            Which::All => "all",
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The request whose prompt and answer this one's prompt begins with; it stands before this one.
    pub after: Option<usize>,
    /// The prompt, or what follows the earlier answer.
    pub ids: Vec<u32>,
    /// Tokens to generate; every answer has as many.
    pub max_tokens: usize,
}

/// A load.
#[derive(Debug, PartialEq)]
pub struct Load {
    pub asks: Vec<Ask>,
    /// Tokens of every prompt.
    pub prompts: Vec<usize>,
    /// Different full blocks of all prompts and answers.
    pub blocks: usize,
    /// Tokens of prompts that no earlier request has the keys and values of.
    pub fresh: usize,
}

/// Conversations, users, agents and texts of a whole load.
const MANY: usize = 160;
/// `quick` takes this share of them.
const QUICK: usize = 5;

impl Load {
    /// Makes a load up. The seed decides everything.
    pub fn new(which: Which, seed: u64, quick: bool, model: &Model) -> Result<Self, Failure> {
        let mut draft = Draft {
            writer: Writer::new(seed, model),
            asks: Vec::new(),
        };
        let many = if quick { MANY / QUICK } else { MANY };
        match which {
            Which::Chats => draft.growing(many, 3, &[], (48, 80), (16, 32))?,
            Which::System => draft.system(many)?,
            Which::Agents => {
                let instructions = draft.writer.ids(64)?;
                draft.growing(many, 4, &instructions, (24, 40), (24, 40))?;
            }
            Which::Scan | Which::All => draft.scan(many)?,
        }
        Ok(Self::of(draft.asks))
    }

    fn of(asks: Vec<Ask>) -> Self {
        let mut prompts: Vec<usize> = Vec::with_capacity(asks.len());
        let mut known: HashSet<&[u32]> = HashSet::new();
        let (mut blocks, mut fresh) = (0, 0);
        for ask in &asks {
            // The last token is never read.
            let full = |prompt: usize, answer: usize| (prompt + answer - 1) / BLOCK_TOKENS;
            let (prompt, had) = match ask.after {
                Some(i) => {
                    fresh += ask.ids.len();
                    let before = prompts[i] + asks[i].max_tokens;
                    (before + ask.ids.len(), full(prompts[i], asks[i].max_tokens))
                }
                None => {
                    let ends = (1..=ask.ids.len() / BLOCK_TOKENS).map(|n| n * BLOCK_TOKENS);
                    let had = ends.filter(|end| !known.insert(&ask.ids[..*end])).count();
                    let earlier = asks[..prompts.len()].iter().filter(|a| a.after.is_none());
                    let common = |a: &Ask| a.ids.iter().zip(&ask.ids).take_while(|(a, b)| a == b).count();
                    fresh += ask.ids.len() - earlier.map(common).max().unwrap_or(0);
                    (ask.ids.len(), had)
                }
            };
            blocks += full(prompt, ask.max_tokens) - had;
            prompts.push(prompt);
        }
        drop(known);
        Self {
            asks,
            prompts,
            blocks,
            fresh,
        }
    }

    /// Tokens of the longest sequence with its answer.
    pub fn longest(&self) -> usize {
        let whole = self.prompts.iter().zip(&self.asks).map(|(p, a)| p + a.max_tokens);
        whole.max().unwrap_or(0)
    }

    /// Tokens of all prompts.
    pub fn prompt_tokens(&self) -> usize {
        self.prompts.iter().sum()
    }

    /// Tokens of all answers.
    pub fn generated_tokens(&self) -> usize {
        self.asks.iter().map(|a| a.max_tokens).sum()
    }
}

struct Draft<'a> {
    writer: Writer<'a>,
    asks: Vec<Ask>,
}

impl Draft<'_> {
    fn between(&mut self, (least, most): (usize, usize)) -> usize {
        least + self.writer.random.below(most - least + 1)
    }

    fn text(&mut self, length: (usize, usize)) -> Result<Vec<u32>, Failure> {
        let n = self.between(length);
        self.writer.ids(n)
    }

    fn push(&mut self, after: Option<usize>, ids: Vec<u32>) -> usize {
        let max_tokens = self.between((8, 16));
        self.asks.push(Ask {
            after,
            ids,
            max_tokens,
        });
        self.asks.len() - 1
    }

    /// All of `n` in any order.
    fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.writer.random.below(i + 1));
        }
        order
    }

    /// Contexts that grow turn by turn, everybody once in a round.
    fn growing(
        &mut self,
        many: usize,
        turns: usize,
        common: &[u32],
        first: (usize, usize),
        later: (usize, usize),
    ) -> Result<(), Failure> {
        let mut latest: Vec<Option<usize>> = vec![None; many];
        for turn in 0..turns {
            for who in self.shuffled(many) {
                let said = self.text(if turn == 0 { first } else { later })?;
                let ids = if turn == 0 { [common, &said].concat() } else { said };
                latest[who] = Some(self.push(latest[who], ids));
            }
        }
        Ok(())
    }

    fn system(&mut self, many: usize) -> Result<(), Failure> {
        let system = self.writer.ids(128)?;
        let mut profiles = Vec::new();
        for _ in 0..many {
            profiles.push(self.text((64, 96))?);
        }
        for _ in 0..3 {
            for who in self.shuffled(many) {
                let question = self.text((12, 24))?;
                self.push(None, [&system[..], &profiles[who], &question].concat());
            }
        }
        Ok(())
    }

    fn scan(&mut self, many: usize) -> Result<(), Failure> {
        let mut texts = Vec::new();
        for _ in 0..many / 2 {
            texts.push(self.text((96, 160))?);
        }
        for round in 0..4 {
            if round == 2 {
                for _ in 0..many {
                    let text = self.text((96, 160))?;
                    self.push(None, text);
                }
            }
            for which in self.shuffled(many / 2) {
                let question = self.text((12, 24))?;
                self.push(None, [&texts[which][..], &question].concat());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use infer::model::Model;

    use super::*;

    #[test]
    fn a_seed_decides_everything_and_the_working_set_is_large_beside_a_sequence() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");
        let model = Model::load(path.as_ref(), &Default::default(), &mut |_| true).unwrap();
        for which in Which::All.all() {
            let make = |seed, quick| Load::new(which, seed, quick, &model).unwrap();
            let load = make(7, false);
            assert_eq!(load, make(7, false), "{which:?}");
            assert_ne!(load, make(8, false), "{which:?}");
            for (times, load) in [(20, load), (5, make(7, true))] {
                let longest = load.longest().div_ceil(BLOCK_TOKENS);
                assert!(
                    load.blocks / times > 2 * longest,
                    "{which:?}: {} {longest}",
                    load.blocks
                );
                assert!(load.longest() <= model.info().context_length);
                assert!(
                    load.fresh < load.prompt_tokens() * 3 / 4,
                    "{which:?}: nothing comes back"
                );
            }
        }
    }

    #[test]
    fn a_working_set_counts_what_is_shared_once() {
        let ask = |after, ids: Vec<u32>, max_tokens| Ask {
            after,
            ids,
            max_tokens,
        };
        let n = BLOCK_TOKENS as u32;
        let load = Load::of(vec![
            // Two blocks, and a third one with the answer.
            ask(None, (0..2 * n).collect(), BLOCK_TOKENS + 1),
            // The first block again, then another one.
            ask(None, (0..n).chain(100..100 + n).collect(), 1),
            // Goes on after the first answer: the token that was not read and the rest of a block.
            ask(Some(0), (0..n - 1).collect(), 1),
        ]);
        assert_eq!(load.blocks, 3 + 1 + 1);
        assert_eq!(load.fresh, 2 * BLOCK_TOKENS + BLOCK_TOKENS + BLOCK_TOKENS - 1);
        assert_eq!(
            load.prompts,
            [2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS, 4 * BLOCK_TOKENS]
        );
    }
}
