//! The layout of quantized matrices in memory: panels of 16 rows whose values lie side by side.
//!
//! A panel holds the blocks of its rows one after the other. Inside a block come, for each 32 values along the row,
//! bit planes of 64-byte vectors, then the scale bytes. A vector belongs to 4 neighbouring values: its bytes
//! `4 · row + i` are value `i` of each row, so that one integer dot product advances 16 rows by 4 values.
//!
//! | plane | vectors per 32 values | vector and bits of values `4v … 4v + 3` |
//! |---|---|---|
//! | 8 bits | 8 | `v`, whole bytes with 128 added |
//! | 4 bits | 4 | `v % 4`, low nibbles for `v < 4`, else high |
//! | 2 bits | 2 | `v / 4`, bits `2 (v % 4)` on |
//! | 1 bit | 1 | bit `v` |
//!
//! A format has a plane of its low bits and, behind it, one of its high bits. Scale bytes keep their order in the
//! file; each field of 1 or 2 bytes is repeated for the 16 rows. So a panel has exactly the bytes of its 16 rows in
//! the file, and a matrix can be packed where it lies. A last panel with fewer rows is padded with zeros elsewhere.

use super::TensorType;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Values along a row that share a set of planes.
const SUB: usize = 32;
/// Most 32-bit words of planes a block has per row: 256 values of 8 bits.
const MAX_WORDS: usize = 64;

/// Scale fields of 1 or 2 bytes in the file's block: the first byte, the end, the bytes of each.
type Fields = (usize, usize, usize);

/// How one format lies in its blocks.
struct Layout {
    /// Bits of the low and of the high plane.
    low: u32,
    high: u32,
    scales: &'static [Fields],
    /// Where the planes lie in the file's block when they are already in the order of the panel.
    plain: Option<usize>,
}

const fn layout(ty: TensorType) -> Option<Layout> {
    const fn with(low: u32, high: u32, scales: &'static [Fields], plain: Option<usize>) -> Option<Layout> {
        Some(Layout {
            low,
            high,
            scales,
            plain,
        })
    }
    match ty {
        TensorType::Q4_0 | TensorType::IQ4_NL => with(4, 0, &[(0, 2, 2)], Some(2)),
        TensorType::Q4_1 => with(4, 0, &[(0, 4, 2)], Some(4)),
        TensorType::Q5_0 => with(4, 1, &[(0, 2, 2)], None),
        TensorType::Q5_1 => with(4, 1, &[(0, 4, 2)], None),
        TensorType::Q8_0 => with(8, 0, &[(0, 2, 2)], Some(2)),
        TensorType::MXFP4 => with(4, 0, &[(0, 1, 1)], Some(1)),
        TensorType::Q2_K => with(2, 0, &[(0, 16, 1), (80, 84, 2)], None),
        TensorType::Q3_K => with(2, 1, &[(96, 108, 1), (108, 110, 2)], None),
        TensorType::Q4_K => with(4, 0, &[(0, 4, 2), (4, 16, 1)], None),
        TensorType::Q5_K => with(4, 1, &[(0, 4, 2), (4, 16, 1)], None),
        TensorType::Q6_K => with(4, 2, &[(192, 208, 1), (208, 210, 2)], None),
        TensorType::IQ4_XS => with(4, 0, &[(0, 2, 2), (2, 8, 1)], Some(8)),
        _ => None,
    }
}

/// Packs up to 16 rows of `ty`, contiguous in `rows`, into `panel`, which has the bytes of 16 rows. Rows that are
/// missing become zeros. Does nothing for a type without a layout in panels.
pub fn pack(ty: TensorType, row_bytes: usize, rows: &[u8], panel: &mut [u8]) {
    // Each type has code of its own, in which all lengths are constants.
    macro_rules! of_type {
        ($($ty:ident)*) => {
            match ty {
                $(TensorType::$ty => pack_as(TensorType::$ty, row_bytes, rows, panel),)*
                _ => debug_assert!(layout(ty).is_none(), "{ty} has a layout and no code of its own"),
            }
        };
    }
    of_type!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS);
}

