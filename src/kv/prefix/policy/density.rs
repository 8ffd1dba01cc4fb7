//! What a place in the cache is worth: hits to expect, per unit of time that they take.
//!
//! The index follows LHD (Beckmann, Chen and Cidon, "LHD: improving cache hit rate by maximizing hit density", NSDI
//! 2018). Blocks are told apart by how often they were hit lately; for each such class it is counted after how long
//! they are used again, and how many are not.

/// Classes by hits: none, 1 and 2, 3 to 6, and so on.
pub(super) const CLASSES: usize = 6;
/// Ages are told apart in half octaves from [`YOUNGEST`] on.
const AGES: usize = 44;
const YOUNGEST: f32 = 64.0;
/// What one turnover of the cache leaves of the counts: they remember about 200 of them.
const KEEP: f32 = 0.995;
/// Uses that are assumed at each age before any were counted: one for so many blocks of the cache.
const PRIOR: f32 = 32.0;

/// The class of a block with so many hits.
pub(super) fn class(hits: f32) -> usize {
    ((1.0 + hits).log2() as usize).min(CLASSES - 1)
}

fn bucket(age: u64) -> usize {
    ((age as f32 / YOUNGEST).max(1.0).log2() * 2.0) as usize
}

/// The age at which a bucket begins.
fn begin(bucket: usize) -> f32 {
    match bucket {
        0 => 0.0,
        n => YOUNGEST * (n as f32 / 2.0).exp2(),
    }
}

/// Of one class, by age.
#[derive(Debug, Clone, Copy)]
struct Counts {
    used: [f32; AGES],
    /// Given up without a use.
    given_up: [f32; AGES],
    density: [f32; AGES],
}

/// Counts, and the densities that follow from them.
#[derive(Debug)]
pub(super) struct Densities {
    classes: [Counts; CLASSES],
}

impl Default for Densities {
    fn default() -> Self {
        let counts = Counts {
            used: [0.0; AGES],
            given_up: [0.0; AGES],
            density: [0.0; AGES],
        };
        Self {
            classes: [counts; CLASSES],
        }
    }
}

impl Densities {
    /// A block with so many hits is used after so long.
    pub(super) fn used(&mut self, hits: f32, age: u64) {
        self.classes[class(hits)].used[bucket(age).min(AGES - 1)] += 1.0;
    }

    /// A block with so many hits has not been used for so long, and is not watched any more.
    pub(super) fn given_up(&mut self, hits: f32, age: u64) {
        self.classes[class(hits)].given_up[bucket(age).min(AGES - 1)] += 1.0;
    }

    /// What it is worth to keep a block on.
    pub(super) fn of(&self, class: usize, age: u64) -> f32 {
        self.classes[class].density[bucket(age).min(AGES - 1)]
    }

    /// Works the densities out anew for a cache of so many blocks, and lets the counts fade.
    pub(super) fn learn(&mut self, blocks: usize) {
        for class in &mut self.classes {
            class.learn(blocks as f32);
            for count in class.used.iter_mut().chain(&mut class.given_up) {
                *count *= KEEP;
            }
        }
    }
}

impl Counts {
    /// Whoever keeps a block may give it up at any later age, so the best of those says what it is worth: the uses until
    /// then by the time until then, of all blocks of the class that came to this age.
    fn learn(&mut self, blocks: f32) {
        // Uses in each bucket, and the time that blocks spent in it.
        let mut spent = [(0.0f32, 0.0f32); AGES];
        let mut older = 0.0;
        for age in (0..AGES).rev() {
            let ended = self.used[age] + self.given_up[age];
            let (first, last) = (begin(age), begin(age + 1));
            let width = last - first;
            // Without counts it is lru: the longer ago, the less likely.
            let prior = blocks / PRIOR;
            let likely = prior * width / ((first + last) / 2.0 + blocks);
            spent[age] = (self.used[age] + likely, (older + ended / 2.0 + prior) * width);
            older += ended;
        }
        for age in 0..AGES {
            let (mut uses, mut time, mut best) = (0.0, 0.0, 0.0f32);
            for (u, t) in &spent[age..] {
                uses += u;
                time += t;
                best = best.max(uses / time);
            }
            self.density[age] = best;
        }
    }
}
