//! What the machine would allow: the time a step cannot be faster than, by the bytes it has to read and the
//! multiply-adds it has to do.
//!
//! * decode of B sequences: the matmul weights are read once and every sequence's keys and values; B rows are multiplied.
//!   At most B / max((W + Σ nᵢ·kv) / BW, work / rate) tokens per second.
//! * prefill of n tokens: at most n / max(n · (P + n·d·H·L) / rate, W / BW). The head is computed for one row, so P leaves
//!   it out.
//!
//! W are bytes of the matrices with the head, P their multiply-adds per token, kv the cache's bytes per token, d the head
//! dimension, H query heads, L layers. A matrix of a block format is counted at the rate of 8-bit products, F16 and BF16
//! at that of bfloat16 products or of fused multiply-adds, whichever is higher, F32 at the latter; attention by the
//! cache's type, 8 bits as bytes, 16 bits as integers or `f32`, whichever is faster.

use std::path::Path;
use std::time::Instant;

use infer::gguf::Gguf;
#[cfg(test)]
use infer::kernel::CpuLevel;
use infer::kernel::{Kernels, Products, RowType};
use infer::kv::Geometry;
use infer::model::Model;
use infer::quant::TensorType;
use serde_json::{Value, json};

use super::probe::{Sample, chain};

/// Steps of a measurement of a rate: about a millisecond.
const STEPS: usize = 200_000;
/// Measurements of which the best counts.
const SAMPLES: usize = 7;

/// Multiply-adds per cycle and core, by what is multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    int8: f64,
    int16: f64,
    bf16: f64,
    f32: f64,
}

impl Rates {
    /// Of the level of `k` on this machine, measured on registers; takes a tenth of a second.
    pub fn measure(k: &Kernels) -> Self {
        let rate = |products| {
            let mut best = 0.0f64;
            for _ in 0..SAMPLES {
                let started = Instant::now();
                let done = k.multiply_on_registers(products, STEPS) as f64;
                let rate = done / started.elapsed().as_secs_f64().max(1e-9);
                // The clock of the same moment.
                best = best.max(rate / chain());
            }
            best
        };
        Self {
            int8: rate(Products::Int8),
            int16: rate(Products::Int16),
            bf16: rate(Products::Bf16),
            f32: rate(Products::F32),
        }
    }

    /// As the report has them.
    pub fn json(self) -> Value {
        json!({"int8": self.int8, "int16": self.int16, "bf16": self.bf16, "f32": self.f32})
    }

    /// Of half-precision numbers: where products of bfloat16 are the slower ones, as `f32`.
    fn half(self) -> f64 {
        self.bf16.max(self.f32)
    }

    fn of_weights(self, ty: TensorType) -> f64 {
        match ty {
            TensorType::F32 => self.f32,
            TensorType::F16 | TensorType::BF16 => self.half(),
            _ => self.int8,
        }
    }

    fn of_cache(self, ty: RowType) -> f64 {
        match ty {
            RowType::Q8 => self.int8,
            RowType::F16 | RowType::BF16 => self.int16.max(self.f32),
            RowType::F32 => self.f32,
        }
    }

    /// Multiply-adds of 8-bit products per cycle.
    pub fn int8(self) -> f64 {
        self.int8
    }

    /// Fused multiply-adds per cycle.
    pub fn f32(self) -> f64 {
        self.f32
    }
}

/// One kind of matrices: all that are always used, or the experts of which a few are.
#[derive(Debug, Clone, Copy, Default)]
struct Matrices {
    bytes: f64,
    /// Cycles of one core for one token.
    cycles: f64,
}

/// What a model costs per step on a level, in bytes and cycles of one core.
#[derive(Debug, Clone)]
pub struct Cost {
    dense: Matrices,
    head: Matrices,
    experts: Matrices,
    /// Share of the experts a token uses.
    used: f64,
    kv_token_bytes: f64,
    /// Cycles per token and token of its context.
    attention: f64,
    cores: f64,
}

impl Cost {
    /// Of the model in a file, with cores that multiply so fast, this cache and number of cores.
    pub fn of(
        path: &Path,
        model: &Model,
        rates: Rates,
        kv_type: RowType,
        cores: usize,
    ) -> infer::Result<Self> {
        let gguf = Gguf::open(path)?;
        let count = |key: &str| -> f64 {
            let key = format!("{}.{key}", model.architecture());
            gguf.metadata().u64(&key).ok().flatten().unwrap_or(0) as f64
        };
        let (n_experts, n_used) = (count("expert_count"), count("expert_used_count"));
        let (mut dense, mut head, mut experts) =
            (Matrices::default(), Matrices::default(), Matrices::default());
        let tied = gguf.tensor("output.weight").is_none();
        for t in gguf.tensors() {
            let embedding = t.name == "token_embd.weight";
            if t.dims.len() < 2 || !t.name.ends_with(".weight") || (embedding && !tied) {
                continue;
            }
            let kind = match t.name.as_str() {
                "output.weight" | "token_embd.weight" => &mut head,
                _ if t.dims.len() == 3 => &mut experts,
                _ => &mut dense,
            };
            kind.bytes += t.n_bytes as f64;
            kind.cycles += t.n_elements() as f64 / rates.of_weights(t.ty);
        }
        let shapes = model.body()?.layer_shapes();
        let dims: usize = shapes.iter().map(|s| s.key_dim + s.value_dim).sum();
        Ok(Self {
            dense,
            head,
            experts,
            used: if n_experts > 0.0 { n_used / n_experts } else { 1.0 },
            kv_token_bytes: Geometry::new(kv_type, shapes)?.token_bytes() as f64,
            attention: (dims * model.info().n_heads) as f64 / rates.of_cache(kv_type),
            cores: cores as f64,
        })
    }