/// [`pack`] of a type that the compiler knows.
#[inline(always)]
fn pack_as(ty: TensorType, row_bytes: usize, rows: &[u8], panel: &mut [u8]) {
    let Some(layout) = layout(ty) else { return };
    let block = ty.block_bytes();
    let words = words(&layout, ty);
    if rows.len() < panel.len() {
        panel.fill(0);
    }
    for (b, out) in panel.chunks_exact_mut(PANEL_ROWS * block).enumerate() {
        let (planes, scales) = out.split_at_mut(words * 64);
        for r in 0..PANEL_ROWS {
            let mut canonical = [wide(&layout); MAX_WORDS];
            if let Some(row) = rows.get(r * row_bytes..(r + 1) * row_bytes) {
                let src = &row[b * block..(b + 1) * block];
                canonical_words(&layout, ty, src, &mut canonical);
                let mut scales = &mut *scales;
                for &(from, to, unit) in layout.scales {
                    let (fields, rest) = scales.split_at_mut(PANEL_ROWS * (to - from));
                    set_fields(unit, &src[from..to], r, fields);
                    scales = rest;
                }
            }
            for (vector, word) in planes.as_chunks_mut::<64>().0.iter_mut().zip(canonical) {
                vector.as_chunks_mut::<4>().0[r] = word.to_le_bytes();
            }
        }
    }
}

/// Puts the fields of row `r`, of `unit` bytes each, where the fields of 16 rows lie.
#[inline(always)]
fn set_fields(unit: usize, row: &[u8], r: usize, fields: &mut [u8]) {
    if unit == 1 {
        for (all, byte) in fields.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().zip(row) {
            all[r] = *byte;
        }
        return;
    }
    let all = fields.as_chunks_mut::<{ 2 * PANEL_ROWS }>().0.iter_mut();
    for (all, pair) in all.zip(row.as_chunks::<2>().0) {
        all.as_chunks_mut::<2>().0[r] = *pair;
    }
}

/// Writes block `block` of row `row` of a panel, as the file has it, to `out` of [`TensorType::block_bytes`].
pub fn unpack_block(ty: TensorType, panel: &[u8], block: usize, row: usize, out: &mut [u8]) {
    let Some(layout) = layout(ty) else { return };
    let bytes = PANEL_ROWS * ty.block_bytes();
    let words = words(&layout, ty);
    let (planes, scales) = panel[block * bytes..(block + 1) * bytes].split_at(words * 64);
    let mut canonical = [0u32; MAX_WORDS];
    for (word, vector) in canonical.iter_mut().zip(planes.as_chunks::<64>().0) {
        *word = u32::from_le_bytes(vector.as_chunks::<4>().0[row]);
    }
    let mut at = 0;
    for &(from, to, unit) in layout.scales {
        for field in out[from..to].chunks_exact_mut(unit) {
            field.copy_from_slice(&scales[at + row * unit..at + (row + 1) * unit]);
            at += PANEL_ROWS * unit;
        }
    }
    match layout.plain {
        Some(plain) => {
            for (out, word) in out[plain..].as_chunks_mut::<4>().0.iter_mut().zip(canonical) {
                *out = (word ^ wide(&layout)).to_le_bytes();
            }
        }
        None => {
            let mut q = [0u8; 256];
            let per_sub = words * SUB / ty.block_len();
            for (q, words) in q
                .as_chunks_mut::<SUB>()
                .0
                .iter_mut()
                .zip(canonical.chunks(per_sub))
            {
                values_of_planes(&layout, words, q);
            }
            set_values(ty, &q, out);
        }
    }
}

/// Whole bytes are signed in the file and have 128 added in a panel.
fn wide(layout: &Layout) -> u32 {
    if layout.low == 8 { 0x8080_8080 } else { 0 }
}

/// 32-bit words of planes per row and block.
fn words(layout: &Layout, ty: TensorType) -> usize {
    (layout.low + layout.high) as usize * ty.block_len() / SUB
}

#[inline(always)]
fn canonical_words(layout: &Layout, ty: TensorType, src: &[u8], out: &mut [u32; MAX_WORDS]) {
    if let Some(plain) = layout.plain {
        for (out, word) in out.iter_mut().zip(src[plain..].as_chunks::<4>().0) {
            *out = u32::from_le_bytes(*word) ^ wide(layout);
        }
        return;
    }
    let mut q = [0u8; 256];
    values(ty, src, &mut q);
    let per_sub = (layout.low + layout.high) as usize;
    for (q, words) in q
        .as_chunks::<SUB>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(per_sub))
        .take(ty.block_len() / SUB)
    {
        planes_of_values(layout, q, words);
    }
}

/// The planes of 32 values.
#[inline(always)]
fn planes_of_values(layout: &Layout, q: &[u8; SUB], words: &mut [u32]) {
    let (low, high) = words.split_at_mut(layout.low as usize);
    match layout.low {
        4 => nibbles(q, low),
        _ => crumbs(q, 0, low),
    }
    match layout.high {
        1 => bits(q, layout.low, high),
        2 => crumbs(q, layout.low, high),
        _ => {}
    }
}

