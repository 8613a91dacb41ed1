//! What a seed draws of the second tier: adapters, what is wrong with them, policies and limits.

use larder_policy::{OffloadKind, PrefetchKind};

use super::Millis;
use crate::rng::Rng;

/// The second tier.
#[derive(Clone, Debug)]
pub struct L2 {
    /// The adapters, the first to be asked first.
    pub adapters: Vec<AdapterSpec>,
    /// Whether what is loaded stays.
    pub prefetch: PrefetchKind,
    /// What goes where.
    pub store: OffloadKind,
    /// Limits of the core.
    pub load_deadline: Millis,
    /// The same: jobs at once.
    pub jobs: usize,
    /// The same: bytes that one adapter may be loading.
    pub load_bytes: u64,
    /// The same: batches, and objects of each, that one adapter may be storing.
    pub tasks: usize,
    /// The same.
    pub batch: usize,
    /// The same: their bytes.
    pub store_bytes: u64,
    /// The same: keys that may wait.
    pub queue: usize,
    /// The same: attempts after the first.
    pub retries: u32,
    /// Of a hundred calls, after how many nobody asks what is to be done.
    pub lazy: u64,
    /// Of a hundred objects, how many each adapter has from the start.
    pub filled: u64,
}

/// One adapter. Chances are of a hundred.
#[derive(Clone, Debug, Default)]
pub struct AdapterSpec {
    /// What it stores can be loaded from it.
    pub persists: bool,
    /// It tells sizes rounded up to whole blocks.
    pub pads: bool,
    /// Typical time for one step.
    pub pace: Millis,
    /// Things that take until after the deadline of whoever waits.
    pub late: u64,
    /// Things that never end, or not before it starts anew.
    pub hangs: u64,
    /// Loads and stores that fail half-way.
    pub fails: u64,
    /// Questions answered by what it had when it was asked, and at times by what it never had.
    pub lies: u64,
    /// Results that get lost although the I/O is over.
    pub loses: u64,
}

impl AdapterSpec {
    /// Whether nothing is wrong with it.
    pub fn is_perfect(&self) -> bool {
        self.persists && [self.late, self.hangs, self.fails, self.lies, self.loses] == [0; 5]
    }

    fn draw(rng: &mut Rng, pace: Millis) -> Self {
        let perfect = rng.chance(35);
        let chance = |rng: &mut Rng| if perfect { 0 } else { rng.pick(&[0, 0, 5, 30]) };
        Self {
            persists: rng.chance(88),
            pads: rng.chance(20),
            pace: rng.pick(&[0, pace / 2, pace, 4 * pace]),
            late: chance(rng),
            hangs: chance(rng),
            fails: chance(rng),
            lies: chance(rng),
            loses: chance(rng),
        }
    }
}

impl L2 {
    pub(super) fn draw(rng: &mut Rng, pace: Millis) -> Self {
        let adapters = rng.pick(&[0, 0, 0, 1, 1, 1, 2, 2, 2, 3]);
        Self {
            adapters: (0..adapters).map(|_| AdapterSpec::draw(rng, pace)).collect(),
            prefetch: rng.pick(PrefetchKind::ALL),
            store: if rng.chance(60) { OffloadKind::Default } else { rng.pick(OffloadKind::ALL) },
            load_deadline: pace * rng.pick(&[2, 10, 10, 40, 200]),
            jobs: rng.pick(&[1, 2, 8, 8]),
            load_bytes: rng.pick(&[1, 1 << 10, 1 << 14, u64::MAX, u64::MAX]),
            tasks: rng.pick(&[1, 2, 4]),
            batch: rng.pick(&[1, 3, 64]),
            store_bytes: rng.pick(&[1, 1 << 10, 1 << 14, u64::MAX, u64::MAX]),
            queue: rng.pick(&[2, 10, 1 << 16, 1 << 16]),
            retries: rng.pick(&[0, 1, 2, 2]),
            lazy: rng.pick(&[0, 0, 0, 10, 40]),
            filled: rng.pick(&[0, 30, 80, 100, 100]),
        }
    }
}
