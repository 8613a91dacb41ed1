//! What a bounded adapter holds, in the order of last use. Pure: it decides who leaves, and never
//! removes any data itself.
//!
//! Invariants: `used` is the sum of the entries; an entry is in the order of use exactly if it may
//! leave, that is, it is neither pinned nor already on its way out; `used + reserved` exceeds the
//! capacity only by what was there before the books were opened.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use larder_wire::object::ObjectKey;
use slab::Slab;

use crate::adapter::Usage;

const NOWHERE: usize = usize::MAX;

#[derive(Debug)]
struct Entry {
    key: ObjectKey,
    bytes: u64,
    pins: u32,
    leaving: bool,
    linked: bool,
    older: usize,
    newer: usize,
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
    /// Larger than everything there is.
    Never,
}

/// What is held, and the order in which it may leave.
#[derive(Debug)]
pub(crate) struct Books {
    entries: Slab<Entry>,
    index: HashTable<usize>,
    hasher: RandomState,
    oldest: usize,
    newest: usize,
    used: u64,
    reserved: u64,
    capacity: Option<u64>,
    evicted_objects: u64,
    evicted_bytes: u64,
}

impl Books {
    pub(crate) fn new(capacity: Option<u64>) -> Self {
        Self {
            entries: Slab::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            oldest: NOWHERE,
            newest: NOWHERE,
            used: 0,
            reserved: 0,
            capacity,
            evicted_objects: 0,
            evicted_bytes: 0,
        }
    }

    pub(crate) fn usage(&self, recovering: bool) -> Usage {
        Usage {
            used_bytes: self.used + self.reserved,
            capacity_bytes: self.capacity,
            objects: self.entries.len() as u64,
            evicted_objects: self.evicted_objects,
            evicted_bytes: self.evicted_bytes,
            recovering,
        }
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
        if self.entries[at].linked {
            self.unlink(at);
            self.link_newest(at);
        }
        true
    }

    /// Notes an object as there and used just now, whatever was known of it.
    pub(crate) fn put(&mut self, key: &ObjectKey, bytes: u64) {
        let at = match self.find(key) {
            Some(at) => at,
            None => self.add(key),
        };
        let entry = &mut self.entries[at];
        self.used = self.used - entry.bytes + bytes;
        entry.bytes = bytes;
        entry.leaving = false;
        self.relink_newest(at);
    }

    /// Notes an object that was there before everything else, if it is not known.
    pub(crate) fn put_oldest(&mut self, key: &ObjectKey, bytes: u64) {
        if self.find(key).is_some() {
            return;
        }
        let at = self.add(key);
        self.entries[at].bytes = bytes;
        self.used += bytes;
        let oldest = self.oldest;
        let entry = &mut self.entries[at];
        (entry.older, entry.newer, entry.linked) = (NOWHERE, oldest, true);
        match oldest {
            NOWHERE => self.newest = at,
            next => self.entries[next].older = at,
        }
        self.oldest = at;
    }

