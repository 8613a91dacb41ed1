//! The whole storage core: one call per event, with the time passed in.
//!
//! Each call first fires the timers that are due by `now`, so an answer does not depend on whether
//! [`Core::advance`] was called in time (unless so much is due at once that it takes several calls). A driver that
//! sleeps until [`Core::next_deadline`] only makes memory free earlier.
//!
//! A call costs O(its own request), except where its documentation says otherwise (`tests/cost.rs`).

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;
use larder_policy::reuse::{self, ReusePredictor};
use larder_policy::{AdapterDesc, OffloadPolicy, PrefetchPolicy, Quotas};
use larder_types::object::{KvRank, ObjectKey};
use larder_types::{AdapterId, ConnectionId, InstanceId, Layout, Time};

use crate::config::CoreConfig;
use crate::context::Context;
use crate::gauges::{AdapterGauges, Gauges};
use crate::ids::{IoId, JobId, LookupId, PeerLeaseId, PrefetchId, TaskId};
use crate::index::{Clearing, Index, ObjectId, Removal, VisibleChunk};
use crate::io::{Effect, Hit, Lookup, Purpose, StoreResult};
use crate::prefetch::{
    LookupSink, LookupStatus, Prefetch, PrefetchJobs, PrefetchRefused, PrefetchSpec, PrefetchStatus,
};
use crate::requests::lost::{self, LostConnection, Owned};
use crate::requests::models::{Model, Unanswerable};
use crate::requests::peers::Peers;
use crate::requests::prefix::{find_prefix, pin_prefix};
use crate::requests::retrieves::Retrieves;
use crate::requests::sessions::{LookupSpec, Sessions};
use crate::requests::stores::{Committed, PreparedStore, Stores};
use crate::requests::transfer::{Copied, NotRegistered, Slot, TransferSpec};
use crate::requests::worker_spec::{Group, WorkerSpec};
use crate::requests::workers::{TooManyWorkers, Workers};
use crate::stats::Stats;
use crate::stats::events::{Change, ChunkEvent, Log};
use crate::timers::TimerKind;
use crate::write_back::WriteBack;

/// Pins and other changes of the index after which a call fires no further timers.
const TIMER_CHANGES: u64 = 2048;

/// The storage core.
#[derive(Debug)]
pub struct Core {
    cx: Context,
    workers: Workers,
    sessions: Sessions,
    peers: Peers,
    stores: Stores,
    retrieves: Retrieves,
    prefetch: Prefetch,
    write_back: WriteBack,
}

impl Core {
    /// An empty core.
    pub fn new(config: CoreConfig) -> Self {
        let adapters = config.adapters.len();
        Self {
            prefetch: Prefetch::new(config.prefetch_policy.create(), adapters),
            write_back: WriteBack::new(config.store_policy.create(), adapters),
            cx: Context::new(config),
            workers: Workers::default(),
            sessions: Sessions::default(),
            peers: Peers::default(),
            stores: Stores::default(),
            retrieves: Retrieves::default(),
        }
    }

    /// Replaces the policy for loads. Lookups that have been planned keep to their plans.
    pub fn set_prefetch_policy(&mut self, policy: Box<dyn PrefetchPolicy>) {
        self.prefetch.set_policy(policy);
    }

    /// Replaces the policy for stores to L2.
    pub fn set_store_policy(&mut self, policy: Box<dyn OffloadPolicy>) {
        self.write_back.set_policy(policy);
    }
}

/// Time and effects.
impl Core {
    /// When the next timer fires.
    pub fn next_deadline(&self) -> Option<Time> {
        self.cx.timers.next()
    }

    /// Fires the timers that are due by `now`, as many as a bounded cost allows. If more are due, the
    /// [next deadline](Core::next_deadline) is not after `now`; they fire in the calls that follow.
    pub fn advance(&mut self, now: Time) {
        self.cx.stats.residency.advance(now);
        let until = self.cx.index.changes() + TIMER_CHANGES;
        while self.cx.index.changes() < until
            && let Some((due, kind)) = self.cx.timers.pop_due(now)
        {
            // What a timer begins, such as a quarantine, begins when it was due, however late this call is.
            self.cx.now = self.cx.now.max(due);
            self.fire(kind, due);
        }
        self.cx.now = self.cx.now.max(now);
    }

