//! ARC: adapts between recency and frequency.
//!
//! After N. Megiddo and D. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache" (FAST 2003), with LMCache's
//! choices where the paper leaves them open. The chunks are in two LRU lists: T1 has those that no lookup found since
//! they were stored, T2 the others. B1 and B2 remember the keys of chunks evicted from T1 and T2. A chunk that
//! comes back while it is remembered shows which list was too short, and moves the target `p` for the length of
//! T1: up for B1, down for B2, by the ratio of the two, at least 1.
//!
//! - Victim: the coldest of T1 while |T1| is at least `p` (rounded down), else the coldest of T2; the other list if
//!   that one is empty.
//! - A new chunk goes to T1, a remembered one to T2. (LMCache puts it in T1, as a reservation says nothing of use.
//!   Here it is inserted when it is stored, and T2 hits more.)
//! - A hit moves a chunk to T2. An [access](EvictionPolicy::on_access) moves it to the warm end of its own list: within
//!   one request that is no evidence (LMCache promotes then as well, but does not touch what it has just stored).
//! - A chunk that is removed for another reason than eviction is not remembered.
//! - `c` is the largest number of chunks so far. B1 is cut to `c` less |T1|; all four lists together to `2c`, B2 first.
//!
//! Chunks are counted, not bytes: LMCache does so; a hit saves the work of one chunk whatever its size; and the chunks
//! of one model are of one size. With several models the lists are still an order, and the caller still counts bytes.
//!
//! Pinned chunks count in the length of their list, as they will return to it. They are not in it, so they cost nothing
//! when victims are visited.
//!
//! Cost: O(1), amortised, for each operation and each chunk visited. Memory: 9 bytes for each chunk id, about 25 for
//! each remembered key; chunks and keys together are at most `2c`.
//!
//! Guarantee: in each of T1 and T2 a prompt is evicted from its end, as under LRU. Across them not: the head of a prompt
//! that was found may be evicted from T2 before its unused tail from T1, if `p` says that T1 is worth more.

use super::{ChunkMeta, EvictDecision, EvictionPolicy, RemovalCause, Visit};
use crate::key_table::KeyTable;
use crate::lru::{LruLinks, LruList};
use crate::quota::QuotaUsage;
use crate::segmented::SegmentedVec;
use larder_types::ids::ChunkId;

/// The state of a chunk id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Never inserted.
    #[default]
    Unknown,
    /// Never inserted, but a lookup found it.
    Found,
    /// In T1, or pinned and will return there.
    Once,
    /// In T2, or pinned and will return there.
    Again,
}

/// One of the two lists.
#[derive(Debug, Default)]
struct Half {
    list: LruList,
    /// Chunks in the list, and pinned chunks that will return to it.
    chunks: u64,
    /// B1 or B2.
    ghosts: KeyTable<()>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Arc {
    links: LruLinks,
    places: SegmentedVec<Place>,
    once: Half,
    again: Half,
    /// Target for the chunks of `once`: `p`.
    target: f64,
    /// The largest number of chunks so far: `c`.
    capacity: u64,
}

impl Arc {
    fn place(&self, chunk: ChunkId) -> Place {
        self.places.get(chunk.0 as usize).copied().unwrap_or_default()
    }

    fn set_place(&mut self, chunk: ChunkId, place: Place) {
        let at = chunk.0 as usize;
        self.places.grow_to_hold(at, Place::Unknown);
        self.places[at] = place;
    }

    fn half(&mut self, place: Place) -> &mut Half {
        match place {
            Place::Once => &mut self.once,
            Place::Again => &mut self.again,
            Place::Unknown | Place::Found => unreachable!("the chunk was inserted"),
        }
    }

    /// The list of a place, and the links of both.
    fn list(&mut self, place: Place) -> (&mut LruLinks, &mut LruList) {
        let half = if place == Place::Once { &mut self.once } else { &mut self.again };
        (&mut self.links, &mut half.list)
    }

