//! What a bounded adapter holds, in the order of last use. Pure: it decides who leaves, and never
//! removes any data itself.
//!
//! Invariants: `used` is the sum of the entries, and of each cache salt the sum of its own; an entry is
//! in the order of use exactly if it may leave, that is, it is neither pinned nor already on its way
//! out; `used + reserved` exceeds a limit only by what was there before the limit was set.
//!
//! A use is a lookup or a store. Being read is none: whoever reads an object has looked it up, and its
//! readers finish in any order.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use larder_types::object::ObjectKey;
use slab::Slab;

use crate::adapter::Usage;
use crate::capacity::CapacityLimits;

/// Who was used when: the coldest first. Numbers of entries by a stamp that only grows.
type Order = BTreeMap<i64, usize>;

#[derive(Debug)]
struct Entry {
    key: ObjectKey,
    bytes: u64,
    pins: u32,
    leaving: bool,
    /// When it was used last.
    stamp: i64,
}

impl Entry {
    fn may_leave(&self) -> bool {
        self.pins == 0 && !self.leaving
    }
}

/// What one cache salt holds.
#[derive(Debug, Default)]
struct Account {
    objects: u64,
    used: u64,
    reserved: u64,
    order: Order,
}

impl Account {
    fn coldest(&self) -> Option<usize> {
        self.order.first_key_value().map(|(_, at)| *at)
    }
}

/// The answer to a wish for room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// The bytes are reserved.
    Reserved,
    /// This object must leave first. It is marked as leaving, and still counted.
    Leaves(ObjectKey),
    /// Nothing may leave at the moment.
    None,
    /// There will be none, for this reason.
    Never(&'static str),
}

/// What is held, and the order in which it may leave.
#[derive(Debug)]
pub(crate) struct Books {
    bounds: CapacityLimits,
    entries: Slab<Entry>,
    index: HashTable<usize>,
    hasher: RandomState,
    order: Order,
    accounts: HashMap<Arc<str>, Account>,
    /// Limits of cache salts that have one of their own.
    limits: HashMap<Arc<str>, u64>,
    newest: i64,
    oldest: i64,
    used: u64,
    reserved: u64,
    trimming: bool,
    evicted_objects: u64,
    evicted_bytes: u64,
}

impl Books {
    pub(crate) fn new(bounds: CapacityLimits) -> Self {
        Self {
            limits: bounds.quotas.iter().flat_map(|quotas| quotas.limits.iter().cloned()).collect(),
            bounds,
            entries: Slab::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            order: Order::new(),
            accounts: HashMap::new(),
            newest: 0,
            oldest: 0,
            used: 0,
            reserved: 0,
            trimming: false,
            evicted_objects: 0,
            evicted_bytes: 0,
        }
    }

    pub(crate) fn usage(&self, recovering: bool) -> Usage {
        Usage {
            used_bytes: self.used + self.reserved,
            capacity_bytes: self.bounds.capacity_bytes,
            objects: self.entries.len() as u64,
            evicted_objects: self.evicted_objects,
            evicted_bytes: self.evicted_bytes,
            recovering,
            space: None,
        }
    }

