//! Vectors and slabs that grow by a segment at a time.
//!
//! A `Vec` that is full is copied to a place of twice its size, which takes as long as everything in it. These grow by
//! allocating one more segment of 64 KiB, so no call takes longer the more there is; and no more than one segment is
//! allocated and unused.

use std::ops::{Index, IndexMut};

/// Bytes of a segment: a size that allocators have a class for.
const SEGMENT_BYTES: usize = 64 << 10;

/// A vector in segments. It never becomes shorter than it has been, except by [`pop`](Self::pop).
#[derive(Clone, Debug)]
pub struct SegmentedVec<T> {
    /// All but the last one are full.
    segments: Vec<Vec<T>>,
}

impl<T> Default for SegmentedVec<T> {
    fn default() -> Self {
        Self { segments: Vec::new() }
    }
}

impl<T> SegmentedVec<T> {
    /// Elements of a segment.
    const SEGMENT: usize = SEGMENT_BYTES / if size_of::<T>() == 0 { 1 } else { size_of::<T>() };

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.segments.last().map_or(0, |last| (self.segments.len() - 1) * Self::SEGMENT + last.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The element at an index, if there is one.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.segments.get(at / Self::SEGMENT)?.get(at % Self::SEGMENT)
    }

    /// Adds an element at the end.
    pub fn push(&mut self, value: T) {
        match self.segments.last_mut().filter(|last| last.len() < Self::SEGMENT) {
            Some(last) => last.push(value),
            None => {
                let mut segment = Vec::with_capacity(Self::SEGMENT);
                segment.push(value);
                self.segments.push(segment);
            }
        }
    }

    /// Removes the last element.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.segments.last_mut()?;
        let value = last.pop();
        if last.is_empty() {
            self.segments.pop();
        }
        value
    }

    /// Adds copies of `value` until there is an element at `at`.
    pub fn grow_to_hold(&mut self, at: usize, value: T)
    where
        T: Clone,
    {
        while self.len() <= at {
            self.push(value.clone());
        }
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten()
    }
}

impl<T> Index<usize> for SegmentedVec<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.segments[at / Self::SEGMENT][at % Self::SEGMENT]
    }
}

impl<T> IndexMut<usize> for SegmentedVec<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.segments[at / Self::SEGMENT][at % Self::SEGMENT]
    }
}

/// No vacant entry.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
enum Entry<T> {
    Occupied(T),
    /// The vacant entry to use after this one.
    Vacant(u32),
}

/// Values at indices that are reused once their value is removed, the last one first.
#[derive(Clone, Debug)]
pub struct SegmentedSlab<T> {
    entries: SegmentedVec<Entry<T>>,
    vacant: u32,
    len: usize,
}

impl<T> Default for SegmentedSlab<T> {
    fn default() -> Self {
        Self { entries: SegmentedVec::default(), vacant: NONE, len: 0 }
    }
}

impl<T> SegmentedSlab<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All indices that have ever been used are smaller.
    pub fn end(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Adds a value and returns its index.
    ///
    /// # Panics
    /// With 2^32 - 1 values.
    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.vacant == NONE {
            let at = self.end();
            assert_ne!(at, NONE, "no index is left");
            self.entries.push(Entry::Occupied(value));
            return at;
        }
        let at = self.vacant;
        match std::mem::replace(&mut self.entries[at as usize], Entry::Occupied(value)) {
            Entry::Vacant(next) => self.vacant = next,
            Entry::Occupied(_) => unreachable!("the entry is vacant"),
        }
        at
    }

    /// Removes the value at an index.
    ///
    /// # Panics
    /// If there is none.
    pub fn remove(&mut self, at: u32) -> T {
        match std::mem::replace(&mut self.entries[at as usize], Entry::Vacant(self.vacant)) {
            Entry::Occupied(value) => {
                self.vacant = at;
                self.len -= 1;
                value
            }
            Entry::Vacant(_) => panic!("nothing to remove at {at}"),
        }
    }

    /// The value at an index, if there is one.
    pub fn get(&self, at: u32) -> Option<&T> {
        match self.entries.get(at as usize)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    /// All values with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end()).filter_map(|at| Some((at, self.get(at)?)))
    }
}

impl<T> Index<u32> for SegmentedSlab<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        match &self.entries[at as usize] {
            Entry::Occupied(value) => value,
            Entry::Vacant(_) => panic!("nothing at {at}"),
        }
    }
}

impl<T> IndexMut<u32> for SegmentedSlab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        match &mut self.entries[at as usize] {
            Entry::Occupied(value) => value,
            Entry::Vacant(_) => panic!("nothing at {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grows_by_a_segment_and_stays_where_it_is() {
        const SEGMENT: usize = SegmentedVec::<usize>::SEGMENT;
        let mut values = SegmentedVec::default();
        values.push(0);
        let first: *const usize = &raw const values[0];
        for i in 1..3 * SEGMENT + 1 {
            values.push(i);
        }
        assert!(std::ptr::eq(first, &raw const values[0]), "nothing was copied");
        assert_eq!((values.len(), values.segments.len()), (3 * SEGMENT + 1, 4));
        assert!(values.iter().copied().eq(0..=3 * SEGMENT));
        assert_eq!((values.pop(), values.len(), values.segments.len()), (Some(3 * SEGMENT), 3 * SEGMENT, 3));
        assert_eq!((values.get(3 * SEGMENT - 1), values.get(3 * SEGMENT)), (Some(&(3 * SEGMENT - 1)), None));
        values.grow_to_hold(3 * SEGMENT + 2, 7);
        assert_eq!((values.len(), values[3 * SEGMENT]), (3 * SEGMENT + 3, 7));
    }

    #[test]
    fn an_entry_takes_no_more_than_its_value_if_that_has_a_flag() {
        assert_eq!(size_of::<Entry<(u32, bool)>>(), size_of::<(u32, bool)>());
    }

    proptest! {
        #[test]
        fn slab_agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let mut slab = SegmentedSlab::default();
            let mut naive = std::collections::BTreeMap::new();
            let mut most = 0;
            for (i, (insert, which)) in ops.into_iter().enumerate() {
                if insert || naive.is_empty() {
                    let at = slab.insert(i);
                    prop_assert_eq!(naive.insert(at, i), None);
                } else {
                    let at = *naive.keys().nth(which.index(naive.len())).unwrap();
                    prop_assert_eq!(Some(slab.remove(at)), naive.remove(&at));
                    prop_assert_eq!(slab.get(at), None);
                }
                most = naive.len().max(most);
                prop_assert_eq!((slab.len(), slab.is_empty()), (naive.len(), naive.is_empty()));
                prop_assert_eq!(slab.end() as usize, most, "indices are reused");
                prop_assert!(slab.iter().map(|(at, v)| (at, *v)).eq(naive.iter().map(|(at, v)| (*at, *v))));
            }
        }
    }
}