    fn fire(&mut self, kind: TimerKind, due: Time) {
        let Self { cx, workers, sessions, peers, stores, retrieves, prefetch, write_back } = self;
        match kind {
            TimerKind::LookupLease(id) => sessions.on_lease_expired(cx, id),
            TimerKind::Session(id) => {
                let job = sessions.expire(cx, id);
                self.cancel(job);
            }
            TimerKind::Retrieve(id) => retrieves.on_timer(cx, id, due),
            TimerKind::Store(id) => stores.on_timer(cx, id, due),
            TimerKind::Worker(instance) => {
                if workers.is_silent(cx, instance, due) {
                    cx.stats.requests.workers_reaped += 1;
                    self.drop_worker(instance);
                }
            }
            TimerKind::PeerLease(id) => peers.on_timer(cx, id),
            TimerKind::Job(id) => prefetch.on_deadline(cx, id, sessions),
            TimerKind::Load(io) => prefetch.on_loaded(cx, io, false, sessions),
            TimerKind::StoreTask(task) => write_back.end_task(cx, task, &[]),
            TimerKind::PrefetchResult(id) => prefetch.on_result_timer(cx, id),
            TimerKind::Trim { target } => cx.trim_step(target),
        }
    }

    /// What is to be done outside, in this order. Also begins what has been waiting, as far as the limits allow, so
    /// it is called after every event, before the next one if possible. Costs little if there is nothing to do.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let Self { cx, sessions, prefetch, write_back, .. } = self;
        if cx.has_l2() {
            prefetch.start_waiting(cx, sessions);
            prefetch.issue_loads(cx, sessions);
            write_back.flush_before_evict(cx);
            write_back.issue(cx);
        }
        std::mem::take(&mut cx.effects)
    }

    fn cancel(&mut self, job: Option<JobId>) {
        if let Some(job) = job {
            self.prefetch.cancel(&mut self.cx, job);
        }
    }
}

/// Workers and connections.
impl Core {
    /// Registers a worker. One that is registered already is only marked as alive: the first registration stands,
    /// as in LMCache. Returns whether it is new.
    pub fn register(&mut self, now: Time, connection: ConnectionId, spec: WorkerSpec) -> bool {
        self.advance(now);
        self.workers.register(&mut self.cx, connection, spec)
    }

    /// The same, unless a limit is met.
    ///
    /// # Errors
    /// See [`TooManyWorkers`].
    pub fn register_within_limits(
        &mut self,
        now: Time,
        connection: ConnectionId,
        spec: WorkerSpec,
    ) -> Result<bool, TooManyWorkers> {
        self.advance(now);
        self.workers.check_room(&self.cx, connection, &spec)?;
        Ok(self.workers.register(&mut self.cx, connection, spec))
    }

    /// Remembers an instance that is to run uncached: its pings are answered as those of a known worker.
    pub fn register_unserved(&mut self, now: Time, instance: InstanceId) {
        self.advance(now);
        self.workers.register_unserved(instance);
    }

    /// Removes a worker. Stores that it has not committed are discarded. Returns whether it was registered.
    /// Only a connection of the worker's own can do that.
    pub fn unregister(&mut self, now: Time, connection: ConnectionId, instance: InstanceId) -> bool {
        self.advance(now);
        if !self.workers.detach(self.cx.now, instance, connection) {
            return false;
        }
        self.retrieves.end_instance(&mut self.cx, instance);
        self.drop_worker(instance)
    }

    /// Marks a worker as alive. False at the first ping of an instance that is not registered, and at those over
    /// connections that are not its own: it should register again.
    pub fn ping(&mut self, now: Time, connection: ConnectionId, instance: InstanceId) -> bool {
        self.advance(now);
        self.workers.ping(&mut self.cx, connection, instance)
    }

    /// Marks the workers that use a connection as alive: for heartbeats that name no worker. Returns whether there
    /// are any. Cost: O(workers of the connection).
    pub fn ping_connection(&mut self, now: Time, connection: ConnectionId) -> bool {
        self.advance(now);
        self.workers.ping_connection(&mut self.cx, connection)
    }

    /// Whether memory waits for [`Core::process_gone`] of a connection.
    pub fn awaits_process(&self, connection: ConnectionId) -> bool {
        self.stores.awaits_process(connection) || self.retrieves.awaits_process(connection)
    }

    /// The process that used a connection is gone, or does not map the arena any more: what its copies may have been
    /// writing or reading is free.
    pub fn process_gone(&mut self, now: Time, connection: ConnectionId) {
        self.advance(now);
        self.stores.process_gone(&mut self.cx, connection);
        self.retrieves.process_gone(&mut self.cx, connection);
    }

