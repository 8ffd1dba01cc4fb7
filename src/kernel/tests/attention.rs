//! Attention against two plain passes in `f64`, and against itself in other company.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::super::attention::*;
use super::super::*;
use super::rows::{TYPES, stored, values};
use super::{Rng, levels, pool};

/// Keys and values of one sequence per entry, in blocks.
struct Cache {
    ty: RowType,
    n_kv_heads: usize,
    /// \[sequence\]\[head\]\[block\]
    keys: Vec<Vec<Vec<Vec<u8>>>>,
    values: Vec<Vec<Vec<Vec<u8>>>>,
    /// What is stored, read independently: \[sequence\]\[head\]\[position\].
    key_values: Vec<Vec<Vec<Vec<f64>>>>,
    value_values: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Cache {
    fn random(k: &Kernels, ty: RowType, s: &AttentionShape, lengths: &[usize]) -> Self {
        Self::of(k, ty, s, lengths, |_, _, _| {})
    }

    /// Random keys and values that `change` was given, with their position.
    fn of(
        k: &Kernels,
        ty: RowType,
        s: &AttentionShape,
        lengths: &[usize],
        change: impl Fn(usize, &mut [f32], &mut [f32]),
    ) -> Self {
        let mut rng = Rng(77);
        let mut cache = Self {
            ty,
            n_kv_heads: s.n_kv_heads,
            keys: vec![],
            values: vec![],
            key_values: vec![],
            value_values: vec![],
        };
        for &n in lengths {
            let (mut keys, mut vals, mut kv, mut vv) = (vec![], vec![], vec![], vec![]);
            for _ in 0..s.n_kv_heads {
                let blocks = n.div_ceil(BLOCK);
                // What lies behind the last position must not matter: it is not a number.
                let mut key_blocks = vec![vec![0xff; ty.row_bytes(s.key_dim).unwrap() * BLOCK]; blocks];
                let value_bytes = ty.row_bytes(s.value_dim).unwrap();
                let mut value_blocks = vec![vec![0xff; value_bytes * BLOCK]; blocks];
                let (mut head_keys, mut head_values) = (vec![], vec![]);
                for t in 0..n {
                    let (mut x, mut value) = (rng.vec(s.key_dim), rng.vec(s.value_dim));
                    change(t, &mut x, &mut value);
                    k.store_key(ty, &x, &mut key_blocks[t / BLOCK], t % BLOCK);
                    head_keys.push(values(ty, &stored(k, ty, &x, s.key_dim)));
                    let row = stored(k, ty, &value, s.value_dim);
                    value_blocks[t / BLOCK][t % BLOCK * value_bytes..][..value_bytes].copy_from_slice(&row);
                    head_values.push(values(ty, &row));
                }
                keys.push(key_blocks);
                vals.push(value_blocks);
                kv.push(head_keys);
                vv.push(head_values);
            }
            cache.keys.push(keys);
            cache.values.push(vals);
            cache.key_values.push(kv);
            cache.value_values.push(vv);
        }
        cache
    }

    /// Makes a value of position `t` infinite, or with eight bits, the scale of its values.
    fn spoil(&mut self, t: usize) {
        for block in self.values[0].iter_mut().map(|head| &mut head[t / BLOCK]) {
            let row = t % BLOCK * block.len() / BLOCK;
            let infinity: &[u8] = match self.ty {
                RowType::F32 | RowType::Q8 => &[0, 0, 0x80, 0x7f],
                RowType::F16 => &[0, 0x7c],
                RowType::BF16 => &[0x80, 0x7f],
            };
            block[row..row + infinity.len()].copy_from_slice(infinity);
        }
    }

    /// Makes an element of the key of position `t` no number, or with eight bits, its scale.
    fn spoil_key(&mut self, t: usize) {
        for block in self.keys[0].iter_mut().map(|head| &mut head[t / BLOCK]) {
            let bytes = match self.ty {
                RowType::F32 | RowType::Q8 => 4,
                RowType::F16 | RowType::BF16 => 2,
            };
            block[t % BLOCK * bytes..][..bytes].fill(0xff);
        }
    }

    /// Two passes: all scores, then their softmax and the weighted values.
    fn reference(&self, s: &AttentionShape, sequence: usize, position: usize, q: &[f32]) -> Vec<f64> {
        let group = s.n_heads / self.n_kv_heads;
        let mut out = vec![];
        for (h, q) in q.chunks(s.key_dim).enumerate() {
            let keys = &self.key_values[sequence][h / group];
            let first = (position + 1).saturating_sub(s.window.unwrap_or(usize::MAX));
            let capped = |x: f64| s.softcap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh());
            let scores: Vec<f64> = keys[first..=position]
                .iter()
                .map(|k| k.iter().zip(q).map(|(a, b)| a * f64::from(*b)).sum::<f64>() * f64::from(s.scale))
                .map(capped)
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..s.value_dim {
                let rows = &self.value_values[sequence][h / group][first..];
                out.push(weights.iter().zip(rows).map(|(w, v)| w * v[d]).sum::<f64>() / sum);
            }
        }
        out
    }
}

