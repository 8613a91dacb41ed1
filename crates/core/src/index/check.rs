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
        let mut held = HashMap::<ChunkId, (u32, u32)>::new();
        let mut by_tenant = BTreeMap::<TenantId, (u64, u64)>::new();
        let (mut staged, mut resident, mut used, mut staged_bytes) = (0, 0, 0, 0);
        let mut end = 0;
        let mut placed = 0;
        for (unit, id) in self.objects.in_units(0, u64::MAX) {
            let o = self.object(id);
            let extent = self.extent(o);
            assert_eq!(u64::from(o.unit), unit, "extent index");
            assert!(extent.offset >= end, "objects overlap at {}", extent.offset);
            end = extent.end();
            placed += 1;
            used += extent.len;
            let usage = by_tenant.entry(o.tenant).or_default();
            *usage = (usage.0 + 1, usage.1 + extent.len);
            assert!(extent.len >= self.layouts.get(o.layout).bytes(), "object larger than its memory");
            let chunk = self.chunks.get(o.chunk);
            let linked = chunk.is_some_and(|c| self.objects_of(c).any(|(of_chunk, _)| of_chunk == id));
            assert_eq!(linked, o.state != State::Unlinked, "{o:?} linked");
            match o.state {
                State::Staged => {
                    staged += 1;
                    staged_bytes += extent.len;
                    assert_eq!(o.pins, 1, "a staged object is pinned by its writer alone");
                }
                State::Resident => {
                    resident += 1;
                    let of_chunk = held.entry(o.chunk).or_default();
                    let (pinned, under_io) = (u32::from(o.pins > 0), u32::from(o.io_pins > 0));
                    *of_chunk = (of_chunk.0 + pinned, of_chunk.1 + under_io);
                    assert!(
                        o.pins > 0 || o.retention == Retention::Permanent,
                        "temporary object without pins"
                    );
                }
                State::Unlinked => assert!(o.pins > 0 || o.io_pins > 0, "{o:?} is not freed"),
            }
        }
        assert_eq!(placed, self.objects.len(), "every object has memory");
        assert_eq!(used, self.alloc.used_bytes(), "bytes accounted = bytes used");
        assert_eq!((staged, resident), (self.staged, self.resident), "object counts");
        assert_eq!(staged_bytes, self.staged_bytes, "staged bytes");
        self.quota_usage.check(&by_tenant);
        let (mut evictable, mut pinned_objects) = (0, 0);
        for (id, c) in self.chunks.iter() {
            let key = ChunkKey { name: c.name, hash: c.hash };
            assert_eq!(self.chunks.find(&key), Some(id), "chunk is found by its key");
            assert!(c.first.get().is_some(), "empty chunk kept");
            let tenant = self.names.tenant(c.name);
            assert!(self.objects_of(c).all(|(_, o)| o.tenant == tenant), "tenant of {id:?}");
            let counted = held.get(&id).copied().unwrap_or_default();
            assert_eq!((c.pinned, c.under_io), counted, "pins of {id:?}");
            assert_eq!(c.listed, c.pinned == 0 && c.resident > 0, "{id:?} in the order");
            evictable += c.evictable_units() * self.alloc.align();
            pinned_objects += c.held_objects();
        }
        assert_eq!(evictable, self.evictable_bytes, "evictable bytes");
        assert_eq!(pinned_objects, self.pinned, "pinned objects");
        let temporary = self.objects.iter().filter(|(_, o)| o.retention == Retention::Temporary).count();
        assert_eq!(temporary as u64, self.temporary, "temporary objects");
        let deferred = self.objects.iter().filter(|(_, o)| o.deferred).count();
        assert_eq!(deferred as u64, self.deferred, "deferred objects");
        assert!(self.names.len() as u64 <= self.chunks.len(), "names without chunks");
        assert!(self.layouts.len() as u64 <= self.objects.len(), "layouts without objects");
    }

    /// Compares the pins of all objects with those that their owners claim. For tests: O(objects).
    ///
    /// # Panics
    /// If a pin has no owner, or an owner no pin.
    pub fn check_pins(&self, held: &HashMap<ObjectId, u64>, io: &HashMap<ObjectId, u64>) {
        for (id, object) in self.objects.iter() {
            assert_eq!(object.pins, held.get(&id).copied().unwrap_or(0), "pins of {object:?}");
            assert_eq!(
                u64::from(object.io_pins),
                io.get(&id).copied().unwrap_or(0),
                "I/O pins of {object:?}"
            );
        }
        let known = |id: &ObjectId| self.objects.get(*id).is_some();
        assert!(held.keys().chain(io.keys()).all(known), "an object is pinned that does not exist");
    }
}