    /// Begins to release what a lost connection owned: pins at once, memory that its worker may still be copying to or
    /// from after the quarantine. To be continued with [`Core::connection_lost_step`].
    pub fn begin_connection_lost(&mut self, now: Time, connection: ConnectionId) -> LostConnection {
        self.advance(now);
        let sessions = self.sessions.of_connection(connection).into_iter().map(Owned::Session);
        let peers = self.peers.of_connection(connection).into_iter().map(Owned::Peer);
        let stores = self.stores.of_connection(connection).into_iter().map(Owned::Store);
        let retrieves = self.retrieves.of_connection(connection).into_iter().map(Owned::Retrieve);
        let mut owned: Vec<Owned> = sessions.chain(peers).chain(stores).chain(retrieves).collect();
        owned.reverse();
        self.workers.connection_lost(&mut self.cx, connection);
        LostConnection { owned }
    }

    /// Continues to release what a lost connection owned. Cost: bounded, but for one session, lease or transfer.
    pub fn connection_lost_step(&mut self, now: Time, lost: &mut LostConnection) {
        self.advance(now);
        let until = self.cx.index.changes() + lost::STEP_CHANGES;
        for _ in 0..lost::STEP_CHANGES {
            let Some(owned) = lost.owned.pop() else { return };
            match owned {
                Owned::Session(id) if self.sessions.is_live(id) => {
                    let job = self.sessions.close(&mut self.cx, id);
                    self.cancel(job);
                }
                Owned::Session(_) => {}
                Owned::Peer(id) => self.peers.abandon_one(&mut self.cx, id),
                Owned::Store(id) => self.stores.abandon_one(&mut self.cx, id),
                Owned::Retrieve(id) => self.retrieves.abandon_one(&mut self.cx, id),
            }
            if self.cx.index.changes() >= until {
                return;
            }
        }
    }

    /// The same at once. Cost: O(what it owned).
    pub fn connection_lost(&mut self, now: Time, connection: ConnectionId) {
        let mut lost = self.begin_connection_lost(now, connection);
        while !lost.is_done() {
            self.connection_lost_step(now, &mut lost);
        }
    }

    /// Registered workers, and when they were last seen.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerSpec, Time)> {
        self.workers.iter()
    }

    /// Whether a worker of this model and world size is registered.
    pub fn serves(&self, model: &Arc<str>, world_size: u32) -> bool {
        self.workers.models().get(model, world_size).is_some()
    }

    /// How many chunks fit into L1: of that model, if no other is served, otherwise of the mean size of those in L1.
    /// At least 1.
    pub fn l1_chunks(&self, model: &Arc<str>, world_size: u32) -> u64 {
        let CoreConfig { capacity_bytes, align_bytes, .. } = self.cx.config;
        let own = || {
            let bytes = |group: &Group| group.layout.bytes().checked_next_multiple_of(align_bytes);
            let groups = self.workers.models().get(model, world_size)?.groups();
            let chunk = groups.iter().try_fold(0u64, |sum, group| sum.checked_add(bytes(group)?))?;
            capacity_bytes.checked_div(chunk.checked_mul(u64::from(world_size))?)
        };
        let mean = || self.cx.index.capacity_chunks();
        let chunks = if self.workers.models().is_one() { own().or_else(mean) } else { mean().or_else(own) };
        chunks.unwrap_or(0).max(1)
    }

    /// The layout of a chunk of this model for one rank, per object group. Empty if no worker serves the model.
    pub fn layouts(&self, model: &Arc<str>, world_size: u32) -> Vec<Layout> {
        let groups = self.workers.models().get(model, world_size).map_or(&[][..], Model::groups);
        groups.iter().map(|group| group.layout.clone()).collect()
    }

    /// The groups that a worker registered.
    pub fn groups_of(&self, instance: InstanceId) -> Option<Arc<[Group]>> {
        self.workers.models().groups_of(instance)
    }

    fn drop_worker(&mut self, instance: InstanceId) -> bool {
        let registered = self.workers.remove(&mut self.cx, instance);
        if registered {
            self.stores.abandon_instance(&mut self.cx, instance);
            self.retrieves.abandon_instance(&mut self.cx, instance);
        }
        registered
    }
}

