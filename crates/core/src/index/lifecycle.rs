//! How objects come and go: reserved, admitted or given up, unlinked, and their memory free again.

use std::sync::Arc;

use larder_types::object::ChunkHash;

use super::alloc::Extent;
use super::{Chunk, ChunkKey, Index, Object, ObjectId, Refused, Retention, ShardKey, State};
use larder_policy::eviction::{self, RemovalCause};
use larder_types::layout::Layout;

impl Index {
    /// Reserves memory for one object, evicting exactly what is needed. The object is staged:
    /// nobody finds it until [`admit`](Self::admit).
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn reserve(
        &mut self,
        (model, salt, hash): (&Arc<str>, &Arc<str>, &ChunkHash),
        cell: ShardKey,
        layout: &Layout,
        retention: Retention,
    ) -> Result<ObjectId, Refused> {
        let name = self.names.find(model, salt);
        let known = name.and_then(|name| self.map.get(&ChunkKey { name, hash: *hash }).copied());
        if let Some(found) = known.and_then(|c| self.object_in(c, cell)) {
            let resident = self.object(found).state == State::Resident;
            return Err(if resident { Refused::Resident } else { Refused::Staged });
        }
        // The chunk's other cells must not be what makes room for this one. It is not touched: chunks
        // are reserved from the head of a prompt on, which would make its tail the warmest.
        if let Some(chunk) = known {
            self.chunks[chunk.0 as usize].protected_by = self.operation;
        }
        let account = match name {
            Some(name) => self.names.salt(name),
            None => self.ledger.tenant_or_insert(salt),
        };
        self.ledger.add_object(account);
        let evicted = self.counters.evicted_chunks;
        let room = self.make_room(layout.bytes(), account);
        self.counters.eviction_checks += 1;
        self.counters.eviction_rounds += u64::from(self.counters.evicted_chunks > evicted);
        let Some(extent) = room else {
            self.ledger.remove_object(account, 0);
            self.counters.refused_objects += 1;
            return Err(Refused::NoSpace);
        };
        self.ledger.add_bytes(account, extent.len);
        self.pace.reserved(extent.len);
        self.high_water_mark = self.high_water_mark.max(extent.end());
        let chunk = known.unwrap_or_else(|| self.new_chunk(model, salt, hash, account));
        let object = Object {
            chunk,
            salt: account,
            cell,
            extent,
            layout: layout.clone(),
            state: State::Staged,
            retention,
            pins: 1,
            loans: 0,
            origin: None,
            waiting: false,
        };
        let id = ObjectId(self.objects.insert(object) as u32);
        self.by_offset.insert(extent.offset, id);
        self.temporary += u64::from(retention == Retention::Temporary);
        let operation = self.operation;
        let chunk = self.chunk_mut(chunk);
        chunk.objects.push(id);
        chunk.protected_by = operation;
        self.staged += 1;
        self.staged_bytes += extent.len;
        Ok(id)
    }

    /// Makes a staged object readable, with `shares` pins for those who will read it. Its writer's
    /// pin ends. Says whether it was admitted: an object that was unlinked meanwhile, or that is
    /// temporary and nobody waits for, is not, and its memory is free then.
    ///
    /// # Panics
    /// If the object is resident: its reservation was admitted twice.
    pub fn admit(&mut self, id: ObjectId, shares: u32) -> bool {
        let object = self.object_mut(id);
        match object.state {
            State::Resident => panic!("{id:?} admitted twice"),
            State::Unlinked => {
                self.unpin(id, 1);
                false
            }
            State::Staged if shares == 0 && object.retention == Retention::Temporary => {
                self.abort(id);
                false
            }
            State::Staged => {
                let shares = u64::from(shares);
                object.state = State::Resident;
                object.pins = shares;
                let Object { chunk, loans, extent: Extent { len, .. }, .. } = *object;
                self.staged -= 1;
                self.staged_bytes -= len;
                self.resident += 1;
                self.counters.admitted_objects += 1;
                self.counters.admitted_bytes += len;
                self.count(chunk, |counts| counts.written += 1);
                self.update(chunk, |c| {
                    c.resident += 1;
                    c.resident_bytes += len;
                    c.pins += shares;
                    c.loans += loans;
                });
                self.note_readable(id);
                true
            }
        }
    }

    /// Gives a reservation back: its writer is done with the memory and there is nothing to admit.
    pub fn abort(&mut self, id: ObjectId) {
        self.unlink(id);
        self.unpin(id, 1);
    }

    /// Removes an object from the index at once. Its memory stays as long as it is pinned: a staged
    /// object by its writer, a resident one by its readers.
    pub fn unlink(&mut self, id: ObjectId) {
        self.unlink_as(id, RemovalCause::Removed);
    }

    pub(super) fn unlink_as(&mut self, id: ObjectId, how: RemovalCause) {
        let Object { chunk, state, pins, loans, extent, .. } = *self.object(id);
        match state {
            State::Unlinked => return,
            State::Staged => {
                self.staged -= 1;
                self.staged_bytes -= extent.len;
                self.chunk_mut(chunk).objects.retain(|o| *o != id);
            }
            State::Resident => {
                self.resident -= 1;
                self.update(chunk, |c| {
                    c.objects.retain(|o| *o != id);
                    c.resident -= 1;
                    c.resident_bytes -= extent.len;
                    c.pins -= pins;
                    c.loans -= loans;
                });
                self.note_gone(id);
            }
        }
        self.object_mut(id).state = State::Unlinked;
        if self.set_waiting(id, false) && how == RemovalCause::Evicted {
            self.counters.evicted_waiting_objects += 1;
            let Chunk { name, hash, .. } = &self.chunks[chunk.0 as usize];
            let digest = eviction::digest(self.names.digest(*name), hash.as_bytes());
            self.reuse.iter_mut().for_each(|reuse| reuse.on_drop(digest));
        }
        if self.chunks[chunk.0 as usize].objects.is_empty() {
            self.remove_chunk(chunk, how);
        }
        if pins == 0 && loans == 0 {
            self.free(id);
        }
    }

    /// Removes every chunk that nobody holds or writes; with `force`, everything. Returns how many
    /// objects left the index.
    pub fn clear(&mut self, force: bool) -> u64 {
        let mut removed = 0;
        let ids: Vec<usize> = self.chunks.iter().map(|(i, _)| i).collect();
        for i in ids {
            let chunk = &self.chunks[i];
            if chunk.pins + chunk.loans > 0 && !force {
                continue;
            }
            for object in chunk.objects.clone() {
                if force || self.object(object).state == State::Resident {
                    self.unlink(object);
                    removed += 1;
                }
            }
        }
        self.counters.cleared_objects += removed;
        removed
    }

    pub(super) fn free(&mut self, id: ObjectId) {
        let object = self.objects.remove(id.0 as usize);
        self.temporary -= u64::from(object.retention == Retention::Temporary);
        debug_assert!(object.state == State::Unlinked && object.pins == 0, "{object:?} freed");
        self.by_offset.remove(&object.extent.offset);
        self.ledger.remove_object(object.salt, object.extent.len);
        self.alloc.release(object.extent);
    }
}
