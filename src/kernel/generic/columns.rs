//! Panels of activations as bytes: how wide they are, how they are laid out, and panels made of a subset of the columns.

#![allow(unsafe_code, reason = "raw pointers into activations and scratch memory")]

use super::job::JobView;

/// Bytes of 32 activations of a column: the values, their scale, the sums of both halves as 16-bit integers, and two integers
/// that sums of products begin with: [`OFFSET`](super::matmul::OFFSET) less 128 times the sum, for weights that are raised
/// ([`Format::RAISED`](super::formats::Format::RAISED)), and less [`ZERO_POINT`] times the sum. Where a scale belongs to 256 values it
/// stands with the last 32 of them, and every other 32, from the first on, have the sums of theirs and of the next 32 in its
/// place; there sums begin with less 128 times those of each half.
pub(crate) const X_BLOCK: usize = 48;

/// Where the two integers that sums begin with are in these bytes.
pub(crate) const BEGINS: [usize; 2] = [40, 44];

/// The zero point of weights for which activations bring along what sums begin with: that of Q4_0.
pub(crate) const ZERO_POINT: i16 = 8;

/// Columns that a panel of activations has when there are `columns` of them.
pub(crate) fn panel_columns(max: usize, columns: usize) -> usize {
    match columns {
        0 | 1 => 1,
        // Two columns would take as long as four.
        2..=4 => 4,
        _ if max < 8 => 4,
        5 | 6 => 6,
        7 | 8 => 8,
        // Columns that fill up the last panel are computed for nothing; eight are a little faster than six.
        n if 12 * n.div_ceil(8) * 8 <= 13 * n.div_ceil(6) * 6 => 8,
        _ => 6,
    }
}

/// Bytes of a panel of activations.
pub(crate) fn x_panel_bytes(width: usize, columns: usize) -> usize {
    width / 32 * X_BLOCK * columns
}

/// Where the activations of a block of columns come from.
pub(super) struct Columns {
    pub x: *const u8,
    /// Columns per panel, and bytes from one panel to the next.
    pub width: usize,
    pub stride: usize,
    /// First column of the output, and how many.
    pub first: usize,
    pub count: usize,
}

/// Copies columns of a subset into panels of their own. Columns that fill up the last panel repeat its first.
pub(super) unsafe fn gather(job: &JobView, first: usize, count: usize, width: usize, out: *mut u8) {
    let blocks = job.n_in / 32;
    let from_stride = x_panel_bytes(job.n_in, job.x_width);
    let to_stride = x_panel_bytes(job.n_in, width);
    for slot in 0..count.next_multiple_of(width) {
        let column = if slot < count { slot } else { slot / width * width };
        // SAFETY: rows exist; panels are laid out as `quantize` writes them; the caller has room for whole panels.
        unsafe {
            let row = job.x_row(first + column);
            let (at, c) = (row % job.x_width, slot % width);
            let from = job.x.add(row / job.x_width * from_stride);
            let to = out.add(slot / width * to_stride);
            for b in 0..blocks {
                let (from, to) = (from.add(b * X_BLOCK * job.x_width), to.add(b * X_BLOCK * width));
                std::ptr::copy_nonoverlapping(from.add(32 * at), to.add(32 * c), 32);
                for at_field in (32..X_BLOCK).step_by(4) {
                    let (from, to) = (from.add(at_field * job.x_width), to.add(at_field * width));
                    std::ptr::copy_nonoverlapping(from.add(4 * at), to.add(4 * c), 4);
                }
            }
        }
    }
}
