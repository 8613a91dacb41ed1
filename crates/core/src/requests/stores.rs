//! Stores: workers write objects into reserved slots. See [`transfer`](super::transfer).

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use larder_policy::offload::StoreTrigger;
use larder_types::object::ChunkHash;
use larder_types::{ConnectionId, InstanceId, Time};

use super::by_owner::ByOwner;
use super::clients::Held;
use super::models::Model;
use super::transfer::{Copied, Expired, Prefix, Slot, TransferId, TransferSpec, unpin_all};
use super::worker_spec::Group;
use crate::context::Context;
use crate::ids::StoreId;
use crate::index::{ObjectId, Refused, Retention, ShardKey};
use crate::io::Effect;
use crate::prefetch::Prefetch;
use crate::timers::{Timer, TimerKind};
use crate::write_back::WriteBack;

/// No slots are handed out while more than this fraction of L1 waits for writers that may be late: the sum of such
/// memory stays bounded, and hits go on being served.
const QUARANTINE_MAX_FRACTION: u64 = 2;

/// What a store may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedStore {
    /// Where to write, by group, then by chunk.
    pub slots: Vec<Slot>,
    /// The memory did not suffice for the whole range.
    pub no_space: bool,
}

impl PreparedStore {
    /// For each slot its chunk, counted from the start of the range.
    pub fn chunks(&self) -> Vec<u32> {
        self.slots.iter().map(|slot| slot.chunk).collect()
    }
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The objects are readable, except those that were cleared meanwhile.
    Published(Copied),
    /// No such store was prepared, or it has been committed.
    Unknown,
    /// The write TTL was over, or the connection was lost. Nothing was published.
    Expired,
}

impl Committed {
    /// What was published, if anything could be.
    pub fn published(self) -> Option<Copied> {
        match self {
            Self::Published(copied) => Some(copied),
            Self::Unknown | Self::Expired => None,
        }
    }
}

/// Slots being written.
#[derive(Debug)]
struct StoreTransfer {
    id: TransferId,
    connection: ConnectionId,
    objects: Vec<ObjectId>,
    /// The prompt up to the end of the range, to keep it more recent than its continuation.
    prefix: Prefix,
    /// When the slots were reserved.
    since: Time,
    state: State,
    timer: Timer,
    held: Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The worker may commit it.
    Writing,
    /// It can no longer be committed; its memory waits for the end of the copy.
    Expired,
}

/// All stores.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    stores: BTreeMap<StoreId, StoreTransfer>,
    by_id: HashMap<TransferId, StoreId>,
    by_connection: ByOwner<ConnectionId, StoreId>,
    by_instance: ByOwner<InstanceId, StoreId>,
    expired: Expired,
    /// Bytes of the objects of expired stores.
    expired_bytes: u64,
}