    /// The list for a chunk that is new. A remembered chunk moves the target.
    fn first_place(&mut self, chunk: ChunkId, key: u64) -> Place {
        let (b1, b2) = (self.once.ghosts.len() as f64, self.again.ghosts.len() as f64);
        let remembered = if self.once.ghosts.remove_key(key) {
            self.target = (self.target + (b2 / b1).max(1.0)).min(self.capacity as f64);
            true
        } else if self.again.ghosts.remove_key(key) {
            self.target = (self.target - (b1 / b2).max(1.0)).max(0.0);
            true
        } else {
            false
        };
        if remembered || self.place(chunk) == Place::Found { Place::Again } else { Place::Once }
    }

    fn chunks(&self) -> u64 {
        self.once.chunks + self.again.chunks
    }

    fn trim_ghosts(&mut self) {
        while !self.once.ghosts.is_empty() && self.once.chunks + self.once.ghosts.len() > self.capacity {
            self.once.ghosts.remove_oldest();
        }
        while self.chunks() + self.once.ghosts.len() + self.again.ghosts.len() > 2 * self.capacity {
            let excess = if !self.again.ghosts.is_empty() { &mut self.again } else { &mut self.once };
            excess.ghosts.remove_oldest();
        }
    }

    fn refresh(&mut self, chunk: ChunkId) {
        let (links, list) = self.list(self.place(chunk));
        links.move_to_newest(list, chunk.0);
    }
}

impl EvictionPolicy for Arc {
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>) {
        let mut place = self.place(chunk);
        if matches!(place, Place::Unknown | Place::Found) {
            place = self.first_place(chunk, about.key());
            self.set_place(chunk, place);
            self.half(place).chunks += 1;
            self.capacity = self.capacity.max(self.chunks());
            self.trim_ghosts();
        }
        let (links, list) = self.list(place);
        links.push(list, chunk.0);
    }

    fn remove(&mut self, chunk: ChunkId) {
        let (links, list) = self.list(self.place(chunk));
        links.remove(list, chunk.0);
    }

    fn on_access(&mut self, chunk: ChunkId, _: &ChunkMeta<'_>) {
        self.refresh(chunk);
    }

    fn on_hit(&mut self, chunk: ChunkId) {
        match self.place(chunk) {
            Place::Unknown => self.set_place(chunk, Place::Found),
            Place::Once => {
                self.once.chunks -= 1;
                self.again.chunks += 1;
                self.set_place(chunk, Place::Again);
                if self.links.contains(chunk.0) {
                    self.links.remove(&mut self.once.list, chunk.0);
                    self.links.push(&mut self.again.list, chunk.0);
                }
            }
            Place::Again if self.links.contains(chunk.0) => self.refresh(chunk),
            Place::Again | Place::Found => {}
        }
    }

    fn on_removed(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>, how: RemovalCause) {
        let place = self.place(chunk);
        if place == Place::Unknown {
            return;
        }
        self.set_place(chunk, Place::Unknown);
        if place == Place::Found {
            return;
        }
        let half = self.half(place);
        half.chunks -= 1;
        if how == RemovalCause::Evicted {
            half.ghosts.touch(about.key());
        }
        self.trim_ghosts();
    }

