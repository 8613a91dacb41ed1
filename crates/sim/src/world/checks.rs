//! What must hold after every call, and whether an eviction was right.

use std::collections::BTreeSet;

use larder_store::l1::Cell;
use larder_store::l1::eviction::EvictionKind;
use larder_store::transfer::PreparedStore;

use super::World;
use crate::model::{ChunkKey, State, StorePlan, Uid};
use crate::scenario::Fault;

impl World {
    /// Compares the whole core with the model.
    pub(super) fn verify(&self) {
        self.core.check();
        let gone = self.gone();
        assert!(gone.is_empty(), "readable objects vanished: {:?}", self.describe(&gone));
        let (gauges, page) = (self.core.gauges(), self.scenario.page);
        let l1 = gauges.l1;
        let count = |state| self.model.in_state(state).count() as u64;
        assert_eq!(l1.resident_objects, count(State::Resident), "readable objects");
        assert_eq!(l1.staged_objects, count(State::Staged), "objects being written");
        assert_eq!(l1.unlinked_objects, count(State::Unlinked), "objects kept for somebody");
        assert_eq!(l1.used_bytes, self.model.used_pages() * page, "bytes used");
        assert_eq!(l1.capacity_bytes, self.pages * page, "size of the arena");
        let evictable: u64 = self.model.evictable.iter().map(|c| self.model.resident_pages(*c)).sum();
        assert_eq!(l1.evictable_bytes, evictable * page, "bytes that may be evicted");
        let m = &self.model;
        let sharing = |s: &&crate::model::Session| {
            let rows = s.lookup.iter().flat_map(|l| &l.rows);
            rows.flat_map(|r| &r.grants).any(|(_, shares)| *shares > 0)
        };
        let overdue = m.stores.iter().chain(&m.retrieves).filter(|t| t.overdue);
        let expected = [
            m.workers.len(),
            m.sessions.len(),
            m.sessions.iter().filter(sharing).count(),
            m.stores.iter().filter(|t| !t.overdue).count(),
            m.retrieves.iter().filter(|t| !t.overdue).count(),
            m.peers.len(),
            overdue.map(|t| t.uids.len()).sum(),
        ];
        let ours = [
            gauges.workers,
            gauges.sessions,
            gauges.lookup_leases,
            gauges.stores,
            gauges.retrieves,
            gauges.peer_leases,
            gauges.quarantined_objects,
        ];
        assert_eq!(
            ours,
            expected.map(|n| n as u64),
            "workers, sessions, leases, stores, retrieves, peers, quarantine"
        );
        let due = self.core.next_deadline().map(|t| t.as_millis());
        assert!(due.is_none_or(|t| t > self.now), "the core has not dealt with all that is due");
        let expected = self.model.next_deadline();
        assert!(
            expected.is_none_or(|e| due.is_some_and(|t| t <= e)),
            "the core will oversleep: {due:?}, {expected:?}"
        );
    }

    /// Readable objects that the core does not have where it put them.
    fn gone(&self) -> Vec<Uid> {
        let (l1, universe) = (self.core.l1(), &self.scenario.universe);
        let there = |uid: &Uid| {
            let alloc = &self.model.allocs[*uid];
            let key = alloc.key;
            let model = &universe.models[usize::from(key.chunk.model)];
            let salt = &universe.salts[usize::from(key.chunk.salt)];
            let chunk = l1.chunk(model, salt, universe.hash(key.chunk.node));
            let object = chunk.and_then(|c| l1.resident(c, Cell { rank: key.rank, group: 0 }));
            object.is_some_and(|o| l1.offset(o) == alloc.offset && l1.layout(o).bytes() == alloc.bytes)
        };
        self.model.in_state(State::Resident).filter(|u| !there(u)).collect()
    }

    fn describe(&self, uids: &[Uid]) -> Vec<String> {
        uids.iter()
            .map(|u| format!("{:?} with {} shares", self.model.allocs[*u], self.model.pins(*u)))
            .collect()
    }

    /// Takes what was evicted out of the model, if it could be. Returns the chunks, with their pages.
    fn accept_evictions(&mut self, protected: &BTreeSet<ChunkKey>) -> Vec<(ChunkKey, u64)> {
        let gone = self.gone();
        let chunks: BTreeSet<ChunkKey> = gone.iter().map(|u| self.model.allocs[*u].key.chunk).collect();
        let mut evicted = Vec::new();
        for chunk in chunks {
            let free = self.model.evictable.contains(&chunk) && !protected.contains(&chunk);
            assert!(free, "evicted although held or needed: {:?}", self.describe(&gone));
            let of_chunk = |u: &Uid| self.model.allocs[*u].key.chunk == chunk;
            let resident: Vec<Uid> = self.model.in_state(State::Resident).filter(of_chunk).collect();
            assert!(resident.iter().all(|u| gone.contains(u)), "only part of {chunk:?} was evicted");
            evicted.push((chunk, self.model.resident_pages(chunk)));
        }
        gone.iter().for_each(|u| self.model.unlink(*u));
        evicted
    }

