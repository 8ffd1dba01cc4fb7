//! The `llama` family: Llama 1 to 3, Mistral, Mixtral and the many models converted under that name.
//!
//! Pre-norm decoder with RMS norms, rotary embedding on neighbouring pairs, grouped-query attention and a SwiGLU
//! feed-forward network or a mixture of them.

use std::time::Instant;

use super::Architecture;
use super::attention::attend;
use super::config::{Config, Keys};
use super::experts::{ExpertScratch, ExpertWeights, Experts};
use super::residual::RmsNorm;
use super::rope::Rope;
use super::step::{Step, Widths, elapsed};
use super::weights::{Loader, Weight};
use crate::error::{Error, Result};
use crate::kernel::attention::AttentionShape;
use crate::kernel::for_each_row_mut;
use crate::kv::LayerShape;

/// A loaded model of the family.
#[derive(Debug)]
pub struct Llama {
    config: Config,
    rope: Rope,
    embedding: Weight,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// The embedding again in a tied model.
    output: Weight,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    q: Projection,
    k: Projection,
    v: Projection,
    attention_output: Projection,
    ffn_norm: Vec<f32>,
    ffn: FeedForward,
}

#[derive(Debug)]
struct Projection {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum FeedForward {
    Dense {
        gate: Projection,
        up: Projection,
        down: Projection,
    },
    Experts(Experts),
}

impl Llama {
    /// Takes the family's tensors out of the file.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or a type that cannot be computed with.
    pub fn load(config: Config, loader: &Loader<'_>) -> Result<Self> {
        let (n_embd, n_vocab) = (config.n_embd, config.n_vocab);
        let embedding = loader.matrix("token_embd.weight", n_embd, n_vocab)?;
        let output = loader
            .optional_matrix("output.weight", n_embd, n_vocab)?
            .unwrap_or_else(|| embedding.clone());
        let factors = loader.optional_vector("rope_freqs.weight", config.rope.n_dims / 2)?;
        let rope = Rope::new(&config.rope, factors.as_deref())?;
        let layers = (0..config.n_layers)
            .map(|i| Layer::load(&config, loader, i))
            .collect::<Result<Vec<_>>>()?;
        let output_norm = loader.vector("output_norm.weight", n_embd)?;
        Ok(Self {
            config,
            rope,
            embedding,
            layers,
            output_norm,
            output,
        })
    }

    /// Attention block: norm, projections, rotation, cache, attention, output.
    fn attention(&self, step: &mut Step<'_>, index: usize, layer: &Layer) -> Result<()> {
        let start = Instant::now();
        let (c, rows, compute) = (&self.config, step.rows, step.compute);
        let n = rows.len();
        let ws = &mut *step.workspace;
        let (n_heads, n_kv_heads) = (c.n_heads[index], c.n_kv_heads[index]);
        let (q_width, k_width) = (n_heads * c.key_dim, n_kv_heads * c.key_dim);

        let (q, k, v) = (&layer.q.weight, &layer.k.weight, &layer.v.weight);
        let forms = compute.forms([q, k, v].into_iter().map(Weight::ty));
        let norm = self.norm(&layer.attention_norm);
        ws.residual.norm(&compute, norm, n, forms, &mut ws.activations)?;
        compute.matmul(
            &ws.activations,
            &mut [(q, &mut ws.q[..]), (k, &mut ws.k[..]), (v, &mut ws.v[..])],
        )?;
        compute.add_bias(&mut ws.q, layer.q.bias.as_ref(), n);
        compute.add_bias(&mut ws.k, layer.k.bias.as_ref(), n);
        compute.add_bias(&mut ws.v, layer.v.bias.as_ref(), n);

        let v_width = n_kv_heads * c.value_dim;
        let (q, k) = ((&mut ws.q[..], q_width), (&mut ws.k[..], k_width));
        for_each_row_mut(compute.pool, n, q, k, |i, q, k| {
            for heads in [q, k] {
                ws.rope.rotate_interleaved(compute.kernels, i, heads, c.key_dim);
            }
        });
        for (i, row) in rows.iter().enumerate() {
            let (k, v) = (
                &ws.k[i * k_width..(i + 1) * k_width],
                &ws.v[i * v_width..(i + 1) * v_width],
            );
            let position = row.position as usize;
            step.kv
                .store(compute.kernels, row.sequence, index, position, k, v);
        }

        let shape = AttentionShape {
            n_heads,
            n_kv_heads,
            key_dim: c.key_dim,
            value_dim: c.value_dim,
            scale: c.attention_scale,
            window: c.windows[index],
            softcap: None,
            precision: compute.precision,
        };
        let attended = &mut ws.attended[..n * n_heads * c.value_dim];
        attend(
            &compute,
            step.kv,
            &ws.runs,
            index,
            &shape,
            &ws.q[..n * q_width],
            attended,
            &mut ws.partial,
        )?;
        let output = &layer.attention_output;
        let width = n_heads * c.value_dim;
        let forms = compute.forms([output.weight.ty()].into_iter());
        ws.activations
            .set(compute.kernels, compute.pool, attended, n, width, forms)?;
        compute.matmul(&ws.activations, &mut [(&output.weight, ws.residual.delta(n))])?;
        compute.add_bias(ws.residual.delta(n), output.bias.as_ref(), n);
        step.times.attention += elapsed(start);
        Ok(())
    }

