//! Somebody who follows the core's event logs must know, after every call, what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use larder_core::Core;
use larder_core::stats::events::{Change, Tier};
use larder_types::ids::AdapterId;
use larder_types::object::{ChunkHash, ObjectKey};

/// More than one call can cause.
const RECORDS: usize = 1 << 14;

/// A chunk as events name it. Chunks of several salts look the same.
type Name = (Arc<str>, ChunkHash);

/// What is there, as far as the logs tell.
#[derive(Debug, Default)]
pub(super) struct Follower {
    objects: HashSet<ObjectKey>,
    chunks: HashMap<Name, u64>,
    stored_in_l2: BTreeMap<AdapterId, u64>,
    object_cursor: u64,
    chunk_cursor: u64,
}

impl Follower {
    /// Follows a new core from its first call on.
    pub(super) fn new(core: &mut Core) -> Self {
        core.record_object_events(RECORDS);
        core.record_chunk_events(RECORDS);
        Self::default()
    }

    /// Reads what is new, and compares what follows from it with what is there.
    pub(super) fn verify(&mut self, core: &Core) {
        let was = (self.object_cursor, self.chunk_cursor);
        self.read_objects(core);
        self.read_chunks(core);
        let readable = core.gauges().l1.resident_objects;
        assert_eq!(readable, self.objects.len() as u64, "objects that were told of and can be read");
        if was == (self.object_cursor, self.chunk_cursor) {
            return;
        }
        let listed = core.index().list(0, usize::MAX).objects;
        let there: HashSet<ObjectKey> = listed.into_iter().map(|object| object.key).collect();
        assert!(there == self.objects, "objects: {:?}", there.symmetric_difference(&self.objects));
        assert_eq!(whole(&there), self.chunks, "chunks of which each rank's object can be read");
        for (adapter, _) in core.adapters() {
            let told = self.stored_in_l2.get(&adapter).copied().unwrap_or(0);
            assert_eq!(told, core.stats().adapter(adapter).stored_objects, "stores of {adapter:?}");
        }
    }

    fn read_objects(&mut self, core: &Core) {
        let page = core.stats().object_events().after(self.object_cursor, usize::MAX);
        assert!(!page.lost, "object events were lost");
        self.object_cursor = page.next_cursor;
        for (number, event) in page.records {
            let as_it_should = match (event.tier, event.change) {
                (Tier::L1, Change::Stored) => self.objects.insert(event.key),
                (Tier::L1, Change::Removed) => self.objects.remove(&event.key),
                (Tier::L1, Change::Used) => self.objects.contains(&event.key),
                (Tier::L2(adapter), change) => {
                    *self.stored_in_l2.entry(adapter).or_default() += u64::from(change == Change::Stored);
                    true
                }
            };
            assert!(as_it_should, "object event {number} says what was so already");
        }
    }

    fn read_chunks(&mut self, core: &Core) {
        let page = core.stats().chunk_events().after(self.chunk_cursor, usize::MAX);
        assert!(!page.lost, "chunk events were lost");
        self.chunk_cursor = page.next_cursor;
        for (number, event) in page.records.into_iter().filter(|(_, event)| event.tier == Tier::L1) {
            let count = self.chunks.entry((event.model, event.hash)).or_default();
            let now = if event.visible { Some(*count + 1) } else { count.checked_sub(1) };
            *count = now.unwrap_or_else(|| panic!("chunk event {number} withdraws what was not told of"));
        }
        self.chunks.retain(|_, count| *count > 0);
    }
}

/// How many salts have each chunk whole. The simulation's models have one group of layers.
fn whole(objects: &HashSet<ObjectKey>) -> HashMap<Name, u64> {
    let mut ranks = BTreeMap::<_, BTreeMap<u32, BTreeSet<u32>>>::new();
    for key in objects {
        let chunk = (key.model_name.clone(), key.chunk_hash, key.cache_salt.clone());
        ranks.entry(chunk).or_default().entry(key.kv_rank.world_size()).or_default().insert(key.kv_rank.0);
    }
    let mut whole = HashMap::new();
    for ((model, hash, _), worlds) in ranks {
        if worlds.iter().any(|(world, ranks)| ranks.len() == *world as usize) {
            *whole.entry((model, hash)).or_default() += 1;
        }
    }
    whole
}
