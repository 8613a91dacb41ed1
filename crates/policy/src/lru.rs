//! Doubly linked lists of small integers in LRU order; all links are in one table.
//!
//! Every operation is O(1). A table takes 8 bytes for each integer up to the largest it has held. An integer
//! is in at most one list of a table.

use crate::segmented::SegmentedVec;

/// No neighbour.
const NONE: u32 = u32::MAX;
/// In no list.
const ABSENT: Link = Link { older: NONE - 1, newer: NONE - 1 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    older: u32,
    newer: u32,
}

/// The links of any number of lists.
#[derive(Debug, Default)]
pub struct LruLinks(SegmentedVec<Link>);

/// One list. Its links are in an [`LruLinks`].
#[derive(Clone, Copy, Debug)]
pub struct LruList {
    coldest: u32,
    warmest: u32,
    len: u32,
}

impl Default for LruList {
    fn default() -> Self {
        Self { coldest: NONE, warmest: NONE, len: 0 }
    }
}

impl LruList {
    /// Number of entries.
    pub fn len(&self) -> u64 {
        u64::from(self.len)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The least recently used entry.
    pub fn coldest(&self) -> Option<u32> {
        Some(self.coldest).filter(|n| *n != NONE)
    }
}

impl LruLinks {
    /// Adds `n`, which is in no list, as the most recently used.
    pub fn push(&mut self, list: &mut LruList, n: u32) {
        self.0.grow_to_hold(n as usize, ABSENT);
        debug_assert_eq!(self.0[n as usize], ABSENT, "{n} is in a list already");
        self.0[n as usize] = Link { older: list.warmest, newer: NONE };
        match list.warmest {
            NONE => list.coldest = n,
            warmest => self.0[warmest as usize].newer = n,
        }
        list.warmest = n;
        list.len += 1;
    }

    /// Removes `n` from the list that it is in.
    pub fn remove(&mut self, list: &mut LruList, n: u32) {
        let link = std::mem::replace(&mut self.0[n as usize], ABSENT);
        debug_assert_ne!(link, ABSENT, "{n} is in no list");
        match link.older {
            NONE => list.coldest = link.newer,
            older => self.0[older as usize].newer = link.newer,
        }
        match link.newer {
            NONE => list.warmest = link.older,
            newer => self.0[newer as usize].older = link.older,
        }
        list.len -= 1;
    }

    /// Makes `n` the most recently used entry of the list that it is in.
    pub fn move_to_newest(&mut self, list: &mut LruList, n: u32) {
        if list.warmest != n {
            self.remove(list, n);
            self.push(list, n);
        }
    }

    /// Whether `n` is in any list.
    pub fn contains(&self, n: u32) -> bool {
        self.0.get(n as usize).is_some_and(|link| *link != ABSENT)
    }

    /// The entry used next after `n` in its list.
    pub fn newer(&self, n: u32) -> Option<u32> {
        Some(self.0[n as usize].newer).filter(|n| *n != NONE)
    }

    /// The entries, least recently used first.
    pub fn iter(&self, list: &LruList) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(list.coldest(), |n| self.newer(*n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Two lists in one table, against two vectors.
        #[test]
        fn agrees_with_vectors(ops in prop::collection::vec((0usize..2, 0u32..16, any::<bool>()), 1..200)) {
            let mut links = LruLinks::default();
            let mut lists = [LruList::default(); 2];
            let mut naive: [Vec<u32>; 2] = Default::default();
            for (which, n, touch) in ops {
                match naive.iter().position(|v| v.contains(&n)) {
                    None => { links.push(&mut lists[which], n); naive[which].push(n); }
                    Some(at) => {
                        naive[at].retain(|x| *x != n);
                        if touch {
                            links.move_to_newest(&mut lists[at], n);
                            naive[at].push(n);
                        } else {
                            links.remove(&mut lists[at], n);
                        }
                    }
                }
                prop_assert_eq!(links.contains(n), naive.iter().any(|v| v.contains(&n)));
                for (list, naive) in lists.iter().zip(&naive) {
                    prop_assert_eq!(&links.iter(list).collect::<Vec<_>>(), naive);
                    prop_assert_eq!(list.len(), naive.len() as u64);
                    prop_assert_eq!((list.is_empty(), list.coldest()), (naive.is_empty(), naive.first().copied()));
                }
            }
        }
    }
}