#[inline(always)]
fn values_of_planes(layout: &Layout, words: &[u32], q: &mut [u8; SUB]) {
    let plane = |bits: u32, words: &[u32], k: usize| -> u8 {
        let (v, i) = (k / 4, k % 4);
        let (word, shift) = match bits {
            4 => (v % 4, 4 * (v / 4)),
            2 => (v / 4, 2 * (v % 4)),
            _ => (0, v),
        };
        (words[word].to_le_bytes()[i] >> shift) & ((1 << bits) - 1)
    };
    let (low, high) = words.split_at(layout.low as usize);
    for (k, q) in q.iter_mut().enumerate() {
        *q = plane(layout.low, low, k);
        if layout.high > 0 {
            *q |= plane(layout.high, high, k) << layout.low;
        }
    }
}

#[inline(always)]
fn nibbles(q: &[u8; SUB], words: &mut [u32]) {
    let mut bytes = [0u8; 16];
    for j in 0..16 {
        bytes[j] = (q[j] & 15) | (q[j + 16] << 4);
    }
    for (word, b) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*b);
    }
}

#[inline(always)]
fn crumbs(q: &[u8; SUB], from: u32, words: &mut [u32]) {
    let mut value = [0u32; 8];
    for (value, q) in value.iter_mut().zip(q.as_chunks::<4>().0) {
        *value = (u32::from_le_bytes(*q) >> from) & 0x0303_0303;
    }
    for (word, v) in words.iter_mut().zip(value.as_chunks::<4>().0) {
        *word = v[0] | v[1] << 2 | v[2] << 4 | v[3] << 6;
    }
}

#[inline(always)]
fn bits(q: &[u8; SUB], from: u32, words: &mut [u32]) {
    words[0] = 0;
    for (v, q) in q.as_chunks::<4>().0.iter().enumerate() {
        words[0] |= ((u32::from_le_bytes(*q) >> from) & 0x0101_0101) << v;
    }
}

/// The packed values of a block, low and high bits together, along the row.
#[inline(always)]
fn values(ty: TensorType, b: &[u8], q: &mut [u8; 256]) {
    match ty {
        TensorType::Q5_0 => five_bits(&b[2..22], q),
        TensorType::Q5_1 => five_bits(&b[4..24], q),
        TensorType::Q2_K => two_bits(&b[16..80], q),
        TensorType::Q3_K => {
            two_bits(&b[32..96], q);
            one_bit(&b[..32], 2, q);
        }
        TensorType::Q4_K => four_bits(&b[16..144], q),
        TensorType::Q5_K => {
            four_bits(&b[48..176], q);
            one_bit(&b[16..48], 4, q);
        }
        TensorType::Q6_K => {
            let (low, high): (&[u8; 128], &[u8; 64]) = (fixed(b), fixed(&b[128..]));
            for h in 0..2 {
                for p in 0..4 {
                    for l in 0..32 {
                        let low = (low[64 * h + 32 * (p % 2) + l] >> (4 * (p / 2))) & 15;
                        let high = (high[32 * h + l] >> (2 * p)) & 3;
                        q[128 * h + 32 * p + l] = low | (high << 4);
                    }
                }
            }
        }
        _ => {}
    }
}

/// The inverse of [`values`]: fills the packed values of a block.
pub(super) fn set_values(ty: TensorType, q: &[u8; 256], b: &mut [u8]) {
    let two_bits = |q: &[u8; 256], b: &mut [u8]| {
        for (i, b) in b.iter_mut().enumerate() {
            *b = (0..4).fold(0, |b, p| b | (q[128 * (i / 32) + 32 * p + i % 32] & 3) << (2 * p));
        }
    };
    let one_bit = |q: &[u8; 256], from: u32, b: &mut [u8]| {
        for (l, b) in b.iter_mut().enumerate() {
            *b = (0..8).fold(0, |b, s| b | ((q[32 * s + l] >> from) & 1) << s);
        }
    };
    let four_bits = |q: &[u8; 256], b: &mut [u8]| {
        for (i, b) in b.iter_mut().enumerate() {
            let l = 64 * (i / 32) + i % 32;
            *b = (q[l] & 15) | (q[l + 32] << 4);
        }
    };
    let five_bits = |q: &[u8; 256], b: &mut [u8]| {
        let word = (0..32).fold(0u32, |w, k| w | u32::from((q[k] >> 4) & 1) << k);
        b[..4].copy_from_slice(&word.to_le_bytes());
        for j in 0..16 {
            b[4 + j] = (q[j] & 15) | (q[j + 16] << 4);
        }
    };
    match ty {
        TensorType::Q5_0 => five_bits(q, &mut b[2..22]),
        TensorType::Q5_1 => five_bits(q, &mut b[4..24]),
        TensorType::Q2_K => two_bits(q, &mut b[16..80]),
        TensorType::Q3_K => {
            two_bits(q, &mut b[32..96]);
            one_bit(q, 2, &mut b[..32]);
        }
        TensorType::Q4_K => four_bits(q, &mut b[16..144]),
        TensorType::Q5_K => {
            four_bits(q, &mut b[48..176]);
            one_bit(q, 4, &mut b[16..48]);
        }
        TensorType::Q6_K => {
            for h in 0..2 {
                for l in 0..32 {
                    for p in 0..2 {
                        let v = |p: usize| q[128 * h + 32 * p + l];
                        b[64 * h + 32 * p + l] = (v(p) & 15) | (v(p + 2) << 4);
                    }
                    b[128 + 32 * h + l] =
                        (0..4).fold(0, |b, p| b | (q[128 * h + 32 * p + l] >> 4) << (2 * p));
                }
            }
        }
        _ => {}
    }
}

