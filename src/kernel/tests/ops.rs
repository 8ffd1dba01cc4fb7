//! Vector operations against `f64` arithmetic, at lengths around every vector width.

use super::super::*;
use super::{Rng, levels};

const LENGTHS: [usize; 14] = [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 130, 1027];

fn close(y: f32, reference: f64, scale: f64, what: &str) {
    assert!(
        (f64::from(y) - reference).abs() <= scale,
        "{what}: {y} against {reference}, tolerance {scale}"
    );
}

#[test]
fn reductions_match() {
    for k in levels() {
        for n in LENGTHS {
            let (a, b) = (Rng(n as u64).vec(n), Rng(99).vec(n));
            let what = format!("{k:?} {n}");
            let dot: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            close(k.dot_f32(&a, &b), dot, 1e-6 * n as f64, &what);
            close(
                k.sum(&a),
                a.iter().map(|v| f64::from(*v)).sum(),
                1e-6 * n as f64,
                &what,
            );
            assert_eq!(
                k.max(&a),
                a.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                "{what}"
            );
        }
    }
}

#[test]
fn elementwise_operations_match_and_leave_nothing_out() {
    for k in levels() {
        for n in LENGTHS {
            let (a, b) = (Rng(n as u64).vec(n), Rng(99).vec(n));
            let wide: Vec<f32> = a.iter().map(|v| v * 20.0).collect();
            let apply = |x: &[f32], f: &dyn Fn(&mut [f32])| {
                let mut y = x.to_vec();
                f(&mut y);
                y
            };
            let pairs = |x: &[f32], y: &[f32]| -> Vec<(f64, f64)> {
                x.iter()
                    .zip(y)
                    .map(|(x, y)| (f64::from(*x), f64::from(*y)))
                    .collect()
            };
            assert_eq!(
                apply(&a, &|x| k.add_in_place(x, &b)),
                a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<_>>()
            );
            assert_eq!(
                apply(&a, &|x| k.mul_in_place(x, &b)),
                a.iter().zip(&b).map(|(a, b)| a * b).collect::<Vec<_>>()
            );
            assert_eq!(
                apply(&a, &|x| k.scale_in_place(x, 0.3)),
                a.iter().map(|a| a * 0.3).collect::<Vec<_>>()
            );
            for (y, (g, u)) in apply(&wide, &|x| k.silu_mul(x, &b)).iter().zip(pairs(&wide, &b)) {
                let r = g / (1.0 + (-g).exp()) * u;
                close(*y, r, 1e-6 * r.abs() + 1e-12, &format!("{k:?} silu {g}"));
            }
            for (y, (g, u)) in apply(&wide, &|x| k.gelu_mul(x, &b)).iter().zip(pairs(&wide, &b)) {
                let t = ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh();
                let r = 0.5 * g * (1.0 + t) * u;
                close(*y, r, 2e-6 * r.abs() + 1e-6, &format!("{k:?} gelu {g}"));
            }
        }
    }
}

#[test]
fn activations_stay_finite_at_the_ends() {
    for k in levels() {
        let x = [
            -1e30f32, -1000.0, -104.0, -88.0, -0.0, 0.0, 88.0, 104.0, 1000.0, 1e30,
        ];
        let ones = [1.0f32; 10];
        for f in [Kernels::silu_mul, Kernels::gelu_mul] {
            let mut y = x;
            f(k, &mut y, &ones);
            for (y, x) in y.iter().zip(x) {
                let expected = f64::from(x.max(0.0));
                close(*y, expected, 1e-6 * expected + 1e-30, &format!("{k:?} {x}"));
            }
        }
        let mut y = [f32::NAN, 1.0];
        k.silu_mul(&mut y, &[1.0; 2]);
        assert!(y[0].is_nan() && y[1].is_finite());
    }
}

#[test]
fn softmax_is_accurate_and_gives_masked_values_no_weight() {
    for k in levels() {
        for n in LENGTHS.into_iter().filter(|n| *n > 0) {
            for width in [1.0f32, 40.0, 300.0] {
                let mut x: Vec<f32> = Rng(n as u64).vec(n).iter().map(|v| v * width).collect();
                if n > 2 {
                    x[1] = f32::NEG_INFINITY;
                }
                let m = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let e: Vec<f64> = x.iter().map(|v| (f64::from(*v) - f64::from(m)).exp()).collect();
                let total: f64 = e.iter().sum();
                let mut y = x.clone();
                k.softmax_in_place(&mut y);
                for (y, e) in y.iter().zip(&e) {
                    close(
                        *y,
                        e / total,
                        4e-6 * e / total + 1e-38,
                        &format!("{k:?} {n} {width}"),
                    );
                }
                if n > 2 {
                    assert_eq!(y[1], 0.0);
                }
            }
        }
    }
}

#[test]
fn norms_match() {
    for k in levels() {
        for n in LENGTHS.into_iter().filter(|n| *n > 1) {
            let (x, w, b) = (Rng(n as u64).vec(n), Rng(98).vec(n), Rng(97).vec(n));
            let wide = |v: &f32| f64::from(*v);
            let mut y = vec![f32::NAN; n];
            k.rms_norm(&x, &w, 1e-5, &mut y);
            let mean = x.iter().map(|v| wide(v) * wide(v)).sum::<f64>() / n as f64;
            for i in 0..n {
                let r = wide(&x[i]) / (mean + 1e-5).sqrt() * wide(&w[i]);
                close(y[i], r, 1e-6 * r.abs() + 1e-9, &format!("{k:?} rms {n}"));
            }
            let mean = x.iter().map(wide).sum::<f64>() / n as f64;
            let variance = x.iter().map(|v| (wide(v) - mean).powi(2)).sum::<f64>() / n as f64;
            for bias in [None, Some(&b[..])] {
                k.layer_norm(&x, &w, bias, 1e-5, &mut y);
                for i in 0..n {
                    let r = (wide(&x[i]) - mean) / (variance + 1e-5).sqrt() * wide(&w[i])
                        + bias.map_or(0.0, |b| wide(&b[i]));
                    close(y[i], r, 3e-6 * (1.0 + r.abs()), &format!("{k:?} layer {n}"));
                }
            }
        }
    }
}

#[test]
fn rotations_turn_the_right_pairs_and_leave_the_rest() {
    for k in levels() {
        for half in [0, 1, 3, 8, 20, 64] {
            let angles: Vec<f64> = (0..half).map(|i| 0.1 + i as f64).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let x = Rng(half as u64).vec(2 * half + 5);
            let turned = |a: usize, b: usize, i: usize| {
                let (a, b) = (f64::from(x[a]), f64::from(x[b]));
                (
                    a * angles[i].cos() - b * angles[i].sin(),
                    a * angles[i].sin() + b * angles[i].cos(),
                )
            };
            let (mut neox, mut interleaved) = (x.clone(), x.clone());
            k.rope_neox(&mut neox, &cos, &sin);
            k.rope_interleaved(&mut interleaved, &cos, &sin);
            for i in 0..half {
                let (a, b) = turned(i, i + half, i);
                close(neox[i], a, 3e-7, "neox");
                close(neox[i + half], b, 3e-7, "neox");
                let (a, b) = turned(2 * i, 2 * i + 1, i);
                close(interleaved[2 * i], a, 3e-7, "interleaved");
                close(interleaved[2 * i + 1], b, 3e-7, "interleaved");
            }
            assert_eq!(neox[2 * half..], x[2 * half..]);
            assert_eq!(interleaved[2 * half..], x[2 * half..]);
        }
    }
}
