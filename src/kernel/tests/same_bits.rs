//! Matrix products of one level: the same bits with any number of threads, for a row alone and among others, in any tiling.

use super::super::*;
use super::products::{Case, bits, nmse, widths};
use super::{Rng, levels, pool, random_weights, supported};

#[test]
fn a_result_does_not_depend_on_threads_nor_on_the_other_rows() {
    let pools = [pool(1), pool(2), pool(4)];
    for k in levels() {
        for ty in supported() {
            for precision in [Precision::Native, Precision::Half, Precision::Exact] {
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
                for rows in [1, 2, 3, 5, 7, 8, 11, 13, 18] {
                    let some = Case {
                        rows,
                        x: all.x[..rows * n_in].to_vec(),
                        weights: all.weights.clone(),
                        ..all
                    };
                    let y = some.run(k, &pools[1], precision);
                    assert_eq!(bits(&y), bits(&expected[..rows * 61]), "{k:?} {ty} {rows} rows");
                }
                let w = Packed::new(&pools[0], ty, n_in, 61, &all.weights).unwrap();
                let mut a = Activations::new(32, n_in).unwrap();
                a.set(k, &pools[0], &all.x, 32, n_in, all.forms(k)).unwrap();
                let many: Vec<u32> = (0..29).map(|i| i * 11 % 32).collect();
                for subset in [&[31u32][..], &[4, 4, 0], &[7, 30, 2, 9, 1], &many[..13], &many] {
                    let mut y = vec![0.0; subset.len() * 61];
                    let job = MatmulJob::new(w.matrix().unwrap(), &mut y)
                        .rows(subset)
                        .precision(precision);
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
        a.set(k, &pool, &x, 3, n_in, Forms::ALL).unwrap();
        let shapes = [
            (TensorType::Q4_K, 100),
            (TensorType::F32, 7),
            (TensorType::Q6_K, 1),
            (TensorType::Q4_0, 20),
            (TensorType::F16, 300),
        ];
        let data: Vec<_> = shapes
            .iter()
            .map(|&(ty, n)| {
                let rows = random_weights(ty, n * n_in, &mut rng);
                Packed::new(&pool, ty, n_in, n, &rows).unwrap()
            })
            .collect();
        let matrix = |i: usize| data[i].matrix().unwrap();
        let alone: Vec<Vec<f32>> = (0..shapes.len())
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
        let y = case.run(k, &pool, Precision::Native);
        let last = Case {
            rows: 1,
            x: case.x[2 * n_in..].to_vec(),
            weights: case.weights.clone(),
            ..case
        };
        assert_eq!(bits(&y[10..]), bits(&last.run(k, &pool, Precision::Native)));
        assert!(nmse(&y, &case.reference().0) < 1e-4);
    }
}

#[test]
fn columns_of_a_subset_are_taken_singly_where_four_have_no_room() {
    let pool = pool(1);
    let (n_in, n_out) = (110_592, 5);
    for k in levels() {
        let all = Case::random(TensorType::Q8_0, n_in, n_out, 3, 11);
        let expected = all.run(k, &pool, Precision::Native);
        let w = Packed::new(&pool, TensorType::Q8_0, n_in, n_out, &all.weights).unwrap();
        let mut a = Activations::new(3, n_in).unwrap();
        a.set(k, &pool, &all.x, 3, n_in, all.forms(k)).unwrap();
        let mut y = vec![0.0; 2 * n_out];
        let job = MatmulJob::new(w.matrix().unwrap(), &mut y).rows(&[2, 0]);
        matmul(k, &pool, &a, &mut [job]).unwrap();
        assert_eq!(bits(&y[..n_out]), bits(&expected[2 * n_out..]), "{k:?}");
        assert_eq!(bits(&y[n_out..]), bits(&expected[..n_out]), "{k:?}");
    }
}

#[test]
fn rows_of_a_long_prompt_are_the_bits_of_rows_alone() {
    let pool = pool(2);
    for k in levels() {
        for ty in supported() {
            // Several stretches of weights, the last of which is short (and not of whole vectors where that can be), and several
            // groups of columns in tiles of every width; or few, which float weights meet as they stream by.
            let n_in = if ty.is_quantized() {
                *widths(ty).last().unwrap()
            } else {
                1061
            };
            for rows in [2, 4, 7, 15, 66, 131] {
                let case = Case::random(ty, n_in, 37, rows, 7);
                let together = case.run(k, &pool, Precision::Native);
                for row in [0, 6, 59, 60, 63, 64, rows - 1].into_iter().filter(|r| *r < rows) {
                    assert_eq!(
                        row_alone(&case, row, k, &pool, Precision::Native),
                        bits(&together[row * 37..][..37]),
                        "{k:?} {ty} row {row} of {rows}"
                    );
                }
            }
        }
    }
}

/// Everything that decides how float weights are multiplied: their type, the level and the precision.
fn ways_of_float_weights() -> impl Iterator<Item = (TensorType, &'static Kernels, Precision)> {
    let types = supported().filter(|ty| !ty.is_quantized());
    types.flat_map(|ty| {
        levels().into_iter().flat_map(move |k| {
            let native = Forms::of(k, ty, Precision::Native);
            let others = [Precision::Half, Precision::Exact];
            let others = others.into_iter().filter(move |p| Forms::of(k, ty, *p) != native);
            let all = std::iter::once(Precision::Native).chain(others);
            all.map(move |precision| (ty, k, precision))
        })
    })
}

/// The bits of one row of a case, computed by itself.
fn row_alone(all: &Case, row: usize, k: &Kernels, pool: &ThreadPool, precision: Precision) -> Vec<u32> {
    let alone = Case {
        rows: 1,
        x: all.x[row * all.n_in..][..all.n_in].to_vec(),
        weights: all.weights.clone(),
        ..*all
    };
    bits(&alone.run(k, pool, precision))
}

#[test]
fn float_weights_give_any_number_of_rows_the_bits_of_each_alone() {
    let pool = pool(1);
    // Whole vectors and a rest; rows of 16, one more than tiles of three, three more than tiles of four.
    let (n_in, n_out) = (75, 19);
    for (ty, k, precision) in ways_of_float_weights() {
        let all = Case::random(ty, n_in, n_out, 64, 31);
        let alone: Vec<u32> = (0..64)
            .flat_map(|row| row_alone(&all, row, k, &pool, precision))
            .collect();
        for rows in 1..=64 {
            let some = Case {
                rows,
                x: all.x[..rows * n_in].to_vec(),
                weights: all.weights.clone(),
                ..all
            };
            let y = bits(&some.run(k, &pool, precision));
            assert_eq!(y, alone[..rows * n_out], "{k:?} {ty} {precision:?} {rows} rows");
        }
    }
}

#[test]
fn wide_float_weights_meet_some_rows_after_others_with_the_same_bits() {
    let pool = pool(1);
    let n_out = 19;
    for (ty, k, precision) in ways_of_float_weights() {
        // The second cache has room for 21 rows, for 6, for one.
        for (n_in, rows) in [(9001, 20), (9001, 39), (9001, 43), (29_001, 19), (100_003, 11)] {
            let all = Case::random(ty, n_in, n_out, rows, 32);
            let together = bits(&all.run(k, &pool, precision));
            for row in 0..rows {
                assert_eq!(
                    row_alone(&all, row, k, &pool, precision),
                    together[row * n_out..][..n_out],
                    "{k:?} {ty} {precision:?} {n_in} row {row}"
                );
            }
        }
    }
}
