//! How often names were seen, in little memory.

/// Most counters: enough for a million blocks.
const MOST: usize = 1 << 24;

/// Counts how often names were seen, approximately: four small counters per name, the least of which counts. All are
/// halved from time to time.
#[derive(Debug, Default)]
pub(crate) struct Sketch {
    counters: Vec<u8>,
    added: usize,
}

impl Sketch {
    fn places(&self, name: u64) -> [usize; 4] {
        let mask = self.counters.len() - 1;
        [0, 1, 2, 3].map(|row| (name.rotate_left(16 * row) as usize).wrapping_add(row as usize) & mask)
    }

    /// Counts a use of a name; the cache holds about so many blocks.
    pub(crate) fn add(&mut self, name: u64, blocks: usize) {
        let wanted = blocks.saturating_mul(16).clamp(1024, MOST).next_power_of_two();
        if wanted > self.counters.len() {
            let Ok(counters) = crate::memory::filled(0, wanted, "counters of the uses of blocks") else {
                return;
            };
            // Masks of the old size are the low bits of the new one: every half starts with the old counts.
            let old = std::mem::take(&mut self.counters);
            self.counters = counters;
            if !old.is_empty() {
                for part in self.counters.chunks_exact_mut(old.len()) {
                    part.copy_from_slice(&old);
                }
            }
        }
        // Only the least of a name's counters grow: the others are too large already.
        let least = self.count(name);
        for place in self.places(name) {
            if self.counters[place] == least && least < 15 {
                self.counters[place] += 1;
            }
        }
        self.added += 1;
        if self.added >= 10 * blocks.max(128) {
            self.added = 0;
            for counter in &mut self.counters {
                *counter /= 2;
            }
        }
    }

    /// How often a name was seen lately, 15 at most.
    pub(crate) fn count(&self, name: u64) -> u8 {
        if self.counters.is_empty() {
            return 0;
        }
        self.places(name)
            .iter()
            .map(|&p| self.counters[p])
            .min()
            .unwrap_or(0)
    }
}
