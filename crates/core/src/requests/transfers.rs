//! Transfers: a worker copies between its own memory and slots of the arena.
//!
//! ```text
//! store:     prepare -> slots reserved, invisible -> worker writes -> commit -> readable
//! retrieve:  prepare -> shares move from the lookup to the retrieve -> worker reads -> commit -> end
//! ```
//!
//! A transfer that takes longer than its TTL, or whose worker or connection is gone, is *overdue*:
//! a store can no longer be committed, a retrieve no longer holds its shares. But the copy may still
//! be running, so the memory of a store is reused only when its worker says it is done, when a
//! second TTL has passed, or, if the worker is gone, after the quarantine. The memory of a retrieve
//! whose worker is gone waits for the quarantine as well.
//!
//! A transfer is known by its name alone (instance, request, range, last hash), for the protocol has
//! no other. So that a commit can never be taken for that of another copy which is still running,
//! a store is not prepared again under the name of one that may be (nothing is handed out), and
//! retrieves of one name end together.

use std::sync::Arc;

use larder_types::object::{ChunkHash, KvRank};
use smallvec::SmallVec;

use crate::core::{Core, Deadline};
use crate::index::{ObjectId, Refused, Retention, ShardKey};
use larder_policy::offload::StoreTrigger;
use larder_types::ids::{ConnectionId, InstanceId};
use larder_types::layout::Layout;
use larder_types::time::Time;

/// Where one object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First byte, from the start of the arena.
    pub offset: u64,
    /// The object's bytes.
    pub layout: Layout,
}

/// One transfer: chunks `start..end` of a prompt, one rank.
#[derive(Clone, Debug)]
pub struct TransferSpec<'a> {
    /// Who copies.
    pub instance: InstanceId,
    /// The connection that says so.
    pub connection: ConnectionId,
    /// The request the copy is for.
    pub request_id: &'a Arc<str>,
    /// Model as the engine names it; the worker's own.
    pub model: &'a Arc<str>,
    /// The worker's piece.
    pub rank: KvRank,
    /// Isolation domain.
    pub salt: &'a Arc<str>,
    /// Hashes of the prompt's chunks from its start; at least `end` of them.
    pub chunk_hashes: &'a [ChunkHash],
    /// First chunk.
    pub start: u32,
    /// Behind the last chunk.
    pub end: u32,
}

/// What a store may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedStore {
    /// Where to write.
    pub slots: Vec<Slot>,
    /// For each slot its chunk, counted from the start of the range.
    pub chunks: Vec<u32>,
    /// Memory ended before the range did.
    pub no_space: bool,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The slots were published, as many as had not been cleared away meanwhile.
    Published(u32),
    /// No such store was prepared, or it is committed already.
    Unknown,
    /// The write TTL was over, or the connection was lost. Nothing was published.
    Expired,
}

/// The instance is not registered: after a restart it must not touch the arena it still maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance is not registered for this model")]
pub struct NotRegistered;

/// Names a prepared transfer; equal for its prepare and its commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TransferKey {
    instance: InstanceId,
    request_id: Arc<str>,
    rank: KvRank,
    salt: Arc<str>,
    start: u32,
    end: u32,
    /// Hashes are chained: the last one stands for all tokens before it.
    tail: Option<ChunkHash>,
}

/// Slots being written.
#[derive(Debug)]
pub(crate) struct Store {
    key: TransferKey,
    connection: ConnectionId,
    pub(crate) objects: Vec<ObjectId>,
    model: Arc<str>,
    /// Hashes before the range's end, to keep the prefix warmer than its continuation.
    chunk_hashes: Vec<ChunkHash>,
    /// When they were reserved.
    pub(crate) since: Time,
    deadline: Time,
    /// It can no longer be committed; its memory waits for its copy.
    pub(crate) overdue: bool,
}

/// Slots being read, one share each.
#[derive(Debug)]
pub(crate) struct Retrieve {
    key: TransferKey,
    connection: ConnectionId,
    /// None once the read TTL is over.
    pub(crate) objects: Vec<ObjectId>,
    bytes: u64,
    model: Arc<str>,
    /// The hit it is part of: its head stays warmer than what was read of it.
    prefix: Prefix,
    /// When it took its shares.
    pub(crate) since: Time,
    deadline: Time,
    /// It no longer counts as running, but its copy may still be.
    pub(crate) overdue: bool,
}

/// The leading `len` chunks of a prompt.
type Prefix = (Arc<[ChunkHash]>, u32);

