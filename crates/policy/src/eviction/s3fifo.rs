//! S3-FIFO: chunks that no lookup finds soon are evicted before those that were found.
//!
//! After J. Yang, Y. Zhang, Z. Qiu, Y. Yue and K. V. Rashmi, "FIFO queues are all you need for cache eviction" (SOSP
//! 2023). A new chunk goes to the *small* queue, a tenth of all. Two hits there move it to the *main* queue; otherwise
//! it is evicted from the cold end, and a *ghost* queue remembers its key. A chunk that comes back while it is
//! remembered goes to the main queue. Every chunk counts its hits, up to 3; the main queue gives its coldest chunk
//! another round for each. So a scan passes through a tenth of the memory and evicts nothing else.
//!
//! The paper's queues are not reordered by hits, for the sake of threads that use them at the same time. Ours have one
//! owner, and a queue in the order of arrival would evict the head of a prompt before a tail that a later call stored.
//! Hence two differences:
//!
//! - An [access](EvictionPolicy::on_access) moves a chunk to the warm end of its queue.
//! - A chunk moves to the main queue on its second hit, not when it arrives at the cold end of the small one, so that
//!   it is placed together with the rest of its prompt.
//!
//! Chunks are counted, not bytes, for the reasons given in `arc`. Pinned chunks count for their queue. Ghosts: at most
//! nine tenths of the largest number of chunks so far, which is what the main queue may hold.
//!
//! Cost: O(1) for each operation and, amortised over the hits, for the first chunk visited (a chunk is passed over once
//! for each hit). Visiting more costs up to four passes over the main queue. Memory: 10 bytes for each chunk id, about
//! 25 for each ghost.
//!
//! Guarantee: in each of the two queues, a chunk is never evicted before a later one of its prompt, as long as the
//! prompt has never lost a chunk. (After that a later chunk can have more hits, or be remembered when the earlier one
//! is not.) Across the queues, the small one is evicted from first while it is above its tenth; below it, the head of
//! one prompt in the main queue can go before a tail in the small one.

use super::{ChunkMeta, EvictDecision, EvictionPolicy, RemovalCause, Visit};
use crate::key_table::KeyTable;
use crate::lru::{LruLinks, LruList};
use crate::quota::QuotaUsage;
use crate::reuse::ReusePredictor;
use crate::segmented::SegmentedVec;
use larder_types::ids::ChunkId;

/// The small queue is one part in this many.
const SMALL_PART: u64 = 10;
/// Hits that move a chunk from the small queue to the main one.
const PROMOTED_AT: u8 = 2;
/// The highest count of hits: two bits.
const COUNT_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Queue {
    /// Never inserted.
    #[default]
    None,
    Small,
    Main,
}

/// The state of a chunk id.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    queue: Queue,
    /// Hits, less the rounds given for them.
    count: u8,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct S3Fifo {
    links: LruLinks,
    entries: SegmentedVec<Entry>,
    small: LruList,
    main: LruList,
    /// Chunks of the queues, pinned ones included.
    small_chunks: u64,
    main_chunks: u64,
    ghosts: KeyTable<()>,
    /// The largest number of chunks so far.
    capacity: u64,
}

impl S3Fifo {
    fn entry(&mut self, chunk: ChunkId) -> &mut Entry {
        let at = chunk.0 as usize;
        self.entries.grow_to_hold(at, Entry::default());
        &mut self.entries[at]
    }

    fn queue(&mut self, queue: Queue) -> (&mut LruLinks, &mut LruList) {
        let list = if queue == Queue::Small { &mut self.small } else { &mut self.main };
        (&mut self.links, list)
    }

    /// Whether the next victim comes from the small queue, if it is not empty.
    fn small_is_full(small: u64, main: u64) -> bool {
        small * SMALL_PART >= small + main
    }

    fn promote(&mut self, chunk: ChunkId) {
        *self.entry(chunk) = Entry { queue: Queue::Main, count: 0 };
        self.small_chunks -= 1;
        self.main_chunks += 1;
        if self.links.contains(chunk.0) {
            self.links.remove(&mut self.small, chunk.0);
            self.links.push(&mut self.main, chunk.0);
        }
    }

    fn trim_ghosts(&mut self) {
        while self.ghosts.len() > self.capacity - self.capacity / SMALL_PART {
            self.ghosts.remove_oldest();
        }
    }
}

