//! `infer bench`: speed of prompts and of decoding, beside what the machine allows at that moment.
//!
//! [`speed`] plans and reports, [`measure`] times an engine, [`probe`] the machine, [`limit`] computes what a step cannot be
//! faster than, [`machine`] describes machine and process, [`table`] writes for people, [`founding`] compares the figures of
//! the founding reports, for which [`allocations`] counts.
//!
//! [`workload`] makes loads up and [`serve`] serves them, which [`compare`] does with and without each feature and [`listed`]
//! with the requests of a file; [`latency`] measures answers while prompts keep coming. [`tier`] measures the cold tier, [`kv`] and [`kv_cold`] the key/value
//! store alone.

mod allocations;
mod compare;
mod founding;
mod kv;
mod kv_cold;
mod latency;
mod limit;
mod listed;
mod machine;
mod measure;
mod percentile;
mod probe;
mod serve;
mod serving;
mod speed;
mod svg;
mod table;
mod tier;
mod workload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use infer::kernel::{CpuLevel, RowType, ThreadPool};
use infer::kv::Geometry;
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, Object, ThreadsOptions};
use serde_json::{Value, json};

use crate::demo;
use crate::exit::{Failure, Outcome};
use crate::flags::{Flags, Loading, Offer};
use crate::loading;
use machine::Machine;
use serving::Serving;
use speed::Counts;

/// Measure the speed of prompts and of decoding.
///
/// Every combination is measured --repetitions times and its median reported: prompts (pp), decoding one sequence (tg) and
/// several at once (batched_tg, all sequences together), at each --depth of context. Beside every run the read bandwidth
/// of memory and the clock are measured, and from them what the machine would allow (docs/benchmarks.md has the
/// formulas); the fraction of that limit stands beside the speed.
///
/// --compare serves a made-up load with and without each feature, --latency measures answers while prompts keep coming,
/// --serve serves the requests of a file.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Lengths of prompts to measure; 0 measures none.
    #[arg(long, value_name = "N,N", default_value = "512", allow_hyphen_values = true)]
    prompt_tokens: Counts,
    /// Tokens to decode per sequence and run; 0 measures none.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    generate_tokens: u32,
    /// Sequences decoded at the same time.
    #[arg(long, value_name = "N,N", default_value = "1", allow_hyphen_values = true)]
    batch: Counts,
    /// Tokens each sequence holds before decoding is measured; the context is filled once, and at a depth that is also
    /// a length of --prompt-tokens the prompts of that measurement fill it.
    #[arg(long, value_name = "N,N", default_value = "0", allow_hyphen_values = true)]
    depth: Counts,
    /// Runs of each measurement [default: 5; with --compare, --latency and --serve 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: Option<u32>,
    /// Measure the figures of the founding reports instead: claim, measured, limit.
    #[arg(long, conflicts_with_all = ["prompt_tokens", "generate_tokens", "batch", "depth", "repetitions", "serving"])]
    founding: bool,
    /// Measure the key/value store that `infer_kv_cache` is, without a model: stores by one and by several tokens, fetches
    /// and lookups beside memcpy.
    #[arg(long, conflicts_with_all = ["model", "prompt_tokens", "generate_tokens", "batch", "depth", "founding", "serving"])]
    kv: bool,
    /// With --kv, measure a cold tier in a new folder here as well, beside writing and reading a file. Takes 3 GiB there.
    #[arg(long, value_name = "PATH", requires = "kv")]
    kv_dir: Option<PathBuf>,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    tiering: tier::Tiering,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// Options of the engine.
pub struct Computing;

impl Offer for Computing {
    const OBJECT: Object = Object::Engine;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("threads", None),
        ("cpu_level", None),
        ("kv_type", None),
        ("prefill_chunk", None),
        ("prefill_budget", None),
        ("f16_products", None),
        ("flash_attention", None),
        ("exact", None),
    ];
    const HEADING: &'static str = "Computing";
}

/// The middle value; the mean of the middle two of an even number.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => 0.0,
        _ if n.is_multiple_of(2) => (values[n / 2 - 1] + values[n / 2]) / 2.0,
        _ => values[n / 2],
    }
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    if args.kv {
        return kv::run(&Machine::this(), args.repetitions, args.kv_dir.as_deref(), json);
    }
    let path = demo::or_demo(args.model.as_ref())?;
    let options: EngineOptions = args.computing.options()?;
    let model_options: ModelOptions = args.loading.options()?;
    let machine = Machine::this();
    if args.founding {
        return founding::run(&path, &options, &model_options, &machine, json);
    }
    if args.serving.is_asked_for() || args.tiering.tier {
        return serve_and_measure(args, &path, &options, &model_options, &machine, json);
    }
    speed::run(args, &path, options, &model_options, &machine, json)
}

/// The measurements that serve requests.
fn serve_and_measure(
    args: &Args,
    path: &Path,
    options: &EngineOptions,
    model_options: &ModelOptions,
    machine: &Machine,
    json: bool,
) -> Outcome {
    let model = load(path, model_options)?;
    let subject = serving::Subject {
        model: &model,
        options,
        repetitions: args.repetitions,
        about: about(path, &model, machine),
    };
    if args.tiering.tier {
        tier::run(&args.tiering, path, subject, json)
    } else if args.serving.compare {
        compare::run(&args.serving, subject, json)
    } else if let Some(file) = &args.serving.serve {
        listed::run(&args.serving, file, subject, json)
    } else {
        latency::run(&args.serving, subject, json)
    }
}

/// Where and of what a report is.
fn about(path: &Path, model: &Model, machine: &Machine) -> Value {
    let info = model.info();
    json!({
        "machine": machine.json(),
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("INFER_COMMIT"),
        "model": {
            "path": path.to_string_lossy(),
            "description": info.description,
            "n_parameters": info.n_parameters,
            "weight_bytes": info.weight_bytes,
        },
    })
}

/// Adds the fields of an object to another.
fn join(object: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (object, more) {
        fields.extend(more);
    }
}

/// The level and the threads that these options choose.
fn computing(options: &EngineOptions) -> infer::Result<(CpuLevel, Arc<ThreadPool>)> {
    let level = match CpuLevel::from_name(options.cpu_level)? {
        Some(level) => level,
        None => CpuLevel::selected()?,
    };
    let threads = ThreadsOptions {
        threads: options.threads,
        ..ThreadsOptions::default()
    };
    Ok((level, Arc::new(ThreadPool::from_options(&threads)?)))
}

/// Bytes of a block of keys and values of a type.
fn block_bytes(model: &Model, kv_type: &str) -> Result<u64, Failure> {
    let row_type = RowType::from_name(kv_type)
        .ok_or_else(|| Failure::Usage(format!("kv_type '{kv_type}': no such type")))?;
    Ok(Geometry::new(row_type, model.body()?.layer_shapes())?.block_bytes() as u64)
}

/// The type the cache will have.
fn kv_type(model: &Model, options: &EngineOptions) -> Result<RowType, Failure> {
    let name = model.resolve(options).kv_type;
    RowType::from_name(name).ok_or_else(|| Failure::Usage(format!("--kv-type {name}: no such type")))
}

/// The model of a path with a pool, for other measurements of this command.
fn load(path: &Path, options: &ModelOptions) -> Result<Arc<Model>, Failure> {
    Ok(loading::load(path, options)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
