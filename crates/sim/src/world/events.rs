//! After every call, the core's event logs must describe exactly what is in L1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use larder_core::Core;
use larder_core::stats::events::{Change, Tier};
use larder_types::ids::AdapterId;
use larder_types::object::{ChunkHash, ObjectKey};

/// Capacity of the event logs: more than one call can write.
const RECORDS: usize = 1 << 14;

/// A chunk as chunk events identify it: without its salt.
type Name = (Arc<str>, ChunkHash);

/// The state that the event logs describe.
#[derive(Debug, Default)]
pub(super) struct Follower {
    objects: HashSet<ObjectKey>,
    chunks: HashMap<Name, u64>,
    stored_in_l2: BTreeMap<AdapterId, u64>,
    object_cursor: u64,
    chunk_cursor: u64,
}

impl Follower {
    /// Enables the event logs of a new core.
    pub(super) fn new(core: &mut Core) -> Self {
        core.record_object_events(RECORDS);
        core.record_chunk_events(RECORDS);
        Self::default()
    }

    /// Reads the new events and compares the resulting state with the core.
    pub(super) fn verify(&mut self, core: &Core) {
        let was = (self.object_cursor, self.chunk_cursor);
        self.read_objects(core);
        self.read_chunks(core);
        let readable = core.gauges().l1.resident_objects;
        assert_eq!(readable, self.objects.len() as u64, "readable objects, and objects in events");
        if was == (self.object_cursor, self.chunk_cursor) {
            return;
        }
        let listed = core.index().list(0, usize::MAX).objects;
        let there: HashSet<ObjectKey> = listed.into_iter().map(|object| object.key).collect();
        assert!(
            there == self.objects,
            "objects that differ: {:?}",
            there.symmetric_difference(&self.objects)
        );
        assert_eq!(whole(&there), self.chunks, "chunks with a readable object for each rank");
        for (adapter, _) in core.adapters() {
            let stored = self.stored_in_l2.get(&adapter).copied().unwrap_or(0);
            assert_eq!(stored, core.stats().adapter(adapter).stored_objects, "stores of {adapter:?}");
        }
    }

    fn read_objects(&mut self, core: &Core) {
        let page = core.stats().object_events().after(self.object_cursor, usize::MAX);
        assert!(!page.lost, "object events were lost");
        self.object_cursor = page.next_cursor;
        for (number, event) in page.records {
            let valid = match (event.tier, event.change) {
                (Tier::L1, Change::Stored) => self.objects.insert(event.key),
                (Tier::L1, Change::Removed) => self.objects.remove(&event.key),
                (Tier::L1, Change::Used) => self.objects.contains(&event.key),
                (Tier::L2(adapter), change) => {
                    *self.stored_in_l2.entry(adapter).or_default() += u64::from(change == Change::Stored);
                    true
                }
            };
            assert!(valid, "object event {number} changes nothing, or uses an object that is not in L1");
        }
    }

    fn read_chunks(&mut self, core: &Core) {
        let page = core.stats().chunk_events().after(self.chunk_cursor, usize::MAX);
        assert!(!page.lost, "chunk events were lost");
        self.chunk_cursor = page.next_cursor;
        for (number, event) in page.records.into_iter().filter(|(_, event)| event.tier == Tier::L1) {
            let count = self.chunks.entry((event.model, event.hash)).or_default();
            let now = if event.visible { Some(*count + 1) } else { count.checked_sub(1) };
            *count =
                now.unwrap_or_else(|| panic!("chunk event {number} removes a chunk that was not stored"));
        }
        self.chunks.retain(|_, count| *count > 0);
    }
}

/// For each chunk, the number of salts with an object of every rank for some group of layers.
fn whole(objects: &HashSet<ObjectKey>) -> HashMap<Name, u64> {
    let mut ranks = BTreeMap::<_, BTreeMap<(u32, u32), BTreeSet<u32>>>::new();
    for key in objects {
        let chunk = (key.model_name.clone(), key.chunk_hash, key.cache_salt.clone());
        let piece = (key.kv_rank.world_size(), key.object_group);
        ranks.entry(chunk).or_default().entry(piece).or_default().insert(key.kv_rank.0);
    }
    let mut whole = HashMap::new();
    for ((model, hash, _), pieces) in ranks {
        if pieces.iter().any(|((world, _), ranks)| ranks.len() == *world as usize) {
            *whole.entry((model, hash)).or_default() += 1;
        }
    }
    whole
}