/// Requests: lookups and sessions.
impl Core {
    /// Looks up a prompt and pins its hit. A second lookup of a live request replaces the first and releases its
    /// pins.
    pub fn lookup(&mut self, now: Time, spec: &LookupSpec<'_>) -> Lookup {
        self.advance(now);
        let opened = self.sessions.open(&mut self.cx, spec);
        opened.cancelled.into_iter().for_each(|job| self.cancel(Some(job)));
        let Self { cx, workers, sessions, prefetch, .. } = self;
        let id = opened.id;
        let shape = workers.models().shape(spec.connection, (spec.model, spec.world_size), spec.worker_id);
        if shape.as_ref().is_err_and(|why| *why == Unanswerable::Unregistered) {
            cx.stats.requests.lookups_unregistered += 1;
            sessions.set_unserved(id);
            return Lookup::Unserved;
        }
        // A request that looks up again has been learned from.
        if opened.is_new {
            sessions.note_request(cx, id, spec);
        }
        let rest = sessions.look_up_rest(cx, id, spec);
        let chunk_hashes = rest.as_ref().unwrap_or(spec.chunk_hashes);
        let spec = &LookupSpec { chunk_hashes, start: 0, ..spec.clone() };
        let Ok(shape) = shape else {
            cx.stats.requests.lookups_ambiguous += 1;
            cx.count_hit(spec.chunk_hashes.len() as u32, &Hit::default());
            sessions.answer(cx, id, spec.target(), Vec::new(), 0);
            return Lookup::Answered(Hit::default());
        };
        let shards = shape.shards();
        let requested_chunks = spec.chunk_hashes.len() as u32;
        let within_share = cx.within_share(spec.connection, shape.chunk_bytes(), spec.chunk_hashes);
        let spec =
            &LookupSpec { chunk_hashes: within_share.as_ref().unwrap_or(spec.chunk_hashes), ..spec.clone() };
        let (hit, chunks) = find_prefix(&cx.index, &shards, spec);
        if within_share.is_some() && hit as usize == spec.chunk_hashes.len() {
            cx.stats.requests.lookups_over_share += 1;
        }
        if (hit as usize) < spec.chunk_hashes.len() && !shards.is_empty() && cx.has_l2() {
            let session = (id, spec.session_name());
            let job = prefetch.submit_lookup(cx, session, spec.target(), shape, spec.readers);
            sessions.set_pending(id, job);
            return Lookup::Pending;
        }
        let pins = pin_prefix(cx, &shards, &chunks, spec.readers, hit);
        let l1_objects = pins.iter().map(|shard| shard.objects().len() as u32).sum();
        let answer = Hit { chunks: hit, l1_chunks: hit, l1_objects, l2_objects: 0 };
        cx.count_hit(requested_chunks, &answer);
        let target = spec.target();
        if cx.has_l2() {
            let hits = pins.iter().flat_map(|s| s.chunks().map(|(chunk, object)| (s.shard(), chunk, object)));
            prefetch.retain_hits(cx, &target, hits);
        }
        sessions.answer(cx, id, target, pins, hit);
        Lookup::Answered(answer)
    }

    /// The result of a request's lookup. A hit is reported once.
    pub fn take_result(&mut self, now: Time, connection: ConnectionId, request_id: &str) -> LookupStatus {
        self.advance(now);
        self.sessions.take_result(&mut self.cx, connection, request_id)
    }

    /// The same, without reporting it: it can be asked for again.
    pub fn peek_result(&mut self, now: Time, connection: ConnectionId, request_id: &str) -> LookupStatus {
        self.advance(now);
        self.sessions.peek_result(&mut self.cx, connection, request_id)
    }

    /// Releases the pins of chunks `start..end` of a request's hit, which the scheduler does not need: those of one
    /// rank or of all. Pins of other requests are not affected. A request that frees while its lookup is pending is
    /// over: the lookup is cancelled.
    pub fn free(
        &mut self,
        now: Time,
        (connection, request_id): (ConnectionId, &str),
        rank: Option<KvRank>,
        (start, end): (u32, u32),
    ) {
        self.advance(now);
        let job = self.sessions.free(&mut self.cx, (connection, request_id), rank, (start, end));
        self.cancel(job);
    }

    /// Releases what a lookup of the request from chunk `start` on pins that has found `end` chunks, and nothing of
    /// another: pins of a lookup that was replaced have been released.
    pub fn free_lookup(
        &mut self,
        now: Time,
        (connection, request_id): (ConnectionId, &str),
        (start, end): (u32, u32),
    ) {
        self.advance(now);
        self.sessions.free_lookup(&mut self.cx, (connection, request_id), (start, end));
    }

