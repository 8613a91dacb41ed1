//! Consistency checks of the index against the objects themselves. For tests: O(objects).

use std::collections::BTreeMap;

use hashbrown::HashMap;
use larder_policy::quota::TenantId;
use larder_types::ChunkId;

use super::names::ChunkKey;
use super::{Index, ObjectId, Retention, State};
use crate::stats::Stats;

impl Index {
    /// Recomputes all sums and orders from the objects. For tests: O(objects).
    ///
    /// # Panics
    /// If anything differs.
    pub fn check(&self, stats: &Stats) {
        self.check_published(&stats.events);
        let mut held = HashMap::<ChunkId, (u64, u64)>::new();
        let mut by_tenant = BTreeMap::<TenantId, (u64, u64)>::new();
        let (mut staged, mut resident, mut used, mut staged_bytes) = (0, 0, 0, 0);
        let mut end = 0;
        for (offset, id) in &self.by_offset {
            let o = self.object(*id);
            assert_eq!(o.extent.offset, *offset, "extent index");
            assert!(o.extent.offset >= end, "objects overlap at {offset}");
            end = o.extent.end();
            used += o.extent.len;
            let usage = by_tenant.entry(o.tenant).or_default();
            *usage = (usage.0 + 1, usage.1 + o.extent.len);
            assert!(o.extent.len >= o.layout.bytes(), "object larger than its memory");
            let linked = self.chunks.get(o.chunk.0 as usize).is_some_and(|c| c.objects.contains(id));
            assert_eq!(linked, o.state != State::Unlinked, "{o:?} linked");
            match o.state {
                State::Staged => {
                    staged += 1;
                    staged_bytes += o.extent.len;
                    assert_eq!(o.pins, 1, "a staged object is pinned by its writer alone");
                }
                State::Resident => {
                    resident += 1;
                    let of_chunk = held.entry(o.chunk).or_default();
                    *of_chunk = (of_chunk.0 + o.pins, of_chunk.1 + o.io_pins);
                    assert!(
                        o.pins > 0 || o.retention == Retention::Permanent,
                        "temporary object without pins"
                    );
                }
                State::Unlinked => assert!(o.pins + o.io_pins > 0, "{o:?} is not freed"),
            }
        }
        assert_eq!(self.by_offset.len(), self.objects.len(), "every object has memory");
        assert_eq!(used, self.alloc.used_bytes(), "bytes accounted = bytes used");
        assert_eq!((staged, resident), (self.staged, self.resident), "object counts");
        assert_eq!(staged_bytes, self.staged_bytes, "staged bytes");
        self.quota_usage.check(&by_tenant);
        let (mut evictable, mut pinned_objects) = (0, 0);
        for (i, c) in &self.chunks {
            let id = ChunkId(i as u32);
            assert_eq!(
                self.map.get(&ChunkKey { name: c.name, hash: c.hash }),
                Some(&id),
                "chunk is found by its key"
            );
            assert!(!c.objects.is_empty(), "empty chunk kept");
            let tenant = self.names.tenant(c.name);
            assert!(c.objects.iter().all(|o| self.object(*o).tenant == tenant), "tenant of {id:?}");
            let (pins, io_pins) = held.get(&id).copied().unwrap_or_default();
            assert_eq!((c.pins, c.io_pins), (pins, io_pins), "pins of {id:?}");
            assert_eq!(c.listed, c.pins == 0 && c.resident > 0, "{id:?} in the order");
            evictable += c.evictable_bytes();
            pinned_objects += c.pinned_objects();
        }
        assert_eq!(evictable, self.evictable_bytes, "evictable bytes");
        assert_eq!(pinned_objects, self.pinned, "pinned objects");
        let temporary = self.objects.iter().filter(|(_, o)| o.retention == Retention::Temporary).count();
        assert_eq!(temporary as u64, self.temporary, "temporary objects");
        let deferred = self.objects.iter().filter(|(_, o)| o.deferred).count();
        assert_eq!(deferred as u64, self.deferred, "deferred objects");
        assert_eq!(self.map.len(), self.chunks.len(), "one key per chunk");
        assert!(self.names.len() <= self.chunks.len(), "names without chunks");
    }

    /// Compares the pins of all objects with those that their owners claim. For tests: O(objects).
    ///
    /// # Panics
    /// If a pin has no owner, or an owner no pin.
    pub fn check_pins(&self, held: &HashMap<ObjectId, u64>, io: &HashMap<ObjectId, u64>) {
        for (i, object) in &self.objects {
            let id = ObjectId(i as u32);
            assert_eq!(object.pins, held.get(&id).copied().unwrap_or(0), "pins of {object:?}");
            assert_eq!(object.io_pins, io.get(&id).copied().unwrap_or(0), "I/O pins of {object:?}");
        }
        let known = |id: &ObjectId| self.objects.contains(id.0 as usize);
        assert!(held.keys().chain(io.keys()).all(known), "an object is pinned that does not exist");
    }
}
