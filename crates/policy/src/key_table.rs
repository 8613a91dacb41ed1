//! A hash table of keys in LRU order, with a value for each.
//!
//! A key is the 64-bit digest of a chunk's name. Two chunks with the same digest share an entry, which at worst
//! blurs a statistic. The owner bounds the number of keys by removing the oldest. Every operation is O(1), also when
//! the table grows. A key takes 16 bytes plus its value, and about 10 bytes in the hash table; slots of removed keys
//! are reused.

use crate::linear_table::LinearTable;
use crate::lru::{LruLinks, LruList};
use crate::segmented::SegmentedVec;

/// Index of a key. Reused after the key is removed.
pub type KeySlot = u32;

/// Keys in LRU order, each with a `T`.
#[derive(Debug, Default)]
pub struct KeyTable<T> {
    keys: SegmentedVec<(u64, T)>,
    links: LruLinks,
    oldest_first: LruList,
    unused: SegmentedVec<KeySlot>,
    slots: LinearTable<KeySlot>,
}

impl<T: Default> KeyTable<T> {
    /// Number of keys.
    pub fn len(&self) -> u64 {
        self.oldest_first.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, slot: KeySlot) -> &T {
        &self.keys[slot as usize].1
    }

    /// The value of a key.
    pub fn get_mut(&mut self, slot: KeySlot) -> &mut T {
        &mut self.keys[slot as usize].1
    }

    /// The slot of a key.
    pub fn find(&self, digest: u64) -> Option<KeySlot> {
        self.slots.find(digest, |s| self.keys[*s as usize].0 == digest).copied()
    }

    /// Makes a key the newest, and adds it if it is missing. Returns its slot, and whether it was there.
    pub fn touch(&mut self, digest: u64) -> (KeySlot, bool) {
        if let Some(slot) = self.find(digest) {
            self.move_to_newest(slot);
            return (slot, true);
        }
        let slot = self.unused.pop().unwrap_or_else(|| {
            self.keys.push((0, T::default()));
            (self.keys.len() - 1) as KeySlot
        });
        self.keys[slot as usize] = (digest, T::default());
        self.links.push(&mut self.oldest_first, slot);
        self.slots.insert_unique(digest, slot, |s| self.keys[*s as usize].0);
        (slot, false)
    }

    /// The oldest key.
    pub fn oldest(&self) -> Option<KeySlot> {
        self.oldest_first.coldest()
    }

    /// Makes the key of a slot the newest.
    pub fn move_to_newest(&mut self, slot: KeySlot) {
        self.links.move_to_newest(&mut self.oldest_first, slot);
    }

    /// Removes the key of a slot. Returns its digest.
    pub fn remove(&mut self, slot: KeySlot) -> u64 {
        let digest = self.keys[slot as usize].0;
        self.slots.remove(digest, |s| *s == slot).expect("every key is in the table");
        self.links.remove(&mut self.oldest_first, slot);
        self.unused.push(slot);
        digest
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove_key(&mut self, digest: u64) -> bool {
        self.find(digest).map(|slot| self.remove(slot)).is_some()
    }

    /// Removes the oldest key.
    pub fn remove_oldest(&mut self) {
        if let Some(slot) = self.oldest() {
            self.remove(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_vector(ops in prop::collection::vec((0u8..6, 0u64..20), 1..300)) {
            let mut keys = KeyTable::<()>::default();
            let mut naive: Vec<u64> = Vec::new();
            let mut slots = std::collections::HashMap::new();
            for (op, digest) in ops {
                match op {
                    0..=2 => {
                        let (slot, known) = keys.touch(digest);
                        prop_assert_eq!(known, naive.contains(&digest));
                        naive.retain(|d| *d != digest);
                        naive.push(digest);
                        slots.insert(digest, slot);
                    }
                    3 => {
                        prop_assert_eq!(keys.remove_key(digest), naive.contains(&digest));
                        naive.retain(|d| *d != digest);
                    }
                    4 => {
                        keys.remove_oldest();
                        naive.drain(..naive.len().min(1));
                    }
                    _ => {
                        let oldest = (!naive.is_empty()).then(|| naive.remove(0));
                        prop_assert_eq!(keys.oldest(), oldest.map(|d| slots[&d]));
                        prop_assert_eq!(keys.oldest().map(|slot| keys.remove(slot)), oldest);
                    }
                }
                let order: Vec<u64> = keys.links.iter(&keys.oldest_first).map(|s| keys.keys[s as usize].0).collect();
                prop_assert_eq!(&order, &naive);
                prop_assert_eq!((keys.len(), keys.is_empty()), (naive.len() as u64, naive.is_empty()));
                prop_assert_eq!(keys.slots.len(), naive.len());
                prop_assert!(keys.keys.len() <= 20, "slots are reused");
                for d in 0..20 {
                    prop_assert_eq!(keys.find(d), naive.contains(&d).then(|| slots[&d]));
                }
            }
        }
    }
}
