//! Products of plain matrices: C = A · B, all row by row, of `f32` or of signed bytes.
//!
//! C is computed in tiles that stay in registers. A panel of B, [`DEPTH`] rows by the width of a tile, is copied to the
//! stack first, so that the innermost loop reads it without strides. Every element of C is one running sum over k in
//! ascending order, whatever the shape and wherever the tile lies.
//!
//! Signed bytes are multiplied as `f32`: sums of [`DEPTH`] products stay below 2²⁴ and so are exact; they are added up
//! as `i32`.

#![allow(
    unsafe_code,
    reason = "raw pointers into matrices and panels, loads and stores of the vector trait"
)]

use std::mem::MaybeUninit;

use crate::kernel::simd::{Simd, load_part, store_part};

/// Rows of a panel of B.
const DEPTH: usize = 128;
/// Most columns of a panel: two vectors of 16.
const WIDTH: usize = 32;
/// Most rows of a tile.
const ROWS: usize = 8;

/// Longest sum of products of signed bytes that fits an `i32`: 2¹⁷ · 2¹⁴ is one too many.
pub(crate) const MAX_K_I8: usize = (1 << 17) - 1;

/// Elements of A and B.
pub(crate) trait Element: Copy {
    /// An element of C.
    type Sum: Copy;
    /// Zero.
    const ZERO: Self::Sum;
    /// Whether the elements are `f32` already and need no copy.
    const PLAIN: bool;
    fn widen(self) -> f32;
    /// # Safety
    /// `p` has [`Simd::LANES`] values; the CPU has the features of `S`.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// What a row of a tile begins with; `first` for the first rows of B.
    ///
    /// # Safety
    /// `c` has `n` values, 0 < `n` <= V · LANES; the CPU has the features of `S`.
    unsafe fn begin<S: Simd, const V: usize>(c: *const Self::Sum, n: usize, first: bool) -> [S::F; V];
    /// Writes a row of a tile that began with [`Element::begin`].
    ///
    /// # Safety
    /// As for `begin`.
    unsafe fn end<S: Simd, const V: usize>(c: *mut Self::Sum, n: usize, first: bool, row: [S::F; V]);
}

impl Element for f32 {
    type Sum = f32;
    const ZERO: f32 = 0.0;
    const PLAIN: bool = true;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::F {
        // SAFETY: passes the caller's promise on.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn begin<S: Simd, const V: usize>(c: *const f32, n: usize, first: bool) -> [S::F; V] {
        // SAFETY: loads are below n.
        unsafe {
            let mut row = [S::splat(0.0); V];
            if !first {
                for v in 0..V {
                    let at = v * S::LANES;
                    if at + S::LANES <= n {
                        row[v] = S::load(c.add(at));
                    } else if at < n {
                        row[v] = load_part::<S>(c.add(at), n - at);
                    }
                }
            }
            row
        }
    }
    #[inline(always)]
    unsafe fn end<S: Simd, const V: usize>(c: *mut f32, n: usize, _: bool, row: [S::F; V]) {
        // SAFETY: stores are below n.
        unsafe {
            for v in 0..V {
                let at = v * S::LANES;
                if at + S::LANES <= n {
                    S::store(c.add(at), row[v]);
                } else if at < n {
                    store_part::<S>(c.add(at), row[v], n - at);
                }
            }
        }
    }
}

impl Element for i8 {
    type Sum = i32;
    const ZERO: i32 = 0;
    const PLAIN: bool = false;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const i8) -> S::F {
        // SAFETY: passes the caller's promise on.
        unsafe { S::load_i8(p.cast()) }
    }
    #[inline(always)]
    unsafe fn begin<S: Simd, const V: usize>(_: *const i32, _: usize, _: bool) -> [S::F; V] {
        // SAFETY: register arithmetic only.
        unsafe { [S::splat(0.0); V] }
    }
    #[inline(always)]
    unsafe fn end<S: Simd, const V: usize>(c: *mut i32, n: usize, first: bool, row: [S::F; V]) {
        let mut sums = [0.0f32; WIDTH];
        // SAFETY: V · LANES <= WIDTH; c has n values; sums are integers below 2^24.
        unsafe {
            for v in 0..V {
                S::store(sums.as_mut_ptr().add(v * S::LANES), row[v]);
            }
            for i in 0..n {
                let sum: i32 = sums[i].to_int_unchecked();
                let before = if first { 0 } else { *c.add(i) };
                *c.add(i) = before.wrapping_add(sum);
            }
        }
    }
}

/// Rows and columns of A, and columns of B.
#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    k: usize,
    n: usize,
}

/// Where a tile lies: its first row and column in C, its first column in A, its columns and the depth.
#[derive(Clone, Copy)]
struct Place {
    i: usize,
    j: usize,
    p: usize,
    columns: usize,
    depth: usize,
}

