//! Making room: evicting exactly what an allocation needs.

use super::alloc::Extent;
use super::{ChunkId, L1, ObjectId, State};

/// How many of the largest holes are considered as the middle of a cleared window.
const WINDOW_SEEDS: usize = 16;

/// Neighbouring memory that could be cleared for one allocation.
struct Window {
    chunks: Vec<ChunkId>,
    bytes: u64,
    rank: u64,
}

impl L1 {
    /// Takes an extent for `bytes`, evicting the coldest chunks until it fits. `None`, and nothing
    /// evicted, if all evictable bytes would not be enough.
    pub(super) fn make_room(&mut self, bytes: u64) -> Option<Extent> {
        let len = self.alloc.rounded(bytes)?;
        if len > self.alloc.free_bytes() + self.evictable_bytes {
            return None;
        }
        loop {
            if let Some(extent) = self.alloc.allocate(len) {
                return Some(extent);
            }
            if self.alloc.free_bytes() >= len && self.clear_window(len) {
                continue;
            }
            let victim = self.order.victim()?;
            if self.is_protected(victim) {
                return None;
            }
            self.evict(victim);
        }
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

    fn is_protected(&self, chunk: ChunkId) -> bool {
        self.chunks[chunk.0 as usize].protected_by == self.operation
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

    /// Enough bytes are free, but scattered (objects of several sizes): evicts neighbours around a
    /// hole, the fewest bytes that make one extent of `len`.
    fn clear_window(&mut self, len: u64) -> bool {
        let best = self
            .alloc
            .largest_free()
            .take(WINDOW_SEEDS)
            .filter_map(|hole| self.window_around(hole, len))
            .min_by_key(|w| (w.bytes, w.rank));
        let Some(window) = best else { return false };
        for chunk in window.chunks {
            // Objects of one chunk may lie in the window more than once.
            if self.chunks.get(chunk.0 as usize).is_some_and(|c| c.listed) {
                self.evict(chunk);
            }
        }
        true
    }

    /// Grows a window around `seed`, at each step towards free space or the colder neighbour.
    /// `None` if it meets memory that may not be evicted on both sides first.
    fn window_around(&self, seed: Extent, len: u64) -> Option<Window> {
        let (mut low, mut high) = (seed.offset, seed.end());
        let mut window = Window { chunks: Vec::new(), bytes: 0, rank: 0 };
        while high - low < len {
            let left = self.neighbour_below(low);
            let right = self.neighbour_above(high);
            let leftwards = match (left, right) {
                (None, None) => return None,
                (Some(l), Some(r)) => l.cost() <= r.cost(),
                (l, _) => l.is_some(),
            };
            let chosen = if leftwards { left? } else { right? };
            if let Neighbour::Evictable { chunk, extent, rank } = chosen {
                window.chunks.push(chunk);
                window.bytes += extent.len;
                window.rank = window.rank.max(rank);
            }
            low = low.min(chosen.extent().offset);
            high = high.max(chosen.extent().end());
        }
        Some(window)
    }

    fn neighbour_below(&self, low: u64) -> Option<Neighbour> {
        let below = self.by_offset.range(..low).next_back();
        let end = below.map_or(0, |(_, id)| self.object(*id).extent.end());
        if end < low {
            return Some(Neighbour::Free(Extent { offset: end, len: low - end }));
        }
        self.evictable(*below?.1)
    }

    fn neighbour_above(&self, high: u64) -> Option<Neighbour> {
        let above = self.by_offset.range(high..).next();
        let start = above.map_or(self.alloc.capacity(), |(offset, _)| *offset);
        if start > high {
            return Some(Neighbour::Free(Extent { offset: high, len: start - high }));
        }
        self.evictable(*above?.1)
    }

    fn evictable(&self, id: ObjectId) -> Option<Neighbour> {
        let object = self.object(id);
        if object.state != State::Resident {
            return None;
        }
        let chunk = object.chunk;
        let listed = self.chunks[chunk.0 as usize].listed && !self.is_protected(chunk);
        listed.then(|| Neighbour::Evictable { chunk, extent: object.extent, rank: self.order.rank(chunk) })
    }
}

#[derive(Clone, Copy)]
enum Neighbour {
    Free(Extent),
    Evictable { chunk: ChunkId, extent: Extent, rank: u64 },
}

impl Neighbour {
    fn extent(self) -> Extent {
        match self {
            Self::Free(extent) | Self::Evictable { extent, .. } => extent,
        }
    }

    fn cost(self) -> u64 {
        match self {
            Self::Free(_) => 0,
            Self::Evictable { rank, .. } => rank,
        }
    }
}
