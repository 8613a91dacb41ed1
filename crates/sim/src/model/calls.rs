//! The expected answer of each call.

use std::collections::BTreeSet;

use larder_core::{LookupStatus, PrefetchStatus};
use larder_types::object::KvRank;

use super::engines::Shape;
use super::jobs::{Job, Owner, needed};
use super::{ChunkKey, Form, Key, Lookup, Model, Name, Peer, Row, Session, State, Transfer, Uid, View};
use crate::scenario::Millis;

/// A lookup's arguments.
#[derive(Clone, Copy, Debug, Hash)]
pub struct LookupCall {
    /// The request.
    pub request: u32,
    /// The connection.
    pub connection: u64,
    /// The model.
    pub model: u8,
    /// Number of ranks.
    pub world: u32,
    /// Only the rank of this worker.
    pub worker_id: Option<u32>,
    /// The salt.
    pub salt: u8,
    /// The last chunk of the prompt.
    pub node: u16,
    /// Readers of each object.
    pub readers: u32,
}

/// The arguments of a prefetch request.
#[derive(Clone, Copy, Debug, Hash)]
pub struct WarmCall {
    /// The model.
    pub model: u8,
    /// Number of ranks.
    pub world: u32,
    /// The salt.
    pub salt: u8,
    /// The last chunk of the prompt.
    pub node: u16,
    /// Load all chunks that are found, not only a prefix.
    pub full: bool,
}

/// What a store should get.
#[derive(Clone, Debug, Default)]
pub struct StorePlan {
    /// Chunks to write, by their position in the range.
    pub missing: Vec<u32>,
    /// Chunks that must not be evicted for it.
    pub protected: BTreeSet<ChunkKey>,
    /// Bytes of each object.
    pub bytes: u64,
    /// Their layout.
    pub form: Form,
}

/// What a retrieve should get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetrieveOutcome {
    /// The worker is not registered for the model.
    NotRegistered,
    /// The lookup holds no pin on some object of the range.
    Missing,
    /// The objects to read.
    Held(Vec<Uid>),
}

impl Model {
    /// The chunks of a prompt up to `node`, under a model and salt.
    pub fn chunks(&self, model: u8, salt: u8, node: u16) -> Vec<ChunkKey> {
        let path = &self.scenario.universe.nodes[usize::from(node)].path;
        path.iter().map(|&node| ChunkKey { model, salt, node }).collect()
    }

    /// The hit of a lookup: the longest prefix that L1 has for every rank. `None` if L1 lacks some chunk
    /// and there are adapters to look it up in.
    pub fn lookup(&mut self, now: Millis, call: &LookupCall, view: &View<'_>) -> Option<u32> {
        let i = self.open_session(now, call);
        // Temporary objects that an earlier lookup of the request held may have been removed.
        self.observe_removals(view, &mut Vec::new());
        let owner = Owner::Request(call.request, call.connection);
        let prompt = (call.model, call.salt, call.node);
        let shape = self.shape(call.connection, call.model, call.world, call.worker_id);
        let Some(shape) = shape else {
            self.sessions[i].result = Some(0);
            return Some(0);
        };
        let mut job = self.job(owner, prompt, shape);
        job.readers = call.readers;
        let hit = job.longest(job.chunks.len(), |r, c| self.readable(&job, r, c).is_some());
        if (hit as usize) < job.chunks.len() && !self.scenario.l2.adapters.is_empty() {
            self.sessions[i].job = Some(self.submit(job));
            return None;
        }
        if hit > 0 {
            let range = needed(job.window, hit);
            let grants = |row: usize| {
                let uid = |c: u32| self.readable(&job, row, c as usize).expect("it is part of the hit");
                range.clone().map(|c| (uid(c), call.readers)).collect::<Vec<(Uid, u32)>>()
            };
            let row = |(row, rank): (usize, &KvRank)| Row {
                rank: *rank,
                form: job.forms[row],
                first: range.start,
                grants: grants(row),
            };
            let rows: Vec<Row> = job.ranks.iter().enumerate().map(row).collect();
            let deadline = now + self.scenario.read_ttl;
            rows.iter().flat_map(|r| &r.grants).for_each(|(uid, _)| self.keep_hit(*uid));
            self.sessions[i].lookup = Some(Lookup { chunks: job.chunks, hit, rows, deadline });
        }
        self.sessions[i].result = Some(hit);
        Some(hit)
    }