/// C ← A · B with A of m × k, B of k × n and C of m × n values; k is at most [`MAX_K_I8`] for bytes.
#[inline(always)]
pub(crate) unsafe fn matmul<S: Simd, E: Element>(
    a: &[E],
    b: &[E],
    m: usize,
    k: usize,
    n: usize,
    c: &mut [E::Sum],
) {
    if k == 0 {
        for c in c {
            *c = E::ZERO;
        }
        return;
    }
    let shape = Shape { m, k, n };
    // SAFETY: the lengths are the caller's promise.
    unsafe {
        if S::REGISTERS < 16 {
            panels::<S, E, 1>(a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), shape);
        } else {
            panels::<S, E, 2>(a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), shape);
        }
    }
}

#[inline(always)]
unsafe fn panels<S: Simd, E: Element, const V: usize>(
    a: *const E,
    b: *const E,
    c: *mut E::Sum,
    shape: Shape,
) {
    let Shape { m, k, n } = shape;
    let width = V * S::LANES;
    let mut memory = MaybeUninit::<[f32; DEPTH * WIDTH]>::uninit();
    let panel = memory.as_mut_ptr().cast::<f32>();
    let mut j = 0;
    while j < n {
        let columns = width.min(n - j);
        let mut p = 0;
        while p < k {
            let depth = DEPTH.min(k - p);
            let mut place = Place {
                i: 0,
                j,
                p,
                columns,
                depth,
            };
            // SAFETY: rows p..p + depth and columns j..j + columns of B exist; the panel is large enough.
            unsafe {
                let source = b.add(p * n + j);
                // A copy does not pay for itself when few rows of A use it.
                let (right, stride) = if E::PLAIN && m < 4 && columns == width {
                    (source.cast::<f32>(), n)
                } else {
                    copy_panel::<S, E, V>(source, n, depth, columns, panel);
                    (panel.cast_const(), width)
                };
                while place.i < m {
                    let rows = m - place.i;
                    place.i += if S::REGISTERS >= 32 && rows >= 8 {
                        tile::<S, E, 8, V>(a, right, stride, c, shape, place)
                    } else if rows >= 4 {
                        tile::<S, E, 4, V>(a, right, stride, c, shape, place)
                    } else {
                        tile::<S, E, 1, V>(a, right, stride, c, shape, place)
                    };
                }
            }
            p += depth;
        }
        j += columns;
    }
}

/// Copies `depth` rows of `columns` values that lie `stride` apart, and fills them up with zeros.
#[inline(always)]
unsafe fn copy_panel<S: Simd, E: Element, const V: usize>(
    source: *const E,
    stride: usize,
    depth: usize,
    columns: usize,
    panel: *mut f32,
) {
    let width = V * S::LANES;
    for p in 0..depth {
        // SAFETY: the panel has DEPTH · WIDTH values, p < depth <= DEPTH and width <= WIDTH; the source has these rows and columns.
        unsafe {
            let from = source.add(p * stride);
            let to = panel.add(p * width);
            if columns == width {
                for v in 0..V {
                    S::store(to.add(v * S::LANES), E::load::<S>(from.add(v * S::LANES)));
                }
            } else {
                for i in 0..width {
                    *to.add(i) = if i < columns { (*from.add(i)).widen() } else { 0.0 };
                }
            }
        }
    }
}

/// Adds the products of `depth` columns of `R` rows of A with the rows of a panel; answers `R`.
#[inline(always)]
unsafe fn tile<S: Simd, E: Element, const R: usize, const V: usize>(
    a: *const E,
    right: *const f32,
    stride: usize,
    c: *mut E::Sum,
    shape: Shape,
    place: Place,
) -> usize {
    let Place {
        i,
        j,
        p,
        columns,
        depth,
    } = place;
    let mut left = MaybeUninit::<[f32; ROWS * DEPTH]>::uninit();
    // SAFETY: rows i..i + R, columns p..p + depth of A and j..j + columns of C exist; R <= ROWS, depth <= DEPTH.
    unsafe {
        let mut rows = [std::ptr::null::<f32>(); R];
        let mut acc = [[S::splat(0.0); V]; R];
        for r in 0..R {
            let row = a.add((i + r) * shape.k + p);
            if E::PLAIN {
                rows[r] = row.cast();
            } else {
                let copy = left.as_mut_ptr().cast::<f32>().add(r * DEPTH);
                let mut x = 0;
                while x + S::LANES <= depth {
                    S::store(copy.add(x), E::load::<S>(row.add(x)));
                    x += S::LANES;
                }
                for x in x..depth {
                    *copy.add(x) = (*row.add(x)).widen();
                }
                rows[r] = copy;
            }
            acc[r] = E::begin::<S, V>(c.add((i + r) * shape.n + j), columns, p == 0);
        }
        for q in 0..depth {
            let mut bv = [S::splat(0.0); V];
            for v in 0..V {
                bv[v] = S::load(right.add(q * stride + v * S::LANES));
            }
            for r in 0..R {
                let x = S::splat(*rows[r].add(q));
                for v in 0..V {
                    acc[r][v] = S::fma(x, bv[v], acc[r][v]);
                }
            }
        }
        for r in 0..R {
            E::end::<S, V>(c.add((i + r) * shape.n + j), columns, p == 0, acc[r]);
        }
    }
    R
}