/// A fixed-size view of the beginning of a slice.
#[inline(always)]
fn fixed<const N: usize>(b: &[u8]) -> &[u8; N] {
    &b.as_chunks::<N>().0[0]
}

/// Q5_0 and Q5_1: a word of fifth bits, then nibbles.
#[inline(always)]
fn five_bits(b: &[u8], q: &mut [u8; 256]) {
    let b: &[u8; 20] = fixed(b);
    let word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for j in 0..16 {
        q[j] = (b[4 + j] & 15) | (((word >> j) & 1) << 4) as u8;
        q[j + 16] = (b[4 + j] >> 4) | (((word >> (j + 16)) & 1) << 4) as u8;
    }
}

/// Q2_K and Q3_K: four values from each byte, 32 apart, per half of 128.
#[inline(always)]
fn two_bits(b: &[u8], q: &mut [u8; 256]) {
    let b: &[u8; 64] = fixed(b);
    for h in 0..2 {
        for p in 0..4 {
            for l in 0..32 {
                q[128 * h + 32 * p + l] = (b[32 * h + l] >> (2 * p)) & 3;
            }
        }
    }
}

/// Q3_K and Q5_K: bit `s` of byte `l` belongs to value `32 s + l`.
#[inline(always)]
fn one_bit(b: &[u8], to: u32, q: &mut [u8; 256]) {
    let b: &[u8; 32] = fixed(b);
    for s in 0..8 {
        for l in 0..32 {
            q[32 * s + l] |= ((b[l] >> s) & 1) << to;
        }
    }
}

/// Q4_K and Q5_K: 32 low nibbles, then the 32 high ones of the same bytes.
#[inline(always)]
fn four_bits(b: &[u8], q: &mut [u8; 256]) {
    let b: &[u8; 128] = fixed(b);
    for p in 0..4 {
        for l in 0..32 {
            q[64 * p + l] = b[32 * p + l] & 15;
            q[64 * p + 32 + l] = b[32 * p + l] >> 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized() -> impl Iterator<Item = TensorType> {
        TensorType::all().filter(|t| t.is_supported() && t.is_quantized())
    }

    fn random(n: usize) -> Vec<u8> {
        let mut s = 1u64;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (s >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn every_block_of_every_row_comes_back_from_its_panel() {
        for ty in quantized() {
            let row_bytes = 3 * ty.block_bytes();
            for rows in [16, 5] {
                let src = random(rows * row_bytes);
                let mut panel = vec![0xaa; 16 * row_bytes];
                pack(ty, row_bytes, &src, &mut panel);
                let mut block = vec![0; ty.block_bytes()];
                for r in 0..16 {
                    for b in 0..3 {
                        unpack_block(ty, &panel, b, r, &mut block);
                        let at = r * row_bytes + b * block.len();
                        match src.get(at..at + block.len()) {
                            Some(expected) => assert_eq!(block, expected, "{ty} row {r} block {b}"),
                            None => assert!(block.iter().all(|&b| b == 0), "{ty} row {r}"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_panel_has_a_place_for_every_byte_of_its_rows() {
        for ty in quantized() {
            let l = layout(ty).unwrap();
            let scales: usize = l.scales.iter().map(|(from, to, _)| to - from).sum();
            assert_eq!(4 * words(&l, ty) + scales, ty.block_bytes(), "{ty}");
        }
    }
}