    fn job(&self, owner: Owner, (model, salt, node): (u8, u8, u16), shape: Shape) -> Job {
        let Shape { ranks, forms, window } = shape;
        let deadline = self.now + self.scenario.l2.load_deadline;
        let chunks = self.chunks(model, salt, node);
        Job { owner, chunks, ranks, forms, window, full: false, readers: 1, deadline }
    }

    /// A prefetch request with the id that the core chose. Returns whether it should be accepted.
    pub fn prefetch(&mut self, call: &WarmCall, id: Option<u64>) -> bool {
        let owner = Owner::Prefetch(id.unwrap_or(0));
        let Some(shape) = self.newest_shape(call.model, call.world) else { return false };
        let mut job = self.job(owner, (call.model, call.salt, call.node), shape);
        let Some(id) = id else { return true };
        job.full = call.full;
        self.prefetches.insert(id, None);
        let refused = call.full && job.window.is_some();
        self.submit(job);
        self.submitted -= u64::from(refused);
        true
    }

    fn open_session(&mut self, now: Millis, call: &LookupCall) -> usize {
        let expires = now + self.scenario.session_ttl;
        if let Some(i) = self.own_session(call.connection, call.request) {
            self.drop_lookup(i);
            self.settle();
            self.sessions[i].expires = expires;
            return i;
        }
        let (seq, request, owner) = (self.next_seq(), call.request, call.connection);
        let session = Session { seq, request, owner, expires, result: None, lookup: None, job: None };
        self.sessions.push(session);
        self.sessions.len() - 1
    }

    fn own_session(&self, connection: u64, request: u32) -> Option<usize> {
        self.sessions.iter().position(|s| s.request == request && s.owner == connection)
    }

    fn session(&mut self, now: Millis, connection: u64, request: u32) -> Option<usize> {
        let i = self.own_session(connection, request)?;
        self.renew(now, i);
        Some(i)
    }

    fn renew(&mut self, now: Millis, i: usize) {
        let deadline = now + self.scenario.read_ttl;
        if let Some(lookup) = &mut self.sessions[i].lookup {
            lookup.deadline = deadline;
        }
    }

    /// The result of a lookup, once.
    pub fn take_result(&mut self, now: Millis, connection: u64, request: u32) -> LookupStatus {
        let Some(i) = self.session(now, connection, request) else { return LookupStatus::Unknown };
        if self.sessions[i].job.is_some() {
            return LookupStatus::Pending;
        }
        self.sessions[i].result.take().map_or(LookupStatus::Unknown, LookupStatus::Ready)
    }

    /// The state of a prefetch request.
    pub fn prefetch_status(&self, id: u64) -> PrefetchStatus {
        match self.prefetches.get(&id) {
            Some(Some((result, _))) => PrefetchStatus::Done(*result),
            Some(None) => PrefetchStatus::Pending,
            None => PrefetchStatus::Unknown,
        }
    }

    /// Releases the pins of a lookup on a range.
    pub fn free(
        &mut self,
        now: Millis,
        (connection, request): (u64, u32),
        rank: Option<KvRank>,
        (start, end): (u32, u32),
    ) {
        let Some(i) = self.session(now, connection, request) else { return };
        self.sessions[i].result = None;
        if let Some(job) = self.sessions[i].job.take() {
            return self.cancel_job(job);
        }
        let Some(lookup) = &mut self.sessions[i].lookup else { return };
        for row in lookup.rows.iter_mut().filter(|r| rank.is_none_or(|k| k == r.rank)) {
            for (i, grant) in row.grants.iter_mut().enumerate() {
                if (start..end).contains(&(row.first + i as u32)) {
                    grant.1 = 0;
                }
            }
        }
        let used = lookup.chunks[..end.min(lookup.hit) as usize].to_vec();
        self.touch(&used);
    }