    /// Bytes of the matrices a step of `rows` rows reads: an expert that any of them chose, if they choose evenly.
    fn weights(&self, rows: f64) -> f64 {
        let touched = 1.0 - (1.0 - self.used).powf(rows);
        self.dense.bytes + self.head.bytes + self.experts.bytes * touched
    }

    fn seconds(&self, cycles: f64, bytes: f64, now: Sample) -> f64 {
        (cycles / (self.cores * now.clock)).max(bytes / now.bandwidth)
    }

    /// Tokens per second of `batch` sequences that hold `context` tokens together.
    pub fn decode(&self, batch: usize, context: f64, now: Sample) -> f64 {
        let rows = batch as f64;
        let token = self.dense.cycles + self.head.cycles + self.experts.cycles * self.used;
        let cycles = rows * token + context * self.attention;
        let bytes = self.weights(rows) + context * self.kv_token_bytes;
        rows / self.seconds(cycles, bytes, now)
    }

    /// Tokens per second of a prompt of `n` tokens. A row attends to half of the prompt on average.
    pub fn prefill(&self, n: usize, now: Sample) -> f64 {
        let n = n as f64;
        let token = self.dense.cycles + self.experts.cycles * self.used + n / 2.0 * self.attention;
        n / self.seconds(n * token, self.weights(n), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Sample = Sample {
        bandwidth: 45e9,
        clock: 3.9e9,
    };

    const RATES: Rates = Rates {
        int8: 128.0,
        int16: 64.0,
        bf16: 64.0,
        f32: 32.0,
    };

    /// Llama 3.2 1B in Q4_0 with a cache of f16.
    fn one_billion() -> Cost {
        let rates = RATES;
        let matrices = |n: f64| Matrices {
            bytes: n * 18.0 / 32.0,
            cycles: n / rates.int8,
        };
        Cost {
            dense: matrices(973_078_528.0),
            head: matrices(128_256.0 * 2048.0),
            experts: Matrices::default(),
            used: 1.0,
            kv_token_bytes: (16 * 2 * 8 * 64 * 2) as f64,
            attention: (16 * 2 * 64 * 32) as f64 / rates.int16,
            cores: 2.0,
        }
    }

    fn near(found: f64, expected: f64) {
        assert!(
            (found / expected - 1.0).abs() < 0.03,
            "{found} instead of {expected}"
        );
    }

    #[test]
    fn the_limits_are_those_of_the_formulas() {
        let cost = one_billion();
        // Bound by memory: bandwidth / bytes.
        near(cost.decode(1, 0.0, NOW), 45e9 / 695e6);
        near(cost.decode(8, 0.0, NOW), 8.0 * 45e9 / 695e6);
        near(cost.decode(1, 8192.0, NOW), 45e9 / (695e6 + 8192.0 * 32768.0));
        // Bound by multiplications: 128 · f · C / (P + n·d·H·L·r).
        near(
            cost.prefill(512, NOW),
            128.0 * 3.9e9 * 2.0 / (973e6 + 512.0 * 32768.0 * 2.0),
        );
        near(cost.decode(32, 0.0, NOW), 128.0 * 3.9e9 * 2.0 / 1.2357e9);
    }

    #[test]
    fn experts_count_by_how_many_a_step_uses() {
        let cost = Cost {
            experts: Matrices {
                bytes: 8e9,
                cycles: 1e7,
            },
            used: 0.25,
            ..one_billion()
        };
        near(cost.weights(1.0), 695e6 + 2e9);
        near(cost.weights(1000.0), 695e6 + 8e9);
    }

    #[test]
    fn half_precision_counts_at_the_highest_rate_it_may_have() {
        let slow = Rates { bf16: 24.0, ..RATES };
        for (rates, of_weights, of_cache) in [(RATES, 64.0, 64.0), (slow, 32.0, 64.0)] {
            for ty in [TensorType::F16, TensorType::BF16] {
                near(rates.of_weights(ty), of_weights);
            }
            for ty in [RowType::F16, RowType::BF16] {
                near(rates.of_cache(ty), of_cache);
            }
            near(rates.of_weights(TensorType::F32), 32.0);
            near(rates.of_cache(RowType::F32), 32.0);
        }
    }

    #[test]
    fn rates_are_measured_at_every_level() {
        for k in CpuLevel::available().into_iter().filter_map(Kernels::for_level) {
            let rates = Rates::measure(k);
            for rate in [rates.int8, rates.int16, rates.bf16, rates.f32] {
                assert!(rate.is_finite() && rate > 0.0, "{k:?} {rates:?}");
            }
        }
    }
}
