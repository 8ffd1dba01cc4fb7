//! Searches for the scales of a block: which scale, and which minimum, loses least when the values become levels.
//!
//! Rounding to the levels of a given scale is easy; with levels given, the best scale is a least-squares problem with a
//! closed solution. The searches here alternate the two from several starting points and keep the best. Large values
//! weigh more, because they do more in a dot product. Sums run over eight lanes, so that they vectorise; their order is
//! fixed, so results are the same on every machine.

/// Adding and subtracting this rounds an `f32` of magnitude below 2^22 to a whole number, ties to even.
const ROUND: f32 = 12_582_912.0;
/// Blocks whose largest magnitude is below this count as zero.
const NOTHING: f32 = 1e-15;
const LANES: usize = 8;

/// The whole number nearest to `x`, ties to even, within `low` and `high`; `low` where `x` is NaN.
#[inline(always)]
pub(super) fn level(x: f32, low: f32, high: f32) -> f32 {
    // Comparisons in this form become single instructions, which `f32::clamp` does not.
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    (x + ROUND) - ROUND
}

/// The value of largest magnitude, with its sign: the first of several.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter()
        .fold(0.0, |max: f32, &v| if v.abs() > max.abs() { v } else { max })
}

/// 1 / x, or 0 where `x` is 0.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Sums over eight lanes.
#[derive(Clone, Copy, Default)]
struct Sum([f32; LANES]);

impl Sum {
    #[inline(always)]
    fn total(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Weighted products of values with levels and of levels with themselves: what the best scale is the quotient of.
#[derive(Clone, Copy)]
struct Fit {
    lx: f32,
    l2: f32,
}

impl Fit {
    /// Of `x` with the levels `level` gives it, weighted by x².
    #[inline(always)]
    fn of<const N: usize>(x: &[f32; N], level: impl Fn(f32) -> f32) -> Self {
        let (mut lx, mut l2) = (Sum::default(), Sum::default());
        for x in x.as_chunks::<LANES>().0 {
            for (i, &x) in x.iter().enumerate() {
                let (l, w) = (level(x), x * x);
                lx.0[i] += w * x * l;
                l2.0[i] += w * l * l;
            }
        }
        Self {
            lx: lx.total(),
            l2: l2.total(),
        }
    }

    fn scale(self) -> f32 {
        if self.l2 > 0.0 { self.lx / self.l2 } else { 0.0 }
    }

    /// How much of the weighted square of the values the best scale explains.
    fn gain(self) -> f32 {
        self.scale() * self.lx
    }
}

/// The scale for levels −`n` … `n` − 1 without a minimum.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], n: f32) -> f32 {
    let max = extreme(x);
    if max.abs() < NOTHING {
        return 0.0;
    }
    let mut best: Option<Fit> = None;
    // The largest value gets the largest level first, and then a little less or more.
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let factor = -(n + 0.1 * step as f32) / max;
        let fit = Fit::of(x, |v| level(factor * v, -n, n - 1.0));
        if best.is_none_or(|best| fit.gain() > best.gain()) {
            best = Some(fit);
        }
    }
    best.map_or(0.0, Fit::scale)
}

