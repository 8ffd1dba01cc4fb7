//! Which tensor of a model gets which type: mixes of types under one name, by the rules of llama.cpp (`llama-quant.cpp`
//! beside ggml 0.25.3, without importance matrix), so that files of the same name are comparable.
//!
//! 1. A tensor stays as it is when it has one dimension, when its name does not end in `weight`, and when it is a norm, the
//!    gate of a mixture of experts (`ffn_gate_inp`), or a table of positions or token types.
//! 2. F32, F16 and BF16 convert everything else. The other types treat some tensors specially:
//! 3. `output.weight`, or `token_embd.weight` where the model has no `output.weight`: Q8_0 for Q8_0 and MXFP4_MOE and for
//!    rows that the blocks of the type do not divide, else Q6_K.
//! 4. MXFP4_MOE: tensors of experts MXFP4, others Q8_0.
//! 5. `attn_v`: Q2_K → Q3_K, with four query heads per key/value head or more Q4_K. Q3_K_M → Q5_K in the first two
//!    layers, then Q4_K. Q3_K_L → Q5_K. IQ4_NL and IQ4_XS → Q5_K with four query heads or more. Q4_K_M and Q5_K_M → Q6_K
//!    in a *careful* layer. Q4_K_S → Q5_K in the first four layers. In Llama 70B Q3_K and Q4_K become Q5_K. With eight
//!    experts always Q8_0, and so is `attn_k`.
//! 6. `ffn_down`: Q2_K → Q3_K. Q3_K_M → Q5_K in the first sixteenth of the layers, then Q4_K. Q3_K_L → Q5_K. Q4_K_M and
//!    Q5_K_M → Q6_K in a careful layer. Q4_K_S, IQ4_NL and IQ4_XS → Q5_K in the first eighth.
//! 7. `attn_output`: Q2_K → Q3_K, Q3_K_M → Q4_K, Q3_K_L → Q5_K; with eight experts Q2_K, Q3_K_S, Q3_K_M, Q4_K_S, Q4_K_M,
//!    IQ4_NL and IQ4_XS → Q5_K.
//! 8. `attn_qkv`: Q3_K_M and Q3_K_L → Q4_K, Q4_K_M → Q5_K, Q5_K_M → Q6_K, all after rule 5.
//! 9. A row that the blocks of 256 values do not divide: Q2_K and Q3_K become Q4_0, Q4_K Q5_0, Q5_K Q5_1, Q6_K Q8_0, IQ4_XS
//!    IQ4_NL; where 32 does not divide it either, F16.
//!
//! A careful layer is one of the first and last eighths, and every third between.

use infer::gguf::{Metadata, TensorInfo};
use infer::quant::TensorType::{self, *};

/// A name for the command line, the type of most tensors, and the number of `general.file_type`.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub name: &'static str,
    pub ty: TensorType,
    pub file_type: u32,
}

const fn mix(name: &'static str, ty: TensorType, file_type: u32) -> Mix {
    Mix { name, ty, file_type }
}

/// Every mix. The numbers are those of llama.cpp's `llama_ftype`.
pub const MIXES: [Mix; 21] = [
    mix("F32", F32, 0),
    mix("F16", F16, 1),
    mix("BF16", BF16, 32),
    mix("Q8_0", Q8_0, 7),
    mix("Q6_K", Q6_K, 18),
    mix("Q5_K_M", Q5_K, 17),
    mix("Q5_K_S", Q5_K, 16),
    mix("Q5_1", Q5_1, 9),
    mix("Q5_0", Q5_0, 8),
    mix("Q4_K_M", Q4_K, 15),
    mix("Q4_K_S", Q4_K, 14),
    mix("IQ4_NL", IQ4_NL, 25),
    mix("IQ4_XS", IQ4_XS, 30),
    mix("Q4_1", Q4_1, 3),
    mix("Q4_0", Q4_0, 2),
    mix("MXFP4", MXFP4, 38),
    mix("MXFP4_MOE", MXFP4, 38),
    mix("Q3_K_L", Q3_K, 13),
    mix("Q3_K_M", Q3_K, 12),
    mix("Q3_K_S", Q3_K, 11),
    mix("Q2_K", Q2_K, 10),
];

impl std::str::FromStr for Mix {
    type Err = String;

    /// Upper or lower case; `Q4_K` and the like mean the mix with `_M`.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let full = match name.as_str() {
            "Q3_K" | "Q4_K" | "Q5_K" => format!("{name}_M"),
            _ => name,
        };
        MIXES.into_iter().find(|m| m.name == full).ok_or_else(|| {
            let names: Vec<&str> = MIXES.iter().map(|m| m.name).collect();
            format!("expected one of {}", names.join(" "))
        })
    }
}