    /// The hit of a live request's last lookup, in chunks.
    pub fn hit(&self, connection: ConnectionId, request_id: &str) -> u32 {
        self.sessions.hit(connection, request_id)
    }

    /// Ends a request: the pins that it still has are released, and what it used is the most recent.
    pub fn end_session(&mut self, now: Time, connection: ConnectionId, request_id: &str) {
        self.advance(now);
        let job = self.sessions.end(&mut self.cx, connection, request_id);
        self.cancel(job);
    }
}

/// Requests of other servers.
impl Core {
    /// Looks objects up by key and pins those found. Returns the id to ask for the result with; `None` if the owner has
    /// too many leases.
    pub fn peer_lookup(&mut self, now: Time, owner: ConnectionId, keys: &[ObjectKey]) -> Option<PeerLeaseId> {
        self.advance(now);
        self.peers.lookup(&mut self.cx, owner, keys, self.workers.models())
    }

    /// Offset and size of each object of a peer's lookup that is still pinned, in the order of the keys. A result is
    /// reported once.
    pub fn peer_result(&mut self, now: Time, id: PeerLeaseId) -> Option<Vec<Option<(u64, u64)>>> {
        self.advance(now);
        self.peers.take_result(&mut self.cx, id)
    }

    /// A peer is done with objects: releases one pin of each, of the owner's own leases if one has it, otherwise of
    /// another peer's lease with a reported result.
    pub fn peer_unlock(&mut self, now: Time, owner: ConnectionId, keys: &[ObjectKey]) {
        self.advance(now);
        self.peers.unlock(&mut self.cx, owner, keys);
    }
}

/// Transfers between workers and L1.
impl Core {
    /// Reserves a slot in each group for every chunk of the range that is neither cached nor being written, for as many
    /// leading chunks as memory suffices. Nothing if a store of the same identity may still be running.
    ///
    /// # Errors
    /// [`NotRegistered`] if the instance is unknown or serves another model.
    pub fn prepare_store(
        &mut self,
        now: Time,
        spec: &TransferSpec<'_>,
    ) -> Result<PreparedStore, NotRegistered> {
        self.prepare_store_except(now, spec, &[])
    }

    /// The same without some objects, which the worker does not write: for each group chunks, counted from the start of
    /// the range.
    ///
    /// # Errors
    /// See [`Core::prepare_store`].
    pub fn prepare_store_except(
        &mut self,
        now: Time,
        spec: &TransferSpec<'_>,
        skipped: &[Vec<u32>],
    ) -> Result<PreparedStore, NotRegistered> {
        self.advance(now);
        let groups = self.transfer_groups(spec)?;
        let Self { cx, workers, stores, prefetch, write_back, .. } = self;
        let model = workers.models().get(spec.model, spec.rank.world_size()).ok_or(NotRegistered)?;
        Ok(stores.prepare(cx, (model, &groups), (spec, skipped), (prefetch, write_back)))
    }

    /// The worker has written its slots: they become readable.
    pub fn commit_store(&mut self, now: Time, spec: &TransferSpec<'_>) -> Committed {
        self.advance(now);
        let Self { cx, workers, stores, write_back, .. } = self;
        let may_finish = workers.may_finish(cx.now, spec.instance, spec.connection);
        stores.commit(cx, spec, write_back, may_finish)
    }

    /// The worker gives its slots back unwritten.
    pub fn abort_store(&mut self, now: Time, spec: &TransferSpec<'_>) {
        self.advance(now);
        self.stores.abort(&mut self.cx, spec);
    }

    /// Moves one pin of each object that the worker's groups need of the range from the request's lookup to this
    /// retrieve; objects of which the lookup has no pin left are pinned again if they are still there. If one cannot be
    /// read, nothing can be read, and one pin of each of the others is released: their reader will not come back. `None`
    /// then.
    ///
    /// # Errors
    /// [`NotRegistered`] if the instance is unknown or serves another model. No pin is released.
    pub fn prepare_retrieve(
        &mut self,
        now: Time,
        spec: &TransferSpec<'_>,
    ) -> Result<Option<Vec<Slot>>, NotRegistered> {
        self.advance(now);
        let groups = self.transfer_groups(spec)?;
        let Self { cx, sessions, retrieves, .. } = self;
        let Some(taken) = sessions.take_pins(cx, spec, &groups) else {
            cx.stats.requests.retrieves_failed += 1;
            cx.stats.model(spec.model).retrieve_missing += spec.range().len() as u64;
            return Ok(None);
        };
        Ok(Some(retrieves.begin(cx, spec, &groups, taken)))
    }

