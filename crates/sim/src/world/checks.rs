//! Checks after every call, and checks of evictions.

use std::collections::BTreeSet;

use larder_core::{Gauges, PreparedStore, Slot};
use larder_policy::eviction::EvictionKind;
use larder_types::ids::AdapterId;

use super::World;
use crate::model::{ChunkKey, State, StorePlan, Uid, View};
use crate::scenario::Fault;

impl World {
    /// Compares the whole core with the model.
    pub(super) fn verify(&mut self) {
        self.core.check();
        self.follower.verify(&self.core);
        let gone = self.model.gone(&View {
            l1: self.core.index(),
            universe: &self.scenario.universe,
            quarantine_is_full: false,
        });
        assert!(gone.is_empty(), "readable objects were removed: {:?}", self.describe(&gone));
        let (gauges, page) = (self.core.gauges(), self.scenario.page);
        let l1 = gauges.l1;
        let count = |state| self.model.in_state(state).count() as u64;
        assert_eq!(l1.resident_objects, count(State::Resident), "readable objects");
        assert_eq!(l1.staged_objects, count(State::Staged), "objects being written");
        // The model does not know the pins of jobs. While there are jobs, the core may count more than the model.
        let more = self.model.may_hold_more();
        let agrees = |ours: u64, expected: u64| ours == expected || more && ours > expected;
        let unlinked: Vec<Uid> = self.model.in_state(State::Unlinked).collect();
        assert!(
            agrees(l1.unlinked_objects, unlinked.len() as u64),
            "{} objects kept for pins or I/O, not {:?}",
            l1.unlinked_objects,
            self.describe(&unlinked)
        );
        let temporary = self.model.live.iter().filter(|u| self.model.allocs[**u].temporary).count() as u64;
        assert!(
            agrees(l1.temporary_objects, temporary),
            "{} temporary objects, not {temporary}",
            l1.temporary_objects
        );
        assert!(agrees(l1.used_bytes, self.model.used_pages() * page), "bytes used");
        assert_eq!(l1.capacity_bytes, self.pages * page, "size of the arena");
        let pages = |chunks: &mut dyn Iterator<Item = ChunkKey>| {
            chunks.map(|c| self.model.resident_pages(c)).sum::<u64>()
        };
        let most = pages(&mut self.model.evictable.iter().copied()) * page;
        let least = pages(&mut self.model.certainly_evictable()) * page;
        assert!((least..=most).contains(&l1.evictable_bytes), "bytes that may be evicted");
        let unread = |u: &Uid| self.model.allocs[*u].temporary && self.model.pins(*u) == 0;
        let unread = self.model.in_state(State::Resident).find(|u| !more && unread(u));
        assert!(
            unread.is_none(),
            "temporary objects without a reader: {:?}",
            self.describe(unread.as_slice())
        );
        self.verify_requests(&gauges);
        self.verify_jobs(gauges.prefetch_jobs, gauges.prefetch_waiting);
        self.verify_adapters();
        let due = self.core.next_deadline().map(|t| t.as_millis());
        assert!(due.is_none_or(|t| t > self.now), "the core has not handled a deadline that has passed");
        let expected = self.model.next_deadline();
        assert!(
            expected.is_none_or(|e| due.is_some_and(|t| t <= e)),
            "the core's next deadline {due:?} is after that of the model, {expected:?}"
        );
    }

