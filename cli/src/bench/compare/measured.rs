//! What the runs of each configuration say, and whether they agree where they have to.

use infer::kernel::attention::{AttentionShape, Form};
use infer::kernel::{CpuLevel, Kernels, Precision, RowType};
use infer::kv::BLOCK_TOKENS;
use infer::model::Model;
use infer::options::EngineOptions;
use serde_json::{Value, json};

use super::super::median;
use super::super::percentile::Sorted;
use super::super::serve::Served;
use super::configuration::Configuration;
use crate::exit::Failure;

/// What is compared on.
pub struct Subject<'a> {
    pub model: &'a Model,
    pub base: &'a EngineOptions,
    /// Tokens of the longest sequence of the load that was asked for.
    pub context: usize,
}

/// What memory and time cost.
pub struct Prices {
    /// Bytes that weights, keys and values and workspace may take.
    pub memory: Option<u64>,
    /// Dollars of an hour of the machine.
    pub per_hour: Option<f64>,
}

/// A configuration and what came of it.
pub struct Measured {
    pub configuration: Configuration,
    pub runs: Vec<Served>,
    /// Tokens per second over those of everything off: the median of the repetitions' ratios.
    pub speedup: f64,
    /// Share of the bytes of keys and values per token of context that everything off needs more.
    pub kv_saved: Option<f64>,
    /// A sentence about results that differ where they must not.
    pub difference: Option<String>,
    /// Whether there was something to compare the results with.
    compared: bool,
    /// Share of the requests that got the ids of everything off.
    as_off: f64,
    threads: usize,
    max_running: usize,
    kv_token_bytes: u64,
    workspace: Option<u64>,
    fitting: Option<u64>,
    dollars: Option<f64>,
}

/// Measures of every configuration, of which the first is everything off.
pub fn all(
    configurations: &[Configuration],
    runs: Vec<Vec<Served>>,
    subject: &Subject<'_>,
    prices: &Prices,
) -> Result<Vec<Measured>, Failure> {
    let mut all: Vec<Measured> = Vec::new();
    for (configuration, runs) in configurations.iter().zip(runs) {
        let partner = all
            .iter()
            .find(|m| configuration.has_results_of(&m.configuration));
        let compared = partner.is_some() || runs.len() > 1;
        let reference = partner
            .map(|m| (m.configuration.name.as_str(), &m.runs[0]))
            .unwrap_or((configuration.name.as_str(), &runs[0]));
        let difference = runs
            .iter()
            .find_map(|run| difference(&configuration.name, run, reference));
        let off = all.first().map_or(&runs, |m| &m.runs);
        let ratios = runs.iter().zip(off);
        let mut ratios: Vec<f64> = ratios
            .map(|(run, off)| run.tokens_per_second() / off.tokens_per_second().max(1e-9))
            .collect();
        let as_off = agreement(&runs[0], &off[0]);
        let saved = |own: f64, off: f64| 1.0 - own / off;
        let kv_saved = kv_bytes(&runs)
            .zip(kv_bytes(off))
            .map(|(own, off)| saved(own, off));

        let options = subject.model.resolve(&configuration.apply(subject.base)?);
        let block = super::super::block_bytes(subject.model, options.kv_type)?;
        let workspace = workspace(subject, &options)?;
        let fitting = prices.memory.map(|memory| {
            let taken = subject.model.info().weight_bytes + workspace.unwrap_or(0);
            let sequence = block.saturating_mul(subject.context.div_ceil(BLOCK_TOKENS) as u64);
            memory.saturating_sub(taken) / sequence.max(1)
        });
        let speed = middle(&runs, Served::tokens_per_second);
        all.push(Measured {
            speedup: median(&mut ratios),
            kv_saved,
            difference,
            compared,
            as_off,
            threads: options.threads,
            max_running: options.max_running,
            kv_token_bytes: block.div_ceil(BLOCK_TOKENS as u64),
            workspace,
            fitting,
            dollars: prices.per_hour.map(|d| d / 3600.0 / speed.max(1e-9) * 1e6),
            configuration: configuration.clone(),
            runs,
        });
    }
    Ok(all)
}