    /// Ends a request.
    pub fn end_session(&mut self, connection: u64, request: u32) {
        if let Some(i) = self.own_session(connection, request) {
            self.close_session(i);
        }
    }

    /// The worker's layout, if it is registered for that model and world size. It is related to the scheduler of the
    /// request.
    fn registered(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        name: &Name,
    ) -> Option<Form> {
        let worker = self.own(now, name.instance, connection)?;
        if worker.model != model || worker.world != name.rank.world_size() {
            return None;
        }
        let form = worker.form;
        let same_id: Vec<usize> =
            (0..self.sessions.len()).filter(|i| self.sessions[*i].request == name.request).collect();
        let scheduler = match same_id[..] {
            [only] => Some(only),
            _ => self.promise(&self.chunks(model, name.salt, node), name, form),
        };
        let scheduler = scheduler.map(|i| self.sessions[i].owner);
        let worker = self.own(now, name.instance, connection)?;
        worker.connection = Some(connection);
        worker.rank = Some(name.rank);
        worker.scheduler = scheduler.or(worker.scheduler);
        Some(form)
    }

    /// The chunks that a store should get slots for: as many as `given`, and one more if more are missing. `None`
    /// if the worker is not registered. Objects of its chunks in layouts that no worker has, and loads that it preempts,
    /// are removed; other objects of its keys become permanent.
    pub fn plan_store(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        name: &Name,
        given: &[u32],
        view: &View<'_>,
    ) -> Option<StorePlan> {
        let form = self.registered(now, (model, node, connection), name)?;
        let bytes = form.bytes;
        if view.quarantine_is_full || self.stores.iter().any(|t| t.name == *name) {
            return Some(StorePlan { bytes, form, ..StorePlan::default() });
        }
        let chunks = self.chunks(model, name.salt, node)[..name.end as usize].to_vec();
        let mut plan =
            StorePlan { bytes, form, protected: chunks.iter().copied().collect(), ..StorePlan::default() };
        self.touch(&chunks[..]);
        self.settle();
        for i in name.start..name.end {
            self.drop_dead_forms(chunks[i as usize], name.rank);
            let found = self.linked(Key { chunk: chunks[i as usize], rank: name.rank, form });
            // A store preempts a load that no job waits for.
            let preempted = |u: Uid| {
                let place = Some((self.allocs[u].offset, self.allocs[u].bytes));
                given.contains(&(i - name.start)) || view.object(self.allocs[u].key, true) != place
            };
            let replaceable = |u: &Uid| match self.allocs[*u].state {
                State::Resident => false,
                _ => self.is_load(*u) && preempted(*u),
            };
            match found.filter(|u| !replaceable(u)) {
                Some(uid) => self.allocs[uid].temporary = false,
                None => {
                    plan.missing.push(i - name.start);
                    found.into_iter().for_each(|uid| self.unlink(uid));
                    if plan.missing.len() > given.len() {
                        break;
                    }
                }
            }
        }
        self.settle();
        Some(plan)
    }

    /// Adds a store with the slots that it got: chunk and offset.
    pub fn begin_store(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        name: Name,
        form: Form,
        slots: &[(u32, u64)],
    ) -> u64 {
        let chunks = self.chunks(model, name.salt, node);
        let key = |i: u32| Key { chunk: chunks[(name.start + i) as usize], rank: name.rank, form };
        let uids = slots.iter().map(|(i, offset)| self.reserve(key(*i), *offset, form.bytes)).collect();
        let (seq, deadline) = (self.next_seq(), now + self.scenario.write_ttl);
        let prefix = chunks[..name.end as usize].to_vec();
        self.stores.push(Transfer { seq, name, connection, uids, deadline, overdue: false, prefix });
        seq
    }

