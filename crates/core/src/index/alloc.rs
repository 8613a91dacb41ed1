//! The allocator: which byte ranges of the arena are free.
//!
//! Best fit over free extents, lowest offset first among equals, merged with their neighbours when
//! freed. Objects of one size, the usual case, never fragment it: every hole is a whole number of
//! objects. With mixed sizes, the [index](super) evicts neighbours until a hole is large enough.
//!
//! Fresh space lies behind all space that was ever used and is larger than any hole, so it is
//! used last and in the order of offsets: memory is committed only when it is needed.

use std::collections::{BTreeMap, BTreeSet};

/// A range of the arena, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, a multiple of the allocator's alignment.
    pub len: u64,
}

impl Extent {
    /// First byte behind the extent.
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// Hands out aligned extents of `[0, capacity)`.
#[derive(Debug)]
pub struct Allocator {
    align: u64,
    capacity: u64,
    free: u64,
    by_offset: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
}

impl Allocator {
    /// An empty arena of `capacity` bytes, rounded down to `align` (a power of two).
    ///
    /// # Panics
    /// If `align` is not a power of two.
    pub fn new(capacity: u64, align: u64) -> Self {
        assert!(align.is_power_of_two(), "alignment {align} is not a power of two");
        let capacity = capacity & !(align - 1);
        let mut this = Self { align, capacity, free: 0, by_offset: BTreeMap::new(), by_len: BTreeSet::new() };
        if capacity > 0 {
            this.insert(Extent { offset: 0, len: capacity });
        }
        this
    }

    /// The alignment, in bytes. Every offset and length is a multiple of it.
    pub fn align(&self) -> u64 {
        self.align
    }

    /// Bytes that can be allocated in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes in free extents.
    pub fn free_bytes(&self) -> u64 {
        self.free
    }

    /// Allocated bytes.
    pub fn used_bytes(&self) -> u64 {
        self.capacity - self.free
    }

    /// `bytes` rounded up to the alignment; `None` if that is more than the whole arena, or zero.
    pub fn rounded(&self, bytes: u64) -> Option<u64> {
        let len = bytes.checked_add(self.align - 1)? & !(self.align - 1);
        (len > 0 && len <= self.capacity).then_some(len)
    }

    /// Takes the smallest free extent of at least `len` bytes, `len` being rounded already.
    pub fn allocate(&mut self, len: u64) -> Option<Extent> {
        debug_assert!(len > 0 && len.is_multiple_of(self.align), "{len} bytes are not aligned");
        let &(hole_len, offset) = self.by_len.range((len, 0)..).next()?;
        self.remove(Extent { offset, len: hole_len });
        if hole_len > len {
            self.insert(Extent { offset: offset + len, len: hole_len - len });
        }
        Some(Extent { offset, len })
    }

    /// Gives an extent back.
    ///
    /// # Panics
    /// If a part of it is free or outside the arena. That is a bug of the caller, and continuing would allocate
    /// the same memory twice.
    pub fn release(&mut self, extent: Extent) {
        let before = self.by_offset.range(..extent.offset).next_back().map(|(o, l)| (*o, *l));
        let after = self.by_offset.range(extent.offset..).next().map(|(o, l)| (*o, *l));
        assert!(
            extent.len > 0
                && extent.end() <= self.capacity
                && before.is_none_or(|(o, l)| o + l <= extent.offset)
                && after.is_none_or(|(o, _)| extent.end() <= o),
            "release of {extent:?}, which is not allocated"
        );
        let mut merged = extent;
        if let Some((offset, len)) = before.filter(|(o, l)| o + l == extent.offset) {
            self.remove(Extent { offset, len });
            merged = Extent { offset, len: len + merged.len };
        }
        if let Some((offset, len)) = after.filter(|(o, _)| *o == extent.end()) {
            self.remove(Extent { offset, len });
            merged.len += len;
        }
        self.insert(merged);
    }

    /// Gives up free space at the end of the arena, down to `end`. Allocated space stays.
    pub fn truncate_capacity(&mut self, end: u64) {
        let end = end & !(self.align - 1);
        let last = self.by_offset.iter().next_back().map(|(o, l)| Extent { offset: *o, len: *l });
        let Some(last) = last.filter(|e| e.end() == self.capacity && end < self.capacity) else { return };
        self.remove(last);
        self.capacity = last.offset.max(end);
        if self.capacity > last.offset {
            self.insert(Extent { offset: last.offset, len: self.capacity - last.offset });
        }
    }

    /// Adds free space at the end of the arena, up to `end`. It is up to the caller that the arena is that large.
    pub fn grow_capacity(&mut self, end: u64) {
        let end = end & !(self.align - 1);
        if end > self.capacity {
            let added = Extent { offset: self.capacity, len: end - self.capacity };
            self.capacity = end;
            self.release(added);
        }
    }

    /// Where the free extent that ends at `offset` begins; `offset` if there is none.
    pub fn free_before(&self, offset: u64) -> u64 {
        let before = self.by_offset.range(..offset).next_back();
        before.filter(|(start, len)| *start + **len == offset).map_or(offset, |(start, _)| *start)
    }

