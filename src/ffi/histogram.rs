//! Histograms: how often a value fell into each bucket, and arithmetic on that.

use super::error::infer_error;
use super::guard::{self, Failure, invalid};
use super::memory::{self, AbiStruct};
use super::status::infer_status;
use crate::engine::{Histogram, HistogramKind};

/// What a histogram is of.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_histogram_kind {
    /// Sequences with rows in a step; one value per step.
    INFER_HISTOGRAM_BATCH_SIZE = 1,
    /// Nanoseconds from submission to the first step; one value per completion that was begun.
    INFER_HISTOGRAM_QUEUE_TIME = 2,
    /// Nanoseconds from submission to the first token; one value per completion that has one.
    INFER_HISTOGRAM_TIME_TO_FIRST_TOKEN = 3,
    /// Nanoseconds since the previous token of the same completion; one value per token but the first.
    INFER_HISTOGRAM_INTER_TOKEN_TIME = 4,
    /// Nanoseconds of a step; one value per step.
    INFER_HISTOGRAM_STEP_TIME = 5,
    /// Nanoseconds of reading a block from the cold tier; one value per block.
    INFER_HISTOGRAM_COLD_READ_TIME = 6,
    /// Nanoseconds of writing a batch of blocks to the cold tier; one value per batch.
    INFER_HISTOGRAM_COLD_WRITE_TIME = 7,
}

/// Room for buckets in an infer_histogram.
pub const INFER_HISTOGRAM_BUCKETS: usize = 64;

/// How often values fell into each bucket since the engine was created. A bucket holds the values above the bound of the
/// one before it, up to its own; the last bound is UINT64_MAX. Times have seven buckets to a decade from 10 microseconds
/// to 100 seconds (1, 1.5, 2, 3, 4, 5, 7), batch sizes the powers of two up to 4096. bounds belongs to the library and
/// lives as long as the process.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_histogram {
    /// Set by INFER_HISTOGRAM_INIT.
    pub struct_size: u32,
    /// An infer_histogram_kind.
    pub kind: u32,
    /// Buckets that are used; the others are 0.
    pub n_buckets: usize,
    /// Largest value of each bucket, ascending.
    pub bounds: *const u64,
    /// Values: the sum of counts.
    pub count: u64,
    /// Sum of the values.
    pub sum: u64,
    /// Largest value so far.
    pub max: u64,
    /// Values in each bucket.
    pub counts: [u64; INFER_HISTOGRAM_BUCKETS],
}

// SAFETY: repr(C), struct_size first; two u32, then fields as wide as a pointer in a pair, then u64s leave no padding;
// zero is a value of every field.
unsafe impl AbiStruct for infer_histogram {
    const NAME: &'static str = "infer_histogram";
    // Everything: half of the buckets would be wrong numbers.
    const MIN: usize = std::mem::offset_of!(infer_histogram, counts) + 8 * INFER_HISTOGRAM_BUCKETS;
}

impl From<&Histogram> for infer_histogram {
    fn from(histogram: &Histogram) -> Self {
        let (used, bounds) = (histogram.counts(), histogram.kind().bounds());
        let mut counts = [0; INFER_HISTOGRAM_BUCKETS];
        for (to, from) in counts.iter_mut().zip(used) {
            *to = *from;
        }
        Self {
            struct_size: 0,
            kind: histogram.kind() as u32,
            n_buckets: used.len(),
            bounds: bounds.as_ptr(),
            count: histogram.count(),
            sum: histogram.sum(),
            max: histogram.max(),
            counts,
        }
    }
}

pub(crate) fn kind_of(number: u32) -> Result<HistogramKind, Failure> {
    HistogramKind::from_number(number).ok_or_else(|| {
        invalid(format!(
            "kind: expected one of infer_histogram_kind, found {number}"
        ))
    })
}

