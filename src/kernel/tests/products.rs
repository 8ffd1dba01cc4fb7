//! Matrix products: every level against dequantized `f64` products, against the scalar level, and against itself under
//! other tilings and thread counts.

use super::super::*;
use super::{Rng, levels, pool, random_weights, supported};
use crate::quant::dequantize_row;

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

#[test]
fn levels_agree_with_the_scalar_one_within_rounding() {
    let pool = pool(1);
    let scalar = Kernels::for_level(CpuLevel::Scalar).unwrap();
    for k in levels() {
        for ty in supported() {
            for n_in in widths(ty) {
                let case = Case::random(ty, n_in, 19, 6, 3 * n_in as u64);
                let (_, magnitude) = case.reference();
                let expected = case.run(scalar, &pool, Precision::Int8);
                let found = case.run(k, &pool, Precision::Int8);
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
                    let y = case.run(k, &pool, Precision::Int8);
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

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_result_does_not_depend_on_threads_nor_on_the_other_rows() {
    let pools = [pool(1), pool(2), pool(4)];
    for k in levels() {
        for ty in supported() {
            for precision in [Precision::Int8, Precision::Exact] {
                let n_in = if ty.block_len() == 256 { 768 } else { 544 };
                let all = Case::random(ty, n_in, 61, 32, 5);
                let expected = all.run(k, &pools[0], precision);
                for pool in &pools[1..] {
                    assert_eq!(
                        bits(&all.run(k, pool, precision)),
                        bits(&expected),
                        "{k:?} {ty} {pool:?}"
                    );
                }
                for rows in [1, 2, 3, 5, 18] {
                    let some = Case {
                        rows,
                        x: all.x[..rows * n_in].to_vec(),
                        weights: all.weights.clone(),
                        ..all
                    };
                    let y = some.run(k, &pools[1], precision);
                    assert_eq!(bits(&y), bits(&expected[..rows * 61]), "{k:?} {ty} {rows} rows");
                }
                let w = Matrix::new(ty, n_in, 61, &all.weights).unwrap();
                let mut a = Activations::new(32, n_in).unwrap();
                a.set(k, &all.x, 32, n_in, true).unwrap();
                for subset in [&[31u32][..], &[4, 4, 0], &[7, 30, 2, 9, 1]] {
                    let mut y = vec![0.0; subset.len() * 61];
                    let job = MatmulJob::new(w, &mut y).rows(subset).precision(precision);
                    matmul(k, &pools[1], &a, &mut [job]).unwrap();
                    for (y, &r) in y.chunks(61).zip(subset) {
                        assert_eq!(
                            bits(y),
                            bits(&expected[r as usize * 61..][..61]),
                            "{k:?} {ty} row {r}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn several_weights_of_different_types_share_one_call() {
    let pool = pool(2);
    for k in levels() {
        let mut rng = Rng(3);
        let n_in = 512;
        let x = rng.vec(3 * n_in);
        let mut a = Activations::new(3, n_in).unwrap();
        a.set(k, &x, 3, n_in, true).unwrap();
        let shapes = [
            (TensorType::Q4_K, 100),
            (TensorType::F32, 7),
            (TensorType::Q6_K, 1),
            (TensorType::F16, 300),
        ];
        let data: Vec<_> = shapes
            .iter()
            .map(|&(ty, n)| random_weights(ty, n * n_in, &mut rng))
            .collect();
        let matrix = |i: usize| Matrix::new(shapes[i].0, n_in, shapes[i].1, &data[i]).unwrap();
        let alone: Vec<Vec<f32>> = (0..4)
            .map(|i| {
                let mut y = vec![0.0; 3 * shapes[i].1];
                matmul(k, &pool, &a, &mut [MatmulJob::new(matrix(i), &mut y)]).unwrap();
                y
            })
            .collect();
        let mut together: Vec<Vec<f32>> = shapes.iter().map(|s| vec![0.0; 3 * s.1]).collect();
        let mut none = [];
        let mut jobs: Vec<_> = together
            .iter_mut()
            .enumerate()
            .map(|(i, y)| MatmulJob::new(matrix(i), y))
            .collect();
        jobs.insert(2, MatmulJob::new(matrix(0), &mut none).rows(&[]));
        matmul(k, &pool, &a, &mut jobs).unwrap();
        assert_eq!(together, alone);
    }
}

#[test]
fn a_row_wider_than_the_scratch_memory_gives_the_same_bits() {
    let pool = pool(1);
    // 1400 chunks: more than a worker's scratch memory holds for one row.
    let n_in = 1400 * 256;
    for k in levels() {
        let case = Case::random(TensorType::Q4_K, n_in, 5, 3, 21);
        let y = case.run(k, &pool, Precision::Int8);
        let last = Case {
            rows: 1,
            x: case.x[2 * n_in..].to_vec(),
            weights: case.weights.clone(),
            ..case
        };
        assert_eq!(bits(&y[10..]), bits(&last.run(k, &pool, Precision::Int8)));
        assert!(nmse(&y, &case.reference().0) < 1e-4);
    }
}

#[test]
fn activations_are_quantized_to_the_same_bytes_at_every_level() {
    let mut rng = Rng(1);
    let mut x = rng.vec(256);
    x[32..64].fill(0.0);
    x[64..96].iter_mut().for_each(|v| *v *= 1e-38);
    x[96..128].iter_mut().for_each(|v| *v *= 1e38);
    x[130] = 127.5 / 127.0;
    for k in levels() {
        for n in [32, 160, 256] {
            let mut c = chunk::XChunk::ZERO;
            k.quantize_chunk(&x[..n], &mut c);
            let slot = match k.level() {
                #[cfg(target_arch = "x86_64")]
                CpuLevel::Avx2 => <x86_64::avx2::Avx2 as simd::Simd>::SLOT,
                #[cfg(target_arch = "x86_64")]
                CpuLevel::Avx512 => <x86_64::avx512::Avx512 as simd::Simd>::SLOT,
                _ => std::array::from_fn(|i| i),
            };
            for (b, x) in x[..n].chunks(32).enumerate() {
                let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let scale = if largest < 1e-35 { 0.0 } else { largest / 127.0 };
                let mut sums = [0i32; 2];
                for (i, v) in x.iter().enumerate() {
                    let q = if scale == 0.0 {
                        0
                    } else {
                        (v * (127.0 / largest)).round_ties_even() as i32
                    };
                    assert_eq!(i32::from(c.q[32 * b + i]), q, "{k:?} block {b}");
                    sums[i / 16] += q;
                }
                for half in 0..2 {
                    let at = slot[2 * b + half];
                    assert_eq!(c.s[at].to_bits(), scale.to_bits());
                    assert_eq!(c.sum[at], sums[half] as f32);
                    assert_eq!(c.scaled_sum[at].to_bits(), (scale * sums[half] as f32).to_bits());
                }
            }
            assert!(c.q[n..].iter().all(|&q| q == 0));
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
                let y = case.run(k, &pool, Precision::Int8);
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
    let e = Matrix::new(TensorType::Q4_K, 256, 2, &[0; 287])
        .unwrap_err()
        .to_string();
    assert!(e.contains("288") && e.contains("287"), "{e}");
    let e = Matrix::new(TensorType::Q4_K, 100, 2, &[])
        .unwrap_err()
        .to_string();
    assert!(e.contains("blocks of 256"), "{e}");
    let e = Matrix::new(TensorType::IQ2_S, 256, 1, &[0; 82])
        .unwrap_err()
        .to_string();
    assert!(e.contains("IQ2_S"), "{e}");
    assert!(Matrix::new(TensorType::F32, usize::MAX / 2, usize::MAX / 2, &[]).is_err());
    assert!(Matrix::new(TensorType::F32, 0, 5, &[]).is_err());

    let data = [0u8; 34 * 2];
    let w = Matrix::new(TensorType::Q8_0, 32, 2, &data).unwrap();
    let mut a = Activations::new(2, 32).unwrap();
    assert!(a.set(k, &[0.0; 63], 2, 32, true).is_err());
    a.set(k, &[0.0; 64], 2, 32, false).unwrap();
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
    a.set(k, &[0.0; 64], 2, 32, true).unwrap();
    assert!(run(&a, 3, None).unwrap_err().contains("2 · 2 values"));
    assert!(run(&a, 4, Some(&[0, 2])).unwrap_err().contains("below 2"));
    assert!(run(&a, 4, Some(&[1, 0])).is_ok());
    a.set(k, &[0.0; 64], 1, 64, true).unwrap();
    assert!(run(&a, 2, None).unwrap_err().contains("width 32"));
    for l in levels() {
        a.set(l, &[0.0; 64], 2, 32, true).unwrap();
        assert_eq!(run(&a, 4, None).is_ok(), l.level() == CpuLevel::Scalar);
    }
    assert!(Activations::new(usize::MAX / 8, 1 << 40).is_err());
}

#[test]
fn a_matrix_gives_its_rows() {
    let data: Vec<u8> = (0..36).collect();
    let w = Matrix::new(TensorType::Q4_0, 32, 2, &data).unwrap();
    assert_eq!(w.row(1), Some(&data[18..]));
    assert_eq!(w.row(2), None);
    assert_eq!(w.row(usize::MAX), None);
}