/// Transfers that are overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) stores: u64,
    pub(crate) retrieves: u64,
    /// Objects whose memory they may still be using.
    pub(crate) objects: u64,
}

/// Retrieves of one name.
#[derive(Debug, Default)]
pub(crate) struct Equals {
    pub(crate) ids: SmallVec<[u64; 1]>,
    /// How many of them have been committed. They end when all have been.
    done: usize,
}

impl TransferSpec<'_> {
    fn key(&self) -> TransferKey {
        TransferKey {
            instance: self.instance,
            request_id: self.request_id.clone(),
            rank: self.rank,
            salt: self.salt.clone(),
            start: self.start,
            end: self.end,
            tail: self.range().last().copied(),
        }
    }

    fn range(&self) -> &[ChunkHash] {
        &self.chunk_hashes[self.start as usize..self.end as usize]
    }
}

impl Core {
    /// Reserves a slot for every chunk of the range that is neither cached nor being written, as
    /// many leading ones as memory can be made for. None if an equal store may still be running.
    ///
    /// # Errors
    /// [`NotRegistered`] if the instance is unknown or serves another model.
    pub fn prepare_store(
        &mut self,
        now: Time,
        spec: &TransferSpec<'_>,
    ) -> Result<PreparedStore, NotRegistered> {
        self.advance(now);
        let layout = self.transfer_layout(now, spec)?;
        let key = spec.key();
        if self.store_ids.contains_key(&key) {
            return Ok(PreparedStore::default());
        }
        self.index.begin();
        self.protect_prefix(spec);
        let cell = ShardKey { rank: spec.rank, group: 0 };
        let mut prepared = PreparedStore::default();
        let mut objects = Vec::new();
        for (i, hash) in spec.range().iter().enumerate() {
            self.clear_way(spec, hash, cell, &layout);
            let name = (spec.model, spec.salt, hash);
            match self.index.reserve(name, cell, &layout, Retention::Permanent) {
                Ok(object) => {
                    objects.push(object);
                    prepared.slots.push(Slot { offset: self.index.offset(object), layout: layout.clone() });
                    prepared.chunks.push(i as u32);
                }
                Err(Refused::Resident | Refused::Staged) => {}
                // What follows a missing chunk could not be found.
                Err(Refused::NoSpace) => {
                    prepared.no_space = true;
                    let left = spec.range().len() - i;
                    self.index.tally.models.of(spec.model).store_no_room += left as u64;
                    break;
                }
            }
        }
        if !objects.is_empty() {
            self.counters.stores_prepared += 1;
            self.begin_store(now, key, spec, objects);
        }
        Ok(prepared)
    }

    /// The worker has written its slots: they become readable.
    pub fn commit_store(&mut self, now: Time, spec: &TransferSpec<'_>) -> Committed {
        self.advance(now);
        let _ = self.active_worker(now, spec.instance);
        let Some(&id) = self.store_ids.get(&spec.key()) else { return Committed::Unknown };
        let store = self.remove_store(id);
        if store.overdue {
            self.release(&store.objects);
            return Committed::Expired;
        }
        let mut published = 0;
        let mut stored = Vec::new();
        let told = self.index.events.last();
        // From the end, so that the first chunk is the warmest.
        for object in store.objects.iter().rev() {
            let bytes = self.index.layout(*object).bytes();
            if self.index.admit(*object, 0) {
                published += 1;
                stored.push(*object);
                self.counters.stored_objects += 1;
                self.counters.stored_bytes += bytes;
            }
        }
        // But who follows the prompt is told of it from its start.
        self.index.events.reverse_after(told);
        self.counters.stores_committed += 1;
        self.touch_prefix(&store.model, &store.key.salt, &store.chunk_hashes);
        self.write_back_stored(&stored);
        self.trim();
        Committed::Published(published)
    }

    /// The worker gives its slots back unwritten.
    pub fn abort_store(&mut self, now: Time, spec: &TransferSpec<'_>) {
        self.advance(now);
        let Some(&id) = self.store_ids.get(&spec.key()) else { return };
        let store = self.remove_store(id);
        self.counters.stores_abandoned += u64::from(!store.overdue);
        store.objects.iter().for_each(|o| self.index.abort(*o));
    }

