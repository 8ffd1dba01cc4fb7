//! Kernels read and write nothing outside their slices: buffers that end at (and begin after) an inaccessible page.

#![allow(unsafe_code, reason = "maps guard pages")]

use super::super::*;
use super::{Rng, levels, pool, random_weights, supported};

const PAGE: usize = 4096;

/// Memory between two inaccessible pages.
struct Guarded {
    base: *mut u8,
    pages: usize,
}

impl Guarded {
    fn new(bytes: usize) -> Self {
        let pages = bytes.div_ceil(PAGE).max(1);
        // SAFETY: a fresh anonymous mapping, whose first and last page lose all rights.
        unsafe {
            let len = (pages + 2) * PAGE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED);
            let base = base.cast::<u8>();
            assert_eq!(libc::mprotect(base.cast(), PAGE, libc::PROT_NONE), 0);
            assert_eq!(
                libc::mprotect(base.add((pages + 1) * PAGE).cast(), PAGE, libc::PROT_NONE),
                0
            );
            Self { base, pages }
        }
    }

    /// `n` values at the end of the accessible part, or at its beginning.
    fn slice<T: bytemuck::Pod>(&mut self, n: usize, at_end: bool) -> &mut [T] {
        let bytes = n * size_of::<T>();
        assert!(bytes <= self.pages * PAGE);
        let offset = if at_end { self.pages * PAGE - bytes } else { 0 };
        // SAFETY: inside the accessible part, aligned as page ends and sizes are, exclusive through &mut self.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(PAGE + offset).cast(), n) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped.
        unsafe { libc::munmap(self.base.cast(), (self.pages + 2) * PAGE) };
    }
}

#[test]
fn vector_operations_stay_inside_their_slices() {
    let (mut ga, mut gb, mut gc) = (
        Guarded::new(1 << 12),
        Guarded::new(1 << 12),
        Guarded::new(1 << 12),
    );
    for k in levels() {
        for n in (0..70).chain([127, 128, 129, 255, 300]) {
            for at_end in [true, false] {
                let (a, b, c) = (ga.slice(n, at_end), gb.slice(n, at_end), gc.slice(n, at_end));
                a.copy_from_slice(&Rng(n as u64).vec(n));
                b.copy_from_slice(&Rng(8).vec(n));
                k.dot_f32(a, b);
                k.sum(a);
                k.max(a);
                k.add_in_place(a, b);
                k.mul_in_place(a, b);
                k.scale_in_place(a, 1.5);
                k.silu_mul(a, b);
                k.gelu_mul(a, b);
                k.softmax_in_place(a);
                k.rms_norm(a, b, 1e-5, c);
                k.layer_norm(a, b, Some(b), 1e-5, c);
                k.rope_neox(a, &b[..n / 2], &c[..n / 2]);
                k.rope_interleaved(a, &b[..n / 2], &c[..n / 2]);
                assert_eq!(a.len(), n);
            }
        }
    }
}

#[test]
fn operations_on_callers_arrays_stay_inside_them() {
    let (mut ga, mut gb, mut gc) = (
        Guarded::new(1 << 16),
        Guarded::new(1 << 16),
        Guarded::new(1 << 15),
    );
    for k in levels() {
        for at_end in [true, false] {
            for n in (0..70).chain([127, 128, 129, 255, 300]) {
                let (a, b, c) = (ga.slice(n, at_end), gb.slice(n, at_end), gc.slice(n, at_end));
                a.copy_from_slice(&Rng(n as u64).vec(n));
                b.copy_from_slice(&Rng(8).vec(n));
                k.dot_kahan(a, b);
                k.relu(a, c);
                k.silu(a, c);
                k.gelu(a, c);
                k.sigmoid(a, c);
                // SAFETY: all have n values.
                unsafe {
                    (k.add_to)(a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), n);
                    (k.mul_to)(a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), n);
                }
            }
            for (m, kk, n) in [
                (1, 1, 1),
                (1, 130, 32),
                (3, 5, 7),
                (8, 129, 33),
                (13, 16, 47),
                (9, 7, 64),
            ] {
                let (a, b) = (ga.slice::<f32>(m * kk, at_end), gb.slice::<f32>(kk * n, at_end));
                k.matmul_f32((m, kk, n), a, b, gc.slice(m * n, at_end)).unwrap();
                let (a, b) = (ga.slice::<i8>(m * kk, at_end), gb.slice::<i8>(kk * n, at_end));
                k.matmul_i8((m, kk, n), a, b, gc.slice(m * n, at_end)).unwrap();
            }
            for ty in supported() {
                let blocks: &[usize] = match ty.block_len() {
                    1 => &[1, 3, 15, 16, 17, 250],
                    32 => &[1, 2, 7, 8, 9],
                    _ => &[1, 2],
                };
                for blocks in blocks {
                    let n = blocks * ty.block_len();
                    let bytes = random_weights(ty, n, &mut Rng(1));
                    let src = ga.slice::<u8>(bytes.len(), at_end);
                    src.copy_from_slice(&bytes);
                    k.dequantize(ty, src, gb.slice(n, at_end)).unwrap();
                }
            }
        }
    }
}