impl Stores {
    /// Reserves a slot in each group for every chunk of the range that is neither resident nor being written, for as many
    /// leading chunks as memory suffices. `skipped`: for each group the chunks, counted from the start of the range, that
    /// the worker does not write; no list means none. Nothing if a store of the same identity may still be running.
    pub(crate) fn prepare(
        &mut self,
        cx: &mut Context,
        (model, groups): (&Model, &[Group]),
        (spec, skipped): (&TransferSpec<'_>, &[Vec<u32>]),
        tiers: (&mut Prefetch, &mut WriteBack),
    ) -> PreparedStore {
        let mut prepared = PreparedStore::default();
        let id = spec.id();
        if self.by_id.contains_key(&id) {
            return prepared;
        }
        if self.expired_bytes > cx.index.usage().capacity_bytes / QUARANTINE_MAX_FRACTION {
            prepared.no_space = true;
            cx.stats.model(spec.model).store_no_room += spec.range().len() as u64;
            return prepared;
        }
        protect_prefix(cx, spec);
        let skipped = Skipped::new(skipped, spec.range().len());
        let mut room = cx.client_room(spec.connection);
        let mut reserved = Vec::new();
        for chunk in 0..spec.range().len() as u32 {
            let before = reserved.len();
            let wanted = (0..groups.len()).filter(|group| !skipped.contains(*group, chunk));
            let is_whole = wanted.into_iter().all(|at| {
                let (group, tiers) = (&groups[at], (&mut *tiers.0, &mut *tiers.1));
                match reserve(cx, (model, group), (spec, chunk), tiers, &mut room) {
                    Ok(object) => reserved.push((at, chunk, object)),
                    Err(Refused::Resident | Refused::Staged) => {}
                    Err(Refused::NoSpace) => return false,
                }
                true
            });
            if !is_whole {
                // A chunk without all of its objects is of no use, and what follows it could not be found.
                reserved.drain(before..).for_each(|(.., object)| cx.index_mut().abort(object));
                prepared.no_space = true;
                cx.stats.model(spec.model).store_no_room += spec.range().len() as u64 - u64::from(chunk);
                break;
            }
        }
        // The transfer keeps its objects chunk by chunk: so they become readable.
        let objects: Vec<ObjectId> = reserved.iter().map(|(.., object)| *object).collect();
        reserved.sort_unstable_by_key(|(at, chunk, _)| (*at, *chunk));
        let slot = |(at, chunk, object): &(usize, u32, ObjectId)| {
            let Group { id: group, layout, .. } = &groups[*at];
            Slot { offset: cx.index.offset(*object), layout: layout.clone(), group: *group, chunk: *chunk }
        };
        prepared.slots = reserved.iter().map(slot).collect();
        if !objects.is_empty() {
            cx.stats.requests.stores_prepared += 1;
            self.begin(cx, id, spec, objects);
        }
        prepared
    }

    /// Publishes what a worker has written. Only a store that `may_finish` allows can be committed, by the connection
    /// that began it.
    pub(crate) fn commit(
        &mut self,
        cx: &mut Context,
        spec: &TransferSpec<'_>,
        write_back: &mut WriteBack,
        may_finish: impl Fn(ConnectionId) -> bool,
    ) -> Committed {
        let Some(&id) = self.by_id.get(&spec.id()) else { return Committed::Unknown };
        if !may_finish(self.stores[&id].connection) {
            return Committed::Unknown;
        }
        let store = self.remove(cx, id);
        if store.state == State::Expired {
            unpin_all(&mut cx.index_mut(), &store.objects);
            return Committed::Expired;
        }
        let mut copied = Copied::default();
        let mut published = Vec::with_capacity(store.objects.len());
        let mark = cx.stats.events.mark();
        // From the end, so that the first chunk becomes the most recent.
        for object in store.objects.iter().rev() {
            let bytes = cx.index.layout(*object).bytes();
            if cx.index_mut().admit(*object, 0) {
                published.push(*object);
                copied.objects += 1;
                copied.bytes += bytes;
            }
        }
        // Readers of the event logs get the chunks in the order of the prompt.
        cx.stats.events.reverse_after(mark);
        published.reverse();
        let counters = &mut cx.stats.requests;
        counters.stored_objects += copied.objects;
        counters.stored_bytes += copied.bytes;
        counters.stores_committed += 1;
        store.prefix.touch(&mut cx.index_mut());
        if cx.has_l2() {
            let keys: Vec<_> = published.iter().map(|object| cx.index.key(*object)).collect();
            write_back.offload(cx, &keys, StoreTrigger::Stored);
        }
        cx.trim();
        Committed::Published(copied)
    }

    /// The worker gives its slots back unwritten.
    pub(crate) fn abort(&mut self, cx: &mut Context, spec: &TransferSpec<'_>) {
        let Some(&id) = self.by_id.get(&spec.id()) else { return };
        let store = self.remove(cx, id);
        cx.stats.requests.stores_abandoned += u64::from(store.state == State::Writing);
        store.objects.iter().for_each(|object| cx.index_mut().abort(*object));
    }

    /// The time of a store is over. First it can no longer be committed, and its chunks may be written again
    /// elsewhere; the second time, after the quarantine, its memory is freed.
    pub(crate) fn on_timer(&mut self, cx: &mut Context, id: StoreId, due: Time) {
        match self.stores[&id].state {
            State::Writing => self.expire(cx, id, due + cx.config.quarantine),
            State::Expired => {
                let store = self.remove(cx, id);
                unpin_all(&mut cx.index_mut(), &store.objects);
            }
        }
    }

    /// The stores of a connection.
    pub(crate) fn of_connection(&self, connection: ConnectionId) -> Vec<StoreId> {
        self.by_connection.of(connection)
    }

    /// Expires a store of a lost connection, if it is still there. Its memory is quarantined, as a copy may be
    /// running.
    pub(crate) fn abandon_one(&mut self, cx: &mut Context, id: StoreId) {
        if self.stores.contains_key(&id) {
            self.abandon(cx, vec![id]);
        }
    }

    /// Expires the stores of a worker that is gone. Their memory is quarantined, as copies may be running.
    pub(crate) fn abandon_instance(&mut self, cx: &mut Context, instance: InstanceId) {
        self.abandon(cx, self.by_instance.of(instance));
    }

    /// Stores that can be committed.
    pub(crate) fn running(&self) -> u64 {
        self.stores.len() as u64 - self.expired.transfers
    }

    /// Objects of expired stores.
    pub(crate) fn expired_objects(&self) -> u64 {
        self.expired.objects
    }

    /// Their bytes.
    pub(crate) fn expired_bytes(&self) -> u64 {
        self.expired_bytes
    }

    /// Whether memory waits for the end of the process that stored over a connection.
    pub(crate) fn awaits_process(&self, connection: ConnectionId) -> bool {
        self.by_connection.of(connection).iter().any(|id| self.stores[id].state == State::Expired)
    }

    /// The process that stored over a connection can write no more: the memory of its expired stores is freed.
    pub(crate) fn process_gone(&mut self, cx: &mut Context, connection: ConnectionId) {
        for id in self.by_connection.of(connection) {
            if self.stores[&id].state == State::Expired {
                let store = self.remove(cx, id);
                unpin_all(&mut cx.index_mut(), &store.objects);
            }
        }
    }

    /// Since when the oldest store has its slots. Stores are numbered in the order in which they begin.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.stores.first_key_value().map(|(_, store)| store.since)
    }