    /// Moves one share of each chunk of the range from the request's lookup to this retrieve. If
    /// one has none, or is no longer there, nothing can be read, and one share of each of the others
    /// ends: their reader will not come back. `None` then.
    ///
    /// # Errors
    /// [`NotRegistered`] if the instance is unknown or serves another model. No share ends.
    pub fn prepare_retrieve(
        &mut self,
        now: Time,
        spec: &TransferSpec<'_>,
    ) -> Result<Option<Vec<Slot>>, NotRegistered> {
        self.advance(now);
        let layout = self.transfer_layout(now, spec)?;
        let Some((objects, prefix)) = self.take_retrieve_shares(now, spec, &layout) else {
            self.counters.retrieves_failed += 1;
            self.index.tally.models.of(spec.model).retrieve_missing += spec.range().len() as u64;
            return Ok(None);
        };
        let slots =
            objects.iter().map(|o| Slot { offset: self.index.offset(*o), layout: layout.clone() }).collect();
        let id = self.new_id();
        let deadline = now + self.config.read_ttl;
        self.deadlines.insert((deadline, Deadline::Retrieve(id)));
        let key = spec.key();
        self.retrieve_ids.entry(key.clone()).or_default().ids.push(id);
        self.counters.retrieves_prepared += 1;
        let retrieve = Retrieve {
            key,
            connection: spec.connection,
            objects,
            bytes: layout.bytes(),
            model: spec.model.clone(),
            prefix,
            since: now,
            deadline,
            overdue: false,
        };
        self.reading.insert((now, id));
        self.retrieves.insert(id, retrieve);
        Ok(Some(slots))
    }

    /// The worker has read its slots, or given up. Returns whether such a retrieve was running;
    /// several equal ones end when each has been committed.
    pub fn commit_retrieve(&mut self, now: Time, spec: &TransferSpec<'_>) -> bool {
        self.advance(now);
        let _ = self.active_worker(now, spec.instance);
        let key = spec.key();
        let Some(equals) = self.retrieve_ids.get_mut(&key) else { return false };
        let running = equals.ids.iter().any(|id| !self.retrieves[id].overdue);
        equals.done += 1;
        if equals.done == equals.ids.len() {
            for id in equals.ids.clone() {
                let retrieve = &self.retrieves[&id];
                if !retrieve.overdue {
                    self.counters.retrieves_committed += 1;
                    self.counters.retrieved_objects += retrieve.objects.len() as u64;
                    self.counters.retrieved_bytes += retrieve.objects.len() as u64 * retrieve.bytes;
                    self.index.tally.salts.of(&key.salt).read += retrieve.objects.len() as u64;
                    retrieve.objects.iter().for_each(|object| self.index.note_used(*object));
                }
                self.release_retrieved(id);
                self.remove_retrieve(id);
            }
        }
        running
    }

    /// The layout of the worker's objects, if it is who it says it is.
    fn transfer_layout(&mut self, now: Time, spec: &TransferSpec<'_>) -> Result<Layout, NotRegistered> {
        let worker = self.active_worker(now, spec.instance).ok_or(NotRegistered)?;
        let same = worker.model == *spec.model && worker.world_size == spec.rank.world_size();
        let group = worker.groups.first().filter(|_| same);
        group.map(|g| g.layout.clone()).ok_or(NotRegistered)
    }

    /// The prompt's chunks before the range must not make room for those in it.
    fn protect_prefix(&mut self, spec: &TransferSpec<'_>) {
        let prefix = &spec.chunk_hashes[..spec.end as usize];
        let chunks: Vec<_> = self.index.leading_chunks(spec.model, spec.salt, prefix).flatten().collect();
        chunks.into_iter().rev().for_each(|c| self.index.protect(c));
    }

    /// Deals with what is in the place of a chunk that a worker wants to store. An object that no
    /// worker of the model can read any more (the model changed its shape) makes way for one that can
    /// be read; one that was to go with its readers stays, as the store would.
    fn clear_way(&mut self, spec: &TransferSpec<'_>, hash: &ChunkHash, cell: ShardKey, layout: &Layout) {
        let Some(chunk) = self.index.chunk(spec.model, spec.salt, hash) else { return };
        if let Some(object) = self.index.staged(chunk, cell) {
            self.store_meets_load(object);
        }
        // The chunk may have gone with an orphan.
        let chunk = self.index.chunk(spec.model, spec.salt, hash);
        let Some(object) = chunk.and_then(|c| self.index.resident(c, cell)) else { return };
        let found = self.index.layout(object);
        let readable = found == layout
            || self.models_of(spec).is_some_and(|m| m.layouts().any(|l| l.bytes() == found.bytes()));
        if !readable {
            self.index.unlink(object);
        } else if self.promote_if(object, true) {
            // Adapters other than the one it came from may lack it.
            self.write_back(&[self.index.key(object)], StoreTrigger::Stored);
        }
    }