    /// Bytes of each cache salt that holds any.
    pub(crate) fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        let held =
            self.accounts.iter().map(|(salt, account)| (salt.clone(), account.used + account.reserved));
        held.filter(|(_, bytes)| *bytes > 0).collect()
    }

    fn find(&self, key: &ObjectKey) -> Option<usize> {
        let entries = &self.entries;
        self.index.find(self.hasher.hash_one(key), |&at| entries[at].key == *key).copied()
    }

    /// Bytes of an object.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<u64> {
        self.find(key).map(|at| self.entries[at].bytes)
    }

    /// Marks an object as used just now. Whether it is there.
    pub(crate) fn touch(&mut self, key: &ObjectKey) -> bool {
        let Some(at) = self.find(key) else { return false };
        self.unlink(at);
        self.entries[at].stamp = self.now();
        self.link(at);
        true
    }

    /// Notes an object as there and used just now, whatever was known of it.
    pub(crate) fn put(&mut self, key: &ObjectKey, bytes: u64) {
        let stamp = self.now();
        let at = match self.find(key) {
            Some(at) => at,
            None => self.add(key, stamp),
        };
        self.unlink(at);
        let entry = &mut self.entries[at];
        let before = std::mem::replace(&mut entry.bytes, bytes);
        (entry.leaving, entry.stamp) = (false, stamp);
        self.used = self.used - before + bytes;
        let account = self.account(key);
        account.used = account.used - before + bytes;
        self.link(at);
    }

    /// Notes an object that was there before everything else, if it is not known.
    pub(crate) fn put_oldest(&mut self, key: &ObjectKey, bytes: u64) {
        if self.find(key).is_some() {
            return;
        }
        self.oldest -= 1;
        let at = self.add(key, self.oldest);
        self.entries[at].bytes = bytes;
        self.used += bytes;
        self.account(key).used += bytes;
        self.link(at);
    }

    /// Takes an object out. Its bytes, if it was there.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<u64> {
        let hash = self.hasher.hash_one(key);
        let at = self.find(key)?;
        self.unlink(at);
        if let Ok(slot) = self.index.find_entry(hash, |&other| other == at) {
            slot.remove();
        }
        let entry = self.entries.remove(at);
        self.used -= entry.bytes;
        let account = self.account(key);
        account.used -= entry.bytes;
        account.objects -= 1;
        self.close_if_empty(&key.cache_salt);
        Some(entry.bytes)
    }

    /// Forgets everything but limits and what is reserved.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.index.clear();
        self.order.clear();
        self.used = 0;
        self.accounts.retain(|_, account| {
            *account = Account { reserved: account.reserved, ..Account::default() };
            account.reserved > 0
        });
    }

    /// Keeps an object from leaving until [`Books::unpin`]. Whether it is there.
    pub(crate) fn pin(&mut self, key: &ObjectKey) -> bool {
        let Some(at) = self.find(key) else { return false };
        self.unlink(at);
        self.entries[at].pins += 1;
        true
    }

    /// Ends one [`Books::pin`]; the object is where it was in the order. If it has been removed and
    /// stored again in between, the pin was on the object that is gone.
    pub(crate) fn unpin(&mut self, key: &ObjectKey) {
        let Some(at) = self.find(key) else { return };
        let entry = &mut self.entries[at];
        entry.pins = entry.pins.saturating_sub(1);
        self.link(at);
    }

    /// Reserves room for `salt`, or says who must leave first: a salt at its own limit makes room among
    /// its own. The caller removes the victim's data, calls [`Books::evicted`] or [`Books::keep`], and
    /// asks again.
    pub(crate) fn reserve(&mut self, salt: &Arc<str>, bytes: u64) -> Room {
        let capacity = self.bounds.capacity_bytes.unwrap_or(u64::MAX);
        if bytes > capacity {
            return Room::Never("is larger than the capacity");
        }
        if let Some(limit) = self.limit_of(salt) {
            if bytes > limit {
                return Room::Never("is larger than the quota of its cache salt");
            }
            if let Some(account) = self.accounts.get(salt)
                && account.used + account.reserved + bytes > limit
            {
                return self.name(account.coldest()).map_or(Room::None, Room::Leaves);
            }
        }
        if self.used + self.reserved + bytes > capacity {
            if !self.bounds.evicts {
                return Room::Never("does not fit the capacity, and nothing leaves (eviction_policy noop)");
            }
            return self.name(self.coldest()).map_or(Room::None, Room::Leaves);
        }
        if bytes > 0 {
            self.reserved += bytes;
            self.accounts.entry(salt.clone()).or_default().reserved += bytes;
        }
        Room::Reserved
    }

    /// Gives back what was reserved.
    pub(crate) fn release(&mut self, salt: &Arc<str>, bytes: u64) {
        debug_assert!(bytes <= self.reserved);
        self.reserved = self.reserved.saturating_sub(bytes);
        if let Some(account) = self.accounts.get_mut(salt) {
            account.reserved = account.reserved.saturating_sub(bytes);
            self.close_if_empty(salt);
        }
    }

    /// Who leaves next to fit the capacity.
    pub(crate) fn over_capacity(&mut self) -> Option<ObjectKey> {
        let capacity = self.bounds.capacity_bytes.filter(|_| self.bounds.evicts)?;
        if self.used + self.reserved > capacity { self.name(self.coldest()) } else { None }
    }

    /// Who leaves next to get from above the high mark down to the low one.
    pub(crate) fn over_marks(&mut self) -> Option<ObjectKey> {
        let marks = self.bounds.trim?;
        let used = self.used + self.reserved;
        self.trimming = used > if self.trimming { marks.low_bytes } else { marks.high_bytes };
        if self.trimming { self.name(self.coldest()) } else { None }
    }

    /// Sets what a cache salt may hold; `None`: what salts without a limit of their own may.
    pub(crate) fn limit(&mut self, salt: &Arc<str>, limit: Option<u64>) {
        match limit {
            Some(bytes) => self.limits.insert(salt.clone(), bytes),
            None => self.limits.remove(salt),
        };
    }

    /// Who leaves next for a cache salt to be within its limit.
    pub(crate) fn over_limit(&mut self, salt: &str) -> Option<ObjectKey> {
        let limit = self.limit_of(salt)?;
        let account = self.accounts.get(salt)?;
        if account.used + account.reserved > limit { self.name(account.coldest()) } else { None }
    }

    /// Whether the object that was named to leave still may: nobody has stored it again or begun to
    /// read it.
    pub(crate) fn may_leave(&self, key: &ObjectKey) -> bool {
        self.find(key).is_some_and(|at| self.entries[at].leaving && self.entries[at].pins == 0)
    }

    /// The victim's data is gone.
    pub(crate) fn evicted(&mut self, key: &ObjectKey) {
        if let Some(bytes) = self.remove(key) {
            self.evicted_objects += 1;
            self.evicted_bytes += bytes;
        }
    }

    /// The victim stays, as if just used.
    pub(crate) fn keep(&mut self, key: &ObjectKey) {
        if let Some(at) = self.find(key) {
            self.unlink(at);
            self.entries[at].leaving = false;
            self.entries[at].stamp = self.now();
            self.link(at);
        }
    }

    fn limit_of(&self, salt: &str) -> Option<u64> {
        let quotas = self.bounds.quotas.as_ref()?;
        self.limits.get(salt).copied().or(quotas.default_limit_bytes)
    }

    fn coldest(&self) -> Option<usize> {
        self.order.first_key_value().map(|(_, at)| *at)
    }

    /// Marks an entry as leaving, and names it.
    fn name(&mut self, who: Option<usize>) -> Option<ObjectKey> {
        let at = who?;
        self.unlink(at);
        self.entries[at].leaving = true;
        Some(self.entries[at].key.clone())
    }

    fn now(&mut self) -> i64 {
        self.newest += 1;
        self.newest
    }

    fn account(&mut self, key: &ObjectKey) -> &mut Account {
        self.accounts.entry(key.cache_salt.clone()).or_default()
    }

    fn close_if_empty(&mut self, salt: &str) {
        if self.accounts.get(salt).is_some_and(|account| account.objects == 0 && account.reserved == 0) {
            self.accounts.remove(salt);
        }
    }

    fn add(&mut self, key: &ObjectKey, stamp: i64) -> usize {
        let entry = Entry { key: key.clone(), bytes: 0, pins: 0, leaving: false, stamp };
        let at = self.entries.insert(entry);
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash = hasher.hash_one(key);
        let rehash = |&other: &usize| hasher.hash_one(&entries[other].key);
        if let Slot::Vacant(slot) = self.index.entry(hash, |&other| other == at, rehash) {
            slot.insert(at);
        }
        self.account(key).objects += 1;
        at
    }

    /// Puts an entry where its stamp says, if it may leave.
    fn link(&mut self, at: usize) {
        let Entry { key, stamp, .. } = &self.entries[at];
        if self.entries[at].may_leave() {
            self.order.insert(*stamp, at);
            self.accounts.entry(key.cache_salt.clone()).or_default().order.insert(*stamp, at);
        }
    }

    fn unlink(&mut self, at: usize) {
        let Entry { key, stamp, .. } = &self.entries[at];
        if self.order.remove(stamp).is_some()
            && let Some(account) = self.accounts.get_mut(&key.cache_salt)
        {
            account.order.remove(stamp);
        }
    }
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
    fn the_least_recently_used_leaves_first_and_stays_counted_until_it_is_gone() {
        let mut books = Books::new(CapacityLimits::capacity(30));
        for n in 0..3 {
            assert_eq!(books.reserve(&salt(), 10), Room::Reserved);
            books.release(&salt(), 10);
            books.put(&key(n), 10);
        }
        books.touch(&key(0));
        assert_eq!(books.reserve(&salt(), 10), Room::Leaves(key(1)));
        assert_eq!(books.usage(false).used_bytes, 30);
        assert!(books.may_leave(&key(1)));
        books.evicted(&key(1));
        assert_eq!(books.reserve(&salt(), 10), Room::Reserved);
        assert_eq!(books.usage(false).evicted_bytes, 10);
    }

    #[test]
    fn what_is_read_does_not_leave() {
        let mut books = Books::new(CapacityLimits::capacity(20));
        books.put(&key(0), 10);
        books.put(&key(1), 10);
        assert!(books.pin(&key(0)) && books.pin(&key(0)) && books.pin(&key(1)));
        assert_eq!(books.reserve(&salt(), 1), Room::None);
        books.unpin(&key(0));
        assert_eq!(books.reserve(&salt(), 1), Room::None, "one reader is left");
        books.unpin(&key(0));
        assert_eq!(books.reserve(&salt(), 1), Room::Leaves(key(0)));
        assert!(books.pin(&key(0)), "a reader comes while it leaves");
        assert!(!books.may_leave(&key(0)));
        books.keep(&key(0));
        assert_eq!(books.reserve(&salt(), 1), Room::None);
        assert_eq!(books.reserve(&salt(), 21), Room::Never("is larger than the capacity"));
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
        fn the_books_agree_with_a_list(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut books, mut naive) = (Books::new(CapacityLimits::capacity(20)), Naive::default());
            for step in steps {
                match step {
                    Step::Put(n, bytes) => {
                        books.put(&key(n), bytes);
                        let pins = naive.take(n).map_or(0, |entry| entry.2);
                        naive.0.push((n, bytes, pins));
                    }
                    Step::PutOldest(n, bytes) => {
                        books.put_oldest(&key(n), bytes);
                        if naive.0.iter().all(|entry| entry.0 != n) {
                            naive.0.insert(0, (n, bytes, 0));
                        }
                    }
                    Step::Remove(n) => {
                        prop_assert_eq!(books.remove(&key(n)), naive.take(n).map(|entry| entry.1));
                    }
                    Step::Touch(n) => {
                        prop_assert_eq!(books.touch(&key(n)), naive.0.iter().any(|entry| entry.0 == n));
                        if let Some(entry) = naive.take(n) {
                            naive.0.push(entry);
                        }
                    }
                    Step::Pin(n) => {
                        books.pin(&key(n));
                        naive.of(n).into_iter().for_each(|entry| entry.2 += 1);
                    }
                    Step::Unpin(n) => {
                        books.unpin(&key(n));
                        naive.of(n).into_iter().for_each(|entry| entry.2 = entry.2.saturating_sub(1));
                    }
                    Step::Evict(bytes) => {
                        while let Room::Leaves(victim) = books.reserve(&salt(), bytes) {
                            let oldest = naive.0.iter().position(|entry| entry.2 == 0).expect("somebody");
                            prop_assert_eq!(&victim, &key(naive.0[oldest].0));
                            naive.0.remove(oldest);
                            books.evicted(&victim);
                        }
                        let reserved = books.reserved;
                        books.release(&salt(), reserved);
                    }
                }
                let used: u64 = naive.0.iter().map(|entry| entry.1).sum();
                prop_assert_eq!(books.usage(false).used_bytes, used);
                prop_assert_eq!(books.usage(false).objects, naive.0.len() as u64);
            }
        }
    }
}