    /// Feed-forward block: norm, SwiGLU or experts.
    fn feed_forward(&self, step: &mut Step<'_>, layer: &Layer) -> Result<()> {
        let start = Instant::now();
        let (compute, n) = (step.compute, step.rows.len());
        let ws = &mut *step.workspace;
        let norm = self.norm(&layer.ffn_norm);
        match &layer.ffn {
            FeedForward::Dense { gate, up, down } => {
                let width = gate.weight.n_out();
                let forms = compute.forms([gate, up].into_iter().map(|p| p.weight.ty()));
                ws.residual.norm(&compute, norm, n, forms, &mut ws.activations)?;
                compute.matmul(
                    &ws.activations,
                    &mut [(&gate.weight, &mut ws.gate[..]), (&up.weight, &mut ws.up[..])],
                )?;
                compute.add_bias(&mut ws.gate, gate.bias.as_ref(), n);
                compute.add_bias(&mut ws.up, up.bias.as_ref(), n);
                let forms = compute.forms([down.weight.ty()].into_iter());
                compute.gated(&mut ws.gate, &ws.up, (n, width), forms, &mut ws.hidden)?;
                compute.matmul(&ws.hidden, &mut [(&down.weight, ws.residual.delta(n))])?;
                compute.add_bias(ws.residual.delta(n), down.bias.as_ref(), n);
            }
            FeedForward::Experts(experts) => {
                let forms = experts.forms(&compute);
                ws.residual.norm(&compute, norm, n, forms, &mut ws.activations)?;
                let scratch = ExpertScratch {
                    buffers: &mut ws.experts,
                    hidden: &mut ws.hidden,
                    gate: &mut ws.gate,
                    up: &mut ws.up,
                };
                experts.forward(&compute, &ws.activations, ws.residual.stream(n), scratch)?;
            }
        }
        step.times.ffn += elapsed(start);
        Ok(())
    }

    fn norm<'a>(&self, weight: &'a [f32]) -> RmsNorm<'a> {
        RmsNorm {
            weight,
            epsilon: self.config.rms_epsilon,
        }
    }
}

impl Architecture for Llama {
    fn widths(&self) -> Widths {
        widths(&self.config)
    }

    fn layer_shapes(&self) -> Vec<LayerShape> {
        layer_shapes(&self.config)
    }

    #[cfg(test)]
    fn set_windows(&mut self, windows: &[Option<usize>]) {
        self.config.windows = windows.to_vec();
    }

    fn forward(&self, step: &mut Step<'_>) -> Result<()> {
        step.begin()?;
        step.embed(&self.embedding, &self.rope)?;
        for (index, layer) in self.layers.iter().enumerate() {
            step.check_cancelled()?;
            self.attention(step, index, layer)?;
            self.feed_forward(step, layer)?;
        }
        step.project(self.norm(&self.output_norm), &self.output)
    }
}