/// As [`symmetric`], but moves one level at a time for as long as that helps: few levels make each of them count.
pub(super) fn refined<const N: usize>(x: &[f32; N], n: f32) -> f32 {
    let max = extreme(x);
    if max.abs() < NOTHING {
        return 0.0;
    }
    let factor = -n / max;
    let mut levels = x.map(|v| level(factor * v, -n, n - 1.0));
    let mut fit = Fit::of(x, |v| level(factor * v, -n, n - 1.0));
    for _ in 0..5 {
        let mut changed = false;
        for (l, &v) in levels.iter_mut().zip(x) {
            let w = v * v;
            let mut other = Fit {
                lx: fit.lx - w * v * *l,
                l2: fit.l2 - w * *l * *l,
            };
            if other.lx <= 0.0 {
                continue;
            }
            let better = level(v * other.l2 / other.lx, -n, n - 1.0);
            if better == *l {
                continue;
            }
            other.lx += w * v * better;
            other.l2 += w * better * better;
            if other.gain() > fit.gain() {
                *l = better;
                fit = other;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    fit.scale()
}

/// How [`affine`] looks for a scale and a minimum.
pub(super) struct Affine {
    /// Highest level.
    pub n: f32,
    /// What is added to `n` for the first try; each further try adds 0.1.
    pub first: f32,
    /// Tries after the first.
    pub tries: u32,
    /// Sums magnitudes of errors rather than their squares.
    pub absolute: bool,
}

/// The scale and the minimum, as a magnitude to be subtracted, for levels 0 … `n`. An error of value `i`
/// counts `weights[i]` times.
pub(super) fn affine<const N: usize>(x: &[f32; N], weights: &[f32; N], how: &Affine) -> (f32, f32) {
    let (mut low, mut high) = (x[0], x[0]);
    let (mut w1, mut wx) = (Sum::default(), Sum::default());
    for (x, w) in x
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(weights.as_chunks::<LANES>().0)
    {
        for i in 0..LANES {
            low = if x[i] < low { x[i] } else { low };
            high = if x[i] > high { x[i] } else { high };
            w1.0[i] += w[i];
            wx.0[i] += w[i] * x[i];
        }
    }
    let (w1, wx) = (w1.total(), wx.total());
    // Zero is always representable.
    low = low.min(0.0);
    if high == low {
        return (0.0, -low);
    }
    let error = |levels: &[f32; N], scale: f32, min: f32| {
        let mut sum = Sum::default();
        for ((l, x), w) in (levels.as_chunks::<LANES>().0.iter())
            .zip(x.as_chunks::<LANES>().0)
            .zip(weights.as_chunks::<LANES>().0)
        {
            for i in 0..LANES {
                let diff = scale * l[i] + min - x[i];
                sum.0[i] += w[i] * if how.absolute { diff.abs() } else { diff * diff };
            }
        }
        sum.total()
    };
    // Each try starts from the best minimum so far.
    let levels = |n: f32, min: f32| {
        let factor = n / (high - min);
        x.map(|v| level(factor * (v - min), 0.0, how.n))
    };
    let mut best = ((high - low) / how.n, low);
    let mut best_error = error(&levels(how.n, low), best.0, best.1);
    for step in 0..=how.tries {
        let levels = levels(how.n + how.first + 0.1 * step as f32, best.1);
        let (mut wl, mut wl2, mut wlx) = (Sum::default(), Sum::default(), Sum::default());
        for ((l, x), w) in (levels.as_chunks::<LANES>().0.iter())
            .zip(x.as_chunks::<LANES>().0)
            .zip(weights.as_chunks::<LANES>().0)
        {
            for i in 0..LANES {
                wl.0[i] += w[i] * l[i];
                wl2.0[i] += w[i] * l[i] * l[i];
                wlx.0[i] += w[i] * l[i] * x[i];
            }
        }
        let (wl, wl2, wlx) = (wl.total(), wl2.total(), wlx.total());
        let determinant = w1 * wl2 - wl * wl;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (w1 * wlx - wx * wl) / determinant;
        let mut min = (wl2 * wx - wl * wlx) / determinant;
        if min > 0.0 {
            (scale, min) = (wlx / wl2, 0.0);
        }
        let this = error(&levels, scale, min);
        if this < best_error {
            (best, best_error) = ((scale, min), this);
        }
    }
    (best.0, -best.1)
}

/// Index of the entry of an ascending codebook nearest to `x`, the higher one of two.
#[inline(always)]
pub(super) fn nearest_entry(codebook: &[i8; 16], x: f32) -> usize {
    let mut index = 0;
    for pair in codebook.windows(2) {
        let middle = 0.5 * (f32::from(pair[0]) + f32::from(pair[1]));
        index += usize::from(x >= middle);
    }
    index
}

/// The scale for levels of an ascending codebook that begins with its largest magnitude.
pub(super) fn codebook(x: &[f32; 32], codebook: &[i8; 16]) -> f32 {
    let max = extreme(x);
    if max.abs() < NOTHING {
        return 0.0;
    }
    let first = f32::from(codebook[0]);
    let mut best: Option<Fit> = None;
    // The largest value gets the first entry, with either sign, and then a little less or more than that entry.
    for step in std::iter::once(-2.0 * first).chain((-7i8..=7).map(f32::from)) {
        let factor = (first + step) / max;
        let fit = Fit::of(x, |v| f32::from(codebook[nearest_entry(codebook, factor * v)]));
        if best.is_none_or(|best| fit.gain() > best.gain()) {
            best = Some(fit);
        }
    }
    best.map_or(0.0, Fit::scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_round_ties_to_even_and_stay_in_range_whatever_comes() {
        for (x, l) in [
            (0.5, 0.0),
            (1.5, 2.0),
            (-2.5, -2.0),
            (7.6, 7.0),
            (-99.0, -8.0),
            (f32::INFINITY, 7.0),
            (f32::NEG_INFINITY, -8.0),
            (f32::NAN, -8.0),
        ] {
            assert_eq!(level(x, -8.0, 7.0), l, "{x}");
        }
    }

    #[test]
    fn values_on_a_grid_give_the_grid() {
        let x: [f32; 16] = std::array::from_fn(|i| 0.25 * (i as f32 - 8.0));
        assert!((symmetric(&x, 8.0).abs() - 0.25).abs() < 1e-6);
        let x: [f32; 16] = std::array::from_fn(|i| 0.5 * (i % 8) as f32 - 2.0);
        assert!((refined(&x, 4.0).abs() - 0.5).abs() < 1e-6);
        let x: [f32; 32] = std::array::from_fn(|i| 0.125 * (i % 16) as f32 - 0.5);
        let how = Affine {
            n: 15.0,
            first: -1.0,
            tries: 20,
            absolute: false,
        };
        let (scale, min) = affine(&x, &[1.0; 32], &how);
        assert!((scale - 0.125).abs() < 1e-6 && (min - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_nearest_entry_is_the_nearest() {
        let book = crate::quant::iq4_nl::CODEBOOK;
        for x in (-1400..1400).map(|x| x as f32 / 10.0) {
            let found = (f32::from(book[nearest_entry(&book, x)]) - x).abs();
            assert!(book.iter().all(|&b| (f32::from(b) - x).abs() >= found), "{x}");
        }
    }
}