    /// What a store has published goes on to L2.
    fn write_back_stored(&mut self, objects: &[ObjectId]) {
        if self.adapters.is_empty() {
            return;
        }
        // The first chunk first: without it the others are worth nothing.
        let keys: Vec<_> = objects.iter().rev().map(|o| self.index.key(*o)).collect();
        self.write_back(&keys, StoreTrigger::Stored);
    }

    fn models_of(&self, spec: &TransferSpec<'_>) -> Option<&crate::requests::workers::Model> {
        let world_size = self.workers.get(&spec.instance)?.spec.world_size;
        self.models.get(spec.model, world_size)
    }

    fn begin_store(&mut self, now: Time, key: TransferKey, spec: &TransferSpec<'_>, objects: Vec<ObjectId>) {
        let id = self.new_id();
        let deadline = now + self.config.write_ttl;
        self.deadlines.insert((deadline, Deadline::Store(id)));
        self.store_ids.insert(key.clone(), id);
        let store = Store {
            key,
            connection: spec.connection,
            objects,
            model: spec.model.clone(),
            chunk_hashes: spec.chunk_hashes[..spec.end as usize].to_vec(),
            since: now,
            deadline,
            overdue: false,
        };
        self.stores.insert(id, store);
    }

    /// Takes one share of each chunk of the range out of the lookup's hands.
    fn take_retrieve_shares(
        &mut self,
        now: Time,
        spec: &TransferSpec<'_>,
        layout: &Layout,
    ) -> Option<(Vec<ObjectId>, Prefix)> {
        if spec.range().is_empty() {
            return None;
        }
        let id = *self.session_ids.get(spec.request_id)?;
        self.renew(now, id);
        let lookup = self.sessions.get_mut(&id)?.lookup.as_mut()?;
        let covered = spec.end.min(lookup.hit) as usize;
        let same_prompt = lookup.model == *spec.model
            && lookup.salt == *spec.salt
            && covered > 0
            && lookup.chunk_hashes[covered - 1] == spec.chunk_hashes[covered - 1];
        if !same_prompt {
            return None;
        }
        let row = lookup.rows.iter_mut().find(|r| r.cell.rank == spec.rank && r.cell.group == 0)?;
        let grants = row.range(spec.start, spec.end);
        let readable =
            |o: ObjectId| self.index.is_resident(o) && self.index.layout(o).bytes() == layout.bytes();
        let whole =
            grants.len() == spec.range().len() && grants.iter().all(|g| g.shares > 0 && readable(g.object));
        if !whole {
            grants.iter_mut().rev().for_each(|g| g.release_one(&mut self.index));
            self.recount_lease(id);
            self.touch_prefix(spec.model, spec.salt, &spec.chunk_hashes[..covered]);
            return None;
        }
        grants.iter_mut().for_each(|g| g.shares -= 1);
        let objects = grants.iter().map(|g| g.object).collect();
        let prefix = (lookup.chunk_hashes.clone(), lookup.hit);
        self.recount_lease(id);
        Some((objects, prefix))
    }

    fn remove_store(&mut self, id: u64) -> Store {
        let store = self.stores.remove(&id).expect("ids name live stores");
        self.deadlines.remove(&(store.deadline, Deadline::Store(id)));
        self.store_ids.remove(&store.key);
        if store.overdue {
            self.overdue.stores -= 1;
            self.overdue.objects -= store.objects.len() as u64;
        }
        store
    }

    fn remove_retrieve(&mut self, id: u64) {
        let retrieve = self.retrieves.remove(&id).expect("ids name live retrieves");
        self.deadlines.remove(&(retrieve.deadline, Deadline::Retrieve(id)));
        if retrieve.overdue {
            self.overdue.retrieves -= 1;
            self.overdue.objects -= retrieve.objects.len() as u64;
        }
        let equals = self.retrieve_ids.get_mut(&retrieve.key).expect("every retrieve is found by its key");
        equals.ids.retain(|i| *i != id);
        equals.done = equals.done.saturating_sub(1);
        if equals.ids.is_empty() {
            self.retrieve_ids.remove(&retrieve.key);
        }
    }

    /// Ends one share of each object; the first one is the warmest then.
    fn release(&mut self, objects: &[ObjectId]) {
        objects.iter().rev().for_each(|o| self.index.unpin(*o, 1));
    }