    /// Takes an object out. Its bytes, if it was there.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<u64> {
        let hash = self.hasher.hash_one(key);
        let at = self.find(key)?;
        if self.entries[at].linked {
            self.unlink(at);
        }
        if let Ok(slot) = self.index.find_entry(hash, |&other| other == at) {
            slot.remove();
        }
        let entry = self.entries.remove(at);
        self.used -= entry.bytes;
        Some(entry.bytes)
    }

    /// Forgets everything but what is reserved.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.index.clear();
        (self.oldest, self.newest, self.used) = (NOWHERE, NOWHERE, 0);
    }

    /// Keeps an object from leaving until [`Books::unpin`]. Whether it is there.
    pub(crate) fn pin(&mut self, key: &ObjectKey) -> bool {
        let Some(at) = self.find(key) else { return false };
        if self.entries[at].linked {
            self.unlink(at);
        }
        self.entries[at].pins += 1;
        true
    }

    /// Ends one [`Books::pin`]; the object counts as used just now. If it has been removed and stored
    /// again in between, the pin was on the object that is gone.
    pub(crate) fn unpin(&mut self, key: &ObjectKey) {
        let Some(at) = self.find(key) else { return };
        let entry = &mut self.entries[at];
        entry.pins = entry.pins.saturating_sub(1);
        self.relink_newest(at);
    }

    /// Reserves room, or says who must leave first. The caller removes the victim's data, calls
    /// [`Books::evicted`] or [`Books::keep`], and asks again.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Room {
        let Some(capacity) = self.capacity else {
            self.reserved += bytes;
            return Room::Reserved;
        };
        if bytes > capacity {
            return Room::Never;
        }
        if self.used + self.reserved + bytes <= capacity {
            self.reserved += bytes;
            return Room::Reserved;
        }
        let at = self.oldest;
        if at == NOWHERE {
            return Room::None;
        }
        self.unlink(at);
        self.entries[at].leaving = true;
        Room::Leaves(self.entries[at].key.clone())
    }

    /// Gives back what was reserved.
    pub(crate) fn release(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.reserved);
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Whether the object that [`Books::reserve`] named may still leave: nobody has stored it again or
    /// begun to read it.
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
            self.entries[at].leaving = false;
            self.relink_newest(at);
        }
    }

    fn add(&mut self, key: &ObjectKey) -> usize {
        let at = self.entries.insert(Entry {
            key: key.clone(),
            bytes: 0,
            pins: 0,
            leaving: false,
            linked: false,
            older: NOWHERE,
            newer: NOWHERE,
        });
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash = hasher.hash_one(key);
        let rehash = |&other: &usize| hasher.hash_one(&entries[other].key);
        if let Slot::Vacant(slot) = self.index.entry(hash, |&other| other == at, rehash) {
            slot.insert(at);
        }
        at
    }

    fn relink_newest(&mut self, at: usize) {
        if self.entries[at].linked {
            self.unlink(at);
        }
        if self.entries[at].pins == 0 && !self.entries[at].leaving {
            self.link_newest(at);
        }
    }

    fn link_newest(&mut self, at: usize) {
        let newest = self.newest;
        let entry = &mut self.entries[at];
        debug_assert!(!entry.linked);
        (entry.older, entry.newer, entry.linked) = (newest, NOWHERE, true);
        match newest {
            NOWHERE => self.oldest = at,
            previous => self.entries[previous].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        debug_assert!(entry.linked);
        entry.linked = false;
        let (older, newer) = (entry.older, entry.newer);
        match older {
            NOWHERE => self.oldest = newer,
            other => self.entries[other].newer = newer,
        }
        match newer {
            NOWHERE => self.newest = older,
            other => self.entries[other].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_wire::object::{ChunkHash, KvRank};
    use proptest::prelude::*;

    fn key(n: u8) -> ObjectKey {
        let hash = ChunkHash::new(&[n]).unwrap();
        ObjectKey::new(hash, "m", KvRank::new(1, 0), 0, "").unwrap()
    }

    #[test]
    fn the_least_recently_used_leaves_first_and_stays_counted_until_it_is_gone() {
        let mut books = Books::new(Some(30));
        for n in 0..3 {
            assert_eq!(books.reserve(10), Room::Reserved);
            books.release(10);
            books.put(&key(n), 10);
        }
        books.touch(&key(0));
        assert_eq!(books.reserve(10), Room::Leaves(key(1)));
        assert_eq!(books.usage(false).used_bytes, 30);
        assert!(books.may_leave(&key(1)));
        books.evicted(&key(1));
        assert_eq!(books.reserve(10), Room::Reserved);
        assert_eq!(books.usage(false).evicted_bytes, 10);
    }

    #[test]
    fn what_is_read_does_not_leave() {
        let mut books = Books::new(Some(20));
        books.put(&key(0), 10);
        books.put(&key(1), 10);
        assert!(books.pin(&key(0)) && books.pin(&key(0)) && books.pin(&key(1)));
        assert_eq!(books.reserve(1), Room::None);
        books.unpin(&key(0));
        assert_eq!(books.reserve(1), Room::None, "one reader is left");
        books.unpin(&key(0));
        assert_eq!(books.reserve(1), Room::Leaves(key(0)));
        assert!(books.pin(&key(0)), "a reader comes while it leaves");
        assert!(!books.may_leave(&key(0)));
        books.keep(&key(0));
        assert_eq!(books.reserve(1), Room::None);
        assert_eq!(books.reserve(21), Room::Never);
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
        fn take(&mut self, n: u8) -> Option<(u8, u64, u32)> {
            let at = self.0.iter().position(|entry| entry.0 == n)?;
            Some(self.0.remove(at))
        }
    }

    proptest! {
        #[test]
        fn the_books_agree_with_a_list(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut books, mut naive) = (Books::new(Some(20)), Naive::default());
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
                        if let Some(entry) = naive.take(n) {
                            naive.0.push((entry.0, entry.1, entry.2 + 1));
                        }
                    }
                    Step::Unpin(n) => {
                        books.unpin(&key(n));
                        if let Some(entry) = naive.take(n) {
                            naive.0.push((entry.0, entry.1, entry.2.saturating_sub(1)));
                        }
                    }
                    Step::Evict(bytes) => {
                        while let Room::Leaves(victim) = books.reserve(bytes) {
                            let oldest = naive.0.iter().position(|entry| entry.2 == 0).expect("somebody");
                            prop_assert_eq!(&victim, &key(naive.0[oldest].0));
                            naive.0.remove(oldest);
                            books.evicted(&victim);
                        }
                        let reserved = books.reserved;
                        books.release(reserved);
                    }
                }
                let used: u64 = naive.0.iter().map(|entry| entry.1).sum();
                prop_assert_eq!(books.usage(false).used_bytes, used);
                prop_assert_eq!(books.usage(false).objects, naive.0.len() as u64);
            }
        }
    }
}
