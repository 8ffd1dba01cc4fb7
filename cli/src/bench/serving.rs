//! Flags of the measurements that serve requests: `--compare`, `--latency` and `--serve`.

use std::path::PathBuf;
use std::sync::Arc;

use infer::model::Model;
use infer::options::EngineOptions;
use serde_json::Value;

use super::workload::{Kind, Recipe, Workload};
use crate::exit::Failure;

/// `--quick` takes this share of the lengths and of the requests.
const QUICK: usize = 4;

/// The flags.
#[derive(clap::Args)]
#[command(next_help_heading = "Serving")]
pub struct Serving {
    /// Serve a load with everything off, each feature alone, everything on, and everything on but one, and compare.
    #[arg(long, group = "serving", conflicts_with_all = ["prompt_tokens", "generate_tokens", "batch", "depth"])]
    pub compare: bool,
    /// Measure the time between two tokens of steady answers, alone and while long prompts keep coming.
    #[arg(long, group = "serving", conflicts_with_all = ["prompt_tokens", "generate_tokens", "batch", "depth"])]
    pub latency: bool,
    /// Serve the requests of a file, all there at once: a JSON list of {"ids": [1, 2], "max_tokens": 3}. Answers have that
    /// length, greedily chosen.
    #[arg(long, value_name = "PATH", group = "serving", conflicts_with_all = ["prompt_tokens", "generate_tokens", "batch", "depth", "seed", "scale", "quick", "max_seconds"])]
    pub serve: Option<PathBuf>,
    /// The load to compare with.
    #[arg(
        long,
        value_name = "WORD",
        default_value = "chat-service",
        requires = "compare"
    )]
    pub workload: Kind,
    /// Key of the load's random numbers.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "serving")]
    pub seed: u64,
    /// Requests of the load; the load's own number by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), requires = "compare", conflicts_with = "latency")]
    pub requests: Option<u32>,
    /// Factor of all lengths. They are meant for a context of 8192 tokens and shrink with a shorter one.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive, requires = "serving")]
    pub scale: f64,
    /// A quarter of the lengths and of the requests, one repetition.
    #[arg(long, requires = "serving")]
    pub quick: bool,
    /// Conversations that begin per second, at random times. By default all that can come is there, so that times to the
    /// first token are those of a full queue.
    #[arg(long, value_name = "X", value_parser = positive, requires = "compare", conflicts_with = "latency")]
    pub rate: Option<f64>,
    /// Sequences at the same time: at most with --compare and --serve (default: the preset's max_running), exactly with
    /// --latency (default: 8).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), requires = "serving")]
    sequences: Option<u32>,
    /// Seconds that a run may take. --compare cuts the load, for all alike, at what everything off completes by then.
    #[arg(long, value_name = "X", default_value_t = 20.0, value_parser = positive, requires = "serving")]
    pub max_seconds: f64,
    /// Features to compare, by the names of their options; the others keep their usual value.
    #[arg(
        long,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        requires = "compare",
        conflicts_with = "latency"
    )]
    pub features: Vec<String>,
    /// Memory in GB: say how many of the load's longest sequences fit beside the weights.
    #[arg(long, value_name = "X", value_parser = positive, requires = "compare", conflicts_with = "latency")]
    pub memory_gb: Option<f64>,
    /// What an hour of the machine costs: say what a million tokens cost.
    #[arg(long, value_name = "DOLLARS", value_parser = positive, requires = "compare", conflicts_with = "latency")]
    pub cost_per_hour: Option<f64>,
    /// Write a bar chart of the comparison.
    #[arg(long, value_name = "PATH", requires = "compare", conflicts_with = "latency")]
    pub svg: Option<PathBuf>,
}

/// What is measured.
pub struct Subject<'a> {
    pub model: &'a Arc<Model>,
    pub options: &'a EngineOptions,
    /// As the command line has it.
    pub repetitions: Option<u32>,
    /// Fields that identify machine and model in a report.
    pub about: Value,
}

impl Serving {
    /// Whether any of these measurements is.
    pub fn is_asked_for(&self) -> bool {
        self.compare || self.latency || self.serve.is_some()
    }

    /// Repetitions when `asked` on the command line, else the usual ones.
    pub fn repetitions(&self, asked: Option<u32>, usual: u32) -> u32 {
        asked.unwrap_or(if self.quick { 1 } else { usual })
    }

    /// The load as it is asked for.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            kind: self.workload,
            seed: self.seed,
            scale: match self.quick {
                true => self.scale / QUICK as f64,
                false => self.scale,
            },
            requests: self.requests.map(|n| n as usize),
        }
    }

    /// The load of a recipe, with as many requests as are asked for.
    ///
    /// # Errors
    /// As [`Workload::new`].
    pub fn workload(&self, recipe: &Recipe, model: &Model) -> Result<Workload, Failure> {
        let load = Workload::new(recipe, model)?;
        Ok(match self.quick && self.requests.is_none() {
            true => load.first(load.requests.len().div_ceil(QUICK)),
            false => load,
        })
    }

    /// Sequences at the same time, where they are asked for.
    pub fn sequences(&self) -> Option<usize> {
        self.sequences.map(|n| n as usize)
    }
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|x| *x > 0.0 && x.is_finite())
        .ok_or_else(|| "expected a number above 0".to_string())
}

#[cfg(test)]
mod tests {
    use super::positive;

    #[test]
    fn only_numbers_above_0_are_taken() {
        assert_eq!(positive("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "inf", "NaN", "x"] {
            assert!(positive(wrong).is_err(), "{wrong}");
        }
    }
}
