//! Histograms with fixed buckets: plain atomics that the engine's thread writes and anyone reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a histogram is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HistogramKind {
    /// Sequences with rows in a step; one value per step.
    BatchSize = 1,
    /// Nanoseconds from submission to the first step; one value per completion that was begun.
    QueueTime = 2,
    /// Nanoseconds from submission to the first token; one value per completion that has one.
    TimeToFirstToken = 3,
    /// Nanoseconds since the previous token of the same completion; one value per token but the first.
    InterTokenTime = 4,
    /// Nanoseconds of a step: planning, computing, sampling, delivering.
    StepTime = 5,
    /// Nanoseconds of reading a block back from the cold tier, its verification included; one value per block.
    ColdReadTime = 6,
    /// Nanoseconds of writing a batch of blocks to the cold tier; one value per batch.
    ColdWriteTime = 7,
}

impl HistogramKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [HistogramKind; 7] = [
        HistogramKind::BatchSize,
        HistogramKind::QueueTime,
        HistogramKind::TimeToFirstToken,
        HistogramKind::InterTokenTime,
        HistogramKind::StepTime,
        HistogramKind::ColdReadTime,
        HistogramKind::ColdWriteTime,
    ];

    /// The kind of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// The word used in reports: `batch_size`, `queue_time`, `time_to_first_token`, `inter_token_time`, `step_time`,
    /// `cold_read_time`, `cold_write_time`.
    pub fn name(self) -> &'static str {
        match self {
            HistogramKind::BatchSize => "batch_size",
            HistogramKind::QueueTime => "queue_time",
            HistogramKind::TimeToFirstToken => "time_to_first_token",
            HistogramKind::InterTokenTime => "inter_token_time",
            HistogramKind::StepTime => "step_time",
            HistogramKind::ColdReadTime => "cold_read_time",
            HistogramKind::ColdWriteTime => "cold_write_time",
        }
    }

    /// What it is of, in a sentence.
    pub fn doc(self) -> &'static str {
        match self {
            HistogramKind::BatchSize => "Sequences with rows in a step.",
            HistogramKind::QueueTime => "Time from a completion's submission to its first step.",
            HistogramKind::TimeToFirstToken => "Time from a completion's submission to its first token.",
            HistogramKind::InterTokenTime => "Time between two tokens of a completion.",
            HistogramKind::StepTime => "Time of a step.",
            HistogramKind::ColdReadTime => "Time of reading a block from the cold tier.",
            HistogramKind::ColdWriteTime => "Time of writing a batch of blocks to the cold tier.",
        }
    }

    /// Whether its values are nanoseconds; otherwise they are sequences.
    pub fn is_time(self) -> bool {
        self != HistogramKind::BatchSize
    }

    /// Largest value of each bucket, ascending; the last is `u64::MAX`. Times: 10 µs to 100 s, seven to a decade (1, 1.5,
    /// 2, 3, 4, 5, 7), so that a bucket is at most half as wide again as its lower end. Batch sizes: powers of two up to 4096.
    pub fn bounds(self) -> &'static [u64] {
        if self.is_time() { &TIMES } else { &SIZES }
    }
}

/// Buckets of times.
const N_TIMES: usize = 7 * 7 + 2;
/// Most buckets a histogram has.
const N_BUCKETS: usize = N_TIMES;

static TIMES: [u64; N_TIMES] = times();
static SIZES: [u64; 14] = sizes();

const fn times() -> [u64; N_TIMES] {
    const TENTHS: [u64; 7] = [10, 15, 20, 30, 40, 50, 70];
    let mut bounds = [u64::MAX; N_TIMES];
    // A tenth of 10 µs.
    let (mut unit, mut i) = (1_000, 0);
    while i < N_TIMES - 1 {
        bounds[i] = TENTHS[i % 7] * unit;
        i += 1;
        if i % 7 == 0 {
            unit *= 10;
        }
    }
    bounds
}

const fn sizes() -> [u64; 14] {
    let mut bounds = [u64::MAX; 14];
    let mut i = 0;
    while i < 13 {
        bounds[i] = 1 << i;
        i += 1;
    }
    bounds
}

/// How often values fell into each bucket. The buckets are exact; `sum` and `max` may be ahead of them by what was being
/// recorded when they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    kind: HistogramKind,
    counts: [u64; N_BUCKETS],
    sum: u64,
    max: u64,
}

