//! How many tokens to propose: as many as bring more than their rows cost, by what was measured.
//!
//! A step computes one row for each generating sequence; a proposed token is a row more. It pays when the tokens it is
//! likely to bring, per second it takes, are more than what the step brings per second without it. Results do not
//! depend on it, so it may follow the clock.

/// Seconds of a drafted row before any was measured, in steps.
const ROW: f64 = 0.1;
/// Steps after which the time of a step without drafts is measured once more.
const FRESH: u64 = 128;
/// What an unused measurement of a row loses with each step.
const FADE: f64 = 0.998;
/// Measurements of a row of which the middle one counts.
const RECENT: usize = 5;
/// Powers of two of generating rows that are told apart.
const SIZES: usize = 13;

/// What steps were measured to take.
#[derive(Debug, Default)]
pub(super) struct Cost {
    step: u64,
    sizes: [Size; SIZES],
}

/// Steps with about the same number of generating sequences.
#[derive(Debug, Default, Clone, Copy)]
struct Size {
    /// Seconds without drafts.
    seconds: f64,
    /// The step they were measured in; 0 when they were not.
    at: u64,
    /// Seconds that a drafted row adds, with what it takes to draft it: as measured last, by turns.
    rows: [f64; RECENT],
    measured: usize,
    /// Steps since then.
    unused: i32,
}

/// What a step is expected to bring and to take while its drafts are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prospect {
    tokens: f64,
    seconds: f64,
    row: f64,
}

impl Prospect {
    /// One in which every draft pays: for comparing.
    pub(super) fn boundless() -> Self {
        Self {
            tokens: 0.0,
            seconds: 1.0,
            row: 0.0,
        }
    }

    /// Whether a row more that brings a token with this probability pays; it is counted in if so.
    pub(super) fn adds(&mut self, probability: f64) -> bool {
        let pays = probability * self.seconds >= self.row * self.tokens;
        if pays {
            self.tokens += probability;
            self.seconds += self.row;
        }
        pays
    }
}

impl Cost {
    /// What a step of so many generating sequences is to be compared with; `None` when it should have no drafts, to
    /// measure what it takes then.
    pub(super) fn prospect(&self, generating: usize) -> Option<Prospect> {
        let size = &self.sizes[class(generating)];
        let seconds = size.plain(self.step, FRESH)?;
        Some(Prospect {
            tokens: generating as f64,
            seconds,
            row: size.row().map_or(ROW * seconds, |row| {
                (row * FADE.powi(size.unused)).max(ROW * seconds).min(row)
            }),
        })
    }

    /// Notes what a step without prompts took.
    pub(super) fn record(&mut self, generating: usize, drafted: usize, seconds: f64) {
        self.step += 1;
        let size = &mut self.sizes[class(generating)];
        if drafted == 0 {
            let known = size.plain(self.step, 4 * FRESH);
            size.seconds = known.map_or(seconds, |old| mean(old, seconds));
            size.at = self.step;
            size.unused = size.unused.saturating_add(1);
        } else if let Some(plain) = size.plain(self.step, u64::MAX) {
            size.rows[size.measured % RECENT] = ((seconds - plain) / drafted as f64).max(0.01 * plain);
            size.measured += 1;
            size.unused = 0;
        }
    }
}

impl Size {
    /// Seconds without drafts, if they were measured less than so many steps before this one.
    fn plain(&self, step: u64, steps: u64) -> Option<f64> {
        (self.at > 0 && step - self.at < steps).then_some(self.seconds)
    }

    /// The middle one of the last measurements: a step that was interrupted says nothing about the next.
    fn row(&self) -> Option<f64> {
        let n = self.measured.min(RECENT);
        let mut rows = self.rows;
        rows[..n].sort_unstable_by(f64::total_cmp);
        rows[..n].get(n.saturating_sub(1) / 2).copied()
    }
}

fn class(generating: usize) -> usize {
    (generating.max(1).ilog2() as usize).min(SIZES - 1)
}

fn mean(old: f64, new: f64) -> f64 {
    old + (new - old) * 0.25
}

/// How likely a draft is right before any was verified, by kind.
const PRIOR: [f64; KINDS] = [0.5, 0.5, 0.7, 0.9];
/// Weight of one verified draft.
const WEIGHT: f64 = 1.0 / 8.0;
/// What an estimate regains each time it forbids a draft, so that another one is tried some time.
const REGAIN: f64 = 1.0 / 512.0;
/// Kinds of drafts that are told apart.
const KINDS: usize = 4;

/// How likely the drafts of one sequence are right, by kind.
#[derive(Debug)]
pub(super) struct Chances([f64; KINDS]);

