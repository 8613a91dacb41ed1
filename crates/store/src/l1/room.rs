//! Making room: evicting exactly what an allocation needs.
//!
//! An allocation needs one run of neighbouring bytes. Chunks are considered from the cold end, as if
//! each were gone, until the space that they and the free extents make up has such a run; then only
//! those in the run leave, as few bytes as will do. So
//!
//! - nothing warmer is evicted than the coldest choice that works requires,
//! - objects of one size leave in the exact order of the policy, one chunk at a time,
//! - if no choice works (held objects lie between), nothing is evicted at all.
//!
//! Cost: O(log n) per chunk considered. With one size that is one chunk; a large object among many
//! small ones considers many, and then takes the place of many.

use std::collections::BTreeMap;

use super::alloc::Extent;
use super::{ChunkId, L1, State};

/// Runs of memory that would be free: start to end. Neighbours are merged, free extents included.
type Runs = BTreeMap<u64, u64>;

impl L1 {
    /// Takes an extent for `bytes`, evicting what must go for it. `None`, and nothing evicted, if
    /// evicting everything that may be evicted would not be enough.
    pub(super) fn make_room(&mut self, bytes: u64) -> Option<Extent> {
        let len = self.alloc.rounded(bytes)?;
        if let Some(extent) = self.alloc.allocate(len) {
            return Some(extent);
        }
        if len > self.alloc.free_bytes() + self.evictable_bytes {
            return None;
        }
        for chunk in self.victims_for(len)? {
            self.evict(chunk);
        }
        self.alloc.allocate(len)
    }

    /// Evicts the coldest chunks until at most `bytes` are used or nothing may be evicted. Returns
    /// how many chunks went.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        let mut chunks = 0;
        while self.alloc.used_bytes() > bytes {
            let Some(victim) = self.order.victim() else { break };
            self.evict(victim);
            chunks += 1;
        }
        chunks
    }

    /// Removes all resident objects of a chunk that is in the eviction order.
    fn evict(&mut self, id: ChunkId) {
        let objects = self.chunks[id.0 as usize].objects.clone();
        self.counters.evicted_chunks += 1;
        for object in objects {
            if self.object(object).state == State::Resident {
                self.counters.evicted_objects += 1;
                self.counters.evicted_bytes += self.object(object).extent.len;
                self.unlink(object);
            }
        }
    }

    /// The chunks to evict for a free extent of `len` bytes, each once.
    fn victims_for(&self, len: u64) -> Option<Vec<ChunkId>> {
        let mut runs = Runs::new();
        let mut next = self.order.victim();
        while let Some(chunk) = next {
            next = self.order.warmer(chunk);
            if self.chunks[chunk.0 as usize].protected_by == self.operation {
                continue;
            }
            // The usual case, objects of one size: the coldest chunk's place will do.
            if runs.is_empty() && self.resident_extents(chunk).any(|extent| extent.len >= len) {
                return Some(vec![chunk]);
            }
            let mut found = None;
            for extent in self.resident_extents(chunk) {
                // Evicting the chunk frees all of its objects, so its last run may be the best.
                found = Some(self.add_run(&mut runs, extent)).filter(|run| run.len >= len).or(found);
            }
            if let Some(run) = found {
                return Some(self.cheapest_part(run, len));
            }
        }
        None
    }

    fn resident_extents(&self, chunk: ChunkId) -> impl Iterator<Item = Extent> + '_ {
        let objects = self.chunks[chunk.0 as usize].objects.iter().map(|o| self.object(*o));
        objects.filter(|o| o.state == State::Resident).map(|o| o.extent)
    }

    /// Adds an extent, merged with the runs and free extents beside it. Returns the merged run.
    fn add_run(&self, runs: &mut Runs, extent: Extent) -> Extent {
        let (mut start, mut end) = (extent.offset, extent.end());
        // A run has taken in the free extents beside it already.
        match runs.range(..start).next_back() {
            Some((&left, &left_end)) if left_end == start => {
                runs.remove(&left);
                start = left;
            }
            _ => start = self.alloc.free_before(start),
        }
        match runs.remove(&end) {
            Some(right_end) => end = right_end,
            None => end = self.alloc.free_after(end),
        }
        runs.insert(start, end);
        Extent { offset: start, len: end - start }
    }

    /// The part of `run`, at least `len` long, in which the fewest bytes are objects. Chunks in it
    /// are named once.
    fn cheapest_part(&self, run: Extent, len: u64) -> Vec<ChunkId> {
        let inside = self.by_offset.range(run.offset..run.end()).map(|(_, id)| self.object(*id));
        let objects: Vec<(Extent, ChunkId)> = inside.map(|o| (o.extent, o.chunk)).collect();
        let mut best = (u64::MAX, 0, 0);
        let (mut first, mut bytes) = (0, 0);
        for last in 0..objects.len() {
            bytes += objects[last].0.len;
            // From the object before `first` to the one after `last` all would be free.
            let end = objects.get(last + 1).map_or(run.end(), |(e, _)| e.offset);
            let start = |first: usize| match first {
                0 => run.offset,
                _ => objects[first - 1].0.end(),
            };
            while first < last && end - start(first + 1) >= len {
                bytes -= objects[first].0.len;
                first += 1;
            }
            if end - start(first) >= len && bytes < best.0 {
                best = (bytes, first, last + 1);
            }
        }
        let mut chunks: Vec<ChunkId> = objects[best.1..best.2].iter().map(|(_, chunk)| *chunk).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }
}
