//! Matrix products: every level against dequantized `f64` products, and against the scalar level. That one level
//! gives the same bits however it computes is in `same_bits`.

#![allow(unsafe_code, reason = "quantizes columns of a panel through a pointer")]

use super::super::*;
use super::{Rng, levels, pool, random_weights, supported};
use crate::quant::dequantize_row;

pub(super) struct Case {
    pub(super) ty: TensorType,
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) rows: usize,
    pub(super) weights: Vec<u8>,
    pub(super) x: Vec<f32>,
}

impl Case {
    pub(super) fn random(ty: TensorType, n_in: usize, n_out: usize, rows: usize, seed: u64) -> Self {
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
    pub(super) fn forms(&self, k: &Kernels) -> Forms {
        [Precision::Exact, Precision::Native, Precision::Half]
            .into_iter()
            .fold(Forms::NONE, |forms, p| forms.and(Forms::of(k, self.ty, p)))
    }
    pub(super) fn run(&self, k: &Kernels, pool: &ThreadPool, precision: Precision) -> Vec<f32> {
        let w = Packed::new(pool, self.ty, self.n_in, self.n_out, &self.weights).unwrap();
        let w = w.matrix().unwrap();
        let mut a = Activations::new(1, 32).unwrap();
        a.set(k, pool, &self.x, self.rows, self.n_in, self.forms(k))
            .unwrap();
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
    pub(super) fn weight_row(&self, r: usize) -> Vec<f32> {
        let bytes = self.ty.row_bytes(self.n_in).unwrap();
        let mut row = vec![0.0; self.n_in];
        dequantize_row(self.ty, &self.weights[r * bytes..(r + 1) * bytes], &mut row).unwrap();
        row
    }
    /// Products in `f64`, and the sum of the products' magnitudes.
    pub(super) fn reference(&self) -> (Vec<f64>, Vec<f64>) {
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

pub(super) fn nmse(y: &[f32], reference: &[f64]) -> f64 {
    let error: f64 = y
        .iter()
        .zip(reference)
        .map(|(y, r)| (f64::from(*y) - r).powi(2))
        .sum();
    error / reference.iter().map(|r| r * r).sum::<f64>()
}

/// Widths of one block, odd numbers of blocks, whole and broken chunks.
pub(super) fn widths(ty: TensorType) -> Vec<usize> {
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
                        let e = nmse(&case.run(k, &pool, Precision::Native), &reference);
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

#[test]
fn levels_agree_with_the_scalar_one_within_rounding() {
    let pool = pool(1);
    let scalar = Kernels::for_level(CpuLevel::Scalar).unwrap();
    for k in levels() {
        for ty in supported() {
            for n_in in widths(ty) {
                let mut case = Case::random(ty, n_in, 19, 6, 3 * n_in as u64);
                let (_, magnitude) = case.reference();
                let found = case.run(k, &pool, Precision::Native);
                if k.bf16.is_some() && ty == TensorType::BF16 {
                    case.x
                        .iter_mut()
                        .for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
                }
                let expected = case.run(scalar, &pool, Precision::Native);
                for ((y, e), m) in found.iter().zip(&expected).zip(&magnitude) {
                    assert!(
                        f64::from((y - e).abs()) <= 1e-5 * m + 1e-30,
                        "{k:?} {ty} {n_in}: {y} against {e}"
                    );
                }
            }
        }
    }
}

#[test]
fn half_precision_is_that_of_weights_and_activations_rounded_to_bfloat16() {
    let pool = pool(1);
    let scalar = Kernels::for_level(CpuLevel::Scalar).unwrap();
    for k in levels().into_iter().filter(|k| k.bf16.is_some()) {
        for n_in in widths(TensorType::F16) {
            for rows in [1, 2, 6, 9, 31] {
                let mut case = Case::random(TensorType::F16, n_in, 37, rows, 5 * n_in as u64);
                let found = case.run(k, &pool, Precision::Half);
                let (exact, magnitude) = case.reference();
                case.x
                    .iter_mut()
                    .for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
                for w in case.weights.as_chunks_mut::<2>().0 {
                    *w = half::bf16::from_f32(half::f16::from_le_bytes(*w).to_f32()).to_le_bytes();
                }
                case.ty = TensorType::BF16;
                let expected = case.run(scalar, &pool, Precision::Native);
                for ((y, e), m) in found.iter().zip(&expected).zip(&magnitude) {
                    let what = format!("{k:?} {n_in} wide, {rows} rows: {y} against {e}");
                    assert!(f64::from((y - e).abs()) <= 1e-5 * m + 1e-30, "{what}");
                }
                if n_in >= 64 {
                    assert!(nmse(&found, &exact) <= 1e-4);
                }
            }
        }
    }
}

/// Blocks whose scales, sub-scales and minima are 1, with the given byte as every packed value.
fn unit_scales(ty: TensorType, n: usize, mut fill: impl FnMut() -> u8) -> Vec<u8> {
    let one = half::f16::ONE.to_le_bytes();
    let mut data = vec![0u8; ty.row_bytes(n).unwrap()];
    for b in data.chunks_exact_mut(ty.block_bytes()) {
        b.fill_with(&mut fill);
        match ty {
            TensorType::Q4_1 | TensorType::Q5_1 => {
                b[0..2].copy_from_slice(&one);
                b[2..4].copy_from_slice(&one);
            }
            TensorType::Q2_K => {
                b[0..16].fill(0x11);
                b[80..82].copy_from_slice(&one);
                b[82..84].copy_from_slice(&one);
            }
            TensorType::Q3_K => {
                b[96..104].fill(0x11);
                b[104..108].fill(0xaa);
                b[108..110].copy_from_slice(&one);
            }
            TensorType::Q4_K | TensorType::Q5_K => {
                b[0..2].copy_from_slice(&one);
                b[2..4].copy_from_slice(&one);
                b[4..12].fill(1);
                b[12..16].fill(0x11);
            }
            TensorType::Q6_K => {
                b[192..208].fill(1);
                b[208..210].copy_from_slice(&one);
            }
            TensorType::IQ4_XS => {
                b[0..2].copy_from_slice(&one);
                b[2..4].fill(0xaa);
                b[4..8].fill(0x11);
            }
            TensorType::MXFP4 => b[0] = 128,
            _ => b[0..2].copy_from_slice(&one),
        }
    }
    data
}

#[test]
fn integer_parts_are_exact_also_for_extreme_bytes() {
    let pool = pool(1);
    let mut rng = Rng(7);
    // With weight scales of 1 and a largest activation of 127 everything is an integer below 2^24.
    let fills: [&mut dyn FnMut() -> u8; 5] = [
        &mut || 0x80,
        &mut || 0x7f,
        &mut || 0xff,
        &mut || 0x00,
        &mut || rng.next() as u8,
    ];
    for fill in fills {
        for ty in supported().filter(|t| t.is_quantized()) {
            let n_in = 512;
            let weights = unit_scales(ty, n_in * 6, &mut *fill);
            let mut noise = Rng(9);
            let signs: [&mut dyn FnMut(usize) -> f32; 4] = [
                &mut |_| 127.0,
                &mut |_| -127.0,
                &mut |i| if i % 2 == 0 { 127.0 } else { -127.0 },
                &mut |i| {
                    if i % 32 == 0 {
                        127.0
                    } else {
                        (noise.unit() * 127.0).round()
                    }
                },
            ];
            for sign in signs {
                let case = Case {
                    ty,
                    n_in,
                    n_out: 6,
                    rows: 5,
                    weights: weights.clone(),
                    x: (0..n_in * 5).map(sign).collect(),
                };
                let (reference, magnitude) = case.reference();
                assert!(magnitude.iter().all(|m| *m < f64::from(1 << 24)), "{ty}");
                for k in levels() {
                    let y = case.run(k, &pool, Precision::Native);
                    for (y, r) in y.iter().zip(&reference) {
                        assert_eq!(f64::from(*y), *r, "{k:?} {ty}");
                    }
                }
            }
        }
    }
}

#[test]
fn exact_products_see_the_dequantized_weights_bit_for_bit() {
    let pool = pool(2);
    for k in levels() {
        for ty in supported() {
            let n_in = if ty.block_len() == 1 {
                40
            } else {
                256.max(ty.block_len()) + ty.block_len()
            };
            let mut case = Case::random(ty, n_in, 5, n_in, 11);
            // Rows of the identity pick one weight each.
            case.x = (0..n_in * n_in)
                .map(|i| f32::from(u8::from(i / n_in == i % n_in)))
                .collect();
            let y = case.run(k, &pool, Precision::Exact);
            for o in 0..5 {
                for (i, w) in case.weight_row(o).iter().enumerate() {
                    assert_eq!(y[i * 5 + o], *w, "{k:?} {ty} row {o} value {i}");
                }
            }
        }
    }
}

pub(super) fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_call_with_nothing_to_compute_computes_nothing() {
    let pool = pool(2);
    let w = Packed::new(&pool, TensorType::Q8_0, 32, 2, &[0; 68]).unwrap();
    for k in levels() {
        let mut a = Activations::new(1, 32).unwrap();
        let forms = Forms::of(k, TensorType::Q8_0, Precision::Native);
        a.set(k, &pool, &[], 0, 32, forms).unwrap();
        matmul(k, &pool, &a, &mut []).unwrap();
        matmul(k, &pool, &a, &mut [MatmulJob::new(w.matrix().unwrap(), &mut [])]).unwrap();
        a.set(k, &pool, &[1.0; 32], 1, 32, forms).unwrap();
        let none = MatmulJob::new(w.matrix().unwrap(), &mut []).rows(&[]);
        matmul(k, &pool, &a, &mut [none]).unwrap();
    }
}

#[test]
fn activations_are_quantized_to_the_same_bytes_at_every_level() {
    let mut rng = Rng(1);
    let n = 256;
    let mut x = rng.vec(3 * n);
    x[32..64].fill(0.0);
    x[64..96].iter_mut().for_each(|v| *v *= 1e-38);
    x[96..128].iter_mut().for_each(|v| *v *= 1e38);
    x[130] = 127.5 / 127.0;
    for k in levels() {
        for group in [32, 256] {
            // Three rows in a panel of four columns, the last of which repeats the third.
            let mut panel = vec![0u8; generic::columns::x_panel_bytes(n, 4)];
            for (row, columns) in [(0, (0, 1, 4)), (1, (1, 1, 4)), (2, (2, 2, 4))] {
                let x = &x[row * n..(row + 1) * n];
                // SAFETY: the panel is as long as that, and these columns are written here alone.
                unsafe { k.quantize_row(x, columns, group == 256, panel.as_mut_ptr()) };
            }
            let sets: Vec<_> = panel.chunks(4 * generic::columns::X_BLOCK).collect();
            for c in 0..4 {
                let row = &x[c.min(2) * n..][..n];
                let mut of_sets = Vec::new();
                for (b, set) in sets.iter().enumerate() {
                    let largest = row[32 * b / group * group..][..group]
                        .iter()
                        .fold(0.0f32, |m, v| m.max(v.abs()));
                    let scale = if largest < 1e-35 { 0.0 } else { largest / 127.0 };
                    let mut sums = [0i16; 2];
                    for (i, v) in row[32 * b..][..32].iter().enumerate() {
                        let q = if scale == 0.0 {
                            0
                        } else {
                            (v * (127.0 / largest)).round_ties_even() as i8
                        };
                        assert_eq!(set[32 * c + i] as i8, q, "{k:?} set {b}");
                        sums[i / 16] += i16::from(q);
                    }
                    for (i, sum) in sums.iter().enumerate() {
                        assert_eq!(set[144 + 4 * c + 2 * i..][..2], sum.to_le_bytes());
                    }
                    let begins = match group {
                        256 => sums.map(|sum| -128 * i32::from(sum)),
                        _ => [128, 8].map(|zero| 0x4b40_0000 - zero * i32::from(sums[0] + sums[1])),
                    };
                    for (i, begin) in begins.iter().enumerate() {
                        assert_eq!(set[160 + 16 * i + 4 * c..][..4], begin.to_le_bytes());
                    }
                    of_sets.push(sums[0] + sums[1]);
                    if group == 32 || b == 7 {
                        assert_eq!(set[128 + 4 * c..][..4], scale.to_le_bytes());
                    }
                }
                for b in [0, 2, 4, 6].into_iter().filter(|_| group == 256) {
                    for i in 0..2 {
                        let sum = of_sets[b + i].to_le_bytes();
                        assert_eq!(sets[b][128 + 4 * c + 2 * i..][..2], sum);
                    }
                }
            }
        }
    }
}

#[test]
fn an_activation_that_is_not_finite_makes_its_row_nan_and_no_other() {
    let pool = pool(1);
    for k in levels() {
        for ty in supported() {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut case = Case::random(ty, 256, 3, 3, 2);
                case.x[256 + 77] = bad;
                // Float weights times an infinity are infinite; with signs that differ they need not be NaN.
                let y = case.run(k, &pool, Precision::Native);
                assert!(y[3..6].iter().all(|v| !v.is_finite()), "{k:?} {ty} {bad}: {y:?}");
                assert!(y[..3].iter().chain(&y[6..]).all(|v| v.is_finite()));
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors_that_say_what_was_expected() {
    let k = Kernels::for_level(CpuLevel::Scalar).unwrap();
    let pool = pool(1);
    let matrix = |ty, n_in, n_out, bytes: usize| {
        Packed::new(&pool, ty, n_in, n_out, &vec![0; bytes]).map_err(|e| e.to_string())
    };
    let e = matrix(TensorType::Q4_K, 256, 2, 287).unwrap_err();
    assert!(e.contains("288") && e.contains("287"), "{e}");
    let e = matrix(TensorType::Q4_K, 100, 2, 0).unwrap_err();
    assert!(e.contains("blocks of 256"), "{e}");
    let e = matrix(TensorType::IQ2_S, 256, 1, 82).unwrap_err();
    assert!(e.contains("IQ2_S"), "{e}");
    assert!(matrix(TensorType::F32, usize::MAX / 2, usize::MAX / 2, 0).is_err());
    assert!(matrix(TensorType::F32, 0, 5, 0).is_err());
    let e = Matrix::new(TensorType::Q8_0, 32, 2, &[0; 68], &[]).unwrap_err();
    assert!(e.to_string().contains("last panel of 544 bytes"), "{e}");

    let w = matrix(TensorType::Q8_0, 32, 2, 68).unwrap();
    let w = w.matrix().unwrap();
    let bytes = Forms::of(k, TensorType::Q8_0, Precision::Native);
    let coarse = Forms::of(k, TensorType::Q4_K, Precision::Native);
    let floats = Forms::of(k, TensorType::Q4_K, Precision::Exact);
    let mut a = Activations::new(2, 32).unwrap();
    assert!(a.set(k, &pool, &[0.0; 63], 2, 32, bytes).is_err());
    assert!(a.set(k, &pool, &[0.0; 60], 2, 30, bytes).is_err());
    assert!(a.set(k, &pool, &[0.0; 64], 2, 32, coarse).is_err());
    a.set(k, &pool, &[0.0; 64], 2, 32, floats).unwrap();
    let mut y = [0.0; 4];
    let mut run = |a: &Activations, len: usize, rows: Option<&[u32]>| {
        let mut job = MatmulJob::new(w, &mut y[..len]);
        if let Some(rows) = rows {
            job = job.rows(rows);
        }
        matmul(k, &pool, a, &mut [job]).map_err(|e| e.to_string())
    };
    assert!(
        run(&a, 4, None)
            .unwrap_err()
            .contains("quantized for level scalar")
    );
    a.set(k, &pool, &[0.0; 64], 2, 32, bytes).unwrap();
    assert!(run(&a, 3, None).unwrap_err().contains("2 · 2 values"));
    assert!(run(&a, 4, Some(&[0, 2])).unwrap_err().contains("below 2"));
    assert!(run(&a, 4, Some(&[1, 0])).is_ok());
    a.set(k, &pool, &[0.0; 64], 1, 64, bytes).unwrap();
    assert!(run(&a, 2, None).unwrap_err().contains("width 32"));
    for l in levels() {
        a.set(l, &pool, &[0.0; 64], 2, 32, bytes).unwrap();
        assert_eq!(run(&a, 4, None).is_ok(), l.level() == CpuLevel::Scalar);
    }
    assert!(Activations::new(usize::MAX / 8, 1 << 40).is_err());
}

#[test]
fn a_matrix_gives_its_rows_bit_for_bit() {
    let pool = pool(2);
    for ty in supported() {
        let n_in = 2 * ty.block_len().max(16);
        let case = Case::random(ty, n_in, 35, 1, 4);
        let w = Packed::new(&pool, ty, n_in, 35, &case.weights).unwrap();
        let w = w.matrix().unwrap();
        let mut row = vec![0.0; n_in];
        for i in 0..35 {
            w.read_row(i, &mut row).unwrap();
            assert_eq!(bits(&row), bits(&case.weight_row(i)), "{ty} row {i}");
        }
        for beyond in [35, usize::MAX] {
            let e = w.read_row(beyond, &mut row).unwrap_err().to_string();
            assert!(e.contains("a row below 35"), "{e}");
        }
    }
}
