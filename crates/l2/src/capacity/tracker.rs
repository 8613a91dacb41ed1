//! Which objects a bounded adapter holds and which it evicts next. Pure: never removes any data itself.
//!
//! The order is an [`EvictionPolicy`] of L1 over slot numbers, and the bytes of cache salts are its
//! [`QuotaUsage`]. Invariants: `used_bytes` is the sum of all entries and reservations, and so is the usage
//! of each cache salt; every entry is in the order, and pinned or evicting ones are skipped when a victim is
//! selected; usage exceeds a limit only by what was there before the limit was set.
//!
//! A use is a lookup or a store. A load is not: its object was looked up before, and loads end in any order.
//!
//! Objects found at start come before all others in the order. They are collected with
//! [`CapacityTracker::insert_found`] and ordered by [`CapacityTracker::finish_recovery`]; nothing is evicted
//! before that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use larder_policy::eviction::{
    ChunkMeta, EvictDecision, EvictionKind, EvictionPolicy, RemovalCause, digest, name_digest,
};
use larder_policy::linear_table::LinearTable;
use larder_policy::quota::{QuotaUsage, TenantId};
use larder_policy::segmented::SegmentedSlab;
use larder_types::ids::ChunkId;
use larder_types::object::ObjectKey;

use super::CapacityLimits;
use crate::adapter::{Integrity, Usage};

#[derive(Debug)]
struct Entry {
    key: ObjectKey,
    tenant: TenantId,
    bytes: u64,
    /// Loads that are reading it.
    pins: u32,
    /// Selected as a victim; its data is being removed.
    evicting: bool,
    /// Its data cannot be removed, so it is no victim until it is stored again.
    stuck: bool,
    /// Found at start and not used since: not in the order until the recovery is finished.
    found: bool,
}

impl Entry {
    /// What the policy may know of it. Objects of one chunk differ in their digest.
    fn meta(&self) -> ChunkMeta<'_> {
        let ObjectKey { chunk_hash, model_name, kv_rank, object_group, cache_salt, layout } = &self.key;
        let mut shard = [0; 16];
        shard[..4].copy_from_slice(&object_group.to_le_bytes());
        shard[4..8].copy_from_slice(&kv_rank.0.to_le_bytes());
        shard[8..].copy_from_slice(&layout.as_u64().to_le_bytes());
        ChunkMeta {
            hash: chunk_hash,
            name_digest: digest(name_digest(model_name, cache_salt), &shard),
            tenant: self.tenant,
            reuse: None,
        }
    }
}

/// The result of a reservation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reserve {
    /// The bytes are reserved.
    Reserved,
    /// This object must be evicted first. It is still counted.
    Evict(ObjectKey),
    /// Nothing can be evicted at the moment.
    Busy,
    /// The object can never be stored, for this reason.
    Never(&'static str),
}

/// The objects of an adapter, their bytes and the order in which they are evicted.
#[derive(Debug)]
pub(crate) struct CapacityTracker {
    limits: CapacityLimits,
    entries: SegmentedSlab<Entry>,
    index: LinearTable<u32>,
    hasher: RandomState,
    order: Box<dyn EvictionPolicy>,
    usage: QuotaUsage,
    /// No tenant: the order over all objects does not put those of tenants over their quota first.
    no_tenants: QuotaUsage,
    used_bytes: u64,
    /// Entries that are being evicted.
    evicting: u64,
    /// Objects still to be evicted in advance, of a tenant or of all.
    to_trim: HashMap<Option<TenantId>, u64>,
    evicted_objects: u64,
    evicted_bytes: u64,
}

