//! Random numbers, and text made of them: common words, as often as words are in a language.

use infer::model::Model;

use crate::exit::Failure;

/// From the most frequent down: the n-th is taken about 1/n as often as the first.
const WORDS: &str = "\
the of and to a in that he was it his is with as had for she not but at on her be they him by all this said \
from so were have one which there their what would who when them been if no out or up into prince could some \
then now more time man did about other before only your very face how like has after over hand room went down \
must again eyes know such same long house came little old where here just day first right life good back never \
door left word people nothing great still horse war something night looked army young father general why \
thought without put morning road table letter voice officer money winter question answer window river peace \
city paper number story fire order village doctor silence";
/// Sentences between two looks at how many tokens there are.
const SENTENCES: usize = 4;

/// Random numbers that a seed decides, on every machine alike.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but not including 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Exponentially distributed, 1 on average.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// Writes texts as the model's tokens.
pub struct Writer<'a> {
    pub random: Random,
    model: &'a Model,
    words: Vec<&'static str>,
}

impl<'a> Writer<'a> {
    pub fn new(seed: u64, model: &'a Model) -> Self {
        Self {
            random: Random::new(seed),
            model,
            words: WORDS.split(' ').collect(),
        }
    }

    /// `n` tokens. A model without a tokenizer gets ids without meaning.
    pub fn ids(&mut self, n: usize) -> Result<Vec<u32>, Failure> {
        if self.model.tokenizer().is_err() {
            let n_vocab = self.model.info().n_vocab;
            return Ok((0..n).map(|_| self.random.below(n_vocab) as u32).collect());
        }
        let mut ids = Vec::new();
        while ids.len() < n {
            let text: String = (0..SENTENCES).map(|_| self.sentence()).collect();
            ids.extend(self.model.tokenize(&text, false, false)?);
        }
        ids.truncate(n);
        Ok(ids)
    }

    fn sentence(&mut self) -> String {
        let n = 5 + self.random.below(12);
        let mut text = String::new();
        for i in 0..n {
            let word = self.word();
            match i {
                0 => {
                    text.push_str(&word[..1].to_uppercase());
                    text.push_str(&word[1..]);
                }
                _ => {
                    text.push(' ');
                    text.push_str(word);
                }
            }
        }
        text.push_str(". ");
        text
    }

    fn word(&mut self) -> &'static str {
        // The logarithm of a rank is about evenly distributed when frequencies are those of words.
        let rank = (self.words.len() as f64).powf(self.random.unit());
        self.words[(rank as usize - 1).min(self.words.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_spread_as_they_should_be() {
        let mut random = Random::new(1);
        let n = 10_000;
        let mut counts = [0; 8];
        (0..n).for_each(|_| counts[random.below(8)] += 1);
        assert!(counts.iter().all(|c| (1000..1500).contains(c)), "{counts:?}");
        let mean = (0..n).map(|_| random.exponential()).sum::<f64>() / f64::from(n);
        assert!((0.95..1.05).contains(&mean), "{mean}");
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn no_word_comes_twice_or_is_empty() {
        let mut words: Vec<_> = WORDS.split(' ').collect();
        let n = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), n);
        assert!(
            words
                .iter()
                .all(|w| w.bytes().all(|b| b.is_ascii_lowercase()) && !w.is_empty())
        );
    }
}
