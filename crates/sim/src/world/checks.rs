//! What must hold after every call, and whether an eviction was right.

use std::collections::BTreeSet;

use larder_core::PreparedStore;
use larder_policy::eviction::EvictionKind;
use larder_types::ids::AdapterId;

use super::World;
use crate::model::{ChunkKey, Reserved, State, StorePlan, Uid, View};
use crate::scenario::Fault;

impl World {
    /// Compares the whole core with the model.
    pub(super) fn verify(&mut self) {
        self.core.check();
        self.follower.verify(&self.core);
        let gone = self.model.gone(&View { l1: self.core.index(), universe: &self.scenario.universe });
        assert!(gone.is_empty(), "readable objects vanished: {:?}", self.describe(&gone));
        let (gauges, page) = (self.core.gauges(), self.scenario.page);
        let l1 = gauges.l1;
        let count = |state| self.model.in_state(state).count() as u64;
        assert_eq!(l1.resident_objects, count(State::Resident), "readable objects");
        assert_eq!(l1.staged_objects, count(State::Staged), "objects being written");
        assert_eq!(l1.unlinked_objects, count(State::Unlinked), "objects kept for somebody");
        let temporary = self.model.live.iter().filter(|u| self.model.allocs[**u].temporary).count();
        assert_eq!(l1.temporary_objects, temporary as u64, "objects that go with their last share");
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
            m.jobs() - m.waiting_jobs(),
            m.waiting_jobs(),
            m.write_back_pending(),
            overdue.map(|t| t.uids.len()).sum(),
        ];
        let ours = [
            gauges.workers,
            gauges.sessions,
            gauges.lookup_leases,
            gauges.stores,
            gauges.retrieves,
            gauges.peer_leases,
            gauges.prefetch_jobs,
            gauges.prefetch_waiting,
            gauges.write_back_pending,
            gauges.quarantined_objects,
        ];
        assert_eq!(
            ours,
            expected.map(|n| n as u64),
            "workers, sessions, leases, stores, retrieves, peers, jobs, waiting, to be stored, quarantine"
        );
        assert_eq!(self.core.stats().requests().l2, m.counters, "what happened between the tiers");
        for (i, expected) in m.of_adapter.iter().enumerate() {
            let (id, i) = (AdapterId(i as u32), i as u32);
            assert_eq!(self.core.stats().adapter(id), expected, "what happened at adapter {i}");
            let ours = self.core.adapter_gauges(id);
            assert_eq!((ours.loading_bytes, ours.loading_objects), m.lent(i, true), "loads of adapter {i}");
            assert_eq!((ours.storing_bytes, ours.storing_objects), m.lent(i, false), "stores of adapter {i}");
            assert_eq!((ours.storing_tasks, ours.queued_keys), m.storing(i), "tasks of adapter {i}");
        }
        let due = self.core.next_deadline().map(|t| t.as_millis());
        assert!(due.is_none_or(|t| t > self.now), "the core has not dealt with all that is due");
        let expected = self.model.next_deadline();
        assert!(
            expected.is_none_or(|e| due.is_some_and(|t| t <= e)),
            "the core will oversleep: {due:?}, {expected:?}"
        );
    }

    fn describe(&self, uids: &[Uid]) -> Vec<String> {
        uids.iter()
            .map(|u| format!("{:?} with {} shares", self.model.allocs[*u], self.model.pins(*u)))
            .collect()
    }

    /// Takes what was evicted out of the model, if it could be. Returns the chunks, with their pages.
    fn accept_evictions(&mut self, protected: &BTreeSet<ChunkKey>) -> Vec<(ChunkKey, u64)> {
        let view = View { l1: self.core.index(), universe: &self.scenario.universe };
        let evicted = self.model.accept_evictions(&view);
        let needed = evicted.iter().find(|(chunk, _)| protected.contains(chunk));
        assert!(needed.is_none(), "evicted although it is needed: {needed:?}");
        evicted
    }

    /// Whether quotas have a say in what is evicted.
    pub(super) fn quotas_matter(&self) -> bool {
        let set = !self.model.limits.is_empty() || self.model.default_limit.is_some();
        set && self.scenario.eviction == EvictionKind::IsolatedLru
    }

    /// Whether what is evicted is exactly known.
    fn order_is_known(&self) -> bool {
        let lru = matches!(self.scenario.eviction, EvictionKind::Lru | EvictionKind::IsolatedLru);
        lru && self.scenario.uniform() && !self.quotas_matter()
    }

    /// A salt owns so many bytes.
    fn owned(&self, salt: u8) -> u64 {
        let own = self.model.live.iter().map(|u| &self.model.allocs[*u]).filter(|a| a.key.chunk.salt == salt);
        own.map(|a| a.pages * self.scenario.page).sum()
    }

    /// Nobody takes memory beyond its quota.
    fn judge_growth(&self, new: &[Uid]) {
        if !self.quotas_matter() {
            return;
        }
        for uid in new {
            let salt = self.model.allocs[*uid].key.chunk.salt;
            let limit = self.model.limits.get(&salt).copied().or(self.model.default_limit);
            assert!(limit.is_none_or(|l| self.owned(salt) <= l), "salt {salt} grew beyond {limit:?}");
        }
    }

    /// After a change of quotas: nobody is over one who could give something.
    pub(super) fn judge_quotas(&mut self) {
        if !self.quotas_matter() {
            return;
        }
        let evicted = self.accept_evictions(&BTreeSet::new());
        self.seen.evicted_for_quotas += evicted.len() as u64;
        self.model.settle();
        for salt in 0..self.scenario.universe.salts.len() as u8 {
            let Some(limit) = self.model.limits.get(&salt).copied().or(self.model.default_limit) else {
                continue;
            };
            let more = self.model.evictable.iter().any(|c| c.salt == salt);
            assert!(self.owned(salt) <= limit || !more, "salt {salt} is over its quota");
            let pages = evicted.iter().filter(|(c, _)| c.salt == salt).map(|(_, p)| *p).max();
            let least = pages.map_or(0, |pages| pages * self.scenario.page);
            assert!(least == 0 || self.owned(salt) + least > limit, "salt {salt} lost too much");
        }
    }

    /// What loads evicted, and whether they had to do with less than was possible.
    pub(super) fn judge_reserved(&mut self, reserved: &Reserved) {
        let Reserved { protected, refused, exact, evicted, new } = reserved;
        self.judge_growth(new);
        if *exact && self.scenario.trim.is_none() && self.order_is_known() {
            self.judge_order(evicted, protected);
        }
        if let Some(pages) = refused {
            self.seen.loads_refused += 1;
            self.judge_refusal(protected, *pages);
        }
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
        assert_eq!(prepared.no_space, given < plan.missing.len(), "whether memory ended");
        let evicted = self.accept_evictions(&plan.protected);
        if self.scenario.uniform() && !evicted.is_empty() {
            if self.order_is_known() {
                self.judge_order(&evicted, &plan.protected);
            }
            let needed = given as u64 * plan.bytes.div_ceil(self.scenario.page);
            let used: u64 =
                self.model.live.iter().filter(|u| self.stays(**u)).map(|u| self.model.allocs[*u].pages).sum();
            let largest = evicted.iter().map(|(_, pages)| *pages).max().unwrap_or(0);
            let spare = self.pages - used - needed;
            assert!(spare < largest || self.quotas_matter(), "more was evicted than needed");
        }
    }

    /// Whether memory is still in use once this event is settled.
    fn stays(&self, uid: Uid) -> bool {
        let alloc = &self.model.allocs[uid];
        alloc.state != State::Unlinked || self.model.pins(uid) > 0 || alloc.loans > 0
    }

    /// If somebody got less than it wanted, no eviction could have made room for more.
    pub(super) fn judge_refusal(&mut self, protected: &BTreeSet<ChunkKey>, pages: u64) {
        if self.quotas_matter() {
            return;
        }
        let page = self.scenario.page;
        let mut busy = vec![false; self.pages as usize];
        for uid in &self.model.live {
            let alloc = &self.model.allocs[*uid];
            let chunk = alloc.key.chunk;
            let evictable = alloc.state == State::Resident
                && self.scenario.eviction != EvictionKind::Noop
                && self.model.evictable.contains(&chunk)
                && !protected.contains(&chunk);
            if !evictable {
                busy[(alloc.offset / page) as usize..][..alloc.pages as usize].fill(true);
            }
        }
        let longest = busy.split(|b| *b).map(<[bool]>::len).max().unwrap_or(0) as u64;
        assert!(longest < pages, "refused although {longest} pages could be had");
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
        if self.order_is_known() {
            self.judge_order(&evicted, &none);
        }
        self.model.settle();
        let left = self.model.used_pages() * page;
        assert!(left <= target || self.model.evictable.is_empty(), "trimmed too little");
        let largest = evicted.iter().map(|(_, pages)| *pages * page).max().unwrap_or(0);
        assert!(evicted.is_empty() || left + largest > target, "trimmed too much");
    }

    /// What trimming evicted when a lookup ended. Several may have ended in one call, so how little would
    /// have done is not known.
    pub(super) fn judge_answer_trim(&mut self) {
        let Some(trim) = self.scenario.trim else { return };
        self.accept_evictions(&BTreeSet::new());
        self.model.settle();
        let page = self.scenario.page;
        let above = (self.pages * page) as f64 * trim.above;
        let used = (self.model.used_pages() * page) as f64;
        let done = used <= above || self.model.evictable.is_empty();
        assert!(done || self.scenario.eviction == EvictionKind::Noop, "not trimmed when a lookup ended");
    }

    /// New reservations are whole pages of the arena that nobody else has.
    pub(super) fn check_new_slots(&self, new: &[Uid]) {
        self.judge_growth(new);
        let page = self.scenario.page;
        for &new in new {
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
            for io in self.ios.iter().filter(|io| io.lent) {
                let p = &io.place;
                assert!(start >= p.page + p.pages || p.page >= end, "{slot:?} is still used by {io:?}");
            }
        }
    }
}