impl KeyValues for Cache {
    fn row_type(&self) -> RowType {
        self.ty
    }
    fn keys(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        &self.keys[sequence as usize][head][index]
    }
    fn values(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        &self.values[sequence as usize][head][index]
    }
}

fn shape(n_heads: usize, n_kv_heads: usize, key_dim: usize, value_dim: usize) -> AttentionShape {
    AttentionShape {
        n_heads,
        n_kv_heads,
        key_dim,
        value_dim,
        scale: 2.0 / (key_dim as f32).sqrt(),
        window: None,
        softcap: None,
        precision: Precision::Half,
    }
}

const SHAPES: [(usize, usize, usize, usize); 6] = [
    (4, 2, 64, 64),
    (3, 3, 16, 16),
    (8, 1, 40, 24),
    (6, 2, 128, 96),
    (70, 1, 8, 5),
    (2, 1, 33, 130),
];

/// What else a layer may ask for: window and cap.
const VARIANTS: [(Option<usize>, Option<f32>); 4] = [
    (None, None),
    (Some(1), None),
    (Some(40), Some(0.5)),
    (Some(290), Some(30.0)),
];

/// Power of the differences from `expected`, relative to its own.
fn nmse<T: Copy + Into<f64>>(found: &[f32], expected: &[T]) -> f64 {
    let pairs = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f), (*e).into()));
    let (errors, power) = pairs.fold((0.0, 0.0), |(errors, power), (f, e)| {
        (errors + (f - e).powi(2), power + e.powi(2))
    });
    errors / power
}

/// Power of the errors of products of 16-bit integers, relative to that of the result.
const PAIRS: f64 = 1e-7;

/// Whether products are those of 16-bit integers.
fn of_pairs(k: &Kernels, ty: RowType) -> bool {
    matches!(k.level(), CpuLevel::Avx512 | CpuLevel::Avx512Bf16) && ty != RowType::F32
}

