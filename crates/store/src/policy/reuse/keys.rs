//! What is remembered of chunks, in L1 or not.
//!
//! A chunk is known by a 64-bit digest of its name; two of one digest are taken for each other, which
//! at worst blurs a statistic. The table is bounded: the key that was used longest ago makes way.
//! Every operation is O(1). A key takes 32 bytes, and 5 to 10 in the table that finds it.

use hashbrown::HashTable;

use super::ages::Class;
use crate::l1::eviction::list::{Links, List};

/// The number of a known key; reused when the key is forgotten.
pub(super) type Slot = u32;

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Key {
    digest: u64,
    /// The request that used it last.
    pub(super) cohort: u64,
    pub(super) class: Class,
    /// Requests that used it, as far as they matter.
    pub(super) uses: u8,
    /// The age class at which it, or what it continued, was used again.
    pub(super) gap: u8,
}

/// All known keys, in the order of use.
#[derive(Debug, Default)]
pub(super) struct Keys {
    keys: Vec<Key>,
    links: Links,
    oldest_first: List,
    unused: Vec<Slot>,
    slots: HashTable<Slot>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, slot: Slot) -> &Key {
        &self.keys[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Key {
        &mut self.keys[slot as usize]
    }

    pub(super) fn find(&self, digest: u64) -> Option<Slot> {
        self.slots.find(digest, |s| self.keys[*s as usize].digest == digest).copied()
    }

    /// Makes a key the one used last. Says whether it was known.
    pub(super) fn touch(&mut self, digest: u64) -> (Slot, bool) {
        if let Some(slot) = self.find(digest) {
            self.links.refresh(&mut self.oldest_first, slot);
            return (slot, true);
        }
        let slot = self.unused.pop().unwrap_or_else(|| {
            self.keys.push(Key::default());
            (self.keys.len() - 1) as Slot
        });
        self.keys[slot as usize] = Key { digest, ..Key::default() };
        self.links.push(&mut self.oldest_first, slot);
        self.slots.insert_unique(digest, slot, |s| self.keys[*s as usize].digest);
        (slot, false)
    }

    /// Forgets the key that was used longest ago.
    pub(super) fn forget_oldest(&mut self) -> Option<Slot> {
        let slot = self.oldest_first.coldest()?;
        let digest = self.keys[slot as usize].digest;
        let entry = self.slots.find_entry(digest, |s| *s == slot).ok();
        entry.expect("every key is in the table").remove();
        self.links.unlink(&mut self.oldest_first, slot);
        self.unused.push(slot);
        Some(slot)
    }
}