/// A tensor as the rules see it.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub dims: &'a [u64],
    pub ty: TensorType,
}

impl<'a> From<&'a TensorInfo> for Entry<'a> {
    fn from(t: &'a TensorInfo) -> Self {
        Self {
            name: &t.name,
            dims: &t.dims,
            ty: t.ty,
        }
    }
}

/// What the rules need to know of the model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    pub n_layers: usize,
    pub n_experts: u64,
    /// Query heads per key/value head.
    pub n_gqa: u64,
    /// A Llama with the 80 layers and grouped heads of the 70B size.
    pub is_70b: bool,
}

impl Facts {
    /// From the metadata of a file. What is missing or of another type counts as plain.
    pub fn of(metadata: &Metadata) -> Self {
        let arch = metadata.str("general.architecture").ok().flatten().unwrap_or("");
        let number = |key: &str| metadata.u64(&format!("{arch}.{key}")).ok().flatten();
        let heads = number("attention.head_count").unwrap_or(1);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads).max(1);
        let n_layers = number("block_count").unwrap_or(0);
        Self {
            n_layers: usize::try_from(n_layers).unwrap_or(0),
            n_experts: number("expert_count").unwrap_or(0),
            n_gqa: heads / kv_heads,
            is_70b: arch == "llama" && n_layers == 80 && heads != kv_heads,
        }
    }
}

/// The type each tensor gets, in the order given, and how many of them are not those of the mix because blocks do not
/// divide their rows. With `pure` only rules 1, 2 and 9 hold.
pub fn assign(mix: &Mix, tensors: &[Entry<'_>], facts: &Facts, pure: bool) -> (Vec<TensorType>, usize) {
    let mut types: Vec<TensorType> = tensors.iter().map(|t| t.ty).collect();
    let mut fallbacks = 0;
    let mut state = State {
        mix,
        facts,
        tied: tensors.iter().all(|t| t.name != "output.weight"),
        n_values: tensors.iter().filter(|t| is_values(t.name)).count(),
        values: 0,
        downs: 0,
    };
    // Layers count in their own order, whatever that of the file is.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer(tensors[i].name).map_or(-1, |l| l as i64), tensors[i].name));
    for i in order {
        let t = &tensors[i];
        if !converts(t) {
            continue;
        }
        let wanted = if pure || !mix.ty.is_quantized() {
            mix.ty
        } else {
            state.choose(t)
        };
        types[i] = fitting(wanted, t.dims.first().copied().unwrap_or(0));
        fallbacks += usize::from(types[i] != wanted);
    }
    (types, fallbacks)
}

/// Rule 1.
fn converts(t: &Entry<'_>) -> bool {
    let n_dims = t.dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
    n_dims >= 2
        && t.name.ends_with("weight")
        && ![
            "_norm.weight",
            "ffn_gate_inp.weight",
            "position_embd",
            "token_types.weight",
        ]
        .iter()
        .any(|part| t.name.contains(part))
}

/// Rule 9.
fn fitting(ty: TensorType, row: u64) -> TensorType {
    let fits = |ty: TensorType| row.is_multiple_of(ty.block_len() as u64);
    if fits(ty) {
        return ty;
    }
    let other = match ty {
        Q2_K | Q3_K => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        IQ4_XS => IQ4_NL,
        ty => ty,
    };
    if fits(other) { other } else { F16 }
}

/// `blk.7.…` is of layer 7.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn is_values(name: &str) -> bool {
    ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"]
        .iter()
        .any(|part| name.contains(part))
}

/// Counts tensors as the rules go through them.
struct State<'a> {
    mix: &'a Mix,
    facts: &'a Facts,
    /// There is no `output.weight`.
    tied: bool,
    n_values: usize,
    values: usize,
    downs: usize,
}