#[test]
fn attention_equals_two_plain_passes() {
    let pool = pool(2);
    for k in levels() {
        for ty in TYPES {
            for ((h, kv, kd, vd), (window, softcap)) in SHAPES.iter().flat_map(|s| VARIANTS.map(|v| (*s, v)))
            {
                let s = AttentionShape {
                    window,
                    softcap,
                    ..shape(h, kv, kd, vd)
                };
                let lengths = [1, 31, 32, 33, 300, 530];
                let cache = Cache::random(k, ty, &s, &lengths);
                let runs: Vec<Run> = lengths
                    .iter()
                    .enumerate()
                    .map(|(i, &n)| Run {
                        sequence: i as u32,
                        first: i,
                        rows: 1,
                        position: n - 1,
                        shared: 0,
                    })
                    .collect();
                let q = Rng(5).vec(lengths.len() * h * kd);
                let mut out = vec![f32::NAN; lengths.len() * h * vd];
                attend(k, &pool, &s, &cache, &runs, &q, &mut out, &mut []).unwrap();
                let mut plain = vec![f32::NAN; out.len()];
                let mut scores = vec![f32::NAN; two_pass_floats(2, 530)];
                attend_two_pass(k, &pool, &s, &cache, &runs, &q, &mut plain, &mut scores).unwrap();
                let apart = nmse(&plain, &out);
                let most = if of_pairs(k, ty) { PAIRS } else { 1e-11 };
                assert!(apart <= most, "{k:?} {ty:?} {s:?}: {apart}");
                let (mut all_errors, mut all_power) = (0.0, 0.0);
                for (i, &n) in lengths.iter().enumerate() {
                    let expected = cache.reference(&s, i, n - 1, &q[i * h * kd..(i + 1) * h * kd]);
                    let found = &out[i * h * vd..(i + 1) * h * vd];
                    let error: f64 = expected
                        .iter()
                        .zip(found)
                        .map(|(e, f)| (e - f64::from(*f)).powi(2))
                        .sum();
                    let power: f64 = expected.iter().map(|e| e * e).sum();
                    all_errors += error;
                    all_power += power;
                    // The plain form multiplies f32 at every level.
                    let plain = nmse(&plain[i * h * vd..(i + 1) * h * vd], &expected);
                    assert!(plain <= 1e-11, "{k:?} {ty:?} {s:?} {n}, two passes: {plain}");
                    assert!(
                        of_pairs(k, ty) || error <= 1e-11 * power,
                        "{k:?} {ty:?} {s:?} {n}: {}",
                        error / power
                    );
                }
                let nmse = all_errors / all_power;
                assert!(nmse <= most, "{k:?} {ty:?} {s:?}: {nmse}");
            }
        }
    }
}

