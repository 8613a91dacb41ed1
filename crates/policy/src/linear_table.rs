//! A hash table that grows in small steps.
//!
//! A hash table that is full moves all of its entries to one of twice the size, within one insertion. This one consists
//! of many small tables, its *segments*. When there are more than `LOAD` entries for each, one segment is split in
//! two, the next one with every split. After W. Litwin, "Linear hashing: a new tool for file and table addressing"
//! (VLDB 1980). So an insertion moves a few hundred entries at most, however many there are.
//!
//! Segments are not merged again when entries are removed. Memory: about 10 bytes for each entry of 4 bytes.

use hashbrown::HashTable;

use crate::segmented::SegmentedVec;

/// Entries for each segment, on average. Before it is split a segment has twice as many, which fits into 512 places.
const LOAD: usize = 200;
/// The bits of a hash that select the segment begin here; those below select the place in it.
const SEGMENT_BITS_FROM: u32 = 20;

/// See the [module](self). Entries are found by their hash and a comparison; the caller computes hashes.
#[derive(Clone, Debug)]
pub struct LinearTable<T> {
    /// At least one. The first of them, as many as the last power of two that was reached, are split one after the
    /// other.
    segments: SegmentedVec<HashTable<T>>,
    /// That power of two.
    round: usize,
    len: usize,
}

impl<T> Default for LinearTable<T> {
    fn default() -> Self {
        let mut segments = SegmentedVec::default();
        segments.push(HashTable::new());
        Self { segments, round: 1, len: 0 }
    }
}

/// The bits of a hash that select the segment.
fn bits(hash: u64) -> usize {
    (hash >> SEGMENT_BITS_FROM) as usize
}

impl<T> LinearTable<T> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this hash that `is_it` accepts.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[self.segment(hash)].find(hash, is_it)
    }

    /// The same, to change. The hash must stay what it is.
    pub fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let at = self.segment(hash);
        self.segments[at].find_mut(hash, is_it)
    }

    /// Adds an entry that is not there. `hash_of` computes the hash of entries that are moved.
    pub fn insert_unique(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        let at = self.segment(hash);
        self.segments[at].insert_unique(hash, entry, &hash_of);
        self.len += 1;
        if self.len > self.segments.len() * LOAD {
            self.split(hash_of);
        }
    }

    /// Removes the entry with this hash that `is_it` accepts.
    pub fn remove(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let at = self.segment(hash);
        let found = self.segments[at].find_entry(hash, is_it).ok()?;
        self.len -= 1;
        Some(found.remove().0)
    }

    #[inline]
    fn segment(&self, hash: u64) -> usize {
        let at = bits(hash) & (2 * self.round - 1);
        if at < self.segments.len() { at } else { at - self.round }
    }

    /// Splits the next segment in two.
    fn split(&mut self, hash_of: impl Fn(&T) -> u64) {
        let at = self.segments.len() - self.round;
        let whole = std::mem::take(&mut self.segments[at]);
        let half = whole.len() / 2;
        let (mut low, mut high) = (HashTable::with_capacity(half), HashTable::with_capacity(half));
        for entry in whole {
            let hash = hash_of(&entry);
            let side = if bits(hash) & self.round == 0 { &mut low } else { &mut high };
            side.insert_unique(hash, entry, &hash_of);
        }
        self.segments[at] = low;
        self.segments.push(high);
        if self.segments.len() == 2 * self.round {
            self.round *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::digest;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn hash(n: u32) -> u64 {
        digest(0, &n.to_le_bytes())
    }

    #[test]
    fn an_insertion_moves_a_bounded_number_of_entries() {
        let mut table = LinearTable::default();
        let (moved, mut most) = (Cell::new(0), 0);
        for n in 0..300_000 {
            moved.set(0);
            table.insert_unique(hash(n), n, |n| {
                moved.set(moved.get() + 1);
                hash(*n)
            });
            most = most.max(moved.get());
        }
        assert!(most < 5 * LOAD, "{most} entries were moved by one insertion");
        assert!((0..300_000).all(|n| table.find(hash(n), |m| *m == n).is_some()));
        assert_eq!((table.len(), table.segments.len()), (300_000, 300_000 / LOAD));
        let places: usize = table.segments.iter().map(HashTable::capacity).sum();
        assert!(places < 300_000 * 5 / 2, "{places} places");
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(ops in prop::collection::vec((any::<bool>(), 0u32..4000), 1..4000)) {
            let mut table = LinearTable::default();
            let mut naive = std::collections::BTreeSet::new();
            for (insert, n) in ops {
                if insert && naive.insert(n) {
                    table.insert_unique(hash(n), n, |n| hash(*n));
                } else if !insert {
                    prop_assert_eq!(table.remove(hash(n), |m| *m == n).is_some(), naive.remove(&n));
                }
                prop_assert_eq!((table.len(), table.is_empty()), (naive.len(), naive.is_empty()));
            }
            for n in 0..4000 {
                prop_assert_eq!(table.find(hash(n), |m| *m == n).is_some(), naive.contains(&n));
            }
        }
    }
}