    /// The worker has read its slots, or given up. Returns what was copied, or `None` if no such retrieve was
    /// running. Several retrieves of one identity end when each has been committed, and are counted then.
    pub fn commit_retrieve(&mut self, now: Time, spec: &TransferSpec<'_>) -> Option<Copied> {
        self.advance(now);
        let Self { cx, workers, retrieves, .. } = self;
        let may_finish = workers.may_finish(cx.now, spec.instance, spec.connection);
        retrieves.commit(cx, spec, may_finish)
    }

    /// The worker's groups, if it serves the model. Marks the worker as alive, and relates it to the scheduler of the
    /// request.
    fn transfer_groups(&mut self, spec: &TransferSpec<'_>) -> Result<Arc<[Group]>, NotRegistered> {
        let worker = self.workers.touch(self.cx.now, spec.instance, spec.connection).ok_or(NotRegistered)?;
        let same = worker.model == *spec.model && worker.world_size == spec.rank.world_size();
        let groups = self.groups_of(spec.instance).filter(|_| same).ok_or(NotRegistered)?;
        let scheduler = self.sessions.scheduler_of(spec, &groups);
        let models = self.workers.models_mut();
        models.seen(spec.instance, spec.connection);
        models.copies(spec.instance, spec.rank, scheduler);
        Ok(groups)
    }
}

/// Prefetch requests, and answers of adapters.
impl Core {
    /// Begins to load a prompt into L1. [`Effect::PrefetchDone`] says when it has ended. If there are too many
    /// results, the oldest is forgotten.
    ///
    /// # Errors
    /// See [`PrefetchRefused`].
    pub fn prefetch(&mut self, now: Time, spec: &PrefetchSpec<'_>) -> Result<PrefetchId, PrefetchRefused> {
        self.advance(now);
        let Self { cx, workers, sessions, prefetch, .. } = self;
        let shape = workers.models().newest_shape(spec.model, spec.world_size);
        prefetch.request(cx, shape.ok_or(PrefetchRefused::Unregistered)?, spec, sessions)
    }

    /// The state of a prefetch request.
    pub fn prefetch_status(&mut self, now: Time, id: PrefetchId) -> PrefetchStatus {
        self.advance(now);
        self.prefetch.request_status(id)
    }

    /// The state of a prefetch request. A result is given once: then the request is unknown.
    pub fn take_prefetch(&mut self, now: Time, id: PrefetchId) -> PrefetchStatus {
        self.advance(now);
        self.prefetch.take_request(&mut self.cx, id)
    }

    /// The first `max` jobs that have not been answered.
    pub fn prefetch_jobs(&self, max: usize) -> PrefetchJobs {
        self.prefetch.jobs(&self.cx, max)
    }

    /// The adapters, in the order of their ids.
    pub fn adapters(&self) -> impl Iterator<Item = (AdapterId, &AdapterDesc)> {
        self.cx.adapter_ids().zip(&self.cx.config.adapters)
    }

    /// What an adapter has of the keys of an [`Effect::Lookup`]: for each the stored size in bytes, in the order
    /// asked. `None` for an object that it does not have, or does not know of.
    pub fn l2_found(&mut self, now: Time, lookup: LookupId, sizes: &[Option<u64>]) {
        self.advance(now);
        self.prefetch.on_found(&mut self.cx, lookup, sizes, &mut self.sessions);
    }

    /// Whether an object of an [`Effect::Load`] has been loaded.
    pub fn l2_loaded(&mut self, now: Time, io: IoId, ok: bool) {
        self.advance(now);
        self.prefetch.on_loaded(&mut self.cx, io, ok, &mut self.sessions);
    }

    /// The result of an [`Effect::Store`]: one for each of its items, in order. Missing answers are failures.
    pub fn l2_stored(&mut self, now: Time, task: TaskId, results: &[StoreResult]) {
        self.advance(now);
        self.write_back.end_task(&mut self.cx, task, results);
    }

