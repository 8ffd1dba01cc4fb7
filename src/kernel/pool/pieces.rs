//! Jobs whose tasks write a piece of a slice each.

use super::ThreadPool;

/// A slice that tasks share, each its own piece.
pub(in crate::kernel) struct Pieces<T> {
    base: *mut T,
    len: usize,
}

// SAFETY: tasks take disjoint pieces of a slice held exclusively, of values that may be sent.
unsafe impl<T: Send> Sync for Pieces<T> {}

impl<T> Pieces<T> {
    pub(in crate::kernel) fn of(slice: &mut [T]) -> Self {
        Self {
            base: slice.as_mut_ptr(),
            len: slice.len(),
        }
    }

    /// Where element `from` lies.
    pub(in crate::kernel) fn at(&self, from: usize) -> *mut T {
        self.base.wrapping_add(from)
    }

    /// Piece `i` of `width` elements; what is left of the slice where that is less.
    ///
    /// # Safety
    /// The slice is held exclusively, and no one else has this piece.
    #[allow(
        clippy::mut_from_ref,
        reason = "each piece is lent once, as the safety rule says"
    )]
    pub(in crate::kernel) unsafe fn get(&self, i: usize, width: usize) -> &mut [T] {
        let from = (i * width).min(self.len);
        let n = width.min(self.len - from);
        // SAFETY: from + n <= len; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(from), n) }
    }
}

/// Splits `out` into pieces of `chunk_len` (the last may be shorter) and calls `f(i, piece)` for each on the pool.
///
/// # Panics
/// `chunk_len` is 0, or `f` panics.
pub fn for_each_chunk_mut<T: Send>(
    pool: &ThreadPool,
    out: &mut [T],
    chunk_len: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let n = out.len().div_ceil(chunk_len);
    let out = Pieces::of(out);
    // SAFETY: the slice is borrowed exclusively until the job ends, and each task takes its own piece.
    pool.run(n, &|i, _| f(i, unsafe { out.get(i, chunk_len) }));
}

/// Calls `f(i, row of a, row of b)` on the pool for each of `rows` rows of two matrices, given as (elements, width).
///
/// # Panics
/// A matrix has fewer rows, or `f` panics.
pub fn for_each_row_mut<A: Send, B: Send>(
    pool: &ThreadPool,
    rows: usize,
    (a, a_width): (&mut [A], usize),
    (b, b_width): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let (a, b) = (
        Pieces::of(&mut a[..rows * a_width]),
        Pieces::of(&mut b[..rows * b_width]),
    );
    pool.run(rows, &|i, _| {
        // SAFETY: both slices are borrowed exclusively until the job ends, and each task takes its own pieces.
        let (a, b) = unsafe { (a.get(i, a_width), b.get(i, b_width)) };
        f(i, a, b);
    });
}
