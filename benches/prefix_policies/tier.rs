//! A second tier in numbers: what it holds, what it takes, and what it writes.

use std::collections::{BTreeSet, HashMap};

/// Turnovers of the tier after which a use counts half.
const HALF_LIFE: f64 = 4.0;

/// Gives up the block that was used or written longest ago.
pub struct Tier {
    capacity: usize,
    /// Whether a full tier refuses blocks that are used less than what they would push out.
    choosy: bool,
    held: HashMap<u32, u64>,
    order: BTreeSet<(u64, u32)>,
    /// Uses, fading, and when they were counted.
    uses: HashMap<u32, (f64, u64)>,
    now: u64,
    /// Blocks written.
    pub written: usize,
}

impl Tier {
    pub fn new(capacity: usize, choosy: bool) -> Self {
        Self {
            capacity,
            choosy,
            held: HashMap::new(),
            order: BTreeSet::new(),
            uses: HashMap::new(),
            now: 0,
            written: 0,
        }
    }

    pub fn holds(&self, block: u32) -> bool {
        self.held.contains_key(&block)
    }

    /// A prompt has these blocks. Those that memory has are used here as well: else they would be the first to be pushed
    /// out, and with the many uses that they have a choosy tier would refuse everything.
    pub fn used(&mut self, prompt: &[u32]) {
        for &block in prompt {
            self.now += 1;
            self.uses.insert(block, (self.frequency(block) + 1.0, self.now));
        }
        for &block in prompt.iter().rev() {
            if self.holds(block) {
                self.place(block);
            }
        }
    }

    fn frequency(&self, block: u32) -> f64 {
        let (uses, at) = self.uses.get(&block).copied().unwrap_or_default();
        let turnovers = (self.now - at) as f64 / self.capacity as f64;
        uses * (-turnovers / HALF_LIFE).exp2()
    }

    /// As the one used last.
    fn place(&mut self, block: u32) {
        self.now += 1;
        if let Some(last) = self.held.insert(block, self.now) {
            self.order.remove(&(last, block));
        }
        self.order.insert((self.now, block));
    }

    /// Memory has given up this block.
    pub fn offer(&mut self, block: u32) {
        if self.holds(block) {
            return;
        }
        if self.held.len() >= self.capacity
            && let Some(&(last, victim)) = self.order.first()
        {
            if self.choosy && self.frequency(block) < self.frequency(victim) {
                return;
            }
            self.order.remove(&(last, victim));
            self.held.remove(&victim);
        }
        self.place(block);
        self.written += 1;
    }
}
