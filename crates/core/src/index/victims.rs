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
//! Where quotas are enforced, a salt at its limit first gives what it has to, coldest first, and the
//! space of that counts as free for all of the above.
//!
//! Cost: O(log n) per chunk considered. With one size that is one chunk, and those of the coldest
//! that I/O works on; a large object among many small ones considers many, and then takes the place
//! of many.

use larder_types::ChunkId;
use std::collections::BTreeMap;

use super::alloc::Extent;
use super::{Index, State};
use larder_policy::eviction::{EvictDecision, RemovalCause};
use larder_policy::quota::TenantId;

/// Runs of memory that would be free: start to end. Neighbours are merged, free extents included.
type Runs = BTreeMap<u64, u64>;

/// Of more victims than this, it is not asked of each whether the others would do. Its cost grows
/// with the square of their number.
const WEIGHED_MAX: usize = 64;

impl Index {
    /// Takes an extent for `bytes` of `salt`, evicting what must go for it. `None`, and nothing
    /// evicted, if evicting everything that may be evicted for it would not be enough.
    pub(super) fn make_room(&mut self, bytes: u64, salt: TenantId) -> Option<Extent> {
        let len = self.alloc.rounded(bytes)?;
        let own = if self.quotas_enforced { self.own_share(len, salt)? } else { Vec::new() };
        if let Some(extent) = self.alloc.allocate(len) {
            own.into_iter().for_each(|chunk| self.evict(chunk));
            return Some(extent);
        }
        if len > self.alloc.free_bytes() + self.evictable_bytes {
            return None;
        }
        self.order.prepare(self.reuse.as_ref());
        for chunk in self.victims_for(len, own)? {
            self.evict(chunk);
        }
        self.alloc.allocate(len)
    }