    /// Ends a retrieve's shares, if it still has them.
    fn release_retrieved(&mut self, id: u64) {
        let retrieve = self.retrieves.get_mut(&id).expect("ids name live retrieves");
        let objects = std::mem::take(&mut retrieve.objects);
        self.reading.remove(&(retrieve.since, id));
        self.overdue.objects -= if retrieve.overdue { objects.len() as u64 } else { 0 };
        if objects.is_empty() {
            return;
        }
        let (model, salt) = (retrieve.model.clone(), retrieve.key.salt.clone());
        let (chunk_hashes, len) = retrieve.prefix.clone();
        self.release(&objects);
        self.touch_prefix(&model, &salt, &chunk_hashes[..len as usize]);
    }

    /// A retrieve's time is up. The first time its shares end; the second time it is forgotten.
    pub(crate) fn retrieve_expired(&mut self, id: u64, due: Time) {
        if self.retrieves[&id].overdue {
            self.release_retrieved(id);
            self.remove_retrieve(id);
            return;
        }
        self.retire_retrieve(id, due + self.config.read_ttl);
        self.release_retrieved(id);
    }

    /// A store's time is up. The first time it can no longer be committed and others may write its
    /// chunks, elsewhere; the second time its memory is free.
    pub(crate) fn store_overdue(&mut self, id: u64, due: Time) {
        if self.stores[&id].overdue {
            let store = self.remove_store(id);
            return self.release(&store.objects);
        }
        self.retire_store(id, due + self.config.write_ttl);
    }

    /// The store can no longer be committed. Its memory waits for its copy, until `until`.
    fn retire_store(&mut self, id: u64, until: Time) {
        let store = self.stores.get_mut(&id).expect("ids name live stores");
        self.deadlines.remove(&(store.deadline, Deadline::Store(id)));
        store.deadline = if store.overdue { until.min(store.deadline) } else { until };
        self.deadlines.insert((store.deadline, Deadline::Store(id)));
        if !store.overdue {
            store.overdue = true;
            self.overdue.stores += 1;
            self.overdue.objects += store.objects.len() as u64;
            self.counters.stores_abandoned += 1;
            store.objects.iter().for_each(|o| self.index.unlink(*o));
        }
    }

    /// The retrieve counts no longer as running. What it still holds waits for its copy, until
    /// `until`.
    fn retire_retrieve(&mut self, id: u64, until: Time) {
        let retrieve = self.retrieves.get_mut(&id).expect("ids name live retrieves");
        self.deadlines.remove(&(retrieve.deadline, Deadline::Retrieve(id)));
        retrieve.deadline = if retrieve.overdue { until.min(retrieve.deadline) } else { until };
        self.deadlines.insert((retrieve.deadline, Deadline::Retrieve(id)));
        if !retrieve.overdue {
            retrieve.overdue = true;
            self.overdue.retrieves += 1;
            self.overdue.objects += retrieve.objects.len() as u64;
            self.counters.retrieves_abandoned += 1;
        }
    }

    /// Recomputes what is overdue. For tests.
    pub(crate) fn check_overdue(&self) {
        let stores = || self.stores.values().filter(|s| s.overdue);
        let retrieves = || self.retrieves.values().filter(|r| r.overdue);
        let objects = stores().map(|s| s.objects.len()).chain(retrieves().map(|r| r.objects.len()));
        let overdue = Overdue {
            objects: objects.sum::<usize>() as u64,
            stores: stores().count() as u64,
            retrieves: retrieves().count() as u64,
        };
        assert_eq!(overdue, self.overdue, "overdue transfers");
    }

    /// Ends the transfers of somebody who is gone. Stores are never published; the memory of both
    /// kinds is quarantined, for the copy may still be running.
    pub(crate) fn abandon_transfers(&mut self, now: Time, gone: impl Fn(ConnectionId, InstanceId) -> bool) {
        let until = now + self.config.quarantine;
        let stores = self.stores.iter().filter(|(_, s)| gone(s.connection, s.key.instance));
        for id in stores.map(|(id, _)| *id).collect::<Vec<u64>>() {
            self.retire_store(id, until);
        }
        let retrieves = self.retrieves.iter().filter(|(_, r)| gone(r.connection, r.key.instance));
        for id in retrieves.map(|(id, _)| *id).collect::<Vec<u64>>() {
            self.retire_retrieve(id, until);
        }
    }
}
