//! KeyTable of chunks that were evicted, oldest first: what a policy remembers of them.
//!
//! Only a 64-bit digest of the key is kept: two chunks with one digest are taken for each other,
//! which at most makes one of them look used before. Every operation is O(1), amortised. An entry
//! takes 16 bytes, and 5 to 10 in the table that finds it; the memory of entries that are gone is
//! reused. How many there are is for the policy to bound, with [`Ghosts::drop_oldest`].

use hashbrown::HashTable;

use crate::lru::{LruLinks, LruList};

/// A queue of keys with removal from anywhere.
#[derive(Debug, Default)]
pub struct Ghosts {
    keys: Vec<u64>,
    links: LruLinks,
    queue: LruList,
    unused: Vec<u32>,
    slots: HashTable<u32>,
}

impl Ghosts {
    /// KeyTable held.
    pub fn len(&self) -> u64 {
        self.queue.len()
    }

    /// Adds a key as the newest; one that is there already becomes it.
    pub fn push(&mut self, key: u64) {
        self.remove(key);
        let slot = self.unused.pop().unwrap_or_else(|| {
            self.keys.push(key);
            (self.keys.len() - 1) as u32
        });
        self.keys[slot as usize] = key;
        self.links.push(&mut self.queue, slot);
        self.slots.insert_unique(key, slot, |s| self.keys[*s as usize]);
    }

    /// Removes a key; says whether it was there.
    pub fn remove(&mut self, key: u64) -> bool {
        let Ok(entry) = self.slots.find_entry(key, |s| self.keys[*s as usize] == key) else { return false };
        let (slot, _) = entry.remove();
        self.links.remove(&mut self.queue, slot);
        self.unused.push(slot);
        true
    }

    /// Removes the oldest key, if there is any.
    pub fn drop_oldest(&mut self) {
        if let Some(slot) = self.queue.coldest() {
            self.remove(self.keys[slot as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_vector(ops in prop::collection::vec((0u8..4, 0u64..20), 1..300)) {
            let mut ghosts = Ghosts::default();
            let mut naive: Vec<u64> = Vec::new();
            for (op, key) in ops {
                match op {
                    0 | 1 => { ghosts.push(key); naive.retain(|k| *k != key); naive.push(key); }
                    2 => {
                        prop_assert_eq!(ghosts.remove(key), naive.contains(&key));
                        naive.retain(|k| *k != key);
                    }
                    _ => { ghosts.drop_oldest(); naive.drain(..naive.len().min(1)); }
                }
                let order: Vec<u64> = ghosts.links.iter(&ghosts.queue).map(|s| ghosts.keys[s as usize]).collect();
                prop_assert_eq!(&order, &naive);
                prop_assert_eq!((ghosts.len(), ghosts.slots.len()), (naive.len() as u64, naive.len()));
                prop_assert!(ghosts.keys.len() <= 20, "slots are reused");
            }
        }
    }
}
