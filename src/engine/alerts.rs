//! Alerts: limits that an operator sets, counted whenever they are exceeded and logged once a second at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::stats::Counters;
use crate::options::{EngineOptions, LogCallback, LogLevel, LogRecord};

/// What there is a limit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alert {
    QueueTime,
    TimeToFirstToken,
    InterTokenTime,
    KvUsed,
    Preemptions,
}

const N: usize = 5;
/// Between two records of one kind.
const PAUSE: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

impl Alert {
    const ALL: [Alert; N] = [
        Alert::QueueTime,
        Alert::TimeToFirstToken,
        Alert::InterTokenTime,
        Alert::KvUsed,
        Alert::Preemptions,
    ];

    fn name(self) -> &'static str {
        match self {
            Alert::QueueTime => "queue_time",
            Alert::TimeToFirstToken => "time_to_first_token",
            Alert::InterTokenTime => "inter_token_time",
            Alert::KvUsed => "kv_used",
            Alert::Preemptions => "preemptions",
        }
    }

    /// What happened, before the numbers.
    fn sentence(self) -> &'static str {
        match self {
            Alert::QueueTime => "a request waited long to be begun",
            Alert::TimeToFirstToken => "a first token took long",
            Alert::InterTokenTime => "a token took long after the one before it",
            Alert::KvUsed => "the key/value memory is filling up",
            Alert::Preemptions => "sequences give up their place often",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Alert::QueueTime | Alert::TimeToFirstToken | Alert::InterTokenTime => "ms",
            Alert::KvUsed => "percent",
            Alert::Preemptions => "per minute",
        }
    }

    /// A value in its unit.
    fn shown(self, value: u64) -> f64 {
        match self.unit() {
            "ms" => value as f64 / 1e6,
            _ => value as f64,
        }
    }

    fn counter(self, counters: &Counters) -> &AtomicU64 {
        match self {
            Alert::QueueTime => &counters.alerts_queue_time,
            Alert::TimeToFirstToken => &counters.alerts_time_to_first_token,
            Alert::InterTokenTime => &counters.alerts_inter_token_time,
            Alert::KvUsed => &counters.alerts_kv_used,
            Alert::Preemptions => &counters.alerts_preemptions,
        }
    }
}

/// What exceeded a limit since the last record: the worst of them.
#[derive(Debug, Clone, Copy)]
struct Raised {
    value: u64,
    tag: Option<u64>,
    count: u64,
}

/// One record to be logged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    alert: Alert,
    limit: u64,
    raised: Raised,
}

/// The limits, and what exceeded them.
pub(super) struct Alerts {
    counters: Arc<Counters>,
    /// Nanoseconds, percent or preemptions; `u64::MAX` where there is none.
    limits: [u64; N],
    raised: [Option<Raised>; N],
    logged: [Option<Instant>; N],
    /// The memory in use is above its limit.
    filling: bool,
    /// When the minute began whose preemptions are counted, and how many there were before it.
    minute: Instant,
    before: u64,
    /// Preemptions when it was last looked.
    seen: u64,
    /// This minute had too many.
    too_many: bool,
}

impl Alerts {
    /// How many limits there are.
    pub(super) const KINDS: usize = N;

    pub(super) fn new(options: &EngineOptions, counters: Arc<Counters>) -> Self {
        let limit = |value: u64, unit: u64| match value {
            0 => u64::MAX,
            n => n.saturating_mul(unit),
        };
        let ms = 1_000_000;
        Self {
            counters,
            limits: [
                limit(options.alert_queue_time_ms, ms),
                limit(options.alert_time_to_first_token_ms, ms),
                limit(options.alert_inter_token_ms, ms),
                limit(options.alert_kv_used_percent, 1),
                limit(options.alert_preemptions_per_minute, 1),
            ],
            raised: [None; N],
            logged: [None; N],
            filling: false,
            minute: Instant::now(),
            before: 0,
            seen: 0,
            too_many: false,
        }
    }

    /// Compares a value with its limit.
    pub(super) fn check(&mut self, alert: Alert, value: u64, tag: u64) {
        if value > self.limits[alert as usize] {
            self.raise(alert, value, Some(tag));
        }
    }

    /// Compares the memory in use with its limit: an alert each time it rises above.
    pub(super) fn check_memory(&mut self, used: usize, capacity: usize) {
        let limit = self.limits[Alert::KvUsed as usize];
        if limit == u64::MAX {
            return;
        }
        // Rounded up, so that what is above the limit is never shown as the limit.
        let percent = (used as u64)
            .saturating_mul(100)
            .div_ceil((capacity as u64).max(1));
        let filling = percent > limit;
        if filling && !self.filling {
            self.raise(Alert::KvUsed, percent, None);
        }
        self.filling = filling;
    }

    /// Compares the preemptions of this minute with their limit: an alert per minute at most.
    pub(super) fn check_preemptions(&mut self, now: Instant) {
        let limit = self.limits[Alert::Preemptions as usize];
        if limit == u64::MAX {
            return;
        }
        let total = self.counters.preemptions.load(Relaxed);
        if now.saturating_duration_since(self.minute) >= MINUTE {
            (self.minute, self.before, self.too_many) = (now, self.seen, false);
        }
        self.seen = total;
        let these = total - self.before;
        if these > limit && !self.too_many {
            self.too_many = true;
            self.raise(Alert::Preemptions, these, None);
        }
    }

