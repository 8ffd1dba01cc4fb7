//! Operations on callers' arrays against plain loops and `f64` arithmetic.

#![allow(unsafe_code, reason = "calls entry points that take pointers")]

use super::super::*;
use super::{Rng, levels, random_weights, supported};
use crate::quant::dequantize_row;

const LENGTHS: [usize; 14] = [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 130, 1027];
const SHAPES: [(usize, usize, usize); 14] = [
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (1, 300, 64),
    (2, 7, 32),
    (3, 128, 16),
    (4, 129, 33),
    (5, 31, 31),
    (8, 127, 48),
    (9, 257, 65),
    (13, 64, 100),
    (16, 300, 17),
    (31, 20, 96),
];

fn signed_bytes(rng: &mut Rng, n: usize) -> Vec<i8> {
    (0..n).map(|_| rng.next() as i8).collect()
}

#[test]
fn a_compensated_dot_product_does_not_lose_with_length() {
    let n = 1 << 20;
    let (a, b) = (vec![0.1f32; n], vec![0.1f32; n]);
    let exact = f64::from(0.1f32) * f64::from(0.1f32) * n as f64;
    for k in levels() {
        let error = |y: f32| (f64::from(y) - exact).abs() / exact;
        assert!(error(k.dot_kahan(&a, &b)) < 2e-7, "{k:?}");
        // Otherwise this test shows nothing.
        assert!(error(k.dot_f32(&a, &b)) > 1e-6, "{k:?}");
        for n in LENGTHS {
            let (a, b) = (Rng(n as u64).vec(n), Rng(99).vec(n));
            let products = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (sum, magnitude) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
            let y = f64::from(k.dot_kahan(&a, &b));
            assert!(
                (y - sum).abs() <= 2e-7 * magnitude,
                "{k:?} {n}: {y} against {sum}"
            );
        }
    }
}

#[test]
fn a_compensated_dot_product_keeps_infinities_and_nans() {
    for k in levels() {
        for n in [1, 5, 40, 200] {
            let ones = vec![1.0; n];
            let with = |v: f32| {
                let mut x = vec![1.0; n];
                x[n / 2] = v;
                x
            };
            assert_eq!(k.dot_kahan(&with(f32::INFINITY), &ones), f32::INFINITY);
            assert_eq!(k.dot_kahan(&with(f32::NEG_INFINITY), &ones), f32::NEG_INFINITY);
            assert!(k.dot_kahan(&with(f32::NAN), &ones).is_nan());
        }
        assert_eq!(k.dot_kahan(&[f32::MAX; 64], &[2.0; 64]), f32::INFINITY);
    }
}

#[test]
fn a_matrix_product_is_one_sum_over_k_per_value() {
    for k in levels() {
        let fused = ![CpuLevel::Scalar, CpuLevel::Sse41].contains(&k.level());
        for (m, kk, n) in SHAPES {
            let (a, b) = (Rng(1).vec(m * kk), Rng(2).vec(kk * n));
            let mut c = vec![f32::NAN; m * n];
            k.matmul_f32((m, kk, n), &a, &b, &mut c).unwrap();
            for i in 0..m {
                for j in 0..n {
                    let mut sum = 0.0f32;
                    for p in 0..kk {
                        let (x, y) = (a[i * kk + p], b[p * n + j]);
                        sum = if fused { x.mul_add(y, sum) } else { x * y + sum };
                    }
                    assert_eq!(c[i * n + j], sum, "{k:?} {m} x {kk} x {n} at {i}, {j}");
                }
            }
        }
    }
}

#[test]
fn a_nan_in_a_matrix_reaches_its_row_and_no_other() {
    for k in levels() {
        let (m, kk, n) = (9, 130, 33);
        let mut a = vec![1.0; m * kk];
        a[4 * kk + 129] = f32::NAN;
        let mut c = vec![0.0; m * n];
        k.matmul_f32((m, kk, n), &a, &vec![1.0; kk * n], &mut c).unwrap();
        for (i, row) in c.chunks(n).enumerate() {
            assert!(
                row.iter().all(|v| if i == 4 { v.is_nan() } else { *v == 130.0 }),
                "{k:?} {i}"
            );
        }
    }
}

#[test]
fn a_product_of_signed_bytes_is_exact() {
    for k in levels() {
        for (m, kk, n) in SHAPES {
            let (a, b) = (
                signed_bytes(&mut Rng(3), m * kk),
                signed_bytes(&mut Rng(4), kk * n),
            );
            let mut c = vec![i32::MIN; m * n];
            k.matmul_i8((m, kk, n), &a, &b, &mut c).unwrap();
            for i in 0..m {
                for j in 0..n {
                    let sum: i32 = (0..kk)
                        .map(|p| i32::from(a[i * kk + p]) * i32::from(b[p * n + j]))
                        .sum();
                    assert_eq!(c[i * n + j], sum, "{k:?} {m} x {kk} x {n} at {i}, {j}");
                }
            }
        }
    }
}

#[test]
fn the_longest_product_of_signed_bytes_still_fits_and_a_longer_one_is_refused() {
    let most = Kernels::MAX_K_I8;
    let a = vec![-128i8; most + 1];
    for k in levels() {
        let mut c = [0];
        k.matmul_i8((1, most, 1), &a[..most], &a[..most], &mut c).unwrap();
        assert_eq!(i64::from(c[0]), most as i64 * 128 * 128);
        assert!(k.matmul_i8((1, most + 1, 1), &a, &a, &mut c).is_err());
    }
}

