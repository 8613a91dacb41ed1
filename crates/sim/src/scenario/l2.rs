//! What a seed draws for the second tier: adapters with their faults, policies and limits.

use larder_policy::{OffloadKind, PrefetchKind};

use super::Millis;
use crate::rng::Rng;

/// The second tier.
#[derive(Clone, Debug)]
pub struct L2 {
    /// The adapters, in the order in which they are configured.
    pub adapters: Vec<AdapterSpec>,
    /// Prefetch policy: which loaded objects L1 retains.
    pub prefetch: PrefetchKind,
    /// Offload policy: which adapters an object is stored to.
    pub store: OffloadKind,
    /// Time after which a job is answered with what is loaded by then.
    pub load_deadline: Millis,
    /// Jobs at a time, at most.
    pub jobs: usize,
    /// Bytes that one adapter may load at a time.
    pub load_bytes: u64,
    /// Store tasks that one adapter may have at a time.
    pub tasks: usize,
    /// Objects of a store task, at most.
    pub batch: usize,
    /// Bytes that one adapter may store at a time.
    pub store_bytes: u64,
    /// Keys that may be queued for one adapter.
    pub queue: usize,
    /// Attempts to store an object after the first.
    pub retries: u32,
    /// Per cent of calls after which the effects of the core are not executed at once.
    pub lazy: u64,
    /// Per cent of objects that each adapter has from the start.
    pub filled: u64,
}

/// One adapter. Fault rates are in per cent.
#[derive(Clone, Debug, Default)]
pub struct AdapterSpec {
    /// Objects can be loaded from it.
    pub persists: bool,
    /// It reports sizes rounded up to whole blocks.
    pub pads: bool,
    /// Typical time of one step.
    pub pace: Millis,
    /// Steps that take longer than the deadline of a job.
    pub late: u64,
    /// Steps that never end, unless the adapter restarts.
    pub hangs: u64,
    /// Loads and stores that fail.
    pub fails: u64,
    /// Lookups answered with outdated or wrong sizes, and stores reported as incomplete.
    pub lies: u64,
    /// Results that are lost although the I/O ends.
    pub loses: u64,
}

impl AdapterSpec {
    /// Whether it has no faults.
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
