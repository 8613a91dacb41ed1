//! Victim selection: allocating memory and evicting exactly what the allocation needs.
//!
//! An allocation needs one run of neighbouring bytes. Chunks are considered from the cold end, as if each were
//! gone, until the space of those and the free extents contains such a run; then only the chunks in the run are
//! evicted, as few bytes as suffice. So
//!
//! - nothing warmer is evicted than the coldest possible choice requires,
//! - objects of one size are evicted in the exact order of the policy, one chunk at a time,
//! - if no choice suffices (pinned objects lie between), nothing is evicted at all.
//!
//! If quotas are enforced, a tenant at its limit first loses chunks of its own, coldest first; their space counts
//! as free for all of the above.
//!
//! Cost: O(log n) per chunk considered. With objects of one size that is one chunk, besides the coldest ones
//! under I/O; a large object among many small ones considers many, and then replaces many.

use std::collections::BTreeMap;

use larder_policy::eviction::{EvictDecision, RemovalCause};
use larder_policy::quota::TenantId;
use larder_types::ChunkId;
use smallvec::SmallVec;

use super::alloc::Extent;
use super::{Index, IndexMut, ObjectId, State};

/// Runs of memory that would be free: start to end. Neighbours are merged, free extents included.
type Runs = BTreeMap<u64, u64>;

/// With more victims than this, it is not tried whether each is needed: that costs the square of their number.
const REDUCE_VICTIMS_MAX: usize = 64;

impl IndexMut<'_> {
    /// Allocates an extent for `bytes` of a tenant, evicting what must be evicted for it. `None`, and nothing
    /// evicted, if evicting everything evictable would not suffice.
    pub(super) fn allocate_or_evict(&mut self, bytes: u64, tenant: TenantId) -> Option<Extent> {
        let len = self.alloc.rounded(bytes)?;
        let own = if self.quotas_enforced { self.quota_victims(len, tenant)? } else { Vec::new() };
        if let Some(extent) = self.alloc.allocate(len) {
            own.into_iter().for_each(|chunk| self.evict(chunk));
            return Some(extent);
        }
        if len > self.alloc.free_bytes() + self.evictable_bytes {
            return None;
        }
        let Self { index, predictor, .. } = self;
        index.order.prepare(predictor.as_ref());
        for chunk in self.victims_for(len, own)? {
            self.evict(chunk);
        }
        self.alloc.allocate(len)
    }

    /// Evicts the coldest chunks, at most `chunks_max`, until at most `bytes` are used or nothing is evictable. Returns
    /// the number of evicted chunks.
    pub fn trim(&mut self, bytes: u64, chunks_max: u64) -> u64 {
        let mut chunks = 0;
        self.stats.l1.eviction_checks += 1;
        while self.alloc.used_bytes() > bytes && chunks < chunks_max {
            let Self { index, predictor, .. } = self;
            index.order.prepare(predictor.as_ref());
            let mut coldest = None;
            index.order.visit_victims(&index.quota_usage, &mut |chunk| {
                if index.is_under_io(chunk) {
                    return EvictDecision::Skip;
                }
                coldest = Some(chunk);
                EvictDecision::Done
            });
            let Some(victim) = coldest else { break };
            self.evict(victim);
            chunks += 1;
        }
        self.stats.l1.eviction_rounds += u64::from(chunks > 0);
        chunks
    }

    /// Removes all resident objects of a chunk that is in the eviction order.
    pub(super) fn evict(&mut self, id: ChunkId) {
        let Self { index, stats, .. } = self;
        let chunk = &index.chunks[id];
        if index.quotas_enforced {
            let bytes = index.resident_bytes(chunk);
            index.quota_usage.record_eviction(index.names.tenant(chunk.name), bytes);
        }
        stats.l1.evicted_chunks += 1;
        let objects: SmallVec<[ObjectId; 8]> = index.objects_of(chunk).map(|(id, _)| id).collect();
        let salt = index.names.get(chunk.name).1.clone();
        for object in objects {
            if self.object(object).state == State::Resident {
                let bytes = self.extent(self.object(object)).len;
                self.stats.l1.evicted_objects += 1;
                self.stats.l1.evicted_bytes += bytes;
                self.stats.tenant(&salt).evicted += 1;
                self.unlink_as(object, RemovalCause::Evicted);
            }
        }
    }
}

impl Index {
    /// The chunks that a tenant has to lose before it may own `len` more bytes, sorted by id. `None` if its quota
    /// does not allow them.
    fn quota_victims(&self, len: u64, tenant: TenantId) -> Option<Vec<ChunkId>> {
        if len > self.quota_usage.limit(tenant) {
            return None;
        }
        let (mut chunks, enough) = self.coldest_of(tenant, self.quota_usage.excess(tenant, len));
        chunks.sort_unstable();
        enough.then_some(chunks)
    }