    fn visit_victims(&self, _: &QuotaUsage, visit: Visit<'_>) {
        let mut once = self.once.list.coldest();
        let mut again = self.again.list.coldest();
        let mut once_chunks = self.once.chunks;
        loop {
            let from_once = match (once, again) {
                (None, None) => return,
                (Some(_), Some(_)) => once_chunks >= self.target as u64,
                (from_once, _) => from_once.is_some(),
            };
            let next = if from_once { &mut once } else { &mut again };
            let Some(n) = *next else { return };
            *next = self.links.newer(n);
            match visit(ChunkId(n)) {
                EvictDecision::Done => return,
                EvictDecision::Evict(_) if from_once => once_chunks -= 1,
                EvictDecision::Evict(_) | EvictDecision::Skip => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Op, Rig, Step, ops, step};
    use super::*;
    use crate::eviction::EvictionKind;
    use proptest::prelude::*;

    /// The rules of the module on vectors, coldest or oldest first. `pinned` chunks are in t1 and t2 as well.
    #[derive(Debug, Default)]
    struct Naive {
        t1: Vec<u32>,
        t2: Vec<u32>,
        b1: Vec<u32>,
        b2: Vec<u32>,
        held: Vec<u32>,
        wanted: Vec<u32>,
        p: f64,
        c: usize,
    }

    fn take(from: &mut Vec<u32>, key: u32) -> bool {
        let before = from.len();
        from.retain(|k| *k != key);
        from.len() < before
    }

    impl Naive {
        /// To the warm end of its list.
        fn warm(&mut self, key: u32) {
            let list = if self.t1.contains(&key) { &mut self.t1 } else { &mut self.t2 };
            take(list, key);
            list.push(key);
        }

        fn enter(&mut self, key: u32) {
            let ratio = |own: &[u32], other: &[u32]| (other.len() as f64 / own.len() as f64).max(1.0);
            if self.b1.contains(&key) {
                self.p = (self.p + ratio(&self.b1, &self.b2)).min(self.c as f64);
            } else if self.b2.contains(&key) {
                self.p = (self.p - ratio(&self.b2, &self.b1)).max(0.0);
            }
            let wanted = take(&mut self.wanted, key);
            if take(&mut self.b1, key) || take(&mut self.b2, key) || wanted {
                self.t2.push(key);
            } else {
                self.t1.push(key);
            }
            self.c = self.c.max(self.t1.len() + self.t2.len());
            self.trim();
        }

        fn forget(&mut self, key: u32, evicted: bool) {
            take(&mut self.held, key);
            take(&mut self.wanted, key);
            if take(&mut self.t1, key) && evicted {
                self.b1.push(key);
            }
            if take(&mut self.t2, key) && evicted {
                self.b2.push(key);
            }
            self.trim();
        }

        fn trim(&mut self) {
            while self.t1.len() + self.b1.len() > self.c && !self.b1.is_empty() {
                self.b1.remove(0);
            }
            while self.t1.len() + self.t2.len() + self.b1.len() + self.b2.len() > 2 * self.c {
                if self.b2.is_empty() {
                    self.b1.remove(0)
                } else {
                    self.b2.remove(0)
                };
            }
        }

        fn order(&self) -> Vec<u32> {
            let free = |list: &[u32]| -> Vec<u32> {
                list.iter().copied().filter(|k| !self.held.contains(k)).collect()
            };
            let (mut t1, mut t2) = (free(&self.t1), free(&self.t2));
            let (mut order, mut len) = (Vec::new(), self.t1.len());
            while !t1.is_empty() || !t2.is_empty() {
                if !t1.is_empty() && (len >= self.p.floor() as usize || t2.is_empty()) {
                    order.push(t1.remove(0));
                    len -= 1;
                } else {
                    order.push(t2.remove(0));
                }
            }
            order
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Store(k) => self.enter(k),
                Step::Load(_) | Step::Nothing => {}
                Step::Hold(k) => self.held.push(k),
                Step::Release(k) if take(&mut self.held, k) => self.warm(k),
                Step::Release(k) => self.enter(k),
                Step::Touch(k) => self.warm(k),
                Step::Find(k) if self.t1.contains(&k) || self.t2.contains(&k) => {
                    take(&mut self.t1, k);
                    take(&mut self.t2, k);
                    self.t2.push(k);
                }
                Step::Find(k) => {
                    take(&mut self.wanted, k);
                    self.wanted.push(k);
                }
                Step::Remove(k) => self.forget(k, false),
                Step::Evict(k) => self.forget(k, true),
            }
        }
    }

    fn agree(ops: Vec<Op>) -> Result<(), TestCaseError> {
        let mut rig = Rig::new(EvictionKind::Arc);
        let mut naive = Naive::default();
        for op in ops {
            naive.step(step(&mut rig, op));
            prop_assert_eq!(&rig.order(), &naive.order(), "{:?}", naive);
            let ghosts = naive.b1.len() + naive.b2.len();
            prop_assert!(naive.t1.len() + naive.b1.len() <= naive.c, "{:?}", naive);
            prop_assert!(naive.t1.len() + naive.t2.len() + ghosts <= 2 * naive.c, "{:?}", naive);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn agrees_with_vectors(ops in ops(32)) {
            agree(ops)?;
        }

        /// Few keys: mostly ghosts.
        #[test]
        fn ghosts_agree_with_vectors(ops in prop::collection::vec((0u8..12, 0u32..6), 1..400)) {
            agree(ops)?;
        }
    }

    /// Chunks `0..stored`, of which those in `found` are in T2.
    fn rig_with(stored: u32, found: &[u32]) -> Rig<Arc> {
        let mut rig = Rig::open();
        (0..stored).for_each(|k| rig.store(k));
        found.iter().for_each(|k| rig.find(*k));
        rig
    }

    /// |B1|, |B2| and the target.
    fn remembered(rig: &Rig<Arc>) -> (u64, u64, f64) {
        let arc = &rig.policy;
        (arc.once.ghosts.len(), arc.again.ghosts.len(), arc.target)
    }

    #[test]
    fn target_follows_ghost_hits() {
        let mut rig = rig_with(6, &[3, 4, 5]);
        [0, 1, 3].iter().for_each(|k| rig.end(*k, RemovalCause::Evicted));
        assert_eq!(remembered(&rig), (2, 1, 0.0));
        rig.store(0);
        assert_eq!(remembered(&rig), (1, 1, 1.0), "up by one: B1 is the longer");
        assert_eq!(rig.policy.place(rig.id(0).unwrap()), Place::Again, "used twice");
        rig.store(3);
        assert_eq!(remembered(&rig), (1, 0, 0.0), "down by one");
        rig.store(1);
        assert_eq!(remembered(&rig), (0, 0, 1.0));
    }

    #[test]
    fn target_moves_by_ratio_of_ghosts() {
        let mut rig = rig_with(8, &[4, 5, 6, 7]);
        [0, 4, 5, 6].iter().for_each(|k| rig.end(*k, RemovalCause::Evicted));
        rig.store(0);
        assert_eq!(remembered(&rig), (0, 3, 3.0));
    }

    #[test]
    fn removed_chunks_leave_no_ghost() {
        let mut rig = rig_with(3, &[1]);
        (0..3).for_each(|k| rig.end(k, RemovalCause::Removed));
        assert_eq!((remembered(&rig), rig.policy.chunks()), ((0, 0, 0.0), 0));
        rig.store(0);
        assert_eq!(rig.policy.place(ChunkId(0)), Place::Once);
    }

    #[test]
    fn ghosts_are_bounded() {
        let mut rig = rig_with(100, &[]);
        for k in 100..5_000 {
            rig.evict();
            rig.store(k);
            if k % 3 == 0 {
                rig.find(k);
            }
            let (b1, b2, _) = remembered(&rig);
            assert!(rig.policy.once.chunks + b1 <= 100 && 100 + b1 + b2 <= 200);
        }
        let (b1, b2, _) = remembered(&rig);
        assert!(b1 + b2 > 90, "and used: {b1} {b2}");
    }

    #[test]
    fn stored_and_touched_stays_in_t1_and_a_hit_moves_to_t2() {
        let mut rig = Rig::new(EvictionKind::Arc);
        rig.store_prompt(&[0, 1, 2]);
        rig.store_prompt(&[0, 1, 2, 3, 4]);
        rig.store_prompt(&[10, 11]);
        rig.read_prompt(&[0, 1]);
        assert_eq!(rig.order(), [4, 3, 2, 11, 10, 1, 0], "T1 from the ends of its prompts, then T2");
    }

    #[test]
    fn hit_on_a_pinned_chunk_counts_as_second_use() {
        let mut rig = Rig::new(EvictionKind::Arc);
        rig.load(0, "");
        rig.find(0);
        rig.release(0);
        rig.store(1);
        assert_eq!(rig.order(), [1, 0]);
    }
}