    /// Where the free extent that begins at `offset` ends; `offset` if there is none.
    pub fn free_after(&self, offset: u64) -> u64 {
        offset + self.by_offset.get(&offset).copied().unwrap_or(0)
    }

    fn insert(&mut self, e: Extent) {
        self.by_offset.insert(e.offset, e.len);
        self.by_len.insert((e.len, e.offset));
        self.free += e.len;
    }

    fn remove(&mut self, e: Extent) {
        self.by_offset.remove(&e.offset);
        self.by_len.remove(&(e.len, e.offset));
        self.free -= e.len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_to_the_alignment_and_refuses_nothing_and_too_much() {
        let a = Allocator::new(10_000, 4096);
        assert_eq!(a.capacity(), 8192);
        assert_eq!(a.rounded(1), Some(4096));
        assert_eq!(a.rounded(8192), Some(8192));
        assert_eq!(a.rounded(0), None);
        assert_eq!(a.rounded(8193), None);
        assert_eq!(a.rounded(u64::MAX), None);
    }

    #[test]
    fn fresh_space_is_used_last() {
        let mut a = Allocator::new(16 * 4096, 4096);
        let x = a.allocate(4096).unwrap();
        let y = a.allocate(4096).unwrap();
        a.release(x);
        assert_eq!(a.allocate(4096).unwrap(), x, "the hole comes before fresh space");
        assert_eq!(a.allocate(4096).unwrap().offset, y.end());
    }

    #[test]
    fn only_free_space_at_the_end_is_truncated() {
        let mut a = Allocator::new(8 * 4096, 4096);
        let x = a.allocate(2 * 4096).unwrap();
        let y = a.allocate(4096).unwrap();
        a.release(x);
        a.truncate_capacity(5 * 4096 + 1);
        assert_eq!((a.capacity(), a.free_bytes()), (5 * 4096, 4 * 4096));
        a.truncate_capacity(0);
        assert_eq!((a.capacity(), a.used_bytes()), (3 * 4096, 4096), "what is handed out stays");
        a.truncate_capacity(0);
        assert_eq!(a.capacity(), 3 * 4096);
        a.release(y);
        assert_eq!(a.allocate(3 * 4096), Some(Extent { offset: 0, len: 3 * 4096 }));
    }

    #[test]
    fn what_was_truncated_can_be_added_again() {
        let mut a = Allocator::new(8 * 4096, 4096);
        let x = a.allocate(2 * 4096).unwrap();
        a.truncate_capacity(4 * 4096);
        a.grow_capacity(6 * 4096 + 1);
        assert_eq!((a.capacity(), a.free_bytes()), (6 * 4096, 4 * 4096));
        a.grow_capacity(5 * 4096);
        assert_eq!(a.capacity(), 6 * 4096, "it never shrinks by growing");
        a.release(x);
        assert_eq!(a.allocate(6 * 4096), Some(Extent { offset: 0, len: 6 * 4096 }), "one extent again");
    }

    #[test]
    #[should_panic(expected = "not allocated")]
    fn a_double_release_is_caught() {
        let mut a = Allocator::new(8192, 4096);
        let x = a.allocate(4096).unwrap();
        a.release(x);
        a.release(x);
    }

    /// The naive model: one bool per page.
    fn naive_fit(pages: &[bool], n: usize) -> Option<usize> {
        let mut best: Option<(usize, usize)> = None;
        let mut i = 0;
        while i < pages.len() {
            let run = pages[i..].iter().take_while(|p| !**p).count();
            if run >= n && best.is_none_or(|(len, _)| run < len) {
                best = Some((run, i));
            }
            i += run.max(1);
        }
        best.map(|(_, at)| at)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn agrees_with_a_page_map(ops in prop::collection::vec((any::<bool>(), 1usize..9, any::<prop::sample::Index>()), 1..200)) {
            const PAGES: usize = 64;
            let mut a = Allocator::new(PAGES as u64 * 16, 16);
            let mut pages = [false; PAGES];
            let mut live: Vec<Extent> = Vec::new();
            for (take, n, which) in ops {
                if take || live.is_empty() {
                    let got = a.allocate(n as u64 * 16);
                    prop_assert_eq!(got.map(|e| (e.offset / 16) as usize), naive_fit(&pages, n));
                    if let Some(e) = got {
                        pages[(e.offset / 16) as usize..][..n].fill(true);
                        live.push(e);
                    }
                } else {
                    let e = live.swap_remove(which.index(live.len()));
                    a.release(e);
                    pages[(e.offset / 16) as usize..][..(e.len / 16) as usize].fill(false);
                }
                prop_assert_eq!(a.used_bytes() as usize, pages.iter().filter(|p| **p).count() * 16);
            }
            for e in live {
                a.release(e);
            }
            prop_assert_eq!(a.allocate(PAGES as u64 * 16), Some(Extent { offset: 0, len: PAGES as u64 * 16 }));
        }
    }
}