/// Bytes that attention computes in.
fn workspace(subject: &Subject<'_>, options: &EngineOptions) -> Result<Option<u64>, Failure> {
    let level = match CpuLevel::from_name(options.cpu_level).map_err(infer::Error::from)? {
        Some(level) => level,
        None => CpuLevel::selected().map_err(infer::Error::from)?,
    };
    let layers = subject.model.body()?.layer_shapes();
    let (Some(kernels), Some(layer), Some(row_type)) = (
        Kernels::for_level(level),
        layers.first(),
        RowType::from_name(options.kv_type),
    ) else {
        return Ok(None);
    };
    let shape = AttentionShape {
        n_heads: subject.model.info().n_heads,
        n_kv_heads: layer.n_kv_heads,
        key_dim: layer.key_dim,
        value_dim: layer.value_dim,
        scale: 1.0,
        window: None,
        softcap: None,
        precision: Precision::Native,
    };
    let form = match options.flash_attention {
        true => Form::Tiled,
        false => Form::TwoPass,
    };
    let bytes = form.bytes(kernels, row_type, &shape, options.threads, subject.context);
    Ok(Some(bytes as u64))
}

/// The first request that got other ids than in the reference.
fn difference(name: &str, run: &Served, (other, reference): (&str, &Served)) -> Option<String> {
    let pairs = run.answers.iter().zip(&reference.answers).enumerate();
    for (i, (own, expected)) in pairs {
        if own.tokens != expected.tokens {
            let same = own.tokens.iter().zip(&expected.tokens);
            let at = same.take_while(|(a, b)| a == b).count();
            return Some(format!(
                "results differ where they must not: request {i} with '{name}' has other ids than with '{other}' from token {at} on"
            ));
        }
    }
    None
}

/// Share of the requests that got the same ids.
fn agreement(run: &Served, other: &Served) -> f64 {
    let pairs = run.answers.iter().zip(&other.answers);
    let same = pairs.filter(|(a, b)| a.tokens == b.tokens).count();
    same as f64 / run.answers.len().max(1) as f64
}

fn middle(runs: &[Served], of: impl Fn(&Served) -> f64) -> f64 {
    median(&mut runs.iter().map(of).collect::<Vec<_>>())
}

/// Measured bytes of keys and values per token of context.
fn kv_bytes(runs: &[Served]) -> Option<f64> {
    let mut known: Vec<f64> = runs.iter().filter_map(|r| r.kv_bytes_per_token).collect();
    (!known.is_empty()).then(|| median(&mut known))
}

fn cores(run: &Served, threads: usize) -> Option<f64> {
    Some(run.cpu_seconds? / (run.seconds * threads as f64).max(1e-9))
}

impl Measured {
    /// As reports have it.
    pub fn json(&self) -> Value {
        let runs = &self.runs;
        let settings = self.configuration.settings.iter();
        let first = Sorted::new(runs.iter().flat_map(Served::first_tokens).collect());
        let gaps = Sorted::new(runs.iter().flat_map(|r| r.gaps.iter().copied()).collect());
        let sequences = middle(runs, |r| r.mean_sequences);
        let mut used: Vec<f64> = runs.iter().filter_map(|r| cores(r, self.threads)).collect();
        let used = (!used.is_empty()).then(|| median(&mut used));
        let identical = match (&self.difference, self.compared) {
            (Some(_), _) => json!(false),
            (None, true) => json!(true),
            (None, false) => Value::Null,
        };
        json!({
            "name": self.configuration.name,
            "kind": self.configuration.kind.name(),
            "options": settings.map(|(n, v)| (n.to_string(), json!(v))).collect::<serde_json::Map<_, _>>(),
            "tokens_per_second": middle(runs, Served::tokens_per_second),
            "requests_per_second": middle(runs, Served::requests_per_second),
            "speedup": self.speedup,
            "first_token_seconds": first.json(),
            "inter_token_seconds": gaps.json(),
            "mean_sequences": sequences,
            "batch_utilization": sequences / self.max_running.max(1) as f64,
            "core_utilization": used,
            "kv_token_bytes": self.kv_token_bytes,
            "kv_bytes_per_context_token": kv_bytes(runs),
            "kv_saved": self.kv_saved,
            "kv_bytes_peak": middle(runs, |r| r.stats.kv_bytes_peak as f64),
            "attention_workspace_bytes": self.workspace,
            "sequences_that_fit": self.fitting,
            "dollars_per_million_tokens": self.dollars,
            "identical": identical,
            "requests_as_with_everything_off": self.as_off,
            "runs": runs.iter().map(|r| run_json(r, self.threads)).collect::<Vec<_>>(),
        })
    }
}