impl Default for Chances {
    fn default() -> Self {
        Self(PRIOR)
    }
}

impl Chances {
    /// The kind of what a draft model proposes.
    pub(super) const DRAFT: usize = 2;

    /// The kind of a draft that follows an agreement of so many tokens.
    pub(super) fn kind(agreement: usize) -> usize {
        match agreement {
            0..=2 => 0,
            3 => 1,
            4..=7 => 2,
            _ => 3,
        }
    }

    /// How many drafts of a kind pay, up to `most`.
    pub(super) fn worth(&mut self, kind: usize, prospect: &mut Prospect, most: usize) -> usize {
        let chance = &mut self.0[kind];
        let mut all = 1.0;
        let n = (0..most)
            .take_while(|_| {
                all *= *chance;
                prospect.adds(all)
            })
            .count();
        if n == 0 && most > 0 {
            *chance += (PRIOR[kind] - *chance).max(0.0) * REGAIN;
        }
        n
    }

    /// Notes that so many drafts were right, and whether one after them was wrong.
    pub(super) fn record(&mut self, kind: usize, right: usize, wrong: bool) {
        let chance = &mut self.0[kind];
        for _ in 0..right {
            *chance += (1.0 - *chance) * WEIGHT;
        }
        if wrong {
            *chance -= *chance * WEIGHT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of one sequence on a machine where a row more takes `row` steps and a draft is right with `chance`; answers
    /// the tokens per step of time.
    fn speed(row: f64, chance: f64) -> f64 {
        let (mut cost, mut chances) = (Cost::default(), Chances::default());
        let (mut tokens, mut seconds, mut state) = (0, 0.0, 1u64);
        for _ in 0..5000 {
            let n = cost.prospect(1).map_or(0, |mut p| chances.worth(0, &mut p, 8));
            let mut right = 0;
            while right < n {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                if (state >> 33) as f64 / (1u64 << 31) as f64 >= chance {
                    break;
                }
                right += 1;
            }
            chances.record(0, right, right < n);
            let taken = 1.0 + row * n as f64;
            cost.record(1, n, taken);
            tokens += 1 + right;
            seconds += taken;
        }
        f64::from(tokens as u32) / seconds
    }

    #[test]
    fn drafts_that_are_wrong_cost_little_whatever_a_row_costs() {
        for row in [0.02, 0.1, 0.2, 0.5, 0.9] {
            let speed = speed(row, 0.0);
            assert!(speed > 0.98, "{row}: {speed}");
        }
    }

    #[test]
    fn drafts_that_are_right_make_most_of_a_step() {
        for (row, chance, least) in [
            (0.05, 1.0, 6.0),
            (0.2, 1.0, 3.3),
            (0.2, 0.8, 1.7),
            (0.1, 0.5, 1.38),
            (0.9, 1.0, 1.05),
        ] {
            let speed = speed(row, chance);
            assert!(speed > least, "{row} {chance}: {speed}");
        }
    }

    #[test]
    fn drafts_that_do_not_pay_are_not_made_in_a_large_batch() {
        let mut cost = Cost::default();
        cost.record(16, 0, 1.0);
        cost.record(16, 4, 1.0 + 4.0 * 0.06);
        let mut prospect = cost.prospect(16).unwrap();
        assert!(!prospect.adds(0.7) && prospect.adds(0.99));
        cost.record(1, 0, 0.5);
        cost.record(1, 4, 0.5 + 4.0 * 0.06);
        assert!(cost.prospect(1).unwrap().adds(0.7));
    }

    #[test]
    fn one_slow_step_is_not_the_end_of_it() {
        let mut cost = Cost::default();
        cost.record(1, 0, 1.0);
        cost.record(1, 2, 1.2);
        cost.record(1, 2, 500.0);
        assert!(cost.prospect(1).unwrap().adds(0.5));
        for _ in 0..RECENT {
            cost.record(1, 2, 3.0);
        }
        let mut steps = 0;
        while cost.prospect(1).is_none_or(|mut p| !p.adds(0.5)) {
            cost.record(1, 0, 1.0);
            steps += 1;
        }
        assert!((200..600).contains(&steps), "{steps}");
    }

    #[test]
    fn the_time_without_drafts_is_measured_again() {
        let mut cost = Cost::default();
        assert!(cost.prospect(1).is_none());
        cost.record(1, 0, 1.0);
        let with = (0..400)
            .filter(|_| {
                let drafted = cost.prospect(1).map_or(0, |_| 3);
                cost.record(1, drafted, 1.0 + 0.1 * drafted as f64);
                drafted > 0
            })
            .count();
        assert!((390..=398).contains(&with), "{with}");
    }
}