    /// I/O has ended: its region was dropped, so the memory is not accessed any more.
    pub fn io_ended(&mut self, now: Time, io: IoId) {
        self.advance(now);
        let Some(ended) = self.cx.end_io(io) else { return };
        match ended.purpose {
            Purpose::Load => self.prefetch.on_io_ended(&mut self.cx, io, &ended),
            Purpose::Store(task) => self.write_back.on_io_ended(&mut self.cx, task, &ended),
        }
    }

    /// An adapter has evicted an object.
    pub fn l2_evicted(&mut self, now: Time, adapter: AdapterId, key: &ObjectKey) {
        self.cx.stats.tenant(&key.cache_salt).l2_evicted += 1;
        self.l2_removed(now, adapter, std::slice::from_ref(key));
    }

    /// Objects of an adapter were removed from outside, or were lost.
    pub fn l2_removed(&mut self, now: Time, adapter: AdapterId, keys: &[ObjectKey]) {
        self.advance(now);
        for key in keys {
            self.cx.stats.events.at_adapter(adapter, Change::Removed, key, 0);
        }
    }

    /// Keys that are to be stored to L2 and are not yet. A stop that loses nothing waits for zero.
    pub fn write_back_pending(&self) -> u64 {
        self.write_back.pending()
    }

    /// Stores deferred objects to L2 now, as the policy decides, because the server stops.
    pub fn flush_deferred(&mut self, now: Time) {
        self.advance(now);
        self.write_back.flush_deferred(&mut self.cx);
    }
}

/// Administration and reports.
impl Core {
    /// Begins to remove everything that is neither pinned nor being written; with `force`, everything. To be continued
    /// with [`Core::clear_step`]. Pinned memory is freed when it is unpinned. What becomes readable from now on stays.
    /// L2 is not changed; objects that were to be stored there are skipped, and counted.
    pub fn begin_clear(&mut self, now: Time, force: bool) -> Clearing {
        self.advance(now);
        self.cx.index_mut().begin_clear(force)
    }

    /// Continues a clear. Cost: bounded.
    pub fn clear_step(&mut self, now: Time, clearing: &mut Clearing) {
        self.advance(now);
        self.cx.index_mut().clear_step(clearing);
    }

    /// The same at once. Returns how many objects were removed. Cost: O(chunks).
    pub fn clear(&mut self, now: Time, force: bool) -> u64 {
        self.advance(now);
        self.cx.index_mut().clear(force)
    }

    /// Removes single objects. Returns the outcome for each.
    pub fn remove(&mut self, now: Time, keys: &[ObjectKey], force: bool) -> Vec<Removal> {
        self.advance(now);
        let mut index = self.cx.index_mut();
        keys.iter().map(|key| index.remove(key, force)).collect()
    }

    /// Gives up the capacity behind `end`, which the machine has no memory for, as far as it is unused.
    pub fn truncate_capacity(&mut self, end: u64) {
        self.cx.index_mut().truncate_capacity(end);
    }

    /// Adds capacity up to `end`, at most the configured one: the machine has memory for it again.
    pub fn grow_capacity(&mut self, end: u64) {
        let end = end.min(self.cx.config.capacity_bytes);
        self.cx.index_mut().grow_capacity(end);
    }

    /// Memory that a worker or a peer may be reading, or that I/O works on, in bytes from the start of the arena. Costs
    /// O(what they hold).
    pub fn ranges_in_use(&self) -> Vec<Range<u64>> {
        let index = &self.cx.index;
        let read = self.retrieves.pins().chain(self.peers.pins().map(|(object, _)| object));
        let objects = read.chain(self.cx.ios.iter().map(|io| io.object));
        let range = |object| index.offset(object)..index.offset(object) + index.layout(object).bytes();
        objects.map(range).collect()
    }

    /// Changes the quotas. If they are enforced, tenants that are over theirs lose their coldest chunks at once, as
    /// far as those may be evicted.
    pub fn change_quotas<T>(&mut self, now: Time, change: impl FnOnce(&mut Quotas) -> T) -> T {
        self.advance(now);
        self.cx.index_mut().update_quotas(change)
    }

    /// Records from now on which chunks become findable and cease to be, the last `records` such events; 0 ends it.
    /// Returns the log before, which may take long to drop.
    /// Chunks that are there already are published by [`Core::publish_seen`].
    pub fn record_chunk_events(&mut self, records: usize) -> Log<ChunkEvent> {
        self.cx.stats.events.record_chunks(records)
    }

