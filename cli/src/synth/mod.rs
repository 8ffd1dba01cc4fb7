//! `infer synth`: model files of real shapes with random weights, for measuring.

mod blocks;
mod shape;
mod vocabulary;

use std::path::PathBuf;

use infer::gguf::{GgufWriter, Value};
use infer::memory;
use infer::quant::{TensorType, quantize_row};
use serde_json::json;

use crate::exit::{INTERRUPTED, OK, Outcome};
use crate::interrupt::{Interrupt, Otherwise};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::quantize::mix::{self, Entry, Facts, Mix};
use blocks::Random;
use shape::{Planned, Shape, Values};

/// Bytes made at once.
const PIECE: usize = 1 << 22;

/// Write a model file of a real shape with random weights, for measuring speed and memory.
///
/// Weights are random numbers that keep activations sane; quantized ones are random blocks. The vocabulary encodes every text.
/// The same seed gives the same file. What the model says is noise.
///
/// Shapes: llama-3.2-1b llama-3.1-8b llama-3.3-70b qwen3-0.6b qwen2.5-0.5b smollm2-135m moe-small, llama-1b-heads-1, -2,
/// -4, -8 and llama-1b-mqa (the 1B shape with so many query heads per key/value head, and with one key/value head), tiny.
#[derive(clap::Args)]
pub struct Args {
    /// The shape.
    #[arg(long, value_name = "NAME")]
    shape: Shape,
    /// Tensor type or mix, as for `infer quantize`.
    #[arg(long = "type", value_name = "TYPE")]
    mix: Mix,
    /// The file to write.
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
    /// Number of layers, instead of those of the shape.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    layers: Option<u16>,
    /// Seed of the random numbers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let mut shape = args.shape;
    if let Some(layers) = args.layers {
        shape.n_layers = layers.into();
    }
    let tensors = shape.tensors();
    let types = types(&shape, &tensors, &args.mix);
    let mut writer = GgufWriter::new();
    for (key, value) in metadata(&shape, &args.mix) {
        writer.insert(key, value)?;
    }
    for (key, value) in vocabulary::metadata(
        shape.n_vocab as usize,
        if shape.arch == "llama" {
            "llama-bpe"
        } else {
            "qwen2"
        },
    ) {
        writer.insert(key, value)?;
    }
    let (mut total, mut parameters) = (0, 0);
    for (t, &ty) in tensors.iter().zip(&types) {
        writer.declare(&t.name, &t.dims, ty)?;
        parameters += t.dims.iter().product::<u64>();
        total += bytes(t, ty) as u64;
    }

    let interrupt = Interrupt::install(Otherwise::Leave)?;
    interrupt.begin();
    let mut progress = Progress::new("writing", total);
    let mut buffer = memory::filled(0u8, PIECE, "random blocks").map_err(infer::Error::from)?;
    let (mut next, mut done) = (0, 0u64);
    let written = writer.write_file_from(&args.out, &mut |_, sink| {
        let (Some(t), Some(&ty)) = (tensors.get(next), types.get(next)) else {
            return Ok(());
        };
        let mut random = Random::new(args.seed, next as u64);
        next += 1;
        let mut sink = |piece: &[u8]| {
            done += piece.len() as u64;
            progress.set(done);
            if interrupt.is_asked() {
                return Err(infer::Error::Cancelled("writing"));
            }
            sink(piece)
        };
        let plain = match t.values {
            Values::Random | Values::RandomF32 => None,
            Values::Ones => Some(vec![1.0; t.dims[0] as usize]),
            Values::Zeros => Some(vec![0.0; t.dims[0] as usize]),
            Values::RopeFactors => Some(shape.rope_factors()),
        };
        if let Some(values) = plain {
            let mut bytes = vec![0; 4 * values.len()];
            let _ = quantize_row(TensorType::F32, &values, &mut bytes);
            return sink(&bytes);
        }
        let deviation = 1.0 / (t.dims[0] as f32).sqrt();
        let mut left = bytes(t, ty);
        while left > 0 {
            let n = left.min(PIECE / ty.block_bytes() * ty.block_bytes());
            blocks::fill(ty, deviation, &mut random, &mut buffer[..n]);
            sink(&buffer[..n])?;
            left -= n;
        }
        Ok(())
    });
    progress.clear();
    if let Err(infer::Error::Cancelled(_)) = written {
        return Ok(INTERRUPTED);
    }
    written?;

    let file_bytes = std::fs::metadata(&args.out).map_or(0, |m| m.len());
    let mut out = Output::new();
    if json {
        out.json(&json!({
            "shape": shape.name,
            "layers": shape.n_layers,
            "type": args.mix.name,
            "seed": args.seed,
            "parameters": parameters,
            "tensors": tensors.len(),
            "bytes": file_bytes,
            "out": args.out.to_string_lossy(),
        }))?;
    } else {
        out.text(&format!(
            "{} parameters, {}, written to {}\n",
            output::count(parameters),
            output::bytes(file_bytes),
            args.out.display()
        ))?;
    }
    out.flush()?;
    Ok(OK)
}

/// Bytes of a tensor; shapes are small enough, and blocks divide their rows.
fn bytes(t: &Planned, ty: TensorType) -> usize {
    let n: u64 = t.dims.iter().product();
    (n / ty.block_len() as u64) as usize * ty.block_bytes()
}

fn types(shape: &Shape, tensors: &[Planned], mix: &Mix) -> Vec<TensorType> {
    let entries: Vec<Entry<'_>> = tensors
        .iter()
        .map(|t| Entry {
            name: &t.name,
            dims: &t.dims,
            ty: TensorType::F32,
        })
        .collect();
    let facts = Facts {
        n_layers: shape.n_layers as usize,
        n_experts: shape.experts.0,
        n_gqa: shape.n_heads / shape.n_kv_heads,
        is_70b: shape.name == "llama-3.3-70b",
    };
    mix::assign(mix, &entries, &facts, false).0
}

fn metadata(shape: &Shape, mix: &Mix) -> Vec<(String, Value)> {
    let text = |s: &str| Value::String(s.to_string());
    let number = |n: u64| Value::U32(n as u32);
    let arch = |key: &str| format!("{}.{key}", shape.arch);
    let mut all = vec![
        ("general.architecture".to_string(), text(shape.arch)),
        (
            "general.name".to_string(),
            text(&format!("{} with random weights", shape.name)),
        ),
        ("general.file_type".to_string(), Value::U32(mix.file_type)),
        ("general.quantization_version".to_string(), Value::U32(2)),
        (arch("block_count"), number(shape.n_layers)),
        (arch("context_length"), Value::U32(shape.context)),
        (arch("embedding_length"), number(shape.n_embd)),
        (arch("feed_forward_length"), number(shape.n_ff)),
        (arch("attention.head_count"), number(shape.n_heads)),
        (arch("attention.head_count_kv"), number(shape.n_kv_heads)),
        (arch("attention.key_length"), number(shape.head_dim)),
        (arch("attention.value_length"), number(shape.head_dim)),
        (
            arch("attention.layer_norm_rms_epsilon"),
            Value::F32(shape.epsilon),
        ),
        (arch("rope.freq_base"), Value::F32(shape.rope_base)),
        (arch("rope.dimension_count"), number(shape.head_dim)),
        (arch("vocab_size"), number(shape.n_vocab)),
    ];
    if shape.experts.0 > 0 {
        all.push((arch("expert_count"), number(shape.experts.0)));
        all.push((arch("expert_used_count"), number(shape.experts.1)));
    }
    all
}