    /// The coldest chunks of a tenant that have `bytes` in all, and whether they have that many.
    pub(super) fn coldest_of(&self, tenant: TenantId, bytes: u64) -> (Vec<ChunkId>, bool) {
        let (mut chunks, mut left) = (Vec::new(), bytes);
        if left == 0 {
            return (chunks, true);
        }
        self.order.visit_victims_of(tenant, &mut |chunk| {
            if self.is_protected(chunk) || self.is_under_io(chunk) {
                return EvictDecision::Skip;
            }
            chunks.push(chunk);
            let bytes = self.resident_bytes(&self.chunks[chunk]);
            left = left.saturating_sub(bytes);
            if left == 0 { EvictDecision::Done } else { EvictDecision::Evict(bytes) }
        });
        (chunks, left == 0)
    }

    fn is_protected(&self, chunk: ChunkId) -> bool {
        self.chunks[chunk].protected_by == self.operation
    }

    /// Whether I/O works on a chunk: evicting it would not free its memory at once.
    fn is_under_io(&self, chunk: ChunkId) -> bool {
        self.chunks[chunk].under_io > 0
    }

    /// The chunks to evict for a free extent of `len` bytes, each once: `own`, which is sorted and evicted in any
    /// case, and as few others as suffice.
    fn victims_for(&self, len: u64, mut own: Vec<ChunkId>) -> Option<Vec<ChunkId>> {
        let mut runs = Runs::new();
        let (mut found, mut alone) = (None, None);
        for chunk in &own {
            found = self.add_chunk(&mut runs, *chunk, len).or(found);
        }
        if found.is_none() {
            self.order.visit_victims(&self.quota_usage, &mut |chunk| {
                if self.is_protected(chunk) || self.is_under_io(chunk) || own.binary_search(&chunk).is_ok() {
                    return EvictDecision::Skip;
                }
                // The usual case, objects of one size: the space of the coldest chunk suffices.
                if runs.is_empty() && self.resident_extents(chunk).any(|extent| extent.len >= len) {
                    alone = Some(chunk);
                    return EvictDecision::Done;
                }
                found = self.add_chunk(&mut runs, chunk, len);
                match found {
                    Some(_) => EvictDecision::Done,
                    None => EvictDecision::Evict(self.resident_bytes(&self.chunks[chunk])),
                }
            });
        }
        if let Some(chunk) = alone {
            return Some(vec![chunk]);
        }
        let mut victims = self.cheapest_part(found?, len, &own);
        self.reduce(&mut victims, len, &own);
        victims.append(&mut own);
        Some(victims)
    }

    /// Drops the victims that are not needed. Chunks are evicted whole, so the objects that one has elsewhere may
    /// free what others were selected for.
    fn reduce(&self, victims: &mut Vec<ChunkId>, len: u64, own: &[ChunkId]) {
        let one_each = victims.iter().all(|chunk| self.resident_extents(*chunk).count() == 1);
        if one_each || victims.len() > REDUCE_VICTIMS_MAX {
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

    /// Adds the space of a chunk's objects. Returns a run of at least `len` bytes, if there is one then.
    fn add_chunk(&self, runs: &mut Runs, chunk: ChunkId, len: u64) -> Option<Extent> {
        let mut found = None;
        for extent in self.resident_extents(chunk) {
            found = Some(self.add_run(runs, extent)).filter(|run| run.len >= len).or(found);
        }
        found
    }

    fn resident_extents(&self, chunk: ChunkId) -> impl Iterator<Item = Extent> + '_ {
        let resident = self.objects_of(&self.chunks[chunk]).filter(|(_, o)| o.state == State::Resident);
        resident.map(|(_, o)| self.extent(o))
    }

    /// Adds an extent, merged with the runs and free extents beside it. Returns the merged run.
    fn add_run(&self, runs: &mut Runs, extent: Extent) -> Extent {
        let (mut start, mut end) = (extent.offset, extent.end());
        // A run already includes the free extents beside it.
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

    /// The chunks of the part of `run` that is at least `len` long and has the fewest bytes of objects, apart from
    /// those of `own`. Each once.
    fn cheapest_part(&self, run: Extent, len: u64, own: &[ChunkId]) -> Vec<ChunkId> {
        let unit = self.alloc.align();
        let inside = self.objects.in_units(run.offset / unit, run.end() / unit);
        let inside = inside.map(|(_, id)| self.object(id));
        let inside = inside.filter(|o| own.binary_search(&o.chunk).is_err());
        let objects: Vec<(Extent, ChunkId)> = inside.map(|o| (self.extent(o), o.chunk)).collect();
        let mut best = (u64::MAX, 0, 0);
        let (mut first, mut bytes) = (0, 0);
        for last in 0..objects.len() {
            bytes += objects[last].0.len;
            // All between the object before `first` and the one after `last` would be free.
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
