//! The shapes of models that `infer synth` writes: those of published models, and families that vary one number.

/// Numbers of a transformer of the Llama kind.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    /// `general.architecture`.
    pub arch: &'static str,
    pub n_embd: u64,
    pub n_layers: u64,
    pub n_ff: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
    pub n_vocab: u64,
    pub context: u32,
    pub rope_base: f32,
    pub epsilon: f32,
    /// The token embedding is also the output.
    pub tied: bool,
    /// Factor of Llama 3's rope scaling, 0 without.
    pub rope_factor: f32,
    /// Experts and how many of them are used, 0 without.
    pub experts: (u64, u64),
    /// The projections of queries, keys and values have biases.
    pub biases: bool,
    /// Queries and keys are normalized per head.
    pub head_norms: bool,
}

const LLAMA_1B: Shape = Shape {
    name: "llama-3.2-1b",
    arch: "llama",
    n_embd: 2048,
    n_layers: 16,
    n_ff: 8192,
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 64,
    n_vocab: 128_256,
    context: 131_072,
    rope_base: 500_000.0,
    epsilon: 1e-5,
    tied: true,
    rope_factor: 32.0,
    experts: (0, 0),
    biases: false,
    head_norms: false,
};

const fn heads(name: &'static str, n_kv_heads: u64) -> Shape {
    Shape {
        name,
        n_kv_heads,
        ..LLAMA_1B
    }
}

/// Every shape.
pub const SHAPES: [Shape; 13] = [
    LLAMA_1B,
    Shape {
        name: "llama-3.1-8b",
        n_embd: 4096,
        n_layers: 32,
        n_ff: 14_336,
        head_dim: 128,
        tied: false,
        rope_factor: 8.0,
        ..LLAMA_1B
    },
    Shape {
        name: "llama-3.3-70b",
        n_embd: 8192,
        n_layers: 80,
        n_ff: 28_672,
        n_heads: 64,
        head_dim: 128,
        tied: false,
        rope_factor: 8.0,
        ..LLAMA_1B
    },
    Shape {
        name: "qwen3-0.6b",
        arch: "qwen3",
        n_embd: 1024,
        n_layers: 28,
        n_ff: 3072,
        n_heads: 16,
        n_kv_heads: 8,
        head_dim: 128,
        n_vocab: 151_936,
        context: 40_960,
        rope_base: 1e6,
        epsilon: 1e-6,
        rope_factor: 0.0,
        head_norms: true,
        ..LLAMA_1B
    },
    Shape {
        name: "qwen2.5-0.5b",
        arch: "qwen2",
        n_embd: 896,
        n_layers: 24,
        n_ff: 4864,
        n_heads: 14,
        n_kv_heads: 2,
        n_vocab: 151_936,
        context: 32_768,
        rope_base: 1e6,
        epsilon: 1e-6,
        rope_factor: 0.0,
        biases: true,
        ..LLAMA_1B
    },
    Shape {
        name: "smollm2-135m",
        n_embd: 576,
        n_layers: 30,
        n_ff: 1536,
        n_heads: 9,
        n_kv_heads: 3,
        n_vocab: 49_152,
        context: 8192,
        rope_base: 100_000.0,
        rope_factor: 0.0,
        ..LLAMA_1B
    },
    Shape {
        name: "moe-small",
        n_embd: 1024,
        n_layers: 12,
        n_ff: 3584,
        n_heads: 16,
        n_kv_heads: 4,
        n_vocab: 32_000,
        context: 32_768,
        rope_base: 1e6,
        tied: false,
        rope_factor: 0.0,
        experts: (8, 2),
        ..LLAMA_1B
    },
    heads("llama-1b-heads-1", 32),
    heads("llama-1b-heads-2", 16),
    heads("llama-1b-heads-4", 8),
    heads("llama-1b-heads-8", 4),
    heads("llama-1b-mqa", 1),
    Shape {
        name: "tiny",
        n_embd: 256,
        n_layers: 2,
        n_ff: 512,
        n_heads: 4,
        n_kv_heads: 2,
        n_vocab: 1024,
        context: 2048,
        rope_base: 10_000.0,
        rope_factor: 0.0,
        ..LLAMA_1B
    },
];

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        SHAPES.into_iter().find(|s| s.name == text).ok_or_else(|| {
            let names: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
            format!("expected one of {}", names.join(" "))
        })
    }
}

/// What the values of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    /// Random, with standard deviation 1/√(row length), so that a product keeps the size of its input.
    Random,
    /// 1, in F32.
    Ones,
    /// 0, in F32.
    Zeros,
    /// Random in F32 in every mix: the gate of a mixture.
    RandomF32,
    /// The divisors of Llama 3's rope scaling, in F32.
    RopeFactors,
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct Planned {
    pub name: String,
    pub dims: Vec<u64>,
    pub values: Values,
}

impl Shape {
    /// All tensors, in the usual order.
    pub fn tensors(&self) -> Vec<Planned> {
        use Values::{Ones, Random, RandomF32, RopeFactors, Zeros};
        let (embd, ff) = (self.n_embd, self.n_ff);
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let mut all = Vec::new();
        let mut add = |name: String, dims: &[u64], values| {
            let dims = dims.to_vec();
            all.push(Planned { name, dims, values });
        };
        add("token_embd.weight".into(), &[embd, self.n_vocab], Random);
        if self.rope_factor > 0.0 {
            add("rope_freqs.weight".into(), &[self.head_dim / 2], RopeFactors);
        }
        for layer in 0..self.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            add(name("attn_norm.weight"), &[embd], Ones);
            for (part, n) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                add(name(&format!("{part}.weight")), &[embd, n], Random);
                if self.biases {
                    add(name(&format!("{part}.bias")), &[n], Zeros);
                }
            }
            if self.head_norms {
                add(name("attn_q_norm.weight"), &[self.head_dim], Ones);
                add(name("attn_k_norm.weight"), &[self.head_dim], Ones);
            }
            add(name("attn_output.weight"), &[q, embd], Random);
            add(name("ffn_norm.weight"), &[embd], Ones);
            if self.experts.0 > 0 {
                let n = self.experts.0;
                add(name("ffn_gate_inp.weight"), &[embd, n], RandomF32);
                add(name("ffn_gate_exps.weight"), &[embd, ff, n], Random);
                add(name("ffn_up_exps.weight"), &[embd, ff, n], Random);
                add(name("ffn_down_exps.weight"), &[ff, embd, n], Random);
            } else {
                add(name("ffn_gate.weight"), &[embd, ff], Random);
                add(name("ffn_up.weight"), &[embd, ff], Random);
                add(name("ffn_down.weight"), &[ff, embd], Random);
            }
        }
        add("output_norm.weight".into(), &[embd], Ones);
        if !self.tied {
            add("output.weight".into(), &[embd, self.n_vocab], Random);
        }
        all
    }

    /// What Llama 3 divides the frequency of each pair by: 1 for those that turn often within the 8192 positions of the
    /// original context, the factor for those that turn less than once, and between the two in between.
    pub fn rope_factors(&self) -> Vec<f32> {
        const CONTEXT: f32 = 8192.0;
        const LOW: f32 = 1.0;
        const HIGH: f32 = 4.0;
        let n = self.head_dim as f32;
        (0..self.head_dim / 2)
            .map(|pair| {
                let frequency = self.rope_base.powf(-2.0 * pair as f32 / n);
                let turns = CONTEXT * frequency / std::f32::consts::TAU;
                let smooth = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
                1.0 / ((1.0 - smooth) / self.rope_factor + smooth)
            })
            .collect()
    }
}
