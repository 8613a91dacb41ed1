//! What is remembered of chunks, in L1 or not.
//!
//! A chunk is known by a 64-bit digest of its name; two of one digest are taken for each other, which
//! at worst blurs a statistic. How many there are is for the owner to bound, by forgetting the key that was
//! used longest ago. Every operation is O(1). A key takes 16 bytes besides what is kept of it, and 5 to 10
//! in the table that finds it.

use hashbrown::HashTable;

use crate::lru::{LruLinks, LruList};

/// The number of a known key; reused when the key is forgotten.
pub type KeySlot = u32;

/// All known keys, in the order of use, and a `T` of each.
#[derive(Debug, Default)]
pub struct KeyTable<T> {
    keys: Vec<(u64, T)>,
    links: LruLinks,
    oldest_first: LruList,
    unused: Vec<KeySlot>,
    slots: HashTable<KeySlot>,
}

impl<T: Default> KeyTable<T> {
    /// KeyTable known.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// What is kept of a key.
    pub fn get(&self, slot: KeySlot) -> &T {
        &self.keys[slot as usize].1
    }

    /// What is kept of a key, to change.
    pub fn get_mut(&mut self, slot: KeySlot) -> &mut T {
        &mut self.keys[slot as usize].1
    }

    /// The slot of a key, if it is known.
    pub fn find(&self, digest: u64) -> Option<KeySlot> {
        self.slots.find(digest, |s| self.keys[*s as usize].0 == digest).copied()
    }

    /// Makes a key the one used last. Says whether it was known.
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

    /// The key that was used longest ago.
    pub fn oldest(&self) -> Option<KeySlot> {
        self.oldest_first.coldest()
    }

    /// Makes a known key the one used last.
    pub fn move_to_newest(&mut self, slot: KeySlot) {
        self.links.move_to_newest(&mut self.oldest_first, slot);
    }

    /// Forgets a known key. Returns its digest.
    pub fn remove(&mut self, slot: KeySlot) -> u64 {
        let digest = self.keys[slot as usize].0;
        let entry = self.slots.find_entry(digest, |s| *s == slot).ok();
        entry.expect("every key is in the table").remove();
        self.links.remove(&mut self.oldest_first, slot);
        self.unused.push(slot);
        digest
    }
}
