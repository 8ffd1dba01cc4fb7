//! How many prompt tokens a step may compute so that those who generate hardly notice.
//!
//! Results do not depend on it, so it may follow what steps are measured to take: a step gives prompts as much time as a
//! given number of steps without them would take. Alone, a prompt gets whole chunks.

/// Rows a prompt gets beside generating sequences before anything is known.
const FIRST: usize = 8;
/// Steps after which a measured time is measured once more.
const FRESH: u64 = 64;
/// The same after pieces of prompts became half or twice as large: either their rows or everything changed.
const FRESH_WHEN_CHANGED: u64 = 4;
/// Powers of two of generating rows that are told apart.
const SIZES: usize = 13;

/// Seconds of a step without prompts.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    seconds: f64,
    /// The step it was measured in.
    at: u64,
    /// Rows that a piece of a prompt might have in the first step with one after it.
    rows: Option<f64>,
}

/// What steps were measured to take.
#[derive(Debug)]
pub(super) struct Pace {
    /// Time for prompts, in steps without them; 0 for no limit.
    budget: f64,
    step: u64,
    /// By the number of generating rows, as a power of two.
    decode: [Option<Measured>; SIZES],
    /// Of a prompt's row beside generating sequences.
    row_seconds: Option<f64>,
}

impl Pace {
    pub(super) fn new(budget: f64) -> Self {
        Self {
            budget,
            step: 0,
            decode: [None; SIZES],
            row_seconds: None,
        }
    }

    /// Prompt rows for the next step with so many generating rows; `most` when there are none.
    pub(super) fn chunk(&self, generating: usize, most: usize) -> usize {
        if generating == 0 || self.budget == 0.0 {
            return most;
        }
        // One step without prompts shows how long it takes.
        let Some(decode) = self.decode[size(generating)] else {
            return 0;
        };
        let rows = self.rows(&decode);
        let changed = decode
            .rows
            .is_some_and(|first| 2.0 * rows <= first || rows >= 2.0 * first);
        let fresh = if changed { FRESH_WHEN_CHANGED } else { FRESH };
        if self.step - decode.at >= fresh {
            return 0;
        }
        (rows as usize).clamp(1, most)
    }

    /// Rows of a prompt that take the time of the budget.
    fn rows(&self, decode: &Measured) -> f64 {
        match self.row_seconds {
            None => FIRST as f64,
            Some(row) => self.budget * decode.seconds / row.max(1e-9),
        }
    }

    /// Notes what a step took.
    pub(super) fn record(&mut self, generating: usize, prompt: usize, seconds: f64) {
        self.step += 1;
        if generating == 0 {
            return;
        }
        let planned = self.decode[size(generating)].map(|decode| self.rows(&decode));
        let known = &mut self.decode[size(generating)];
        if prompt == 0 {
            let seconds = match *known {
                // What is twice as slow or fast is another machine, not the noise of one.
                Some(m) if self.step - m.at < 4 * FRESH && (0.5..2.0).contains(&(seconds / m.seconds)) => {
                    mean(m.seconds, seconds, 0.25)
                }
                _ => seconds,
            };
            *known = Some(Measured {
                seconds,
                at: self.step,
                rows: None,
            });
        } else if let Some(decode) = known {
            // Prompts make no step faster: it was measured when everything was slower than now.
            decode.seconds = decode.seconds.min(seconds);
            // What was planned: a prompt may end with less.
            decode.rows = decode.rows.or(planned);
            let row = (seconds - decode.seconds).max(0.1 * seconds) / prompt as f64;
            self.row_seconds = Some(self.row_seconds.map_or(row, |old| mean(old, row, 0.5)));
        }
    }
}

fn size(generating: usize) -> usize {
    (generating.max(1).ilog2() as usize).min(SIZES - 1)
}

fn mean(old: f64, new: f64, weight: f64) -> f64 {
    old + (new - old) * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a machine where a generating row takes `decode` seconds once and a prompt's row `row`.
    fn run(pace: &mut Pace, steps: usize, decode: f64, row: f64) -> Vec<usize> {
        let mut chunks = Vec::new();
        for _ in 0..steps {
            let n = pace.chunk(3, 512);
            pace.record(3, n, decode + row * n as f64);
            chunks.push(n);
        }
        chunks
    }

    #[test]
    fn a_prompt_alone_gets_whole_chunks() {
        assert_eq!(Pace::new(2.0).chunk(0, 512), 512);
        assert_eq!(Pace::new(0.0).chunk(7, 512), 512);
    }

    #[test]
    fn beside_others_it_gets_the_time_of_the_budget() {
        let mut pace = Pace::new(2.0);
        let chunks = run(&mut pace, 20, 0.020, 0.004);
        assert_eq!(&chunks[..3], [0, FIRST, 10]);
        assert!(chunks[3..].iter().all(|&n| (9..=10).contains(&n)), "{chunks:?}");
    }

    #[test]
    fn it_follows_rows_that_become_slower() {
        let mut pace = Pace::new(2.0);
        run(&mut pace, 20, 0.020, 0.001);
        let chunks = run(&mut pace, 20, 0.020, 0.010);
        assert!((3..=4).contains(chunks.last().unwrap()), "{chunks:?}");
    }

    /// Steps of a machine that is so many times slower than usual.
    fn slowed(pace: &mut Pace, steps: usize, times: f64) -> Vec<usize> {
        run(pace, steps, 0.020 * times, 0.001 * times)
    }

    #[test]
    fn one_slow_step_is_soon_forgotten() {
        let mut pace = Pace::new(2.0);
        let usual = *slowed(&mut pace, 20, 1.0).last().unwrap();
        slowed(&mut pace, 1, 10.0);
        let chunks = slowed(&mut pace, 12, 1.0);
        assert!(*chunks.last().unwrap() >= usual * 3 / 4, "{usual}: {chunks:?}");
    }

    #[test]
    fn pieces_are_as_large_on_a_machine_that_is_busy_and_when_it_is_no_longer() {
        let mut pace = Pace::new(2.0);
        let usual = *slowed(&mut pace, 20, 1.0).last().unwrap();
        let chunks = slowed(&mut pace, 20, 5.0);
        assert!(
            chunks[12..].iter().all(|&n| n == 0 || n >= usual / 2),
            "{usual}: {chunks:?}"
        );
        let chunks = slowed(&mut pace, 20, 1.0);
        assert!(
            chunks[12..].iter().all(|&n| n <= usual * 3 / 2),
            "{usual}: {chunks:?}"
        );
        assert!(
            chunks[12..].iter().all(|&n| n == 0 || n >= usual / 2),
            "{usual}: {chunks:?}"
        );
    }

    #[test]
    fn short_prompts_are_no_reason_to_measure_again() {
        let mut pace = Pace::new(2.0);
        slowed(&mut pace, 20, 1.0);
        let mut pauses = 0;
        for _ in 0..200 {
            // Prompts that are shorter than what there is time for.
            let n = pace.chunk(3, 512).min(3);
            pace.record(3, n, 0.020 + 0.001 * n as f64);
            pauses += usize::from(n == 0);
        }
        assert!(pauses <= 6, "{pauses}");
    }

    #[test]
    fn it_measures_again_and_never_stands_still() {
        let mut pace = Pace::new(0.01);
        let chunks = run(&mut pace, 300, 0.020, 1.0);
        let pauses = chunks.iter().filter(|n| **n == 0).count();
        assert!((4..=6).contains(&pauses), "{pauses}");
        assert!(chunks.iter().all(|n| *n <= FIRST), "{chunks:?}");
    }
}