/// Reads a histogram that came from this library.
///
/// # Safety
/// As [`memory::read_struct`].
unsafe fn read(theirs: *const infer_histogram, what: &str) -> Result<Histogram, Failure> {
    // SAFETY: the promise of the caller.
    let theirs = unsafe { memory::read_struct(theirs, what)? };
    let kind = kind_of(theirs.kind)?;
    let used = theirs.counts.get(..theirs.n_buckets);
    used.and_then(|counts| Histogram::from_parts(kind, counts, theirs.sum, theirs.max))
        .ok_or_else(|| {
            invalid(format!(
                "{what}: expected {} buckets, found {}",
                kind.bounds().len(),
                theirs.n_buckets
            ))
        })
}

fn same_kind(a: &Histogram, b: &Histogram) -> Result<(), Failure> {
    if a.kind() == b.kind() {
        return Ok(());
    }
    Err(invalid(format!(
        "expected two histograms of the same kind, found {} and {}",
        a.kind().name(),
        b.kind().name()
    )))
}

/// Estimates the value that the share q of all values does not exceed, with the values of a bucket laid evenly between its
/// ends: q is 0.5 for the median, 0.99 for the 99th percentile, 1 for the maximum. 0 when there are no values.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL, when histogram was not filled by this library, or when q is not
/// from 0 to 1.
/// Threads: any, while nobody changes histogram.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_histogram_quantile(
    histogram: *const infer_histogram,
    q: f64,
    value: *mut f64,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(value.cast_const(), "value")?;
        if !(0.0..=1.0).contains(&q) {
            return Err(invalid(format!("q: expected a number from 0 to 1, found {q}")));
        }
        // SAFETY: the conventions of the header; `value` was checked.
        unsafe { memory::put(value, read(histogram, "histogram")?.quantile(q)) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_histogram_quantile", error, body) }
}

/// Computes what came between two histograms of the same engine and kind: values are subtracted, the maximum is that of
/// later. delta may be one of the others.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small, or when the kinds differ.
/// Threads: any, while nobody changes the structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_histogram_delta(
    later: *const infer_histogram,
    earlier: *const infer_histogram,
    delta: *mut infer_histogram,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe {
            let later = read(later, "later")?;
            let earlier = read(earlier, "earlier")?;
            let size = memory::struct_size(delta.cast_const(), "delta")?;
            same_kind(&later, &earlier)?;
            memory::write_struct(&infer_histogram::from(&later.since(&earlier)), delta, size);
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_histogram_delta", error, body) }
}

/// Adds the values of another engine's histogram of the same kind to total; the larger maximum stays.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small, or when the kinds differ.
/// Threads: any, while nobody changes the structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_histogram_merge(
    total: *mut infer_histogram,
    other: *const infer_histogram,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe {
            let size = memory::struct_size(total.cast_const(), "total")?;
            let mut sum = read(total.cast_const(), "total")?;
            let other = read(other, "other")?;
            same_kind(&sum, &other)?;
            sum.merge(&other);
            memory::write_struct(&infer_histogram::from(&sum), total, size);
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_histogram_merge", error, body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_numbers_and_room() {
        for (kind, number) in HistogramKind::ALL.into_iter().zip([
            infer_histogram_kind::INFER_HISTOGRAM_BATCH_SIZE,
            infer_histogram_kind::INFER_HISTOGRAM_QUEUE_TIME,
            infer_histogram_kind::INFER_HISTOGRAM_TIME_TO_FIRST_TOKEN,
            infer_histogram_kind::INFER_HISTOGRAM_INTER_TOKEN_TIME,
            infer_histogram_kind::INFER_HISTOGRAM_STEP_TIME,
            infer_histogram_kind::INFER_HISTOGRAM_COLD_READ_TIME,
            infer_histogram_kind::INFER_HISTOGRAM_COLD_WRITE_TIME,
        ]) {
            assert_eq!(kind as u32, number as u32);
            assert!(kind.bounds().len() <= INFER_HISTOGRAM_BUCKETS);
        }
    }
}