#[test]
fn lengths_that_do_not_fit_a_product_are_errors() {
    let k = levels()[0];
    let mut c = [0.0; 4];
    for (shape, a, b) in [
        ((2, 3, 2), 5, 6),
        ((2, 3, 2), 6, 7),
        ((2, 3, 3), 6, 9),
        ((usize::MAX, 2, 2), 6, 4),
        ((0, usize::MAX, 2), 0, 4),
    ] {
        let e = k
            .matmul_f32(shape, &vec![0.0; a], &vec![0.0; b], &mut c)
            .unwrap_err();
        assert!(e.to_string().contains("multiply matrices"), "{e}");
    }
}

#[test]
fn activation_functions_match_and_may_work_in_place() {
    type Function = (
        &'static str,
        fn(&Kernels) -> unsafe fn(*const f32, *mut f32, usize),
        fn(f64) -> f64,
    );
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let functions: [Function; 4] = [
        ("relu", |k| k.relu, |x| x.max(0.0)),
        ("sigmoid", |k| k.sigmoid, sigmoid),
        ("silu", |k| k.silu, |x| x / (1.0 + (-x).exp())),
        (
            "gelu",
            |k| k.gelu,
            |x| {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + u.tanh())
            },
        ),
    ];
    for k in levels() {
        for (name, entry, reference) in functions {
            for n in LENGTHS {
                let x: Vec<f32> = Rng(n as u64).vec(n).iter().map(|v| v * 20.0).collect();
                let mut y = vec![f32::NAN; n];
                // SAFETY: both have n values.
                unsafe { entry(k)(x.as_ptr(), y.as_mut_ptr(), n) };
                for (x, y) in x.iter().zip(&y) {
                    let r = reference(f64::from(*x));
                    assert!(
                        (f64::from(*y) - r).abs() <= 2e-6 * r.abs() + 1e-6,
                        "{k:?} {name} {x}: {y}, {r}"
                    );
                }
                let mut z = x.clone();
                // SAFETY: an output that is the input itself is allowed.
                unsafe { entry(k)(z.as_ptr(), z.as_mut_ptr(), n) };
                assert_eq!(z, y, "{k:?} {name} in place");
            }
            let ends = [f32::NAN, f32::INFINITY, 1e30, -1e30, -200.0, 0.0];
            let mut y = [7.0; 6];
            // SAFETY: both have 6 values.
            unsafe { entry(k)(ends.as_ptr(), y.as_mut_ptr(), 6) };
            assert!(y[0].is_nan(), "{k:?} {name}: {y:?}");
            let top = if name == "sigmoid" { 1.0 } else { f32::INFINITY };
            assert_eq!(y[1], top, "{k:?} {name}");
            assert_eq!(y[2], if name == "sigmoid" { 1.0 } else { 1e30 }, "{k:?} {name}");
            assert!(y[3].abs() < 1e-30 && y[4].abs() < 1e-30, "{k:?} {name}: {y:?}");
            assert_eq!(y[5], if name == "sigmoid" { 0.5 } else { 0.0 }, "{k:?} {name}");
        }
    }
}

#[test]
fn sums_products_and_norms_may_write_to_an_input() {
    for k in levels() {
        for n in LENGTHS {
            let (a, b, w) = (Rng(n as u64).vec(n), Rng(99).vec(n), Rng(98).vec(n));
            let (mut sum, mut product) = (a.clone(), b.clone());
            let (mut rms, mut layer) = (a.clone(), a.clone());
            // SAFETY: all have n values; an output may be an input itself.
            unsafe {
                (k.add_to)(sum.as_ptr(), b.as_ptr(), sum.as_mut_ptr(), n);
                (k.mul_to)(a.as_ptr(), product.as_ptr(), product.as_mut_ptr(), n);
                (k.rms_norm_to)(rms.as_ptr(), w.as_ptr(), 1e-5, rms.as_mut_ptr(), n);
                (k.layer_norm_to)(
                    layer.as_ptr(),
                    w.as_ptr(),
                    b.as_ptr(),
                    1e-5,
                    layer.as_mut_ptr(),
                    n,
                );
            }
            let both = || a.iter().zip(&b);
            assert_eq!(sum, both().map(|(a, b)| a + b).collect::<Vec<_>>(), "{k:?} {n}");
            assert_eq!(
                product,
                both().map(|(a, b)| a * b).collect::<Vec<_>>(),
                "{k:?} {n}"
            );
            let mut expected = vec![0.0; n];
            k.rms_norm(&a, &w, 1e-5, &mut expected);
            assert_eq!(rms, expected, "{k:?} {n}");
            k.layer_norm(&a, &w, Some(&b), 1e-5, &mut expected);
            assert_eq!(layer, expected, "{k:?} {n}");
        }
    }
}

#[test]
fn dequantizing_equals_the_scalar_definition_bit_for_bit() {
    for k in levels() {
        for ty in supported() {
            let blocks: &[usize] = match ty.block_len() {
                1 => &[0, 1, 7, 16, 33, 300],
                32 => &[0, 1, 3, 8, 17],
                _ => &[0, 1, 3],
            };
            for blocks in blocks {
                let n = blocks * ty.block_len();
                let src = random_weights(ty, n, &mut Rng(5));
                let (mut expected, mut found) = (vec![0.0; n], vec![f32::NAN; n]);
                dequantize_row(ty, &src, &mut expected).unwrap();
                k.dequantize(ty, &src, &mut found).unwrap();
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{k:?} {ty} {n}");
            }
        }
        assert!(
            k.dequantize(TensorType::Q4_K, &[0; 144], &mut [0.0; 255])
                .is_err()
        );
        assert!(
            k.dequantize(TensorType::IQ1_S, &[0; 50], &mut [0.0; 256])
                .is_err()
        );
    }
}
