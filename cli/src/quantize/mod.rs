//! `infer quantize`: a model file with its weights in another type.

mod convert;
pub mod mix;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use infer::gguf::{Gguf, GgufWriter, Value};
use infer::options::LogLevel;
use infer::quant::TensorType;
use serde_json::json;

use crate::exit::{Failure, INTERRUPTED, OK, Outcome};
use crate::interrupt::{Interrupt, Otherwise};
use crate::log;
use crate::output::{self, Output};
use crate::progress::Progress;
use mix::{Entry, Facts, Mix};

/// Key of the number that names the mix.
const FILE_TYPE: &str = "general.file_type";
/// Key of the version of the block formats, 2 since 2023.
const QUANTIZATION_VERSION: &str = "general.quantization_version";

/// Write a model with its weights in another type.
///
/// TYPE is a tensor type or a mix, such as Q4_K_M, in which the tensors that matter most get more bits, by llama.cpp's rules.
/// Vectors stay as they are; rows that the blocks of a type do not divide get a similar type. The output appears under
/// its name when it is complete, may replace the input, and is the same for any number of threads.
#[derive(clap::Args)]
pub struct Args {
    /// The model to read, best in F32, F16 or BF16; of a split model, the first file.
    input: PathBuf,
    /// The file to write.
    output: PathBuf,
    /// F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S IQ4_NL IQ4_XS Q4_1 Q4_0 MXFP4 MXFP4_MOE Q3_K_L Q3_K_M
    /// Q3_K_S Q2_K.
    #[arg(value_name = "TYPE")]
    mix: Mix,
    /// Also convert tensors that are quantized already, which loses more than quantizing the original.
    #[arg(long)]
    requantize: bool,
    /// Give every matrix the same type.
    #[arg(long)]
    pure: bool,
    /// Threads that convert; 0 chooses from the processors this process may use.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let started = Instant::now();
    let gguf = Gguf::open(&args.input)?;
    let entries: Vec<Entry<'_>> = gguf.tensors().iter().map(Entry::from).collect();
    let (types, fallbacks) = mix::assign(&args.mix, &entries, &Facts::of(gguf.metadata()), args.pure);
    check(args, &gguf, &types)?;

    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().iter() {
        if !key.starts_with("split.") && key != FILE_TYPE && key != QUANTIZATION_VERSION {
            writer.insert(key, value.clone())?;
        }
    }
    writer.insert(FILE_TYPE, Value::U32(args.mix.file_type))?;
    writer.insert(QUANTIZATION_VERSION, Value::U32(2))?;
    for (t, &ty) in gguf.tensors().iter().zip(&types) {
        writer.declare(&t.name, &t.dims, ty)?;
    }

    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n.into(),
    };
    let interrupt = Interrupt::install(Otherwise::Leave)?;
    interrupt.begin();
    let mut reader = convert::Reader::open(&gguf)?;
    let mut progress = Progress::new("quantizing", gguf.data_bytes());
    let (mut next, mut done) = (0, 0u64);
    let written = writer.write_file_from(&args.output, &mut |_, sink| {
        let (Some(t), Some(&ty)) = (gguf.tensors().get(next), types.get(next)) else {
            return Ok(());
        };
        next += 1;
        reader.convert(t, ty, threads, sink, &mut |bytes| {
            done += bytes;
            progress.set(done);
            if interrupt.is_asked() {
                return Err(infer::Error::Cancelled("quantizing"));
            }
            Ok(())
        })
    });
    progress.clear();
    if let Err(infer::Error::Cancelled(_)) = written {
        return Ok(INTERRUPTED);
    }
    written?;
    report(args, &gguf, &types, fallbacks, started, json)
}

/// Refuses what should not or cannot be converted.
fn check(args: &Args, gguf: &Gguf, types: &[TensorType]) -> Result<(), Failure> {
    let changed = || gguf.tensors().iter().zip(types).filter(|(t, ty)| t.ty != **ty);
    if let Some((t, ty)) = changed().find(|(t, _)| !t.ty.is_supported()) {
        return Err(Failure::Failed(format!(
            "cannot convert tensor '{}' from {} to {ty}: this version cannot read that type",
            t.name, t.ty
        )));
    }
    let Some((t, _)) = changed().find(|(t, _)| t.ty.is_quantized()) else {
        return Ok(());
    };
    if !args.requantize {
        return Err(Failure::Failed(format!(
            "tensor '{}' of {} is {} already: quantize the F32, F16 or BF16 original, or give --requantize to accept \
             what is lost twice",
            t.name,
            args.input.display(),
            t.ty
        )));
    }
    let message = "the input is quantized already: the output loses more than one made of the original";
    log::record(
        LogLevel::Warn,
        "quantize",
        message,
        json!({ "tensor": t.name, "type": t.ty.name() }),
    );
    Ok(())
}

/// Says what was written.
fn report(
    args: &Args,
    gguf: &Gguf,
    types: &[TensorType],
    fallbacks: usize,
    started: Instant,
    json: bool,
) -> Outcome {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (t, ty) in gguf.tensors().iter().zip(types) {
        let count = counts.entry(ty.name()).or_default();
        count.0 += 1;
        count.1 += t.n_elements() / ty.block_len() as u64 * ty.block_bytes() as u64;
    }
    let before = gguf.file_bytes();
    let after = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    let seconds = started.elapsed().as_secs_f64();
    let mut out = Output::new();
    if json {
        let counts: serde_json::Map<String, serde_json::Value> = counts
            .iter()
            .map(|(name, (n, bytes))| (name.to_string(), json!({ "tensors": n, "bytes": bytes })))
            .collect();
        out.json(&json!({
            "input": args.input.to_string_lossy(),
            "output": args.output.to_string_lossy(),
            "type": args.mix.name,
            "types": counts,
            "fallbacks": fallbacks,
            "bytes_before": before,
            "bytes_after": after,
            "seconds": seconds,
        }))?;
    } else {
        for (name, (n, bytes)) in &counts {
            out.text(&format!("{name:8} {n:5} tensors  {}\n", output::bytes(*bytes)))?;
        }
        if fallbacks > 0 {
            out.text(&format!(
                "{fallbacks} of them in another type, because blocks do not divide their rows\n"
            ))?;
        }
        let (before, after) = (output::bytes(before), output::bytes(after));
        let path = args.output.display();
        out.text(&format!(
            "{before} became {after} in {seconds:.1} s, written to {path}\n"
        ))?;
    }
    out.flush()?;
    Ok(OK)
}