    /// Commits a store. Returns how many objects it publishes; `Err(true)` if the store has expired,
    /// `Err(false)` if it is unknown.
    pub fn commit_store(&mut self, now: Millis, name: &Name, connection: u64) -> Result<u32, bool> {
        let _ = self.own(now, name.instance, connection);
        let i = self.stores.iter().position(|t| t.name == *name).ok_or(false)?;
        if !self.may_finish(name.instance, connection, self.stores[i].connection) {
            return Err(false);
        }
        let store = self.stores.remove(i);
        if store.overdue {
            return Err(true);
        }
        let mut published = 0;
        for uid in store.uids {
            if self.allocs[uid].state == State::Staged {
                self.allocs[uid].state = State::Resident;
                self.written.insert(self.allocs[uid].key);
                published += 1;
            }
        }
        self.touch(&store.prefix);
        Ok(published)
    }

    /// Aborts a store.
    pub fn abort_store(&mut self, name: &Name) {
        if let Some(i) = self.stores.iter().position(|t| t.name == *name) {
            for uid in self.stores.remove(i).uids {
                self.unlink(uid);
            }
        }
    }

    /// Prepares a retrieve. Returns the outcome, and the sequence number if it holds objects.
    pub fn prepare_retrieve(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        name: Name,
    ) -> (RetrieveOutcome, u64) {
        let Some(form) = self.registered(now, (model, node, connection), &name) else {
            return (RetrieveOutcome::NotRegistered, 0);
        };
        let chunks = self.chunks(model, name.salt, node);
        let Some((uids, prefix)) = self.take_pins(now, &chunks, &name, form) else {
            return (RetrieveOutcome::Missing, 0);
        };
        let (seq, deadline) = (self.next_seq(), now + self.scenario.read_ttl);
        self.done.entry(name).or_default();
        self.retrieves.push(Transfer {
            seq,
            name,
            connection,
            uids: uids.clone(),
            deadline,
            overdue: false,
            prefix,
        });
        (RetrieveOutcome::Held(uids), seq)
    }

    /// The reservations that a retrieve reads: those that a lookup of its request id pins, otherwise what is readable.
    fn take_pins(
        &mut self,
        now: Millis,
        chunks: &[ChunkKey],
        name: &Name,
        form: Form,
    ) -> Option<(Vec<Uid>, Vec<ChunkKey>)> {
        if name.start >= name.end {
            return None;
        }
        let promise = self.promise(chunks, name, form);
        let held: Vec<Option<Uid>> = promise.map_or_else(Vec::new, |i| {
            let lookup = self.sessions[i].lookup.as_ref().expect("it holds a promise");
            (name.start..name.end).map(|chunk| lookup.held(name.rank, form, chunk)).collect()
        });
        let there = |(i, chunk): (usize, &ChunkKey)| {
            let held = held.get(i).copied().flatten();
            held.or_else(|| self.resident(Key { chunk: *chunk, rank: name.rank, form }))
        };
        let range = &chunks[name.start as usize..name.end as usize];
        let uids: Option<Vec<Uid>> = range.iter().enumerate().map(there).collect();
        let Some(i) = promise else { return Some((uids?, chunks[..name.end as usize].to_vec())) };
        self.renew(now, i);
        let lookup = self.sessions[i].lookup.as_mut().expect("it holds a promise");
        let row = lookup.rows.iter_mut().find(|r| r.rank == name.rank && r.form == form);
        let row = row.expect("it promised this rank");
        let first = row.first;
        let in_range = |i: usize| (name.start..name.end).contains(&(first + i as u32));
        let grants = row.grants.iter_mut().enumerate().filter(|(i, _)| in_range(*i));
        grants.for_each(|(_, g)| g.1 = g.1.saturating_sub(1));
        let (hit, promised) = (lookup.hit as usize, lookup.chunks.clone());
        if uids.is_none() {
            self.touch(&promised[..hit.min(name.end as usize)]);
        }
        Some((uids?, promised[..hit].to_vec()))
    }