#[test]
fn keys_and_values_of_very_different_sizes_keep_their_precision() {
    let (k_dim, v_dim) = (64, 48);
    // What happens to the keys and values of a position, and to a query.
    type Case = (&'static str, fn(usize, &mut [f32], &mut [f32]), fn(&mut [f32]));
    let cases: [Case; 8] = [
        (
            "an element of all keys a hundred times the others, of all queries a hundredth",
            |_, key, _| key[5] += 100.0,
            |q| q[5] *= 0.01,
        ),
        (
            "an element of all keys, queries and values ten times the others",
            |_, key, value| (key[5], value[7]) = (10.0 * key[5], 10.0 * value[7]),
            |q| q[5] *= 10.0,
        ),
        (
            "the first position has most of the weight and hardly a value",
            |t, key, value| {
                if t == 0 {
                    key.fill(0.25);
                    value.iter_mut().for_each(|v| *v *= 0.01);
                }
            },
            |q| q.iter_mut().for_each(|q| *q = 0.5 + 0.5 * q.abs()),
        ),
        (
            "values of each position of another size",
            |t, _, value| {
                value
                    .iter_mut()
                    .for_each(|v| *v *= 2.0f32.powi(t as i32 % 25 - 12))
            },
            |_| {},
        ),
        (
            "the least and the largest of binary16",
            |t, key, value| {
                key.iter_mut().for_each(|k| *k *= 6e-5);
                value
                    .iter_mut()
                    .for_each(|v| *v *= if t % 2 == 0 { 60000.0 } else { 1e-6 });
            },
            |q| q.iter_mut().for_each(|q| *q *= 30000.0),
        ),
        (
            "keys and some values of nothing",
            |t, key, value| {
                key.fill(0.0);
                value[..t % 48].fill(0.0);
            },
            |_| {},
        ),
        (
            "one position heavy, the others alike and each less than half of what is the least",
            |t, key, value| {
                key.fill(0.0);
                key[0] = if t == 300 { 1.0 } else { 0.0 };
                value
                    .iter_mut()
                    .enumerate()
                    .for_each(|(d, v)| *v = 0.3 + 0.01 * d as f32);
            },
            |q| {
                q.iter_mut()
                    .enumerate()
                    .for_each(|(d, q)| *q = if d == 0 { 41.68 } else { 0.0 })
            },
        ),
        ("queries of nothing", |_, _, _| {}, |q| q.fill(0.0)),
    ];
    let pool = pool(1);
    for k in levels() {
        for ty in TYPES {
            for (what, change, change_query) in cases {
                let s = shape(4, 2, k_dim, v_dim);
                let n = 600;
                let cache = Cache::of(k, ty, &s, &[n], change);
                let mut q = Rng(5).vec(2 * 4 * k_dim);
                q.chunks_mut(k_dim).for_each(change_query);
                let run = Run {
                    sequence: 0,
                    first: 0,
                    rows: 2,
                    position: n - 2,
                    shared: 0,
                };
                let mut out = vec![f32::NAN; 2 * 4 * v_dim];
                attend(k, &pool, &s, &cache, &[run], &q, &mut out, &mut []).unwrap();
                let expected: Vec<f64> = (0..2)
                    .flat_map(|i| cache.reference(&s, 0, n - 2 + i, &q[i * 4 * k_dim..(i + 1) * 4 * k_dim]))
                    .collect();
                let apart = nmse(&out, &expected);
                let most = if of_pairs(k, ty) { 2e-6 } else { 1e-10 };
                assert!(apart <= most, "{k:?} {ty:?}, {what}: {apart}");
            }
        }
    }
}

#[test]
fn a_key_that_is_no_number_reaches_those_who_see_it() {
    let pool = pool(2);
    for k in levels() {
        for ty in TYPES {
            let s = shape(4, 2, 24, 16);
            let n = 300;
            let mut cache = Cache::random(k, ty, &s, &[n]);
            let q = Rng(6).vec(n * 4 * 24);
            let run = Run {
                sequence: 0,
                first: 0,
                rows: n,
                position: 0,
                shared: 0,
            };
            let attended = |cache: &Cache| {
                let mut out = vec![f32::NAN; n * 4 * 16];
                attend(k, &pool, &s, cache, &[run], &q, &mut out, &mut []).unwrap();
                out
            };
            let good = attended(&cache);
            cache.spoil_key(250);
            let spoilt = attended(&cache);
            let (before, after) = (&spoilt[..250 * 64], &spoilt[250 * 64..]);
            assert!(
                before == &good[..250 * 64] && good.iter().all(|v| v.is_finite()),
                "{k:?} {ty:?}"
            );
            assert!(after.iter().all(|v| v.is_nan()), "{k:?} {ty:?}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_in_any_chunk_and_with_any_number_of_threads() {
    let pools = [pool(1), pool(2), pool(4), pool(16)];
    for k in levels() {
        for ty in TYPES {
            for ((h, kv, kd, vd), (window, softcap)) in SHAPES
                .into_iter()
                .zip(VARIANTS.into_iter().cycle())
                .chain([(SHAPES[3], (None, None)), (SHAPES[5], (None, None))])
            {
                let s = AttentionShape {
                    window,
                    softcap,
                    ..shape(h, kv, kd, vd)
                };
                let n = 300;
                let mut cache = Cache::random(k, ty, &s, &[n]);
                // A value that is not finite, which only those who see it may notice.
                cache.spoil(250);
                let q = Rng(6).vec(n * h * kd);
                let run = |first: usize, rows: usize| Run {
                    sequence: 0,
                    first,
                    rows,
                    position: first,
                    shared: 0,
                };
                let attended = |pool: &ThreadPool, runs: &[Run], workspace: usize| {
                    let mut out = vec![f32::NAN; n * h * vd];
                    let mut workspace = vec![f32::NAN; workspace];
                    attend(k, pool, &s, &cache, runs, &q, &mut out, &mut workspace).unwrap();
                    out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                let whole = attended(&pools[0], &[run(0, n)], 0);
                let finite = |row: usize| {
                    let row = &whole[row * h * vd..(row + 1) * h * vd];
                    row.iter().all(|v| f32::from_bits(*v).is_finite())
                };
                assert!(finite(249) && !finite(250), "{k:?} {ty:?} {s:?}");
                let alone: Vec<Run> = (0..n).map(|i| run(i, 1)).collect();
                assert!(
                    attended(&pools[1], &alone, 0) == whole,
                    "{k:?} {ty:?} {s:?} alone"
                );
                let mut rng = Rng(9);
                for pool in &pools[2..] {
                    let mut parts = vec![];
                    let mut at = 0;
                    while at < n {
                        let rows = (1 + rng.next() as usize % 90).min(n - at);
                        parts.push(run(at, rows));
                        at += rows;
                    }
                    assert!(attended(pool, &parts, 0) == whole, "{k:?} {ty:?} {s:?} {parts:?}");
                }
                // A single row, whose chunks several threads share.
                let workspace = workspace_floats(h, kv, vd, 16, n);
                for row in [255, 256, n - 1] {
                    let bits = attended(&pools[3], &[run(row, 1)], workspace);
                    let part = row * h * vd..(row + 1) * h * vd;
                    assert!(bits[part.clone()] == whole[part], "{k:?} {ty:?} {s:?} divided");
                }
            }
        }
    }
}

/// Sequences whose first chunks are those of the first one.
struct Sharing {
    cache: Cache,
    blocks: usize,
    reads: AtomicUsize,
}

impl KeyValues for Sharing {
    fn row_type(&self) -> RowType {
        self.cache.ty
    }
    fn keys(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        self.reads.fetch_add(1, Relaxed);
        let sequence = if index < self.blocks { 0 } else { sequence };
        self.cache.keys(sequence, head, index)
    }
    fn values(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        let sequence = if index < self.blocks { 0 } else { sequence };
        self.cache.values(sequence, head, index)
    }
}

#[test]
fn sequences_that_begin_with_the_same_blocks_read_them_once_and_keep_their_bits() {
    let pools = [pool(1), pool(2)];
    for k in levels() {
        for ty in TYPES {
            for (h, kv, kd, vd) in SHAPES {
                let s = AttentionShape {
                    softcap: Some(20.0),
                    ..shape(h, kv, kd, vd)
                };
                let lengths = [520, 530, 513, 700, 514, 800, 515, 600, 513];
                let shared = Sharing {
                    cache: Cache::random(k, ty, &s, &lengths),
                    blocks: 2 * CHUNK / BLOCK,
                    reads: AtomicUsize::new(0),
                };
                // The third shares one chunk only with the second, and the last is none of theirs.
                let known = [0, 2, 1, 1, 2, 2, 2, 2, 0];
                let q = Rng(5).vec(lengths.len() * h * kd);
                let attended = |pool: &ThreadPool, sharing: bool| {
                    let runs: Vec<Run> = (0..lengths.len())
                        .map(|i| Run {
                            sequence: i as u32,
                            first: i,
                            rows: 1,
                            position: lengths[i] - 1,
                            shared: if sharing { known[i] } else { 0 },
                        })
                        .collect();
                    let mut out = vec![f32::NAN; lengths.len() * h * vd];
                    let mut workspace = vec![f32::NAN; 2 * lengths.len() * h];
                    let before = shared.reads.load(Relaxed);
                    attend(k, pool, &s, &shared, &runs, &q, &mut out, &mut workspace).unwrap();
                    (out, shared.reads.load(Relaxed) - before)
                };
                for pool in &pools {
                    let (alone, reads) = attended(pool, false);
                    let (together, fewer) = attended(pool, true);
                    assert!(alone == together, "{k:?} {ty:?} {s:?}");
                    // Many heads of one key leave no room for a second row.
                    let rows_together = h / kv < 64;
                    assert!(
                        !rows_together || fewer < reads,
                        "{k:?} {ty:?} {s:?}: {fewer} of {reads}"
                    );
                }
            }
        }
    }
}

#[test]
fn two_passes_give_a_row_the_same_bits_in_any_chunk_and_with_any_number_of_threads() {
    let pools = [pool(1), pool(2), pool(4)];
    for k in levels() {
        for ty in TYPES {
            for ((h, kv, kd, vd), (window, softcap)) in SHAPES.into_iter().zip(VARIANTS.into_iter().cycle()) {
                let s = AttentionShape {
                    window,
                    softcap,
                    ..shape(h, kv, kd, vd)
                };
                let n = 300;
                let mut cache = Cache::random(k, ty, &s, &[n]);
                cache.spoil(250);
                let q = Rng(6).vec(n * h * kd);
                let attended = |pool: &ThreadPool, ends: &[usize]| {
                    let mut runs = vec![];
                    let mut first = 0;
                    for &end in ends {
                        runs.push(Run {
                            sequence: 0,
                            first,
                            rows: end - first,
                            position: first,
                            shared: 0,
                        });
                        first = end;
                    }
                    let mut out = vec![f32::NAN; n * h * vd];
                    let mut scores = vec![f32::NAN; two_pass_floats(pool.threads(), n)];
                    attend_two_pass(k, pool, &s, &cache, &runs, &q, &mut out, &mut scores).unwrap();
                    out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                let whole = attended(&pools[0], &[n]);
                let finite = |row: usize| {
                    let row = &whole[row * h * vd..(row + 1) * h * vd];
                    row.iter().all(|v| f32::from_bits(*v).is_finite())
                };
                assert!(finite(249) && !finite(250), "{k:?} {ty:?} {s:?}");
                let alone: Vec<usize> = (1..=n).collect();
                assert!(attended(&pools[1], &alone) == whole, "{k:?} {ty:?} {s:?} alone");
                for pool in &pools[1..] {
                    let parts = attended(pool, &[7, 40, 41, 256, n]);
                    assert!(parts == whole, "{k:?} {ty:?} {s:?} in parts");
                }
            }
        }
    }
}

#[test]
fn shapes_and_runs_that_do_not_fit_are_errors() {
    let (k, pool) = (Kernels::for_level(CpuLevel::Scalar).unwrap(), pool(1));
    let s = shape(4, 2, 8, 8);
    let cache = Cache::random(k, RowType::F32, &s, &[4]);
    let run = Run {
        sequence: 0,
        first: 0,
        rows: 1,
        position: 3,
        shared: 0,
    };
    let mut out = vec![0.0; 64];
    let mut attended = |s: AttentionShape, run: Run| {
        attend(k, &pool, &s, &cache, &[run], &[0.0; 64], &mut out, &mut []).map_err(|e| e.to_string())
    };
    assert!(attended(s, run).is_ok());
    let e = attended(s, Run { rows: 3, ..run }).unwrap_err();
    assert!(e.contains("within 2 rows"), "{e}");
    let two_passes = |run: Run, scores: usize| {
        let (mut out, mut scores) = (vec![0.0; 64], vec![0.0; scores]);
        attend_two_pass(k, &pool, &s, &cache, &[run], &[0.0; 64], &mut out, &mut scores)
            .map_err(|e| e.to_string())
    };
    assert!(two_passes(run, BLOCK).is_ok());
    let e = two_passes(Run { rows: 3, ..run }, 64).unwrap_err();
    assert!(e.contains("within 2 rows"), "{e}");
    let e = two_passes(run, BLOCK - 1).unwrap_err();
    assert!(
        e.contains("a workspace of 32 values for 4 positions") && e.contains("31 values"),
        "{e}"
    );
    assert!(
        attended(
            s,
            Run {
                first: usize::MAX,
                ..run
            }
        )
        .is_err()
    );
    for bad in [
        shape(3, 2, 8, 8),
        shape(4, 0, 8, 8),
        shape(4, 2, 0, 8),
        shape(4, 2, 8, MAX_DIM + 1),
    ] {
        assert!(attended(bad, run).unwrap_err().contains("whole groups"));
    }
    for (window, softcap) in [(Some(0), None), (None, Some(0.0)), (None, Some(f32::NAN))] {
        let e = attended(AttentionShape { window, softcap, ..s }, run).unwrap_err();
        assert!(e.contains("above 0"), "{e}");
    }
}