#[test]
fn row_operations_stay_inside_their_slices() {
    let (mut gr, mut gq) = (Guarded::new(1 << 13), Guarded::new(1 << 12));
    for k in levels() {
        for ty in [RowType::F32, RowType::F16, RowType::BF16, RowType::Q8] {
            for n in (1..70).chain([127, 128, 129, 255, 300]) {
                for at_end in [true, false] {
                    let bytes = ty.row_bytes(n).unwrap();
                    let (rows, q) = (gr.slice::<u8>(3 * bytes, at_end), gq.slice(n, at_end));
                    q.copy_from_slice(&Rng(n as u64).vec(n));
                    for row in rows.chunks_mut(bytes) {
                        k.store_row(ty, q, row);
                    }
                    assert_eq!(rows[..bytes], rows[2 * bytes..]);
                }
            }
        }
    }
}

#[test]
fn attention_stays_inside_its_slices() {
    struct Block<'a>(RowType, &'a [u8], &'a [u8]);
    impl attention::KeyValues for Block<'_> {
        fn row_type(&self) -> RowType {
            self.0
        }
        fn keys(&self, _: u32, _: usize, _: usize) -> &[u8] {
            self.1
        }
        fn values(&self, _: u32, _: usize, _: usize) -> &[u8] {
            self.2
        }
    }
    let pool = pool(1);
    let (mut gk, mut gv) = (Guarded::new(1 << 15), Guarded::new(1 << 15));
    let (mut gq, mut go) = (Guarded::new(1 << 14), Guarded::new(1 << 14));
    for k in levels() {
        for ty in [RowType::F32, RowType::F16, RowType::BF16, RowType::Q8] {
            for dim in (1..36).chain([63, 64, 65, 96, 100, 128, 130, 200]) {
                // Few queries, and many.
                for (at_end, rows) in [(true, 2), (true, 4), (false, 2), (false, 4)] {
                    let bytes = ty.row_bytes(dim).unwrap() * attention::BLOCK;
                    let (keys, values) = (gk.slice::<u8>(bytes, at_end), gv.slice::<u8>(bytes, at_end));
                    let n = 3 * rows * dim;
                    let (q, out) = (gq.slice::<f32>(n, at_end), go.slice::<f32>(n, at_end));
                    q.copy_from_slice(&Rng(dim as u64).vec(n));
                    for (t, values) in values.chunks_mut(bytes / attention::BLOCK).enumerate() {
                        k.store_key(ty, &q[..dim], keys, t);
                        k.store_row(ty, &q[dim..2 * dim], values);
                    }
                    let shape = attention::AttentionShape {
                        n_heads: 3,
                        n_kv_heads: 1,
                        key_dim: dim,
                        value_dim: dim,
                        scale: 1.0,
                        window: None,
                        softcap: None,
                        precision: Precision::Half,
                    };
                    let run = attention::Run {
                        sequence: 0,
                        first: 0,
                        rows,
                        position: attention::BLOCK - rows,
                        shared: 0,
                    };
                    attention::attend(
                        k,
                        &pool,
                        &shape,
                        &Block(ty, keys, values),
                        &[run],
                        q,
                        out,
                        &mut [],
                    )
                    .unwrap();
                    assert!(out.iter().all(|v| v.is_finite()));
                    out.fill(f32::NAN);
                    attention::attend_two_pass(
                        k,
                        &pool,
                        &shape,
                        &Block(ty, keys, values),
                        &[run],
                        q,
                        out,
                        &mut [0.0; attention::BLOCK],
                    )
                    .unwrap();
                    assert!(out.iter().all(|v| v.is_finite()));
                }
            }
        }
    }
}

#[test]
fn matrix_products_stay_inside_their_slices() {
    let pool = pool(1);
    let (mut gw, mut gt, mut gx, mut gy) = (
        Guarded::new(1 << 16),
        Guarded::new(1 << 16),
        Guarded::new(1 << 16),
        Guarded::new(1 << 12),
    );
    for k in levels() {
        for ty in supported() {
            let widths: &[usize] = match ty.block_len() {
                1 => &[1, 3, 8, 15, 16, 17, 33, 250, 600],
                32 => &[32, 64, 96, 288],
                _ => &[256, 512],
            };
            for &n_in in widths {
                for n_out in [1, 4, 7, 18] {
                    for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17] {
                        for precision in [Precision::Native, Precision::Half, Precision::Exact] {
                            for at_end in [true, false] {
                                let bytes = random_weights(ty, n_in * n_out, &mut Rng(1));
                                let w = gw.slice::<u8>(bytes.len(), at_end);
                                w.copy_from_slice(&bytes);
                                let packed = pack(&pool, ty, n_in, n_out, w).unwrap();
                                let tail = gt.slice::<u8>(packed.len(), at_end);
                                tail.copy_from_slice(&packed);
                                let x = gx.slice::<f32>(n_in * rows, at_end);
                                x.copy_from_slice(&Rng(2).vec(n_in * rows));
                                let y = gy.slice::<f32>(n_out * rows, at_end);
                                let mut a = Activations::new(rows, n_in).unwrap();
                                let forms = Forms::of(k, ty, precision);
                                a.set(k, &pool, x, rows, n_in, forms).unwrap();
                                let w = Matrix::new(ty, n_in, n_out, w, tail).unwrap();
                                matmul(k, &pool, &a, &mut [MatmulJob::new(w, y).precision(precision)])
                                    .unwrap();
                            }
                        }
                    }
                }
            }
        }
    }
}