impl Histogram {
    /// One with nothing in it.
    pub fn new(kind: HistogramKind) -> Self {
        Self {
            kind,
            counts: [0; N_BUCKETS],
            sum: 0,
            max: 0,
        }
    }

    /// From what was read of one; `None` when the numbers of buckets differ.
    pub fn from_parts(kind: HistogramKind, counts: &[u64], sum: u64, max: u64) -> Option<Self> {
        let mut this = Self {
            sum,
            max,
            ..Self::new(kind)
        };
        let own = this.counts.get_mut(..kind.bounds().len())?;
        if own.len() != counts.len() {
            return None;
        }
        own.copy_from_slice(counts);
        Some(this)
    }

    /// What it is of.
    pub fn kind(&self) -> HistogramKind {
        self.kind
    }

    /// Values per bucket; [`HistogramKind::bounds`] says which.
    pub fn counts(&self) -> &[u64] {
        &self.counts[..self.kind.bounds().len()]
    }

    /// Values.
    pub fn count(&self) -> u64 {
        self.counts().iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest so far; 0 before the first.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Their mean; 0 before the first.
    pub fn mean(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            n => self.sum as f64 / n as f64,
        }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        let bucket = bucket(self.kind.bounds(), value);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// About the value that the share `q` (0 to 1) of all values does not exceed: as if the values of a bucket lay evenly
    /// between its ends. It lies in the bucket of the true one, and never above the maximum; 0 before the first value, and
    /// the maximum for `q` = 1.
    pub fn quantile(&self, q: f64) -> f64 {
        let total = self.count();
        if total == 0 {
            return 0.0;
        }
        // The rank of the value asked for, at least the first.
        let rank = (q.clamp(0.0, 1.0) * total as f64).max(1.0);
        let (mut before, mut lower) = (0u64, 0u64);
        let last = self.counts().iter().rposition(|n| *n > 0);
        for (i, (&n, &bound)) in self.counts().iter().zip(self.kind.bounds()).enumerate() {
            let upper = bound.min(self.max.max(lower));
            if n > 0 && ((before + n) as f64 >= rank || Some(i) == last) {
                let share = ((rank - before as f64) / n as f64).clamp(0.0, 1.0);
                let value = lower as f64 + share * (upper - lower) as f64;
                // There are no parts of sequences.
                return if self.kind.is_time() { value } else { value.ceil() };
            }
            before = before.saturating_add(n);
            lower = bound;
        }
        self.max as f64
    }

    /// What came between an earlier reading of the same histogram and this one. The maximum stays that of all time.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut delta = *self;
        for (n, earlier) in delta.counts.iter_mut().zip(earlier.counts) {
            *n = n.saturating_sub(earlier);
        }
        delta.sum = self.sum.saturating_sub(earlier.sum);
        delta
    }