    /// The session that a retrieve takes its pins from: one of its request id with a hit of this prompt, the first
    /// that pins all of the range, or else the first.
    fn promise(&self, chunks: &[ChunkKey], name: &Name, form: Form) -> Option<usize> {
        let promises = |i: &usize| {
            let session = &self.sessions[*i];
            let Some(lookup) = session.lookup.as_ref().filter(|_| session.request == name.request) else {
                return false;
            };
            let covered = name.end.min(lookup.hit) as usize;
            covered > 0
                && lookup.chunks[covered - 1] == chunks[covered - 1]
                && lookup.rows.iter().any(|r| r.rank == name.rank && r.form == form)
        };
        let found: Vec<usize> = (0..self.sessions.len()).filter(promises).collect();
        let pins_all = |i: &&usize| {
            let lookup = self.sessions[**i].lookup.as_ref();
            lookup.is_some_and(|l| (name.start..name.end).all(|c| l.held(name.rank, form, c).is_some()))
        };
        found.iter().find(pins_all).or(found.first()).copied()
    }

    /// Commits a retrieve. Returns whether those of that name have kept their pins to the end.
    pub fn commit_retrieve(&mut self, now: Millis, name: &Name, connection: u64) -> bool {
        let _ = self.own(now, name.instance, connection);
        let same = || self.retrieves.iter().filter(|t| t.name == *name);
        if !same().any(|t| self.may_finish(name.instance, connection, t.connection)) {
            return false;
        }
        let count = same().count();
        let running = same().all(|t| !t.uids.is_empty());
        let Some(done) = self.done.get_mut(name) else { return false };
        *done += 1;
        if *done == count {
            while let Some(i) = self.retrieves.iter().position(|t| t.name == *name) {
                self.forget_retrieve(i);
            }
        }
        running
    }

    /// A peer's lookup, with the id that the core chose.
    pub fn peer_lookup(&mut self, now: Millis, id: u64, owner: u64, keys: &[Key]) {
        let found = keys.iter().map(|k| Some((*k, self.presumed(*k)?, 1))).collect();
        let deadline = now + self.scenario.read_ttl;
        self.peers.push(Peer { id, owner, found, answered: false, deadline });
    }

    /// The result of a peer's lookup: offset and size of the objects that it holds.
    pub fn peer_result(&mut self, id: u64) -> Option<Vec<Option<(u64, u64)>>> {
        let peer = self.peers.iter_mut().find(|p| p.id == id && !p.answered)?;
        peer.answered = true;
        let place = |uid: Uid| (self.allocs[uid].offset, self.allocs[uid].bytes);
        let held = peer.found.iter().map(|f| f.filter(|(_, _, pins)| *pins > 0));
        let places = held.map(|f| f.map(|(_, uid, _)| place(uid))).collect();
        self.peers.retain(|p| !p.answered || p.holds());
        Some(places)
    }

    /// Releases a peer's pins: its own ones first, then those of other peers that have their result.
    pub fn peer_unlock(&mut self, owner: u64, keys: &[Key]) {
        for key in keys.iter().rev() {
            let held = |p: &&mut Peer| p.found.iter().flatten().any(|(k, _, pins)| k == key && *pins > 0);
            let own = self.peers.iter().any(|p| p.owner == owner && held(&&mut p.clone()));
            let mut candidates =
                self.peers.iter_mut().filter(|p| if own { p.owner == owner } else { p.answered });
            if let Some(peer) = candidates.find(held) {
                let held = peer.found.iter_mut().flatten().find(|(k, _, pins)| k == key && *pins > 0);
                held.expect("just found").2 -= 1;
            }
        }
        self.peers.retain(|p| !p.answered || p.holds());
    }

    /// Clears L1. Returns how many objects are removed.
    pub fn clear(&mut self, force: bool) -> u64 {
        let removed = |u: &Uid| {
            let alloc = self.allocs[*u];
            match alloc.state {
                State::Resident => force || self.evictable.contains(&alloc.key.chunk),
                State::Staged => force,
                State::Unlinked | State::Free => false,
            }
        };
        let gone: Vec<Uid> = self.live.iter().copied().filter(removed).collect();
        gone.iter().for_each(|u| self.unlink(*u));
        gone.len() as u64
    }
}
