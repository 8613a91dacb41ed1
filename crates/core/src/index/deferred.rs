//! What waits in L1 for its way to L2, and which of it will leave soon.
//!
//! A store policy may let an object wait until eviction comes near. Then there must be time for the copy, as
//! making room never waits for one: so the cold end of the eviction order is looked at before anything there
//! has to go. How far, the *margin*, is an eighth of L1 or twice the largest operation of late, whichever is
//! more. After half a margin has been reserved there is another look, so nothing that was there to be seen
//! goes unseen, but for an operation larger than all before it. In an L1 that is smaller than two margins,
//! nothing can wait to be seen: what is stored there is leaving.
//!
//! Cost: O(1) for each object evicted, amortised, and for each look one step for each salt where quotas
//! are enforced.

use larder_types::ChunkId;
use larder_types::object::ObjectKey;

use super::{Index, ObjectId, State};
use larder_policy::eviction::EvictDecision;

/// The least margin, as a part of L1.
const MARGIN_PART: u64 = 8;
/// After each operation the largest one of late is this part smaller.
const FADE: u64 = 256;

/// How much is reserved at a time, and how much has been since the last look.
#[derive(Debug, Default)]
pub(super) struct Pace {
    operation: u64,
    largest: u64,
    since: u64,
}

impl Pace {
    /// An operation begins.
    pub(super) fn begin(&mut self) {
        self.largest = self.operation.max(self.largest - self.largest / FADE);
        self.operation = 0;
    }

    /// It has reserved some more.
    pub(super) fn reserved(&mut self, bytes: u64) {
        self.operation += bytes;
        self.since += bytes;
    }

    /// How much should be seen to be leaving.
    fn margin(&self, capacity: u64) -> u64 {
        (2 * self.largest.max(self.operation)).max(capacity / MARGIN_PART)
    }

    /// The bytes that must be looked at now. `None` if there was a look lately.
    fn look(&mut self, capacity: u64) -> Option<u64> {
        let margin = self.margin(capacity).min(capacity / 2);
        (self.since >= margin / 2).then(|| {
            self.since = 0;
            margin
        })
    }
}

impl Index {
    /// Lets an object wait in L1, or no longer. Says whether that is new.
    pub(crate) fn set_waiting(&mut self, id: ObjectId, waits: bool) -> bool {
        let object = self.object_mut(id);
        let changed = object.waiting != waits;
        object.waiting = waits;
        match (changed, waits) {
            (false, _) => {}
            (true, true) => self.waiting += 1,
            (true, false) => self.waiting -= 1,
        }
        changed
    }

    /// Whether what waits would be seen to leave.
    pub(crate) fn can_wait(&self) -> bool {
        self.pace.margin(self.alloc.capacity()) <= self.alloc.capacity() / 2
    }

    /// How many objects wait.
    pub fn deferred_objects(&self) -> u64 {
        self.waiting
    }

    /// All that wait, in the order of memory.
    pub(crate) fn waiting(&self) -> Vec<ObjectKey> {
        let objects = self.by_offset.values().map(|id| self.object(*id)).filter(|o| o.waiting);
        objects.map(|object| self.key_of(object)).collect()
    }

    /// Those that wait and are likely to leave before this is asked again, the coldest first. Where L1 is
    /// trimmed, `spare` of its bytes are to be unused after that, so as much leaves earlier.
    pub(crate) fn leaving_soon(&mut self, spare: u64) -> Vec<ObjectKey> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let Some(margin) = self.pace.look(self.alloc.capacity()) else { return Vec::new() };
        let mut leaving: Vec<ChunkId> = Vec::new();
        if self.quotas_enforced {
            for salt in self.ledger.tenants() {
                let own = margin.min(self.ledger.limit(salt) / 2);
                leaving.extend(self.coldest_of(salt, self.ledger.excess(salt, own)).0);
            }
        }
        let mut left = (margin + spare).saturating_sub(self.alloc.free_bytes());
        if left > 0 {
            self.order.prepare(self.reuse.as_ref());
            self.order.visit_victims(&self.ledger, &mut |chunk| {
                leaving.push(chunk);
                let bytes = self.chunks[chunk.0 as usize].resident_bytes;
                left = left.saturating_sub(bytes);
                if left == 0 { EvictDecision::Done } else { EvictDecision::Evict(bytes) }
            });
        }
        let objects = leaving.iter().flat_map(|chunk| &self.chunks[chunk.0 as usize].objects);
        let waiting = objects.map(|id| self.object(*id)).filter(|o| o.waiting && o.state == State::Resident);
        waiting.map(|object| self.key_of(object)).collect()
    }
}
