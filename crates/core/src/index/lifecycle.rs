//! The life cycle of objects: reserved, admitted or aborted, unlinked, freed.

use std::sync::Arc;

use larder_policy::eviction::RemovalCause;
use larder_types::object::ChunkHash;
use larder_types::{ChunkId, Layout};

use super::{ChunkKey, IndexMut, Object, ObjectId, Option32, Origin, Refused, Retention, ShardKey, State};

impl IndexMut<'_> {
    /// Reserves memory for one object, evicting exactly what is needed. The object is staged: no lookup finds
    /// it before it is [admitted](Self::admit). Its layout is `layout`, whatever `shard` says.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn reserve(
        &mut self,
        (model, salt, hash): (&Arc<str>, &Arc<str>, &ChunkHash),
        shard: ShardKey,
        layout: &Layout,
        retention: Retention,
    ) -> Result<ObjectId, Refused> {
        let shard = ShardKey { layout: layout.id(), ..shard };
        let name = self.names.find(model, salt);
        let known = name.and_then(|name| self.chunks.find(&ChunkKey { name, hash: *hash }));
        if let Some(found) = known.and_then(|c| self.object_in(c, shard)) {
            let resident = self.object(found).state == State::Resident;
            return Err(if resident { Refused::Resident } else { Refused::Staged });
        }
        // The other objects of the chunk must not be evicted for this one. The chunk is not touched: a prompt is
        // reserved from its head on, so touching would make its tail the most recent.
        let operation = self.operation;
        if let Some(chunk) = known {
            self.chunk_mut(chunk).protected_by = operation;
        }
        let tenant = match name {
            Some(name) => self.names.tenant(name),
            None => self.quota_usage.tenant_or_insert(salt),
        };
        self.quota_usage.add_object(tenant);
        let evicted = self.stats.l1.evicted_chunks;
        let extent = self.allocate_or_evict(layout.bytes(), tenant);
        self.stats.l1.eviction_checks += 1;
        self.stats.l1.eviction_rounds += u64::from(self.stats.l1.evicted_chunks > evicted);
        let Some(extent) = extent else {
            self.quota_usage.remove_object(tenant, 0);
            self.stats.l1.refused_objects += 1;
            return Err(Refused::NoSpace);
        };
        self.quota_usage.add_bytes(tenant, extent.len);
        self.rate.record(extent.len);
        self.high_water_mark = self.high_water_mark.max(extent.end());
        let chunk = known.unwrap_or_else(|| self.insert_chunk((model, salt, hash), tenant));
        // There are fewer than 2^32 units.
        let [unit, units] = [extent.offset, extent.len].map(|bytes| (bytes / self.alloc.align()) as u32);
        let object = Object {
            chunk,
            tenant,
            rank: shard.rank,
            group: shard.group,
            unit,
            layout: self.layouts.acquire(layout, units),
            pins: 1,
            io_pins: 0,
            next: Option32::NONE,
            origin: Origin::default(),
            cleared: self.clears,
            state: State::Staged,
            retention,
            deferred: false,
        };
        let id = self.objects.insert(object);
        self.temporary += u64::from(retention == Retention::Temporary);
        self.append_to_chunk(chunk, id);
        self.chunk_mut(chunk).protected_by = operation;
        self.staged += 1;
        self.staged_bytes += extent.len;
        Ok(id)
    }

    /// Makes a staged object resident, with `pins` for the readers that wait for it, and releases the pin of its
    /// writer. Returns false if the object is freed instead: it was unlinked meanwhile, or it is temporary and
    /// has no reader.
    ///
    /// # Panics
    /// If the object is resident: its reservation was admitted twice.
    pub fn admit(&mut self, id: ObjectId, pins: u32) -> bool {
        let object = self.object_mut(id);
        match object.state {
            State::Resident => panic!("{id:?} admitted twice"),
            State::Unlinked => {
                self.unpin(id, 1);
                false
            }
            State::Staged if pins == 0 && object.retention == Retention::Temporary => {
                self.abort(id);
                false
            }
            State::Staged => {
                object.state = State::Resident;
                object.pins = u64::from(pins);
                let Object { chunk, io_pins, layout, .. } = *object;
                let units = self.layouts.units(layout);
                let len = u64::from(units) * self.alloc.align();
                self.mark_as_new(id);
                self.staged -= 1;
                self.staged_bytes -= len;
                self.resident += 1;
                let Self { index, stats, .. } = self;
                stats.l1.admitted_objects += 1;
                stats.l1.admitted_bytes += len;
                stats.tenant(&index.names.get(index.chunks[chunk].name).1).written += 1;
                self.update(chunk, |c| {
                    c.resident += 1;
                    c.resident_units += units;
                    c.pinned += u32::from(pins > 0);
                    c.under_io += u32::from(io_pins > 0);
                });
                self.publish_admission(id);
                true
            }
        }
    }

    /// Gives up a reservation: its writer is done with the memory and there is nothing to admit.
    pub fn abort(&mut self, id: ObjectId) {
        self.unlink(id);
        self.unpin(id, 1);
    }

    /// Removes an object from the index. Its memory stays while it is pinned: a staged object by its writer, a
    /// resident one by its readers.
    pub fn unlink(&mut self, id: ObjectId) {
        self.unlink_as(id, RemovalCause::Removed);
    }

    pub(super) fn unlink_as(&mut self, id: ObjectId, cause: RemovalCause) {
        let Object { chunk, state, pins, io_pins, layout, .. } = *self.object(id);
        let units = self.layouts.units(layout);
        self.changes += 1;
        match state {
            State::Unlinked => return,
            State::Staged => {
                self.staged -= 1;
                self.staged_bytes -= u64::from(units) * self.alloc.align();
                self.remove_from_chunk(chunk, id);
            }
            State::Resident => {
                self.resident -= 1;
                self.remove_from_chunk(chunk, id);
                self.update(chunk, |c| {
                    c.resident -= 1;
                    c.resident_units -= units;
                    c.pinned -= u32::from(pins > 0);
                    c.under_io -= u32::from(io_pins > 0);
                });
                self.publish_removal(id);
            }
        }
        self.object_mut(id).state = State::Unlinked;
        if self.set_deferred(id, false) && cause == RemovalCause::Evicted {
            let Self { index, stats, predictor } = self;
            stats.l1.evicted_waiting_objects += 1;
            if let Some(predictor) = predictor {
                predictor.on_drop(index.digest(&index.chunks[chunk]));
            }
        }
        if self.chunks[chunk].first == Option32::NONE {
            self.remove_chunk(chunk, cause);
        }
        if pins == 0 && io_pins == 0 {
            self.free(id);
        }
    }

    /// Returns the memory of an unlinked object without pins to the allocator.
    pub(super) fn free(&mut self, id: ObjectId) {
        let object = self.objects.remove(id);
        let extent = self.extent(&object);
        self.layouts.release(object.layout);
        self.temporary -= u64::from(object.retention == Retention::Temporary);
        debug_assert!(object.state == State::Unlinked && object.pins == 0, "{object:?} freed");
        self.quota_usage.remove_object(object.tenant, extent.len);
        self.alloc.release(extent);
    }

    /// Adds an object at the end of those of a chunk.
    fn append_to_chunk(&mut self, chunk: ChunkId, id: ObjectId) {
        let last = self.objects_of(&self.chunks[chunk]).last().map(|(last, _)| last);
        match last {
            Some(last) => self.object_mut(last).next = id.into(),
            None => self.chunk_mut(chunk).first = id.into(),
        }
    }

    /// Removes an object from those of a chunk.
    fn remove_from_chunk(&mut self, chunk: ChunkId, id: ObjectId) {
        let next = self.object(id).next;
        let before = self.objects_of(&self.chunks[chunk]).find(|(_, object)| object.next.get() == Some(id));
        match before.map(|(before, _)| before) {
            Some(before) => self.object_mut(before).next = next,
            None => self.chunk_mut(chunk).first = next,
        }
        self.object_mut(id).next = Option32::NONE;
    }
}