    /// Objects pinned by their writers. For tests.
    pub(crate) fn pins(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.stores.values().flat_map(|store| store.objects.iter().copied())
    }

    /// Armed timers. For tests.
    pub(crate) fn timers(&self) -> usize {
        self.stores.len()
    }

    /// For tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.by_id.len(), self.stores.len(), "every store is found by its identity");
        assert_eq!(self.by_connection.len(), self.stores.len(), "every store is found by its connection");
        assert_eq!(self.by_instance.len(), self.stores.len(), "every store is found by its worker");
        assert!(self.stores.values().all(|s| !s.objects.is_empty()), "a store without slots");
        let expired = || self.stores.values().filter(|s| s.state == State::Expired);
        let objects = expired().map(|s| s.objects.len()).sum::<usize>() as u64;
        assert_eq!(self.expired, Expired { transfers: expired().count() as u64, objects }, "expired stores");
        assert_eq!(self.expired_bytes == 0, objects == 0, "bytes of expired stores");
    }

    fn begin(
        &mut self,
        cx: &mut Context,
        transfer: TransferId,
        spec: &TransferSpec<'_>,
        objects: Vec<ObjectId>,
    ) {
        let id = StoreId(cx.new_id());
        let bytes = cx.slots_bytes(objects.iter().copied());
        let held = cx.clients.hold(spec.connection, bytes);
        self.by_id.insert(transfer.clone(), id);
        self.by_connection.insert(spec.connection, id);
        self.by_instance.insert(spec.instance, id);
        let store = StoreTransfer {
            id: transfer,
            connection: spec.connection,
            objects,
            prefix: Prefix {
                model: spec.model.clone(),
                salt: spec.salt.clone(),
                chunk_hashes: spec.chunk_hashes[..spec.end as usize].into(),
                len: spec.end,
            },
            since: cx.now,
            state: State::Writing,
            timer: cx.timers.arm(cx.now + cx.config.write_ttl, TimerKind::Store(id)),
            held,
        };
        self.stores.insert(id, store);
    }

    fn remove(&mut self, cx: &mut Context, id: StoreId) -> StoreTransfer {
        let mut store = self.stores.remove(&id).expect("ids name live stores");
        cx.timers.disarm(&store.timer);
        cx.clients.release(&mut store.held);
        self.by_id.remove(&store.id);
        self.by_connection.remove(store.connection, id);
        self.by_instance.remove(store.id.instance, id);
        if store.state == State::Expired {
            self.expired.remove(store.objects.len());
            let bytes = |o: &ObjectId| cx.index.layout(*o).bytes();
            self.expired_bytes -= store.objects.iter().map(bytes).sum::<u64>();
        }
        store
    }

    fn abandon(&mut self, cx: &mut Context, ids: Vec<StoreId>) {
        let until = cx.now + cx.config.quarantine;
        ids.into_iter().for_each(|id| self.expire(cx, id, until));
    }

    /// The store can no longer be committed. Its memory waits for the end of its copy, until `until`.
    fn expire(&mut self, cx: &mut Context, id: StoreId, until: Time) {
        let store = self.stores.get_mut(&id).expect("ids name live stores");
        match store.state {
            // The connection or the worker is gone by now: its process may be, too.
            State::Expired => cx.effects.push(Effect::CheckProcess { connection: store.connection }),
            State::Writing => {
                cx.timers.move_to(&mut store.timer, until);
                store.state = State::Expired;
                self.expired.add(store.objects.len());
                let bytes = |o: &ObjectId| cx.index.layout(*o).bytes();
                self.expired_bytes += store.objects.iter().map(bytes).sum::<u64>();
                cx.effects.push(Effect::CheckProcess { connection: store.connection });
                cx.stats.requests.stores_abandoned += 1;
                store.objects.iter().for_each(|object| cx.index_mut().unlink(*object));
            }
        }
    }
}