impl Layer {
    fn load(c: &Config, loader: &Loader<'_>, index: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let projection = |part: &str, n_in: usize, n_out: usize| {
            Ok::<_, Error>(Projection {
                weight: loader.matrix(&name(&format!("{part}.weight")), n_in, n_out)?,
                bias: loader.optional_vector(&name(&format!("{part}.bias")), n_out)?,
            })
        };
        let (n_heads, n_kv_heads, n_ff) = (c.n_heads[index], c.n_kv_heads[index], c.n_ff[index]);
        let attention_norm = loader.vector(&name("attn_norm.weight"), c.n_embd)?;
        let q = projection("attn_q", c.n_embd, n_heads * c.key_dim)?;
        let k = projection("attn_k", c.n_embd, n_kv_heads * c.key_dim)?;
        let v = projection("attn_v", c.n_embd, n_kv_heads * c.value_dim)?;
        let attention_output = projection("attn_output", n_heads * c.value_dim, c.n_embd)?;
        let ffn_norm = loader.vector(&name("ffn_norm.weight"), c.n_embd)?;
        let ffn = match c.experts {
            None => FeedForward::Dense {
                gate: projection("ffn_gate", c.n_embd, n_ff)?,
                up: projection("ffn_up", c.n_embd, n_ff)?,
                down: projection("ffn_down", n_ff, c.n_embd)?,
            },
            Some(e) => {
                let stack =
                    |part: &str, n_in, n_out| load_experts(loader, &name(part), n_in, n_out, e.n_experts);
                FeedForward::Experts(Experts {
                    router: loader.matrix(&name("ffn_gate_inp.weight"), c.n_embd, e.n_experts)?,
                    gate: stack("ffn_gate", c.n_embd, n_ff)?,
                    up: stack("ffn_up", c.n_embd, n_ff)?,
                    down: stack("ffn_down", n_ff, c.n_embd)?,
                    n_used: e.n_used,
                    weights_scale: e.weights_scale,
                })
            }
        };
        Ok(Self {
            attention_norm,
            q,
            k,
            v,
            attention_output,
            ffn_norm,
            ffn,
        })
    }
}

/// `NAME_exps.weight`, or `NAME.0.weight`, `NAME.1.weight` … in older files.
fn load_experts(
    loader: &Loader<'_>,
    name: &str,
    n_in: usize,
    n_out: usize,
    count: usize,
) -> Result<ExpertWeights> {
    let separate = |i: usize| format!("{name}.{i}.weight");
    if loader.has(&separate(0)) {
        let weights = (0..count)
            .map(|i| loader.matrix(&separate(i), n_in, n_out))
            .collect::<Result<Vec<_>>>()?;
        return Ok(ExpertWeights::Separate(weights));
    }
    let stacked = format!("{name}_exps.weight");
    loader
        .optional_experts(&stacked, n_in, n_out, count)?
        .map(ExpertWeights::Stacked)
        .ok_or_else(|| Error::InvalidModel(format!("tensor '{stacked}' is missing")))
}

/// Widths of the buffers a forward pass needs.
pub fn widths(c: &Config) -> Widths {
    let max = |v: &[usize]| v.iter().copied().max().unwrap_or(0);
    let (heads, kv_heads) = (max(&c.n_heads), max(&c.n_kv_heads));
    Widths {
        n_embd: c.n_embd,
        q: heads * c.key_dim,
        k: kv_heads * c.key_dim,
        v: kv_heads * c.value_dim,
        attended: heads * c.value_dim,
        n_ff: max(&c.n_ff),
        rope_pairs: c.rope.n_dims / 2,
        n_heads: heads,
        n_kv_heads: c.n_kv_heads.iter().copied().min().unwrap_or(0),
        n_vocab: c.n_vocab,
        n_experts: c.experts.map_or(0, |e| e.n_experts),
        n_experts_used: c.experts.map_or(0, |e| e.n_used),
    }
}

/// What each layer stores per token.
pub fn layer_shapes(c: &Config) -> Vec<LayerShape> {
    let layers = c.n_kv_heads.iter().zip(&c.windows);
    layers
        .map(|(&n_kv_heads, &window)| LayerShape {
            n_kv_heads,
            key_dim: c.key_dim,
            value_dim: c.value_dim,
            window,
        })
        .collect()
}

/// Reads and checks the family's hyper-parameters.
pub fn config(keys: &Keys<'_>) -> Result<Config> {
    Config::read(keys)
}