fn run_json(run: &Served, threads: usize) -> Value {
    json!({
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "core_utilization": cores(run, threads),
        "tokens": run.tokens(),
        "tokens_per_second": run.tokens_per_second(),
        "requests_per_second": run.requests_per_second(),
        "first_token_seconds": run.first_tokens().collect::<Vec<_>>(),
        "inter_token_seconds": Sorted::new(run.gaps.clone()).json(),
        "steps": run.stats.steps,
        "mean_sequences": run.mean_sequences,
        "prompt_tokens_computed": run.stats.prompt_tokens,
        "generated_tokens": run.stats.generated_tokens,
        "prefix_hit_tokens": run.stats.prefix_hit_tokens,
        "preemptions": run.stats.preemptions,
        "kv_bytes_peak": run.stats.kv_bytes_peak,
        "kv_bytes_per_context_token": run.kv_bytes_per_token,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::serve::Answer;
    use super::super::configuration::Kind;
    use super::*;

    fn served(tokens: &[&[u32]]) -> Served {
        let answer = |tokens: &&[u32]| Answer {
            tokens: tokens.to_vec(),
            complete: true,
            ..Answer::default()
        };
        Served {
            answers: tokens.iter().map(answer).collect(),
            ..Served::default()
        }
    }

    #[test]
    fn other_results_are_named() {
        let (a, b) = (served(&[&[1, 2], &[3, 4]]), served(&[&[1, 2], &[3, 5]]));
        assert_eq!(difference("x", &a, ("y", &a)), None);
        let sentence = difference("threads 2", &b, ("everything off", &a)).unwrap();
        for part in ["request 1", "'threads 2'", "'everything off'", "token 1 on"] {
            assert!(sentence.contains(part), "{sentence}");
        }
        assert_eq!(agreement(&a, &b), 0.5);
    }

    #[test]
    fn results_are_compared_where_no_option_excuses_others() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");
        let model = Model::load(model.as_ref(), &Default::default(), &mut |_| true).unwrap();
        let base = EngineOptions {
            context_length: 64,
            ..EngineOptions::default()
        };
        let subject = Subject {
            model: &model,
            base: &base,
            context: 64,
        };
        let prices = Prices {
            memory: Some(100_000_000),
            per_hour: None,
        };
        let named = |name: &str, settings: &[(&'static str, &str)]| Configuration {
            name: name.to_string(),
            kind: Kind::Alone,
            settings: settings.iter().map(|(n, v)| (*n, v.to_string())).collect(),
        };
        let configurations = [
            named("off", &[("threads", "1"), ("kv_type", "f32")]),
            named("threads", &[("threads", "2"), ("kv_type", "f32")]),
            named("kv", &[("threads", "1"), ("kv_type", "f16")]),
            named("unstable", &[("threads", "1"), ("kv_type", "q8")]),
        ];
        let (a, b) = (served(&[&[1, 2]]), served(&[&[1, 3]]));
        let runs = vec![
            vec![a.clone(), a.clone()],
            vec![a.clone(), b.clone()],
            vec![b.clone(), b.clone()],
            vec![b, a],
        ];
        let all = all(&configurations, runs, &subject, &prices).unwrap();
        let identical: Vec<Value> = all.iter().map(|m| m.json()["identical"].clone()).collect();
        assert_eq!(identical, [true, false, true, false].map(Value::Bool));
        assert!(all[1].difference.as_ref().unwrap().contains("'threads'"));
        // Half of the bytes: about twice as many sequences.
        let fitting = |i: usize| all[i].fitting.unwrap() as f64;
        assert!((1.9..2.1).contains(&(fitting(2) / fitting(0))));
    }
}