impl CapacityTracker {
    pub(crate) fn new(limits: CapacityLimits) -> Self {
        let mut tracker = Self {
            entries: SegmentedSlab::default(),
            index: LinearTable::default(),
            hasher: RandomState::new(),
            order: limits.policy.create(),
            usage: QuotaUsage::default(),
            no_tenants: QuotaUsage::default(),
            used_bytes: 0,
            evicting: 0,
            to_trim: HashMap::new(),
            evicted_objects: 0,
            evicted_bytes: 0,
            limits,
        };
        let default_limit = tracker.limits.tenants.default_limit_bytes;
        if tracker.order.enforces_quotas() {
            tracker.usage.update_quotas(|quotas| quotas.set_default_limit(default_limit));
            for (salt, limit) in std::mem::take(&mut tracker.limits.tenants.limits) {
                tracker.set_limit(&salt, Some(limit));
            }
        }
        tracker
    }

    pub(crate) fn usage(&self, recovering: bool) -> Usage {
        Usage {
            used_bytes: self.used_bytes,
            capacity_bytes: self.limits.capacity_bytes,
            objects: self.entries.len() as u64,
            evicted_objects: self.evicted_objects,
            evicted_bytes: self.evicted_bytes,
            recovering,
            integrity: Integrity::default(),
            space: None,
        }
    }

