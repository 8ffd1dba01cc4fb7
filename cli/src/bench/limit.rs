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
//! at that of bfloat16 products, F32 at that of fused multiply-adds; attention by the cache's type.

use std::path::Path;

use infer::gguf::Gguf;
use infer::kernel::{CpuLevel, RowType};
use infer::kv::Geometry;
use infer::model::Model;
use infer::quant::TensorType;

use super::probe::Sample;

/// Multiply-adds per cycle and core, by what is multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    int8: f64,
    bf16: f64,
    f32: f64,
}

impl Rates {
    /// Of a level, with two vector units: what the widest dot-product instruction of the level does. Where it has none,
    /// 8-bit products take a multiplication of bytes and one of pairs; bfloat16 is multiplied as f32.
    pub fn of(level: CpuLevel) -> Self {
        let (int8, bf16, f32) = match level.name() {
            "avx512_bf16" => (128.0, 64.0, 32.0),
            "avx512" => (128.0, 32.0, 32.0),
            "avx-vnni" | "avxvnni" | "avx_vnni" => (64.0, 16.0, 16.0),
            "avx2" => (32.0, 16.0, 16.0),
            "i8mm" | "neon-i8mm" | "neon_i8mm" => (64.0, 32.0, 8.0),
            "dotprod" | "neon-dotprod" | "neon_dotprod" => (32.0, 8.0, 8.0),
            _ => (16.0, 8.0, 8.0),
        };
        Self { int8, bf16, f32 }
    }

    fn of_weights(self, ty: TensorType) -> f64 {
        match ty {
            TensorType::F32 => self.f32,
            TensorType::F16 | TensorType::BF16 => self.bf16,
            _ => self.int8,
        }
    }

    fn of_cache(self, ty: RowType) -> f64 {
        match ty {
            RowType::Q8 => self.int8,
            RowType::F16 | RowType::BF16 => self.bf16,
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
    /// Of the model in a file, with this level, cache and number of cores.
    pub fn of(
        path: &Path,
        model: &Model,
        level: CpuLevel,
        kv_type: RowType,
        cores: usize,
    ) -> infer::Result<Self> {
        let gguf = Gguf::open(path)?;
        let rates = Rates::of(level);
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

    /// Llama 3.2 1B in Q4_0 with a cache of f16.
    fn one_billion() -> Cost {
        let rates = Rates::of(CpuLevel::Avx512Bf16);
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
            attention: (16 * 2 * 64 * 32) as f64 / rates.bf16,
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
    fn a_level_is_never_faster_than_a_higher_one() {
        let levels = [CpuLevel::Scalar, CpuLevel::Avx2, CpuLevel::Avx512Bf16].map(Rates::of);
        for pair in levels.windows(2) {
            assert!(
                pair[0].int8 <= pair[1].int8 && pair[0].bf16 <= pair[1].bf16 && pair[0].f32 <= pair[1].f32
            );
        }
    }
}