impl State<'_> {
    fn choose(&mut self, t: &Entry<'_>) -> TensorType {
        let ty = self.mix.ty;
        let (name, eight) = (t.name, self.facts.n_experts == 8);
        if name == "output.weight" || (self.tied && name == "token_embd.weight") {
            let row = t.dims.first().copied().unwrap_or(0);
            let whole = row.is_multiple_of(ty.block_len() as u64);
            return match self.mix.name {
                "MXFP4_MOE" | "Q8_0" => Q8_0,
                _ if whole => Q6_K,
                _ => Q8_0,
            };
        }
        if self.mix.name == "MXFP4_MOE" {
            return if t.dims.get(2).is_some_and(|&n| n > 1) {
                MXFP4
            } else {
                Q8_0
            };
        }
        if is_values(name) {
            return self.values();
        }
        if name.contains("attn_k.weight") && eight {
            return Q8_0;
        }
        if name.contains("ffn_down") {
            return self.down(name);
        }
        if name.contains("attn_output.weight") {
            return match self.mix.name {
                "Q2_K" | "Q3_K_S" | "Q3_K_M" | "Q4_K_S" | "Q4_K_M" | "IQ4_NL" | "IQ4_XS" if eight => Q5_K,
                _ if eight => ty,
                "Q2_K" => Q3_K,
                "Q3_K_M" => Q4_K,
                "Q3_K_L" => Q5_K,
                _ => ty,
            };
        }
        ty
    }

    fn values(&mut self) -> TensorType {
        let (i, n) = (self.values, self.n_values);
        self.values += 1;
        let grouped = self.facts.n_gqa >= 4;
        let ty = match self.mix.name {
            "Q2_K" if grouped => Q4_K,
            "Q2_K" => Q3_K,
            "Q3_K_M" if i < 2 => Q5_K,
            "Q3_K_M" => Q4_K,
            "Q3_K_L" => Q5_K,
            "IQ4_NL" | "IQ4_XS" if grouped => Q5_K,
            "Q4_K_M" | "Q5_K_M" if careful(i, n) => Q6_K,
            "Q4_K_S" if i < 4 => Q5_K,
            _ => self.mix.ty,
        };
        match ty {
            _ if self.facts.n_experts == 8 => Q8_0,
            Q3_K | Q4_K if self.facts.is_70b => Q5_K,
            ty => ty,
        }
    }

    fn down(&mut self, name: &str) -> TensorType {
        let counted = self.downs;
        self.downs += 1;
        // Experts may lie in several tensors per layer, so that counting does not tell the layer.
        let i = match layer(name) {
            Some(layer) if self.facts.n_experts > 1 => layer,
            _ => counted,
        };
        let n = self.facts.n_layers;
        match self.mix.name {
            "Q2_K" => Q3_K,
            "Q3_K_M" if i < n / 16 => Q5_K,
            "Q3_K_M" => Q4_K,
            "Q3_K_L" => Q5_K,
            "Q4_K_M" | "Q5_K_M" if careful(i, n) => Q6_K,
            "Q4_K_S" | "IQ4_NL" | "IQ4_XS" if i < n / 8 => Q5_K,
            _ => self.mix.ty,
        }
    }
}

/// Whether layer `i` of `n` is one of those that get more bits.
fn careful(i: usize, n: usize) -> bool {
    i < n / 8 || i >= n.saturating_mul(7) / 8 || (i - n / 8) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(mix: &str, facts: Facts, tensors: &[(&str, &[u64])]) -> Vec<TensorType> {
        let entries: Vec<Entry<'_>> = tensors
            .iter()
            .map(|&(name, dims)| Entry { name, dims, ty: F32 })
            .collect();
        assign(&mix.parse().unwrap(), &entries, &facts, false).0
    }

    #[test]
    fn norms_vectors_and_gates_stay_and_the_output_is_better() {
        let tensors: &[(&str, &[u64])] = &[
            ("token_embd.weight", &[512, 100]),
            ("output_norm.weight", &[512]),
            ("blk.0.attn_q.weight", &[512, 512]),
            ("blk.0.attn_q.bias", &[512, 2]),
            ("blk.0.ffn_gate_inp.weight", &[512, 8]),
            ("blk.0.ffn_down.weight", &[96, 512]),
            ("blk.0.ffn_up.weight", &[50, 512]),
            ("output.weight", &[512, 100]),
        ];
        let facts = Facts::default();
        assert_eq!(
            types("q4_k_s", facts, tensors),
            [Q4_K, F32, Q4_K, F32, F32, Q5_0, F16, Q6_K]
        );
        assert_eq!(
            types("Q8_0", facts, tensors),
            [Q8_0, F32, Q8_0, F32, F32, Q8_0, F16, Q8_0]
        );
        assert_eq!(types("F16", facts, tensors)[0], F16);
        assert_eq!(types("Q4_0", facts, &tensors[..7])[0], Q6_K, "tied");
    }

    #[test]
    fn careful_layers_of_sixteen_are_those_of_the_field() {
        let found: Vec<usize> = (0..16).filter(|&i| careful(i, 16)).collect();
        assert_eq!(found, [0, 1, 4, 7, 10, 13, 14, 15]);
    }

    #[test]
    fn layers_count_by_their_number_and_not_by_the_order_of_the_file() {
        let names: Vec<String> = (0..16).rev().map(|l| format!("blk.{l}.attn_v.weight")).collect();
        let dims = [256, 256];
        let tensors: Vec<(&str, &[u64])> = names.iter().map(|n| (n.as_str(), &dims[..])).collect();
        let found = types("Q4_K_S", Facts::default(), &tensors);
        assert_eq!(found[12..], [Q5_K; 4]);
        assert_eq!(found[..12], [Q4_K; 12]);
    }
}