    /// Bytes of each cache salt that holds any.
    pub(crate) fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        let held = self.usage.usage().map(|(salt, usage)| (salt.clone(), usage.used_bytes));
        held.filter(|(_, bytes)| *bytes > 0).collect()
    }

    fn find(&self, key: &ObjectKey) -> Option<u32> {
        let entries = &self.entries;
        self.index.find(self.hasher.hash_one(key), |&at| entries[at].key == *key).copied()
    }

    /// Bytes of an object.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<u64> {
        self.find(key).map(|at| self.entries[at].bytes)
    }

    /// Records a use of an object. Whether it is there.
    pub(crate) fn touch(&mut self, key: &ObjectKey) -> bool {
        self.find(key).inspect(|at| self.touch_entry(*at)).is_some()
    }

    fn touch_entry(&mut self, at: u32) {
        let entry = &mut self.entries[at];
        if std::mem::take(&mut entry.found) {
            self.order.insert(chunk(at), &entry.meta());
        } else {
            self.order.on_access(chunk(at), &entry.meta());
        }
    }

    /// Records that an object is there and was used just now.
    pub(crate) fn insert(&mut self, key: &ObjectKey, bytes: u64) {
        let Some(at) = self.find(key) else {
            let at = self.add(key, bytes);
            return self.order.insert(chunk(at), &self.entries[at].meta());
        };
        self.touch_entry(at);
        self.set_evicting(at, false);
        let entry = &mut self.entries[at];
        entry.stuck = false;
        let (before, tenant) = (std::mem::replace(&mut entry.bytes, bytes), entry.tenant);
        self.charge(tenant, bytes);
        self.refund(tenant, before);
    }

    /// Records an object that was found at start, unless it is known.
    pub(crate) fn insert_found(&mut self, key: &ObjectKey, bytes: u64) {
        if self.find(key).is_none() {
            let at = self.add(key, bytes);
            self.entries[at].found = true;
        }
    }

    /// Orders the objects that were found at start, first victim first in `keys`, before all others.
    pub(crate) fn finish_recovery<'a>(&mut self, keys: impl Iterator<Item = &'a ObjectKey>) {
        let mut used = Vec::new();
        self.order.visit_victims(&self.no_tenants, &mut |id| {
            used.push(id);
            EvictDecision::Skip
        });
        used.iter().for_each(|id| self.order.remove(*id));
        let found = keys.filter_map(|key| self.find(key)).collect::<Vec<_>>();
        for at in found {
            if std::mem::take(&mut self.entries[at].found) {
                self.order.insert(chunk(at), &self.entries[at].meta());
            }
        }
        for id in used {
            self.order.insert(id, &self.entries[id.0].meta());
        }
    }

    /// Removes an object. Its bytes, if it was there.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<u64> {
        self.remove_for(key, RemovalCause::Removed)
    }

    fn remove_for(&mut self, key: &ObjectKey, cause: RemovalCause) -> Option<u64> {
        let hash = self.hasher.hash_one(key);
        let at = self.find(key)?;
        self.index.remove(hash, |&other| other == at);
        self.set_evicting(at, false);
        let entry = self.entries.remove(at);
        if !entry.found {
            self.order.remove(chunk(at));
        }
        self.order.on_removed(chunk(at), &entry.meta(), cause);
        self.refund(entry.tenant, entry.bytes);
        Some(entry.bytes)
    }

    /// Removes all objects; limits and reservations stay. Returns the objects.
    pub(crate) fn clear(&mut self) -> Vec<ObjectKey> {
        let keys: Vec<_> = self.entries.iter().map(|(_, entry)| entry.key.clone()).collect();
        for key in &keys {
            self.remove(key);
        }
        keys
    }

    /// Up to `count` objects at positions from `from` on, and the position after the last; `None` at the end.
    /// Positions are those of the table, so that steps over all objects are cheap; objects that are added meanwhile may
    /// be missed.
    pub(crate) fn some_from(&self, from: usize, count: usize) -> (Vec<ObjectKey>, Option<usize>) {
        let end = from.saturating_add(count).min(self.entries.end() as usize);
        let entries = (from..end).filter_map(|at| self.entries.get(at as u32));
        let keys = entries.map(|entry| entry.key.clone()).collect();
        (keys, Some(end).filter(|end| *end < self.entries.end() as usize))
    }

    /// Protects an object from eviction until [`CapacityTracker::unpin`]. Whether it is there.
    pub(crate) fn pin(&mut self, key: &ObjectKey) -> bool {
        self.find(key).inspect(|at| self.entries[*at].pins += 1).is_some()
    }

    /// Ends one [`CapacityTracker::pin`]. If the object was removed and stored again in between, the pin
    /// ended with the removed one.
    pub(crate) fn unpin(&mut self, key: &ObjectKey) {
        if let Some(at) = self.find(key) {
            let entry = &mut self.entries[at];
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Reserves space for `salt`, or selects an object to evict first: a salt at its own limit evicts its own
    /// objects. The caller removes the victim's data, calls [`CapacityTracker::evicted`] or
    /// [`CapacityTracker::keep`], and tries again.
    pub(crate) fn reserve(&mut self, salt: &Arc<str>, bytes: u64) -> Reserve {
        let capacity = self.limits.capacity_bytes.unwrap_or(u64::MAX);
        if bytes > capacity {
            return Reserve::Never("is larger than the capacity");
        }
        if self.usage.quotas().limit_of(salt).is_some_and(|limit| bytes > limit) {
            return Reserve::Never("is larger than the quota of its cache salt");
        }
        if let Some(tenant) = self.usage.tenant(salt).filter(|tenant| self.usage.excess(*tenant, bytes) > 0) {
            return self.victim(Some(tenant)).map_or(Reserve::Busy, Reserve::Evict);
        }
        if self.used_bytes + bytes > capacity {
            if self.limits.policy == EvictionKind::Noop {
                return Reserve::Never(
                    "does not fit the capacity, and nothing is evicted (eviction_policy noop)",
                );
            }
            return self.victim(None).map_or(Reserve::Busy, Reserve::Evict);
        }
        if bytes > 0 {
            let tenant = self.usage.tenant_or_insert(salt);
            self.charge(tenant, bytes);
        }
        Reserve::Reserved
    }

    /// Ends a reservation.
    pub(crate) fn release(&mut self, salt: &Arc<str>, bytes: u64) {
        if let Some(tenant) = self.usage.tenant(salt).filter(|_| bytes > 0) {
            self.refund(tenant, bytes);
        }
    }

    /// The next object to evict to fit the capacity.
    pub(crate) fn next_over_capacity(&mut self) -> Option<ObjectKey> {
        let over = self.limits.capacity_bytes.is_some_and(|capacity| self.used_bytes > capacity);
        if over { self.victim(None) } else { None }
    }

    /// The next object to evict in advance, after an object of `salt` was stored: of that salt where quotas are
    /// enforced, else of all.
    pub(crate) fn next_to_trim(&mut self, salt: &str) -> Option<ObjectKey> {
        let trim = self.limits.trim?;
        let tenant = if self.order.enforces_quotas() { Some(self.usage.tenant(salt)?) } else { None };
        let left = match self.to_trim.get(&tenant) {
            Some(left) => *left,
            // What other threads evict is still counted.
            None if self.evicting > 0 => return None,
            None => {
                let (used, limit, objects) = match tenant {
                    Some(id) => (self.usage.used_bytes(id), self.usage.limit(id), self.usage.objects(id)),
                    None => (self.used_bytes, self.limits.capacity_bytes?, self.entries.len() as u64),
                };
                if limit == 0 || limit == u64::MAX || (used as f64 / limit as f64) < trim.trigger {
                    return None;
                }
                trim.evicted(objects)
            }
        };
        let victim = if left > 0 { self.victim(tenant) } else { None };
        if victim.is_some() && left > 1 {
            self.to_trim.insert(tenant, left - 1);
        } else {
            self.to_trim.remove(&tenant);
        }
        victim
    }

    /// The next object to evict because the backend has no space for an object of `salt`, whatever the capacity is.
    pub(crate) fn next_for_space(&mut self, salt: &str) -> Option<ObjectKey> {
        match self.limits.policy {
            EvictionKind::Noop => None,
            EvictionKind::IsolatedLru => {
                let own = self.usage.tenant(salt).and_then(|tenant| self.victim(Some(tenant)));
                own.or_else(|| self.victim(None))
            }
            _ => self.victim(None),
        }
    }

    /// Sets the limit of a cache salt; `None`: the default limit. Without effect if the policy does not enforce
    /// quotas.
    pub(crate) fn set_limit(&mut self, salt: &Arc<str>, limit: Option<u64>) {
        if !self.order.enforces_quotas() {
            return;
        }
        self.usage.update_quotas(|quotas| match limit {
            Some(bytes) => {
                if let Err(error) = quotas.set(salt, bytes) {
                    tracing::warn!(%error, "the L2 adapter did not set the quota of a cache salt");
                }
            }
            None => drop(quotas.delete(salt)),
        });
    }

    /// The next object to evict for a cache salt to be within its limit.
    pub(crate) fn next_over_quota(&mut self, salt: &str) -> Option<ObjectKey> {
        let tenant = self.usage.tenant(salt)?;
        if self.usage.excess(tenant, 0) > 0 { self.victim(Some(tenant)) } else { None }
    }

    /// Whether a selected victim may still be evicted: it was not stored again, and no load reads it.
    pub(crate) fn may_evict(&self, key: &ObjectKey) -> bool {
        self.find(key).is_some_and(|at| self.entries[at].evicting && self.entries[at].pins == 0)
    }

    /// The victim's data is removed.
    pub(crate) fn evicted(&mut self, key: &ObjectKey) {
        if let Some(bytes) = self.remove_for(key, RemovalCause::Evicted) {
            self.evicted_objects += 1;
            self.evicted_bytes += bytes;
        }
    }

    /// The victim is not evicted, and counts as used just now.
    pub(crate) fn keep(&mut self, key: &ObjectKey) {
        if let Some(at) = self.find(key) {
            self.set_evicting(at, false);
            self.touch_entry(at);
        }
    }

    /// The victim's data cannot be removed. It stays counted, and is not selected again.
    pub(crate) fn set_stuck(&mut self, key: &ObjectKey) {
        if let Some(at) = self.find(key) {
            self.set_evicting(at, false);
            self.entries[at].stuck = true;
        }
    }

    fn set_evicting(&mut self, at: u32, evicting: bool) {
        let before = std::mem::replace(&mut self.entries[at].evicting, evicting);
        self.evicting = self.evicting + u64::from(evicting) - u64::from(before);
    }

    /// Selects the next victim of `tenant`, or of all.
    fn victim(&mut self, tenant: Option<TenantId>) -> Option<ObjectKey> {
        let (entries, mut victim) = (&self.entries, None);
        let visit = &mut |id: ChunkId| {
            let at = id.0;
            if entries[at].pins > 0 || entries[at].evicting || entries[at].stuck {
                return EvictDecision::Skip;
            }
            victim = Some(at);
            EvictDecision::Done
        };
        match tenant {
            Some(tenant) => self.order.visit_victims_of(tenant, visit),
            None => self.order.visit_victims(&self.no_tenants, visit),
        }
        let at = victim?;
        self.set_evicting(at, true);
        Some(self.entries[at].key.clone())
    }

    fn add(&mut self, key: &ObjectKey, bytes: u64) -> u32 {
        let tenant = self.usage.tenant_or_insert(&key.cache_salt);
        self.charge(tenant, bytes);
        let entry =
            Entry { key: key.clone(), tenant, bytes, pins: 0, evicting: false, stuck: false, found: false };
        let at = self.entries.insert(entry);
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash_of = |&other: &u32| hasher.hash_one(&entries[other].key);
        self.index.insert_unique(hasher.hash_one(key), at, hash_of);
        at
    }

    fn charge(&mut self, tenant: TenantId, bytes: u64) {
        self.usage.add_object(tenant);
        self.usage.add_bytes(tenant, bytes);
        self.used_bytes += bytes;
    }

    fn refund(&mut self, tenant: TenantId, bytes: u64) {
        self.usage.remove_object(tenant, bytes);
        self.used_bytes -= bytes;
    }
}

fn chunk(at: u32) -> ChunkId {
    ChunkId(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_types::object::{ChunkHash, KvRank};
    use proptest::prelude::*;

    fn key(n: u8) -> ObjectKey {
        let hash = ChunkHash::new(&[n]).unwrap();
        ObjectKey::new(hash, "m", KvRank::new(1, 0), 0, "").unwrap()
    }

    fn salt() -> Arc<str> {
        "".into()
    }

    #[test]
    fn evicts_least_recently_used_and_counts_victim_until_removed() {
        let mut tracker = CapacityTracker::new(CapacityLimits::capacity(30));
        for n in 0..3 {
            assert_eq!(tracker.reserve(&salt(), 10), Reserve::Reserved);
            tracker.release(&salt(), 10);
            tracker.insert(&key(n), 10);
        }
        tracker.touch(&key(0));
        assert_eq!(tracker.reserve(&salt(), 10), Reserve::Evict(key(1)));
        assert_eq!(tracker.usage(false).used_bytes, 30);
        assert!(tracker.may_evict(&key(1)));
        tracker.evicted(&key(1));
        assert_eq!(tracker.reserve(&salt(), 10), Reserve::Reserved);
        assert_eq!(tracker.usage(false).evicted_bytes, 10);
    }

    #[test]
    fn pinned_objects_are_not_evicted() {
        let mut tracker = CapacityTracker::new(CapacityLimits::capacity(20));
        tracker.insert(&key(0), 10);
        tracker.insert(&key(1), 10);
        assert!(tracker.pin(&key(0)) && tracker.pin(&key(0)) && tracker.pin(&key(1)));
        assert_eq!(tracker.reserve(&salt(), 1), Reserve::Busy);
        tracker.unpin(&key(0));
        assert_eq!(tracker.reserve(&salt(), 1), Reserve::Busy, "still pinned once");
        tracker.unpin(&key(0));
        assert_eq!(tracker.reserve(&salt(), 1), Reserve::Evict(key(0)));
        assert!(tracker.pin(&key(0)), "pinned after it was selected");
        assert!(!tracker.may_evict(&key(0)));
        tracker.keep(&key(0));
        assert_eq!(tracker.reserve(&salt(), 1), Reserve::Busy);
        assert_eq!(tracker.reserve(&salt(), 21), Reserve::Never("is larger than the capacity"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u64),
        PutOldest(u8, u64),
        Remove(u8),
        Touch(u8),
        Pin(u8),
        Unpin(u8),
        Evict(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..6_u8;
        prop_oneof![
            (key.clone(), 0..9_u64).prop_map(|(k, n)| Step::Put(k, n)),
            (key.clone(), 0..9_u64).prop_map(|(k, n)| Step::PutOldest(k, n)),
            key.clone().prop_map(Step::Remove),
            key.clone().prop_map(Step::Touch),
            key.clone().prop_map(Step::Pin),
            key.prop_map(Step::Unpin),
            (0..12_u64).prop_map(Step::Evict),
        ]
    }

    /// The same in one list: oldest first, with bytes and pins.
    #[derive(Default)]
    struct Naive(Vec<(u8, u64, u32)>);

    impl Naive {
        fn of(&mut self, n: u8) -> Option<&mut (u8, u64, u32)> {
            self.0.iter_mut().find(|entry| entry.0 == n)
        }

        fn take(&mut self, n: u8) -> Option<(u8, u64, u32)> {
            let at = self.0.iter().position(|entry| entry.0 == n)?;
            Some(self.0.remove(at))
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut tracker, mut naive) = (CapacityTracker::new(CapacityLimits::capacity(20)), Naive::default());
            for step in steps {
                match step {
                    Step::Put(n, bytes) => {
                        tracker.insert(&key(n), bytes);
                        let pins = naive.take(n).map_or(0, |entry| entry.2);
                        naive.0.push((n, bytes, pins));
                    }
                    Step::PutOldest(n, bytes) => {
                        tracker.insert_found(&key(n), bytes);
                        tracker.finish_recovery(std::iter::once(&key(n)));
                        if naive.0.iter().all(|entry| entry.0 != n) {
                            naive.0.insert(0, (n, bytes, 0));
                        }
                    }
                    Step::Remove(n) => {
                        prop_assert_eq!(tracker.remove(&key(n)), naive.take(n).map(|entry| entry.1));
                    }
                    Step::Touch(n) => {
                        prop_assert_eq!(tracker.touch(&key(n)), naive.0.iter().any(|entry| entry.0 == n));
                        if let Some(entry) = naive.take(n) {
                            naive.0.push(entry);
                        }
                    }
                    Step::Pin(n) => {
                        tracker.pin(&key(n));
                        naive.of(n).into_iter().for_each(|entry| entry.2 += 1);
                    }
                    Step::Unpin(n) => {
                        tracker.unpin(&key(n));
                        naive.of(n).into_iter().for_each(|entry| entry.2 = entry.2.saturating_sub(1));
                    }
                    Step::Evict(bytes) => {
                        let mut reserved = tracker.reserve(&salt(), bytes);
                        while let Reserve::Evict(victim) = reserved {
                            let oldest = naive.0.iter().position(|entry| entry.2 == 0).expect("a victim");
                            prop_assert_eq!(&victim, &key(naive.0[oldest].0));
                            naive.0.remove(oldest);
                            tracker.evicted(&victim);
                            reserved = tracker.reserve(&salt(), bytes);
                        }
                        if reserved == Reserve::Reserved {
                            tracker.release(&salt(), bytes);
                        }
                    }
                }
                let used: u64 = naive.0.iter().map(|entry| entry.1).sum();
                prop_assert_eq!(tracker.usage(false).used_bytes, used);
                prop_assert_eq!(tracker.usage(false).objects, naive.0.len() as u64);
            }
        }
    }
}
