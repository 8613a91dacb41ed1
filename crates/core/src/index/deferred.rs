//! Deferred write-back: objects that stay in L1 alone until they are close to eviction.
//!
//! A deferred object must be noticed early enough for its copy to be done before it is evicted, as allocation
//! never waits for a copy. So the cold end of the eviction order is inspected ahead of time. The distance, the
//! *margin*, is an eighth of L1 or twice the largest operation of late, whichever is larger; it is inspected
//! again after half a margin has been allocated. So every deferred object is seen in time, except by an
//! operation that is larger than all before it. If L1 is smaller than two margins, no object can be seen in
//! time, and nothing is deferred.
//!
//! Cost: amortised O(1) per evicted object, and one step per tenant and inspection if quotas are enforced.

use larder_policy::eviction::EvictDecision;
use larder_types::ChunkId;
use larder_types::object::ObjectKey;

use super::{Index, IndexMut, ObjectId, State};

/// The smallest margin, as a fraction of L1.
const MARGIN_FRACTION: u64 = 8;
/// With each operation, the remembered size of the largest one shrinks by this fraction.
const DECAY: u64 = 256;

/// Bytes allocated per operation, and since the last inspection.
#[derive(Debug, Default)]
pub(super) struct AllocationRate {
    operation: u64,
    largest: u64,
    since_inspection: u64,
}

impl AllocationRate {
    pub(super) fn begin_operation(&mut self) {
        self.largest = self.operation.max(self.largest - self.largest / DECAY);
        self.operation = 0;
    }

    /// The operation allocated some bytes.
    pub(super) fn record(&mut self, bytes: u64) {
        self.operation += bytes;
        self.since_inspection += bytes;
    }

    fn margin(&self, capacity: u64) -> u64 {
        (2 * self.largest.max(self.operation)).max(capacity / MARGIN_FRACTION)
    }

    /// The bytes to inspect now; `None` if the last inspection still suffices.
    fn inspect(&mut self, capacity: u64) -> Option<u64> {
        let margin = self.margin(capacity).min(capacity / 2);
        (self.since_inspection >= margin / 2).then(|| {
            self.since_inspection = 0;
            margin
        })
    }
}

impl Index {
    /// Whether a deferred object would be seen before it is evicted.
    pub(crate) fn can_defer(&self) -> bool {
        self.rate.margin(self.alloc.capacity()) <= self.alloc.capacity() / 2
    }

    /// Objects with deferred write-back.
    pub fn deferred_objects(&self) -> u64 {
        self.deferred
    }

    /// The keys of all deferred objects, by offset. Cost: O(objects).
    pub(crate) fn deferred(&self) -> Vec<ObjectKey> {
        let objects = self.objects.in_units(0, u64::MAX).map(|(_, id)| id);
        objects.filter(|id| self.object(*id).deferred).map(|id| self.key(id)).collect()
    }
}

impl IndexMut<'_> {
    /// Defers the write-back of an object, or ends that. Returns whether this is a change.
    pub(crate) fn set_deferred(&mut self, id: ObjectId, deferred: bool) -> bool {
        let changed = std::mem::replace(&mut self.object_mut(id).deferred, deferred) != deferred;
        match (changed, deferred) {
            (false, _) => {}
            (true, true) => self.deferred += 1,
            (true, false) => self.deferred -= 1,
        }
        changed
    }

    /// The deferred objects that may be evicted before the next inspection, the coldest first. If L1 is trimmed
    /// in the background, `spare` is the size that trimming leaves unused, so objects are evicted that much
    /// earlier.
    pub(crate) fn deferred_near_eviction(&mut self, spare: u64) -> Vec<ObjectKey> {
        if self.deferred == 0 {
            return Vec::new();
        }
        let capacity = self.alloc.capacity();
        let Some(margin) = self.rate.inspect(capacity) else { return Vec::new() };
        let mut near: Vec<ChunkId> = Vec::new();
        if self.quotas_enforced {
            for tenant in self.quota_usage.tenants() {
                let own = margin.min(self.quota_usage.limit(tenant) / 2);
                near.extend(self.coldest_of(tenant, self.quota_usage.excess(tenant, own)).0);
            }
        }
        let mut left = (margin + spare).saturating_sub(self.alloc.free_bytes());
        if left > 0 {
            let Self { index, predictor, .. } = self;
            index.order.prepare(predictor.as_ref());
            index.order.visit_victims(&index.quota_usage, &mut |chunk| {
                near.push(chunk);
                let bytes = index.resident_bytes(&index.chunks[chunk]);
                left = left.saturating_sub(bytes);
                if left == 0 { EvictDecision::Done } else { EvictDecision::Evict(bytes) }
            });
        }
        let objects = near.iter().flat_map(|chunk| self.objects_of(&self.chunks[*chunk]));
        let deferred = objects.filter(|(_, object)| object.deferred && object.state == State::Resident);
        deferred.map(|(id, _)| self.key(id)).collect()
    }
}