    /// Compares counts of workers, sessions, leases and transfers with the model.
    fn verify_requests(&self, gauges: &Gauges) {
        let m = &self.model;
        let pinning = |s: &&crate::model::Session| {
            let rows = s.lookup.iter().flat_map(|l| &l.rows);
            rows.flat_map(|r| &r.grants).any(|(_, pins)| *pins > 0)
        };
        let late = m.stores.iter().filter(|t| t.overdue).flat_map(|t| &t.uids);
        assert_eq!(
            gauges.quarantined_bytes,
            late.map(|u| m.allocs[*u].bytes).sum::<u64>(),
            "quarantined bytes"
        );
        let overdue = m.stores.iter().chain(&m.retrieves).filter(|t| t.overdue);
        let expected = [
            m.workers.len(),
            m.sessions.len(),
            m.sessions.iter().filter(pinning).count(),
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
    }

    /// Checks the limit of running jobs, and that each job is running, waiting, cancelled or answered once.
    fn verify_jobs(&self, running: u64, waiting: u64) {
        let (m, l2) = (&self.model, self.core.stats().requests().l2);
        let limit = if self.adapters.is_empty() { u64::MAX } else { self.scenario.l2.jobs.max(1) as u64 };
        assert!(running <= limit, "{running} jobs at a time, at most {limit}");
        assert_eq!(running + waiting, m.jobs().count() as u64, "jobs that are running or waiting");
        let ours = [l2.jobs, l2.jobs_cancelled, l2.hit_chunks, l2.hit_objects, l2.policy_faults];
        let c = &m.counted;
        assert_eq!(
            ours,
            [m.submitted, c.jobs_cancelled, c.hit_chunks, c.hit_objects, 0],
            "jobs, cancelled jobs, hit chunks, hit objects and policy faults"
        );
        assert!(
            l2.late_objects == 0 || l2.jobs_overdue > 0,
            "objects are late, but no job reached its deadline"
        );
    }

    /// Checks the limits of each adapter, and that each of its results is counted once.
    fn verify_adapters(&self) {
        let l2 = &self.scenario.l2;
        let mut queued = 0;
        for i in 0..self.adapters.len() as u32 {
            let (gauges, counted) =
                (self.core.adapter_gauges(AdapterId(i)), self.core.stats().adapter(AdapterId(i)));
            let loads = (gauges.loading_bytes, gauges.loading_objects);
            assert_eq!(loads, self.model.in_io(i, true), "loads of adapter {i}");
            let stores = (gauges.storing_bytes, gauges.storing_objects);
            assert_eq!(stores, self.model.in_io(i, false), "stores of adapter {i}");
            assert!(gauges.storing_tasks <= l2.tasks as u64, "{} tasks of adapter {i}", gauges.storing_tasks);
            // A store that is retried is queued beyond the limit.
            let again = counted.stored_objects + counted.store_retried_objects > 0;
            let limit = l2.queue + if again { l2.batch * l2.tasks } else { 0 };
            assert!(gauges.queued_keys <= limit as u64, "{} keys wait for adapter {i}", gauges.queued_keys);
            queued += gauges.queued_keys + gauges.storing_tasks;
            let ended = counted.stored_objects + counted.store_retried_objects + counted.store_failed_objects;
            let in_tasks = counted.store_objects.checked_sub(ended).expect("a result is counted twice");
            assert!(gauges.storing_tasks <= in_tasks, "tasks of adapter {i} without objects");
            assert!(
                gauges.storing_tasks > 0 || in_tasks == 0,
                "{in_tasks} results of adapter {i} are not counted"
            );
            let retries = counted.store_failed_objects * u64::from(l2.retries);
            assert!(counted.store_retried_objects >= retries, "a store failed before its last attempt");
        }
        assert!(
            (queued == 0) == (self.core.gauges().write_back_pending == 0),
            "write-back is pending for no adapter, or not counted as pending"
        );
    }

    fn describe(&self, uids: &[Uid]) -> Vec<String> {
        uids.iter()
            .map(|u| format!("{:?} with {} pins", self.model.allocs[*u], self.model.pins(*u)))
            .collect()
    }

    /// Removes evicted chunks from the model; none may be protected. Returns them with their pages.
    fn accept_evictions(&mut self, protected: &BTreeSet<ChunkKey>) -> Vec<(ChunkKey, u64)> {
        let view =
            View { l1: self.core.index(), universe: &self.scenario.universe, quarantine_is_full: false };
        let evicted = self.model.accept_evictions(&view);
        let needed = evicted.iter().find(|(chunk, _)| protected.contains(chunk));
        assert!(needed.is_none(), "evicted although it is needed: {needed:?}");
        evicted
    }

    /// Whether quotas influence evictions.
    pub(super) fn quotas_matter(&self) -> bool {
        let set = !self.model.limits.is_empty() || self.model.default_limit.is_some();
        set && self.scenario.eviction == EvictionKind::IsolatedLru
    }

    /// Whether the exact order of evictions is known.
    fn order_is_known(&self) -> bool {
        let lru = matches!(self.scenario.eviction, EvictionKind::Lru | EvictionKind::IsolatedLru);
        lru && self.scenario.uniform() && !self.quotas_matter()
    }

    /// Bytes of memory that a salt uses.
    fn owned(&self, salt: u8) -> u64 {
        let own = self.model.live.iter().map(|u| &self.model.allocs[*u]).filter(|a| a.key.chunk.salt == salt);
        own.map(|a| a.pages * self.scenario.page).sum()
    }

    /// Checks that new reservations do not exceed a quota.
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

    /// Checks evictions after a change of quotas: enough from each salt over its quota, but no more.
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
            let more = self.model.certainly_evictable().any(|c| c.salt == salt);
            assert!(self.owned(salt) <= limit || !more, "salt {salt} is over its quota");
            let pages = evicted.iter().filter(|(c, _)| c.salt == salt).map(|(_, p)| *p).max();
            let least = pages.map_or(0, |pages| pages * self.scenario.page);
            let least = if self.model.may_hold_more() { 0 } else { least };
            assert!(least == 0 || self.owned(salt) + least > limit, "salt {salt} lost too much");
        }
    }

    /// Checks that the least recently used chunks were evicted, and the tail of a prompt before its head.
    fn judge_order(&mut self, evicted: &[(ChunkKey, u64)], protected: &BTreeSet<ChunkKey>) {
        self.seen.evictions_judged += evicted.len() as u64;
        let peers = self.scenario.faults.contains(&Fault::Peer);
        let gone: BTreeSet<ChunkKey> = evicted.iter().map(|(c, _)| *c).collect();
        for (victim, _) in evicted {
            let used = self.model.stamps[victim];
            for kept in self.model.evictable.iter().filter(|c| !gone.contains(c) && !protected.contains(c)) {
                let kept_used = self.model.stamps[kept];
                assert!(
                    kept_used.latest >= used.earliest,
                    "{victim:?} ({used:?}) evicted before {kept:?} ({kept_used:?})"
                );
                let continues = victim.model == kept.model
                    && victim.salt == kept.salt
                    && self.scenario.universe.continues(kept.node, victim.node);
                // A peer locks single chunks, so it may use a tail without its head.
                let exact = used.earliest == used.latest && kept_used == used;
                let head_first = !peers && continues && exact;
                assert!(!head_first, "{victim:?} evicted before its continuation {kept:?}");
            }
        }
    }

    /// Checks the slots that a store got, and what was evicted for it.
    pub(super) fn judge_store(&mut self, plan: &StorePlan, prepared: &PreparedStore) {
        let given = prepared.slots.len();
        let mut expected = plan.missing[..given.min(plan.missing.len())].to_vec();
        expected.sort_unstable_by_key(|(chunk, group)| (*group, *chunk));
        let slots: Vec<(u32, u32)> = prepared.slots.iter().map(|slot| (slot.chunk, slot.group)).collect();
        assert_eq!(slots, expected, "objects to write");
        assert_eq!(prepared.no_space, given < plan.missing.len(), "whether there was too little memory");
        let evicted = self.accept_evictions(&plan.protected);
        if self.scenario.uniform() && !evicted.is_empty() {
            if self.order_is_known() {
                self.judge_order(&evicted, &plan.protected);
            }
            let pages = |slot: &Slot| slot.layout.bytes().div_ceil(self.scenario.page);
            let needed: u64 = prepared.slots.iter().map(pages).sum();
            let used: u64 =
                self.model.live.iter().filter(|u| self.stays(**u)).map(|u| self.model.allocs[*u].pages).sum();
            let largest = evicted.iter().map(|(_, pages)| *pages).max().unwrap_or(0);
            let spare = self.pages - used - needed;
            assert!(
                spare < largest || self.quotas_matter() || self.model.may_hold_more(),
                "more was evicted than needed"
            );
        }
    }

    /// Whether a reservation keeps its memory when this event is settled.
    fn stays(&self, uid: Uid) -> bool {
        let alloc = &self.model.allocs[uid];
        alloc.state != State::Unlinked || self.model.pins(uid) > 0 || alloc.io > 0
    }

    /// Checks that no eviction could have freed `pages` contiguous pages for a request that was refused.
    pub(super) fn judge_refusal(&mut self, protected: &BTreeSet<ChunkKey>, pages: u64) {
        if self.quotas_matter() || self.model.may_hold_more() {
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
        assert!(longest < pages, "refused although {longest} pages could be freed");
    }

    /// Checks what trimming evicted after a commit.
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
        let more = self.model.certainly_evictable().next().is_some();
        // A commit that fills a queue of L2 can settle older writes, so that their objects leave L1 before trimming.
        let left_for_l2 = (self.model.in_state(State::Resident).count() as u64)
            > self.core.index().usage().resident_objects;
        assert!(left <= target || !more || left_for_l2, "trimmed too little");
        let largest = evicted.iter().map(|(_, pages)| *pages * page).max().unwrap_or(0);
        assert!(
            evicted.is_empty() || left + largest > target || self.model.may_hold_more(),
            "trimmed too much"
        );
    }

    /// Checks that new reservations are aligned, inside the arena, and do not overlap memory in use.
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