    /// Adds the values of another of the same kind; one of another kind changes nothing.
    pub fn merge(&mut self, other: &Histogram) {
        if self.kind != other.kind {
            return;
        }
        for (n, more) in self.counts.iter_mut().zip(other.counts) {
            *n = n.saturating_add(more);
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }
}

/// The first bucket whose bound is not below the value.
fn bucket(bounds: &[u64], value: u64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

/// A histogram that is being written, and read by anyone.
#[derive(Debug)]
pub(crate) struct Recorder {
    kind: HistogramKind,
    counts: [AtomicU64; N_BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Recorder {
    pub(crate) fn new(kind: HistogramKind) -> Self {
        Self {
            kind,
            counts: [const { AtomicU64::new(0) }; N_BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Counts a value.
    pub(crate) fn record(&self, value: u64) {
        self.counts[bucket(self.kind.bounds(), value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
        self.max.fetch_max(value, Relaxed);
    }

    pub(crate) fn read(&self) -> Histogram {
        let mut counts = [0; N_BUCKETS];
        for (n, counter) in counts.iter_mut().zip(&self.counts) {
            *n = counter.load(Relaxed);
        }
        Histogram {
            kind: self.kind,
            counts,
            sum: self.sum.load(Relaxed),
            max: self.max.load(Relaxed),
        }
    }
}

/// One of each kind.
#[derive(Debug)]
pub(crate) struct Recorders([Recorder; HistogramKind::ALL.len()]);

impl Default for Recorders {
    fn default() -> Self {
        Self(HistogramKind::ALL.map(Recorder::new))
    }
}

impl Recorders {
    pub(crate) fn of(&self, kind: HistogramKind) -> &Recorder {
        &self.0[kind as usize - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HistogramKind::{BatchSize, InterTokenTime, QueueTime};

    /// Numbers that look random, spread over the decades from 1 µs to 1000 s.
    fn samples(n: u64) -> Vec<u64> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        (0..n)
            .map(|_| (next() % 1000 + 1) * 10u64.pow(3 + (next() % 7) as u32))
            .collect()
    }

    fn of(kind: HistogramKind, values: &[u64]) -> Histogram {
        let mut h = Histogram::new(kind);
        values.iter().for_each(|v| h.record(*v));
        h
    }

    #[test]
    fn bounds_are_round_ascending_and_close() {
        for kind in HistogramKind::ALL {
            let bounds = kind.bounds();
            assert!(bounds.is_sorted_by(|a, b| a < b));
            assert_eq!(bounds.last(), Some(&u64::MAX));
            assert_eq!(HistogramKind::from_number(kind as u32), Some(kind));
        }
        assert_eq!(HistogramKind::from_number(0), None);
        let times = QueueTime.bounds();
        assert_eq!((times[0], times[1], times[49]), (10_000, 15_000, 100_000_000_000));
        assert!(times[..50].windows(2).all(|w| w[1] * 2 <= w[0] * 3));
        let powers: Vec<u64> = (0..13).map(|i| 1 << i).collect();
        assert_eq!(BatchSize.bounds()[..13], powers);
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_the_bucket_below_it() {
        let h = of(BatchSize, &[0, 1, 2, 3, 4, 4096, 4097]);
        let counts: Vec<u64> = h.counts().to_vec();
        assert_eq!(counts, [2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((h.count(), h.sum(), h.max()), (7, 8203, 4097));
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_the_sorted_samples() {
        for n in [1, 2, 10, 999, 20_000] {
            let mut sorted = samples(n);
            let h = of(InterTokenTime, &sorted);
            sorted.sort_unstable();
            for q in [0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let rank = ((q * n as f64).ceil() as usize).clamp(1, n as usize);
                let (exact, found) = (sorted[rank - 1], h.quantile(q));
                let bounds = InterTokenTime.bounds();
                let i = bucket(bounds, exact);
                let lower = if i == 0 { 0 } else { bounds[i - 1] };
                let inside = found >= lower as f64 && found <= bounds[i].min(h.max()) as f64;
                assert!(
                    inside,
                    "{n} values, quantile {q}: expected about {exact}, found {found}"
                );
            }
            assert_eq!(h.quantile(1.0), h.max() as f64);
        }
        assert_eq!(Histogram::new(InterTokenTime).quantile(0.5), 0.0);
        // Sequences are whole ones.
        let pairs = of(BatchSize, &[2; 10]);
        assert_eq!((pairs.quantile(0.1), pairs.quantile(0.99)), (2.0, 2.0));
        // Ten values between 20 ms and 30 ms, evenly.
        let even: Vec<u64> = (1..=10).map(|i| 20_000_000 + i * 1_000_000).collect();
        let h = of(InterTokenTime, &even);
        assert_eq!((h.quantile(0.5), h.quantile(0.9)), (25e6, 29e6));
    }

    #[test]
    fn differences_and_sums_are_those_of_the_samples() {
        let all = samples(500);
        let (first, second) = all.split_at(200);
        let (a, b, both) = (of(QueueTime, first), of(QueueTime, second), of(QueueTime, &all));
        let delta = both.since(&a);
        assert_eq!(
            (delta.counts(), delta.sum(), delta.max()),
            (b.counts(), b.sum(), both.max())
        );
        let mut sum = a;
        sum.merge(&b);
        assert_eq!(sum, both);
        sum.merge(&of(BatchSize, &[1]));
        assert_eq!(sum, both);
        let again = Histogram::from_parts(QueueTime, both.counts(), both.sum(), both.max());
        assert_eq!(again, Some(both));
        assert_eq!(Histogram::from_parts(BatchSize, both.counts(), 0, 0), None);
    }

    #[test]
    fn what_is_recorded_is_what_is_read() {
        let recorders = Recorders::default();
        let values = samples(300);
        for &v in &values {
            recorders.of(QueueTime).record(v);
        }
        assert_eq!(recorders.of(QueueTime).read(), of(QueueTime, &values));
        for kind in HistogramKind::ALL {
            assert_eq!(recorders.of(kind).read().kind(), kind);
        }
    }
}