impl EvictionPolicy for S3Fifo {
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>) {
        if self.entry(chunk).queue == Queue::None {
            let remembered = self.ghosts.remove_key(about.key());
            let entry = self.entry(chunk);
            if remembered || entry.count >= PROMOTED_AT {
                *entry = Entry { queue: Queue::Main, count: 0 };
                self.main_chunks += 1;
            } else {
                entry.queue = Queue::Small;
                self.small_chunks += 1;
            }
            self.capacity = self.capacity.max(self.small_chunks + self.main_chunks);
        }
        let queue = self.entry(chunk).queue;
        let (links, list) = self.queue(queue);
        links.push(list, chunk.0);
    }

    fn remove(&mut self, chunk: ChunkId) {
        let queue = self.entry(chunk).queue;
        let (links, list) = self.queue(queue);
        links.remove(list, chunk.0);
    }

    fn on_access(&mut self, chunk: ChunkId, _: &ChunkMeta<'_>) {
        let queue = self.entry(chunk).queue;
        let (links, list) = self.queue(queue);
        links.move_to_newest(list, chunk.0);
    }

    fn on_hit(&mut self, chunk: ChunkId) {
        let entry = self.entry(chunk);
        entry.count = COUNT_MAX.min(entry.count + 1);
        if entry.queue == Queue::Small && entry.count >= PROMOTED_AT {
            self.promote(chunk);
        }
    }

    fn on_removed(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>, how: RemovalCause) {
        match std::mem::take(self.entry(chunk)).queue {
            Queue::None => {}
            Queue::Main => self.main_chunks -= 1,
            Queue::Small => {
                self.small_chunks -= 1;
                if how == RemovalCause::Evicted {
                    self.ghosts.touch(about.key());
                    self.trim_ghosts();
                }
            }
        }
    }

    /// Gives the coldest chunks of the main queue another round for each hit.
    fn prepare(&mut self, _: Option<&ReusePredictor>) {
        if Self::small_is_full(self.small_chunks, self.main_chunks) && !self.small.is_empty() {
            return;
        }
        while let Some(n) = self.main.coldest()
            && self.entries[n as usize].count > 0
        {
            self.entries[n as usize].count -= 1;
            self.links.move_to_newest(&mut self.main, n);
        }
    }

    fn visit_victims(&self, _: &QuotaUsage, visit: Visit<'_>) {
        let mut small = self.links.iter(&self.small).peekable();
        // In the order of the rounds left to them.
        let mut main = (0..=COUNT_MAX)
            .flat_map(|round| {
                self.links.iter(&self.main).filter(move |n| self.entries[*n as usize].count == round)
            })
            .peekable();
        let (mut small_chunks, mut main_chunks) = (self.small_chunks, self.main_chunks);
        loop {
            let from_small = small.peek().is_some()
                && (Self::small_is_full(small_chunks, main_chunks) || main.peek().is_none());
            let Some(n) = (if from_small { small.next() } else { main.next() }) else { return };
            match visit(ChunkId(n)) {
                EvictDecision::Done => return,
                EvictDecision::Evict(_) if from_small => small_chunks -= 1,
                EvictDecision::Evict(_) => main_chunks -= 1,
                EvictDecision::Skip => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Rig, Step, ops, step};
    use super::*;
    use crate::eviction::EvictionKind;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn queue(rig: &Rig<S3Fifo>, key: u32) -> Queue {
        rig.policy.entries[rig.id(key).expect("the chunk is there").0 as usize].queue
    }

    /// The rules of the module on vectors, coldest or oldest first. `held` chunks are in the queues as well.
    #[derive(Debug, Default)]
    struct Naive {
        small: Vec<u32>,
        main: Vec<u32>,
        ghosts: Vec<u32>,
        held: Vec<u32>,
        counts: [u8; 32],
        most: usize,
    }

    fn take(from: &mut Vec<u32>, key: u32) -> bool {
        let before = from.len();
        from.retain(|k| *k != key);
        from.len() < before
    }

    impl Naive {
        fn warm(&mut self, key: u32) {
            let queue = if self.small.contains(&key) { &mut self.small } else { &mut self.main };
            take(queue, key);
            queue.push(key);
        }

        fn enter(&mut self, key: u32) {
            if take(&mut self.ghosts, key) || self.counts[key as usize] >= 2 {
                self.counts[key as usize] = 0;
                self.main.push(key);
            } else {
                self.small.push(key);
            }
            self.most = self.most.max(self.small.len() + self.main.len());
        }

        fn find(&mut self, key: u32) {
            let count = &mut self.counts[key as usize];
            *count = (*count + 1).min(3);
            if *count >= 2 && take(&mut self.small, key) {
                *count = 0;
                self.main.push(key);
            }
        }

        fn forget(&mut self, key: u32, evicted: bool) {
            self.counts[key as usize] = 0;
            take(&mut self.held, key);
            take(&mut self.main, key);
            if take(&mut self.small, key) && evicted {
                self.ghosts.push(key);
                if self.ghosts.len() > self.most - self.most / 10 {
                    self.ghosts.remove(0);
                }
            }
        }

        /// The next victim, after the rounds that the main queue gives before it.
        fn victim(&mut self) -> Option<u32> {
            let free = |k: &u32| !self.held.contains(k);
            let small = self.small.iter().copied().find(free);
            let full = self.small.len() * 10 >= self.small.len() + self.main.len();
            if full && small.is_some() {
                return small;
            }
            while let Some(coldest) = self.main.iter().copied().find(|k| !self.held.contains(k)) {
                if self.counts[coldest as usize] == 0 {
                    return Some(coldest);
                }
                self.counts[coldest as usize] -= 1;
                self.warm(coldest);
            }
            small
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Store(k) => self.enter(k),
                Step::Load(_) | Step::Nothing => {}
                Step::Hold(k) => self.held.push(k),
                Step::Release(k) if take(&mut self.held, k) => self.warm(k),
                Step::Release(k) => self.enter(k),
                Step::Touch(k) => self.warm(k),
                Step::Find(k) => self.find(k),
                Step::Remove(k) => self.forget(k, false),
                Step::Evict(k) => self.forget(k, true),
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_vectors(ops in ops(32)) {
            let mut rig = Rig::new(EvictionKind::S3Fifo);
            let mut naive = Naive::default();
            for op in ops {
                let step = step(&mut rig, op);
                if let Step::Evict(k) = step {
                    prop_assert_eq!(Some(k), naive.victim());
                }
                naive.step(step);
                prop_assert_eq!(rig.order().first().copied(), naive.victim(), "{:?}", naive);
                prop_assert!(naive.ghosts.len() <= naive.most);
            }
        }

        /// Prompts with the same heads, stored and read by whole prefixes: an evicted chunk has no later chunk of
        /// its prompt in its queue, except in prompts that have lost chunks before.
        #[test]
        fn evicts_tail_of_prompt_before_head_in_each_queue(
            requests in prop::collection::vec((0u32..6, 1usize..10, any::<bool>()), 1..120),
            room in 8usize..24,
        ) {
            let mut rig: Rig<S3Fifo> = Rig::open();
            // Each chunk, and whether it, or one before it, was evicted since the first was stored.
            let mut lost = BTreeSet::new();
            let mut orphans = BTreeMap::new();
            for (branch, len, store) in requests {
                // Chunk i of a branch; the first four are the same for pairs of branches.
                let chunk = |i: usize| (if i < 4 { branch / 2 } else { 100 + branch }) * 1000 + i as u32;
                let chain: Vec<u32> = (0..len).map(chunk).collect();
                rig.read_prompt(&chain);
                if !store {
                    continue;
                }
                chain.iter().for_each(|key| { orphans.entry(*key).or_insert(lost.contains(key)); });
                rig.store_prompt(&chain);
                while rig.order().len() > room {
                    let gone = rig.order()[0];
                    for (later, orphan) in orphans.iter_mut().filter(|(k, _)| continues(gone, **k)) {
                        let same = queue(&rig, gone) == queue(&rig, *later);
                        prop_assert!(*orphan || !same, "{} evicted before {}", gone, later);
                        *orphan = true;
                    }
                    rig.end(gone, RemovalCause::Evicted);
                    orphans.remove(&gone);
                    lost.insert(gone);
                }
            }
        }
    }

    /// Whether `later` is in a prompt that `earlier` is in before it.
    fn continues(earlier: u32, later: u32) -> bool {
        let (branch, i) = (earlier / 1000, earlier % 1000);
        let (other, j) = (later / 1000, later % 1000);
        j > i && (branch == other || (i < 4 && j >= 4 && other >= 100 && (other - 100) / 2 == branch))
    }

    #[test]
    fn two_hits_or_a_ghost_lead_to_the_main_queue() {
        let mut rig: Rig<S3Fifo> = Rig::open();
        (0..10).for_each(|k| rig.store(k));
        (0..2).for_each(|_| rig.find(0));
        rig.find(1);
        assert_eq!((queue(&rig, 0), queue(&rig, 1)), (Queue::Main, Queue::Small));
        rig.end(2, RemovalCause::Evicted);
        rig.end(3, RemovalCause::Removed);
        [2, 3].iter().for_each(|k| rig.store(*k));
        assert_eq!((queue(&rig, 2), queue(&rig, 3)), (Queue::Main, Queue::Small));
    }

    #[test]
    fn ghosts_are_bounded() {
        let mut rig: Rig<S3Fifo> = Rig::open();
        for k in 0..1_000 {
            if k >= 50 {
                rig.evict();
            }
            rig.store(k);
            assert!(rig.policy.ghosts.len() <= 45);
        }
        assert_eq!(rig.policy.ghosts.len(), 45);
    }
}
