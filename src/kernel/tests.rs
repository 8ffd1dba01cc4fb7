//! Tests of the matrix products: every level against dequantized `f64` products, against the scalar level, and against
//! itself under other tilings and thread counts.

use super::*;
use crate::quant::dequantize_row;

/// A small generator (SplitMix64), so that tests need no dependency and repeat.
pub(crate) struct Rng(pub u64);
impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in −1…1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

pub(crate) fn supported() -> impl Iterator<Item = TensorType> {
    TensorType::all().filter(|t| t.is_supported())
}

/// Bytes of a random matrix: random bits, with scales of a size that occurs.
pub(crate) fn random_weights(ty: TensorType, n: usize, rng: &mut Rng) -> Vec<u8> {
    let mut data = vec![0u8; ty.row_bytes(n).unwrap()];
    for b in &mut data {
        *b = rng.next() as u8;
    }
    let put = |data: &mut [u8], at: usize, x: f32| {
        data[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
    };
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        let x = 0.01 + 0.01 * rng.unit().abs();
        match ty {
            TensorType::F32 => block.copy_from_slice(&rng.unit().to_le_bytes()),
            TensorType::F16 => put(block, 0, rng.unit()),
            TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(rng.unit()).to_le_bytes()),
            TensorType::Q4_1 | TensorType::Q5_1 => {
                put(block, 0, x);
                put(block, 2, -8.0 * x);
            }
            TensorType::Q2_K => {
                put(block, 80, x);
                put(block, 82, 1.5 * x);
            }
            TensorType::Q3_K => put(block, 108, x),
            TensorType::Q4_K | TensorType::Q5_K => {
                put(block, 0, x);
                put(block, 2, 8.0 * x);
            }
            TensorType::Q6_K => put(block, 208, x),
            TensorType::MXFP4 => block[0] = 120 + (rng.next() % 4) as u8,
            _ => put(block, 0, x),
        }
    }
    data
}

pub(crate) fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new(ThreadPoolOptions {
        threads: Some(threads),
        ..Default::default()
    })
    .unwrap()
}

pub(crate) fn levels() -> Vec<&'static Kernels> {
    CpuLevel::available()
        .into_iter()
        .filter_map(Kernels::for_level)
        .collect()
}

struct Case {
    ty: TensorType,
    n_in: usize,
    n_out: usize,
    rows: usize,
    weights: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn random(ty: TensorType, n_in: usize, n_out: usize, rows: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        Self {
            ty,
            n_in,
            n_out,
            rows,
            weights: random_weights(ty, n_in * n_out, &mut rng),
            x: rng.vec(n_in * rows),
        }
    }
    fn run(&self, k: &Kernels, pool: &ThreadPool, precision: Precision) -> Vec<f32> {
        let w = Matrix::new(self.ty, self.n_in, self.n_out, &self.weights).unwrap();
        let mut a = Activations::new(1, 32).unwrap();
        a.set(k, &self.x, self.rows, self.n_in, true).unwrap();
        let mut out = vec![f32::NAN; self.rows * self.n_out];
        matmul(
            k,
            pool,
            &a,
            &mut [MatmulJob::new(w, &mut out).precision(precision)],
        )
        .unwrap();
        out
    }
    fn weight_row(&self, r: usize) -> Vec<f32> {
        let bytes = self.ty.row_bytes(self.n_in).unwrap();
        let mut row = vec![0.0; self.n_in];
        dequantize_row(self.ty, &self.weights[r * bytes..(r + 1) * bytes], &mut row).unwrap();
        row
    }
    /// Products in `f64`, and the sum of the products' magnitudes.
    fn reference(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut y, mut magnitude) = (
            vec![0.0; self.rows * self.n_out],
            vec![0.0; self.rows * self.n_out],
        );
        for o in 0..self.n_out {
            let w = self.weight_row(o);
            for r in 0..self.rows {
                for (w, x) in w.iter().zip(&self.x[r * self.n_in..]) {
                    let p = f64::from(*w) * f64::from(*x);
                    y[r * self.n_out + o] += p;
                    magnitude[r * self.n_out + o] += p.abs();
                }
            }
        }
        (y, magnitude)
    }
}

fn nmse(y: &[f32], reference: &[f64]) -> f64 {
    let error: f64 = y
        .iter()
        .zip(reference)
        .map(|(y, r)| (f64::from(*y) - r).powi(2))
        .sum();
    error / reference.iter().map(|r| r * r).sum::<f64>()
}

/// Widths of one block, odd numbers of blocks, whole and broken chunks.
fn widths(ty: TensorType) -> Vec<usize> {
    match ty.block_len() {
        1 => vec![1, 7, 16, 31, 64, 100, 257],
        32 => vec![32, 96, 224, 256, 288, 544],
        _ => vec![256, 768],
    }
}

#[test]
fn products_are_within_the_error_of_eight_bit_activations_and_exact_ones_within_rounding() {
    let pool = pool(2);
    for k in levels() {
        for ty in supported() {
            for n_in in widths(ty) {
                for rows in [1, 2, 5, 9] {
                    let case = Case::random(ty, n_in, 37, rows, n_in as u64 + rows as u64);
                    let (reference, magnitude) = case.reference();
                    let what = format!("{k:?} {ty} {n_in} wide, {rows} rows");
                    if ty.is_quantized() {
                        let e = nmse(&case.run(k, &pool, Precision::Int8), &reference);
                        assert!(e <= 1e-4, "{what}: {e}");
                    }
                    let exact = case.run(k, &pool, Precision::Exact);
                    for ((y, r), m) in exact.iter().zip(&reference).zip(&magnitude) {
                        assert!((f64::from(*y) - r).abs() <= 2e-6 * m + 1e-30, "{what}: {y} {r}");
                    }
                }
            }
        }
    }
}