    /// Exactly the least recently used chunks were evicted, of one prompt the tail first.
    fn judge_order(&mut self, evicted: &[(ChunkKey, u64)], protected: &BTreeSet<ChunkKey>) {
        self.seen.evictions_judged += evicted.len() as u64;
        let peers = self.scenario.faults.contains(&Fault::Peer);
        let gone: BTreeSet<ChunkKey> = evicted.iter().map(|(c, _)| *c).collect();
        for (victim, _) in evicted {
            let used = self.model.stamps[victim];
            for kept in self.model.evictable.iter().filter(|c| !gone.contains(c) && !protected.contains(c)) {
                let kept_used = self.model.stamps[kept];
                assert!(
                    kept_used >= used,
                    "{victim:?} (used {used}) evicted before {kept:?} (used {kept_used})"
                );
                let continues = victim.model == kept.model
                    && victim.salt == kept.salt
                    && self.scenario.universe.continues(kept.node, victim.node);
                // A peer locks single chunks: it may use a tail without its head.
                let head_first = !peers && continues && kept_used == used;
                assert!(!head_first, "{victim:?} evicted before its continuation {kept:?}");
            }
        }
    }

    /// What a store evicted, and dropped for being unreadable.
    pub(super) fn judge_store(&mut self, plan: &StorePlan, prepared: &PreparedStore) {
        let given = prepared.slots.len();
        assert_eq!(prepared.chunks, plan.missing[..given.min(plan.missing.len())], "chunks to write");
        assert_eq!(prepared.no_room, given < plan.missing.len(), "whether memory ended");
        let tried = (given + 1).min(plan.dropped.len());
        plan.dropped[..tried].iter().flatten().for_each(|u| self.model.unlink(*u));
        let evicted = self.accept_evictions(&plan.protected);
        if self.scenario.uniform() && !evicted.is_empty() {
            self.judge_order(&evicted, &plan.protected);
            let needed = given as u64 * plan.bytes.div_ceil(self.scenario.page);
            let used: u64 =
                self.model.live.iter().filter(|u| self.stays(**u)).map(|u| self.model.allocs[*u].pages).sum();
            let largest = evicted.iter().map(|(_, pages)| *pages).max().unwrap_or(0);
            assert!(self.pages - used - needed < largest, "more was evicted than needed");
        }
    }

    /// Whether memory is still in use once this event is settled.
    fn stays(&self, uid: Uid) -> bool {
        self.model.allocs[uid].state != State::Unlinked || self.model.pins(uid) > 0
    }

    /// If a store got less than it wanted, no eviction could have made room for more.
    pub(super) fn judge_refusal(&mut self, plan: &StorePlan, given: usize) {
        if given == plan.missing.len() {
            return;
        }
        self.seen.stores_refused += 1;
        let page = self.scenario.page;
        let mut busy = vec![false; self.pages as usize];
        for uid in &self.model.live {
            let alloc = &self.model.allocs[*uid];
            let chunk = alloc.key.chunk;
            let evictable = alloc.state == State::Resident
                && self.scenario.eviction == EvictionKind::Lru
                && self.model.evictable.contains(&chunk)
                && !plan.protected.contains(&chunk);
            if !evictable {
                busy[(alloc.offset / page) as usize..][..alloc.pages as usize].fill(true);
            }
        }
        let longest = busy.split(|b| *b).map(<[bool]>::len).max().unwrap_or(0) as u64;
        assert!(longest < plan.bytes.div_ceil(page), "refused although {longest} pages could be had");
    }

    /// What trimming evicted after a commit.
    pub(super) fn judge_trim(&mut self) {
        let Some(trim) = self.scenario.trim else { return };
        let page = self.scenario.page;
        let capacity = (self.pages * page) as f64;
        let used = self.model.used_pages() * page;
        if used as f64 <= capacity * trim.above || self.scenario.eviction == EvictionKind::Noop {
            return;
        }
        let target = (capacity * (trim.above - trim.release).max(0.0)) as u64;
        let none = BTreeSet::new();
        let evicted = self.accept_evictions(&none);
        self.judge_order(&evicted, &none);
        self.model.settle();
        let left = self.model.used_pages() * page;
        assert!(left <= target || self.model.evictable.is_empty(), "trimmed too little");
        let largest = evicted.iter().map(|(_, pages)| *pages * page).max().unwrap_or(0);
        assert!(evicted.is_empty() || left + largest > target, "trimmed too much");
    }

    /// The last `count` reservations are whole pages of the arena that nobody else has.
    pub(super) fn check_new_slots(&self, count: usize) {
        let (page, total) = (self.scenario.page, self.model.allocs.len());
        for new in total - count..total {
            let slot = &self.model.allocs[new];
            assert_eq!(slot.offset % page, 0, "a slot that is not aligned");
            let (start, end) = (slot.offset / page, slot.offset / page + slot.pages);
            assert!(end <= self.pages, "a slot outside the arena");
            for other in self.model.live.iter().filter(|u| **u != new) {
                let other = &self.model.allocs[*other];
                let from = other.offset / page;
                assert!(end <= from || from + other.pages <= start, "{slot:?} overlaps {other:?}");
            }
            for copy in self.copies.iter().filter(|c| c.running) {
                let clash = copy.places.iter().any(|p| start < p.page + p.pages && p.page < end);
                assert!(!clash, "{slot:?} is still used by {copy:?}");
            }
        }
    }
}