/// The chunks of each group that a worker does not write.
struct Skipped {
    /// Group by group. Empty if there are none.
    is_skipped: Vec<bool>,
    chunks: usize,
}

impl Skipped {
    /// Chunks outside the range are ignored.
    fn new(skipped: &[Vec<u32>], chunks: usize) -> Self {
        let mut is_skipped = vec![false; skipped.len() * chunks];
        for (group, positions) in skipped.iter().enumerate() {
            for position in positions.iter().map(|p| *p as usize).filter(|p| *p < chunks) {
                is_skipped[group * chunks + position] = true;
            }
        }
        Self { is_skipped, chunks }
    }

    fn contains(&self, group: usize, chunk: u32) -> bool {
        self.is_skipped.get(group * self.chunks + chunk as usize).copied().unwrap_or(false)
    }
}

/// Reserves the object of one chunk and group. `room`: bytes that the client may still hold.
fn reserve(
    cx: &mut Context,
    (model, group): (&Model, &Group),
    (spec, chunk): (&TransferSpec<'_>, u32),
    tiers: (&mut Prefetch, &mut WriteBack),
    room: &mut u64,
) -> Result<ObjectId, Refused> {
    let hash = &spec.range()[chunk as usize];
    let (name, shard) = ((spec.model, spec.salt, hash), spec.shard(group));
    reclaim_slot(cx, (model, shard), spec, hash, tiers);
    let slot_bytes = cx.slot_bytes(group.layout.bytes());
    if *room < slot_bytes {
        return refuse(cx, name, shard);
    }
    let object = cx.index_mut().reserve(name, shard, &group.layout, Retention::Permanent)?;
    *room -= slot_bytes;
    Ok(object)
}

/// The answer for a chunk that a client may not reserve, because it holds its share of L1.
fn refuse(
    cx: &mut Context,
    (model, salt, hash): (&Arc<str>, &Arc<str>, &ChunkHash),
    shard: ShardKey,
) -> Result<ObjectId, Refused> {
    let chunk = cx.index.chunk(model, salt, hash);
    if chunk.is_some_and(|chunk| cx.index.resident(chunk, shard).is_some()) {
        return Err(Refused::Resident);
    }
    if chunk.is_some_and(|chunk| cx.index.staged(chunk, shard).is_some()) {
        return Err(Refused::Staged);
    }
    cx.stats.requests.stores_over_share += 1;
    Err(Refused::NoSpace)
}

/// Keeps the prompt's chunks up to the end of the range from being evicted for those in it.
fn protect_prefix(cx: &mut Context, spec: &TransferSpec<'_>) {
    let mut index = cx.index_mut();
    index.begin_operation();
    let prefix = &spec.chunk_hashes[..spec.end as usize];
    let chunks: Vec<_> = index.leading_chunks(spec.model, spec.salt, prefix).flatten().collect();
    chunks.into_iter().rev().for_each(|chunk| index.protect(chunk));
}

/// Frees the slot of a chunk that a worker wants to store, if it is being loaded without a reader, and removes objects
/// of layouts that no worker of the model has any more (the engine was restarted with another type). A temporary
/// object becomes permanent, as the stored one would be.
fn reclaim_slot(
    cx: &mut Context,
    (model, shard): (&Model, ShardKey),
    spec: &TransferSpec<'_>,
    hash: &ChunkHash,
    (prefetch, write_back): (&mut Prefetch, &mut WriteBack),
) {
    let find = |cx: &Context| cx.index.chunk(spec.model, spec.salt, hash);
    let Some(chunk) = find(cx) else { return };
    if let Some(object) = cx.index.staged(chunk, shard) {
        prefetch.yield_to_store(cx, object);
    }
    // The chunk may have been removed with a load that nothing waited for.
    let Some(chunk) = find(cx) else { return };
    let own = cx.index.resident(chunk, shard);
    for object in cx.index.resident_in_any_layout(chunk, shard) {
        if Some(object) != own && !model.uses(cx.index.layout(object).id()) {
            cx.index_mut().unlink(object);
        }
    }
    let Some(object) = own else { return };
    if cx.promote_if(object, true) {
        // Adapters other than the one it came from may lack it.
        let key = cx.index.key(object);
        write_back.offload(cx, &[key], StoreTrigger::Stored);
    }
}