    /// Evicts the coldest chunks until at most `bytes` are used or nothing may be evicted. Returns
    /// how many chunks went.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        let mut chunks = 0;
        self.counters.eviction_checks += 1;
        while self.alloc.used_bytes() > bytes {
            let mut coldest = None;
            self.order.prepare(self.reuse.as_ref());
            self.order.visit_victims(&self.ledger, &mut |chunk| {
                if self.is_lent(chunk) {
                    return EvictDecision::Skip;
                }
                coldest = Some(chunk);
                EvictDecision::Done
            });
            let Some(victim) = coldest else { break };
            self.evict(victim);
            chunks += 1;
        }
        self.counters.eviction_rounds += u64::from(chunks > 0);
        chunks
    }

    /// The chunks that `salt` has to lose before it may have `len` more, in no order. `None` if it
    /// may not have them.
    fn own_share(&self, len: u64, salt: TenantId) -> Option<Vec<ChunkId>> {
        if len > self.ledger.limit(salt) {
            return None;
        }
        let (mut chunks, enough) = self.coldest_of(salt, self.ledger.excess(salt, len));
        chunks.sort_unstable();
        enough.then_some(chunks)
    }

    /// The coldest chunks of a salt that make up `bytes`, and whether they do.
    pub(crate) fn coldest_of(&self, salt: TenantId, bytes: u64) -> (Vec<ChunkId>, bool) {
        let (mut chunks, mut left) = (Vec::new(), bytes);
        if left == 0 {
            return (chunks, true);
        }
        self.order.visit_victims_of(salt, &mut |chunk| {
            if self.is_protected(chunk) || self.is_lent(chunk) {
                return EvictDecision::Skip;
            }
            chunks.push(chunk);
            let bytes = self.chunks[chunk.0 as usize].resident_bytes;
            left = left.saturating_sub(bytes);
            if left == 0 { EvictDecision::Done } else { EvictDecision::Evict(bytes) }
        });
        (chunks, left == 0)
    }

    /// Removes all resident objects of a chunk that is in the eviction order.
    pub(crate) fn evict(&mut self, id: ChunkId) {
        let chunk = &self.chunks[id.0 as usize];
        if self.quotas_enforced {
            self.ledger.record_eviction(self.names.salt(chunk.name), chunk.resident_bytes);
        }
        self.counters.evicted_chunks += 1;
        for object in chunk.objects.clone() {
            if self.object(object).state == State::Resident {
                self.counters.evicted_objects += 1;
                self.counters.evicted_bytes += self.object(object).extent.len;
                self.count(id, |counts| counts.evicted += 1);
                self.unlink_as(object, RemovalCause::Evicted);
            }
        }
    }

    fn is_protected(&self, chunk: ChunkId) -> bool {
        self.chunks[chunk.0 as usize].protected_by == self.operation
    }

    /// Whether I/O works on it: its memory would not come back at once.
    fn is_lent(&self, chunk: ChunkId) -> bool {
        self.chunks[chunk.0 as usize].loans > 0
    }

    /// The chunks to evict for a free extent of `len` bytes, each once: `own`, which is sorted and
    /// goes in any case, and as few others as will do.
    fn victims_for(&self, len: u64, mut own: Vec<ChunkId>) -> Option<Vec<ChunkId>> {
        let mut runs = Runs::new();
        let (mut found, mut alone) = (None, None);
        for chunk in &own {
            found = self.add_chunk(&mut runs, *chunk, len).or(found);
        }
        if found.is_none() {
            self.order.visit_victims(&self.ledger, &mut |chunk| {
                if self.is_protected(chunk) || self.is_lent(chunk) || own.binary_search(&chunk).is_ok() {
                    return EvictDecision::Skip;
                }
                // The usual case, objects of one size: the coldest chunk's place will do.
                if runs.is_empty() && self.resident_extents(chunk).any(|extent| extent.len >= len) {
                    alone = Some(chunk);
                    return EvictDecision::Done;
                }
                found = self.add_chunk(&mut runs, chunk, len);
                match found {
                    Some(_) => EvictDecision::Done,
                    None => EvictDecision::Evict(self.chunks[chunk.0 as usize].resident_bytes),
                }
            });
        }
        if let Some(chunk) = alone {
            return Some(vec![chunk]);
        }
        let mut victims = self.cheapest_part(found?, len, &own);
        self.spare(&mut victims, len, &own);
        victims.append(&mut own);
        Some(victims)
    }

    /// Drops the victims that are not needed. A chunk leaves whole, so the objects that it has elsewhere
    /// may make the room that others were named for.
    fn spare(&self, victims: &mut Vec<ChunkId>, len: u64, own: &[ChunkId]) {
        let one_each = victims.iter().all(|chunk| self.resident_extents(*chunk).count() == 1);
        if one_each || victims.len() > WEIGHED_MAX {
            return;
        }
        for at in (0..victims.len()).rev() {
            let spared = victims.remove(at);
            let mut runs = Runs::new();
            let mut gone = own.iter().chain(&*victims);
            if !gone.any(|chunk| self.add_chunk(&mut runs, *chunk, len).is_some()) {
                victims.insert(at, spared);
            }
        }
    }

    /// Counts a chunk's objects as gone. Returns the run that has `len` bytes then, if one has.
    fn add_chunk(&self, runs: &mut Runs, chunk: ChunkId, len: u64) -> Option<Extent> {
        let mut found = None;
        for extent in self.resident_extents(chunk) {
            // Evicting the chunk frees all of its objects, so its last run may be the best.
            found = Some(self.add_run(runs, extent)).filter(|run| run.len >= len).or(found);
        }
        found
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

    /// The part of `run`, at least `len` long, in which the fewest bytes are objects, those of `own`
    /// aside. Chunks in it are named once.
    fn cheapest_part(&self, run: Extent, len: u64, own: &[ChunkId]) -> Vec<ChunkId> {
        let inside = self.by_offset.range(run.offset..run.end()).map(|(_, id)| self.object(*id));
        let inside = inside.filter(|o| own.binary_search(&o.chunk).is_err());
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