    /// Records from now on what happens to each object, the last `records` such events; 0 ends it.
    pub fn record_object_events(&mut self, records: usize) {
        self.cx.stats.events.record_objects(records);
    }

    /// Publishes chunks that [were visible](Index::visible_chunks), those that still are and are not published: what
    /// was there before a recording began. Cost: O(`seen`).
    pub fn publish_seen(&mut self, seen: &[VisibleChunk]) {
        self.cx.index_mut().publish_seen(seen);
    }

    /// The index of L1.
    pub fn index(&self) -> &Index {
        &self.cx.index
    }

    /// Counters, residency statistics and event logs.
    pub fn stats(&self) -> &Stats {
        &self.cx.stats
    }

    /// The predictor of the adaptive policies; `None` if none of them is in use.
    pub fn predictor(&self) -> Option<&ReusePredictor> {
        self.cx.predictor.as_ref()
    }

    /// What the adaptive policies have learned; `None` if none of them is in use.
    pub fn learned(&self) -> Option<reuse::Snapshot> {
        self.cx.predictor.as_ref().map(ReusePredictor::snapshot)
    }

    /// What is held now. Cost: O(1).
    pub fn gauges(&self) -> Gauges {
        let read_pins = [self.sessions.pinning_since(), self.retrieves.pinning_since(), self.peers.oldest()];
        Gauges {
            l1: self.cx.index.usage(),
            workers: self.workers.len() as u64,
            sessions: self.sessions.len() as u64,
            session_bytes: self.sessions.bytes() as u64,
            lookup_leases: self.sessions.pinning() as u64,
            stores: self.stores.running(),
            retrieves: self.retrieves.running(),
            peer_leases: self.peers.len() as u64,
            peer_keys: self.peers.keys() as u64,
            quarantined_bytes: self.stores.expired_bytes(),
            quarantined_objects: self.stores.expired_objects() + self.retrieves.expired_objects(),
            prefetch_jobs: self.prefetch.running() as u64,
            prefetch_waiting: self.prefetch.waiting() as u64,
            write_back_pending: self.write_back.pending(),
            oldest_read_pin: read_pins.into_iter().flatten().min(),
            oldest_write_reservation: self.stores.oldest(),
        }
    }

    /// What an adapter does and has to do now.
    ///
    /// # Panics
    /// If there is no such adapter.
    pub fn adapter_gauges(&self, adapter: AdapterId) -> AdapterGauges {
        let (loading_bytes, loading_objects) = self.prefetch.loading(adapter);
        let stores = self.write_back.usage(adapter);
        AdapterGauges {
            loading_objects,
            loading_bytes,
            storing_tasks: stores.tasks,
            storing_objects: stores.objects,
            storing_bytes: stores.bytes,
            queued_keys: stores.queued,
        }
    }

    /// Checks all invariants. For tests: O(everything).
    ///
    /// # Panics
    /// If one does not hold, which is a bug of the core.
    pub fn check(&self) {
        let Self { cx, workers, sessions, peers, stores, retrieves, prefetch, write_back } = self;
        cx.index.check(&cx.stats);
        let once = |object: ObjectId| (object, 1);
        let all = sessions.pins().chain(peers.pins()).chain(prefetch.pins());
        let all = all.chain(retrieves.pins().map(once)).chain(stores.pins().map(once));
        let mut pins = HashMap::<ObjectId, u64>::new();
        all.for_each(|(object, n)| *pins.entry(object).or_default() += u64::from(n));
        pins.retain(|_, n| *n > 0);
        let mut io_pins = HashMap::<ObjectId, u64>::new();
        cx.ios.iter().for_each(|io| *io_pins.entry(io.object).or_default() += 1);
        cx.index.check_pins(&pins, &io_pins);
        let requests = sessions.len() + stores.timers() + retrieves.timers() + peers.len();
        assert!(requests > 0 || cx.clients.len() == 0, "bytes are held by requests that exist");
        workers.check(cx);
        sessions.check();
        peers.check();
        stores.check();
        retrieves.check();
        prefetch.check(cx, sessions.jobs());
        write_back.check(cx);
        let timers = [
            workers.timers(),
            sessions.timers(),
            peers.len(),
            stores.timers(),
            retrieves.timers(),
            prefetch.timers(),
            write_back.timers(),
            usize::from(cx.is_trimming()),
        ];
        assert_eq!(cx.timers.len(), timers.iter().sum::<usize>(), "each owner has its timer armed");
    }
}