    #[cold]
    fn raise(&mut self, alert: Alert, value: u64, tag: Option<u64>) {
        Counters::add(alert.counter(&self.counters), 1);
        let raised = &mut self.raised[alert as usize];
        let count = raised.map_or(0, |r| r.count) + 1;
        *raised = match raised {
            Some(worse) if worse.value >= value => Some(Raised { count, ..*worse }),
            _ => Some(Raised { value, tag, count }),
        };
    }

    /// What is to be logged now. The log is the host's code, so it is called when nothing is locked.
    pub(super) fn due(&mut self) -> [Option<Due>; N] {
        let mut due = [None; N];
        if self.raised.iter().all(Option::is_none) {
            return due;
        }
        let now = Instant::now();
        for (i, alert) in Alert::ALL.into_iter().enumerate() {
            if self.logged[i].is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
                continue;
            }
            let Some(raised) = self.raised[i].take() else {
                continue;
            };
            self.logged[i] = Some(now);
            let limit = self.limits[i];
            due[i] = Some(Due { alert, limit, raised });
        }
        due
    }
}

impl Due {
    /// Writes the record.
    pub(super) fn log(&self, log: &LogCallback) {
        let Due { alert, limit, raised } = self;
        let (value, limit, unit) = (alert.shown(raised.value), alert.shown(*limit), alert.unit());
        let tag = raised.tag.map_or(String::new(), |tag| format!(",\"tag\":{tag}"));
        log(&LogRecord {
            level: LogLevel::Warn,
            target: "engine",
            message: &format!(
                "{}: {value} {unit}, the limit is {limit}; {} times since the last such record",
                alert.sentence(),
                raised.count
            ),
            fields: &format!(
                "{{\"alert\":\"{}\",\"value\":{value},\"threshold\":{limit},\"unit\":\"{unit}\",\"count\":{}{tag}}}",
                alert.name(),
                raised.count
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alerts(set: impl Fn(&mut EngineOptions)) -> (Alerts, Arc<Counters>) {
        let mut options = EngineOptions::default();
        set(&mut options);
        let counters = Arc::new(Counters::default());
        (Alerts::new(&options, Arc::clone(&counters)), counters)
    }

    fn names(due: [Option<Due>; N]) -> Vec<(&'static str, u64, Option<u64>, u64)> {
        let one = |d: Due| (d.alert.name(), d.raised.value, d.raised.tag, d.raised.count);
        due.into_iter().flatten().map(one).collect()
    }

    #[test]
    fn without_limits_nothing_is_an_alert() {
        let (mut alerts, counters) = alerts(|_| {});
        for alert in Alert::ALL {
            alerts.check(alert, u64::MAX, 1);
        }
        alerts.check_memory(10, 10);
        Counters::add(&counters.preemptions, 1000);
        alerts.check_preemptions(Instant::now());
        assert!(names(alerts.due()).is_empty());
    }

    #[test]
    fn every_alert_counts_and_the_worst_is_logged_once_a_second() {
        let (mut alerts, counters) = alerts(|o| o.alert_inter_token_ms = 50);
        alerts.check(Alert::InterTokenTime, 50_000_000, 1);
        assert!(names(alerts.due()).is_empty(), "the limit itself is not above it");
        for (ms, tag) in [(60, 1), (90, 2), (70, 3)] {
            alerts.check(Alert::InterTokenTime, ms * 1_000_000, tag);
        }
        assert_eq!(
            names(alerts.due()),
            [("inter_token_time", 90_000_000, Some(2), 3)]
        );
        alerts.check(Alert::InterTokenTime, 80_000_000, 4);
        assert!(names(alerts.due()).is_empty(), "within the second");
        alerts.logged = [Instant::now().checked_sub(PAUSE); N];
        assert_eq!(
            names(alerts.due()),
            [("inter_token_time", 80_000_000, Some(4), 1)]
        );
        assert_eq!(counters.snapshot().alerts_inter_token_time, 4);
    }

    #[test]
    fn memory_is_an_alert_each_time_it_rises_above() {
        let (mut alerts, counters) = alerts(|o| o.alert_kv_used_percent = 80);
        for used in [100, 800, 801, 900, 1000, 790, 845] {
            alerts.check_memory(used, 1000);
        }
        assert_eq!(counters.snapshot().alerts_kv_used, 2);
        assert_eq!(names(alerts.due()), [("kv_used", 85, None, 2)]);
    }

    #[test]
    fn preemptions_are_counted_by_the_minute() {
        let (mut alerts, counters) = alerts(|o| o.alert_preemptions_per_minute = 3);
        let begin = Instant::now();
        let mut after = |seconds: u64, more: u64| {
            Counters::add(&counters.preemptions, more);
            alerts.check_preemptions(begin + Duration::from_secs(seconds));
            counters.snapshot().alerts_preemptions
        };
        assert_eq!((after(1, 3), after(2, 1), after(3, 5)), (0, 1, 1));
        // In the next minute they count from there.
        assert_eq!((after(70, 2), after(80, 1), after(90, 1)), (1, 1, 2));
    }
}
