//! Who is served first: requests wait, and give up their place, in the order of their rank.

use super::sequence::Sequence;

/// Words of the option `policy`.
pub(crate) const SCHEDULING_POLICIES: &[&str] = &["fcfs", "priority", "cached_prefix"];

/// How waiting requests are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// First come, first served.
    FirstCome,
    /// The highest `priority` first, then first come. A higher one takes the place of a lower one.
    Priority,
    /// The longest cached prefix first, then first come.
    CachedPrefix,
}

impl Policy {
    /// The policy of a word of the option.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "fcfs" => Some(Policy::FirstCome),
            "priority" => Some(Policy::Priority),
            "cached_prefix" => Some(Policy::CachedPrefix),
            _ => None,
        }
    }
}

/// A place in the line; smaller is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Whether it was overtaken less often than it may be. Who was overtaken too often comes first.
    patient: bool,
    /// By policy.
    order: u64,
    arrival: u64,
}

impl Rank {
    /// The rank of a sequence of which so many tokens are cached.
    pub(super) fn new(policy: Policy, max_overtaken: u32, sequence: &Sequence, cached: usize) -> Self {
        let patient = sequence.overtaken < max_overtaken;
        let order = match policy {
            _ if !patient => 0,
            Policy::FirstCome => 0,
            Policy::Priority => u64::MAX - sequence.priority,
            Policy::CachedPrefix => u64::MAX - cached as u64,
        };
        Self {
            patient,
            order,
            arrival: sequence.arrival,
        }
    }

    /// Whether it was not overtaken too often yet.
    pub(super) fn patient(&self) -> bool {
        self.patient
    }

    /// Whether it is ahead for another reason than that it came first.
    pub(super) fn outranks(&self, other: &Rank) -> bool {
        (self.patient, self.order) < (other.patient, other.order)
    }
}
