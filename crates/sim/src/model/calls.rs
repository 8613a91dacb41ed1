//! The expected answer of each call.

use std::collections::BTreeSet;

use larder_core::{LookupStatus, PrefetchStatus};
use larder_types::object::KvRank;

use super::engines::{Shape, ShapeRow};
use super::jobs::{Job, Owner, needed};
use super::{ChunkKey, Key, Lookup, Model, Name, Peer, Row, Session, State, Transfer, Uid, View};
use crate::scenario::{Form, GroupSpec, Millis};

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
    /// Leading chunks that the reader has.
    pub start: u32,
    /// Readers of each object.
    pub readers: u32,
}

impl LookupCall {
    /// Of all ranks, from the start of the prompt, for one reader.
    pub fn of_all(request: u32, connection: u64, (model, world): (u8, u32), node: u16) -> Self {
        Self { request, connection, model, world, worker_id: None, salt: 0, node, start: 0, readers: 1 }
    }
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
    /// Objects to write: chunks, by their position in the range, and groups.
    pub missing: Vec<(u32, u32)>,
    /// Chunks that must not be evicted for it.
    pub protected: BTreeSet<ChunkKey>,
    /// The groups of the worker.
    pub groups: Vec<GroupSpec>,
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

    /// The hit of a lookup: the longest prefix of what is looked up that L1 has for every rank. `None` if L1 lacks some
    /// chunk and there are adapters to look it up in.
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
        let rest = job.chunks.split_off((call.start as usize).min(job.chunks.len()));
        job.before = std::mem::replace(&mut job.chunks, rest);
        self.touch(&job.before);
        let (before, start) = (job.before.clone(), job.before.len() as u32);
        let hit = job.longest(job.chunks.len(), |r, c| self.readable(&job, r, c).is_some());
        if (hit as usize) < job.chunks.len() && !self.scenario.l2.adapters.is_empty() {
            self.sessions[i].job = Some(self.submit(job));
            return None;
        }
        if start + hit > 0 {
            let row = |(row, shape): (usize, &ShapeRow)| {
                let range = needed(shape.window, hit);
                let uid = |c: u32| self.readable(&job, row, c as usize).expect("it is part of the hit");
                Row {
                    rank: shape.rank,
                    group: shape.group,
                    form: shape.form,
                    first: start + range.start,
                    grants: range.map(|c| (uid(c), call.readers)).collect(),
                }
            };
            let rows: Vec<Row> = job.rows.iter().enumerate().map(row).collect();
            let deadline = now + self.scenario.read_ttl;
            rows.iter().flat_map(|r| &r.grants).for_each(|(uid, _)| self.keep_hit(*uid));
            let chunks = [before, job.chunks].concat();
            self.sessions[i].lookup = Some(Lookup { chunks, hit: start + hit, rows, deadline });
        }
        self.sessions[i].result = Some(start + hit);
        Some(hit)
    }

    fn job(&self, owner: Owner, (model, salt, node): (u8, u8, u16), shape: Shape) -> Job {
        let deadline = self.now + self.scenario.l2.load_deadline;
        let chunks = self.chunks(model, salt, node);
        Job { owner, before: Vec::new(), chunks, rows: shape, full: false, readers: 1, deadline }
    }

    /// A prefetch request with the id that the core chose. Returns whether it should be accepted.
    pub fn prefetch(&mut self, call: &WarmCall, id: Option<u64>) -> bool {
        let owner = Owner::Prefetch(id.unwrap_or(0));
        let Some(shape) = self.newest_shape(call.model, call.world) else { return false };
        let mut job = self.job(owner, (call.model, call.salt, call.node), shape);
        let Some(id) = id else { return true };
        job.full = call.full;
        self.prefetches.insert(id, None);
        let refused = call.full && job.rows.iter().any(|row| row.window.is_some());
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

    /// The worker's groups, if it is registered for that model and world size. It is related to the scheduler of the
    /// request.
    fn registered(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        name: &Name,
    ) -> Option<Vec<GroupSpec>> {
        let worker = self.own(now, name.instance, connection)?;
        if worker.model != model || worker.world != name.rank.world_size() {
            return None;
        }
        let groups = worker.groups.clone();
        let same_id: Vec<usize> =
            (0..self.sessions.len()).filter(|i| self.sessions[*i].request == name.request).collect();
        let scheduler = match same_id[..] {
            [only] => Some(only),
            _ => self.promise(&self.chunks(model, name.salt, node), name, &groups),
        };
        let scheduler = scheduler.map(|i| self.sessions[i].owner);
        let worker = self.own(now, name.instance, connection)?;
        worker.connection = Some(connection);
        worker.rank = Some(name.rank);
        worker.scheduler = scheduler.or(worker.scheduler);
        Some(groups)
    }

    /// The objects that a store should get slots for, without those of `skipped` (chunk and group): as many as `given`,
    /// and more of the next chunk if more are missing. `None` if the worker is not registered. Objects of its chunks in
    /// layouts that no worker has, and loads that it preempts, are removed; other objects of its keys become permanent.
    pub fn plan_store(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        (name, skipped): (&Name, &[(u32, u32)]),
        given: &[(u32, u32)],
        view: &View<'_>,
    ) -> Option<StorePlan> {
        let groups = self.registered(now, (model, node, connection), name)?;
        let mut plan = StorePlan { groups: groups.clone(), ..StorePlan::default() };
        if view.quarantine_is_full || self.stores.iter().any(|t| t.name == *name) {
            return Some(plan);
        }
        let chunks = self.chunks(model, name.salt, node)[..name.end as usize].to_vec();
        plan.protected = chunks.iter().copied().collect();
        self.touch(&chunks[..]);
        self.settle();
        for i in name.start..name.end {
            let chunk = chunks[i as usize];
            for (group, spec) in (0..).zip(&groups) {
                let cell = (i - name.start, group);
                if skipped.contains(&cell) {
                    continue;
                }
                // Where memory does not suffice for a chunk, it is not known at which of its groups that was seen.
                let is_certain = plan.missing.len() <= given.len();
                for uid in self.dead_forms(chunk, name.rank, group) {
                    if is_certain || !self.is_at_its_place(uid, view) {
                        self.unlink(uid);
                    }
                }
                let key = Key { chunk, rank: name.rank, group, form: spec.form };
                let found = self.linked(key);
                // A store preempts a load that no job waits for.
                let preempted = |u: Uid| {
                    let place = Some((self.allocs[u].offset, self.allocs[u].bytes));
                    given.contains(&cell) || view.object(key, true) != place
                };
                let replaceable = |u: &Uid| match self.allocs[*u].state {
                    State::Resident => false,
                    _ => self.is_load(*u) && preempted(*u),
                };
                match found.filter(|u| !replaceable(u)) {
                    Some(uid) if is_certain => self.allocs[uid].temporary = false,
                    Some(uid) => {
                        let staged = self.allocs[uid].state == State::Staged;
                        self.allocs[uid].temporary &= !view.stays(key, staged);
                    }
                    None => {
                        plan.missing.push(cell);
                        found.into_iter().for_each(|uid| self.unlink(uid));
                    }
                }
            }
            if plan.missing.len() > given.len() {
                break;
            }
        }
        self.settle();
        Some(plan)
    }

    /// Whether the core has a readable object where the model has it.
    fn is_at_its_place(&self, uid: Uid, view: &View<'_>) -> bool {
        let alloc = &self.allocs[uid];
        view.object(alloc.key, false) == Some((alloc.offset, alloc.bytes))
    }

    /// Adds a store with the slots that it got: chunk, group and offset.
    pub fn begin_store(
        &mut self,
        now: Millis,
        (model, node, connection): (u8, u16, u64),
        name: Name,
        groups: &[GroupSpec],
        slots: &[((u32, u32), u64)],
    ) -> u64 {
        let chunks = self.chunks(model, name.salt, node);
        let key = |(i, group): (u32, u32)| {
            let form = groups[group as usize].form;
            Key { chunk: chunks[(name.start + i) as usize], rank: name.rank, group, form }
        };
        let mut reserve = |(cell, offset): &((u32, u32), u64)| {
            let key = key(*cell);
            self.reserve(key, *offset, key.form.bytes)
        };
        let uids = slots.iter().map(&mut reserve).collect();
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
        let Some(groups) = self.registered(now, (model, node, connection), &name) else {
            return (RetrieveOutcome::NotRegistered, 0);
        };
        let chunks = self.chunks(model, name.salt, node);
        let Some((uids, prefix)) = self.take_pins(now, &chunks, &name, &groups) else {
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
        groups: &[GroupSpec],
    ) -> Option<(Vec<Uid>, Vec<ChunkKey>)> {
        if name.start >= name.end {
            return None;
        }
        let promise = self.promise(chunks, name, groups);
        let there = |(group, form, chunk): (u32, Form, u32)| {
            let lookup = promise.and_then(|i| self.sessions[i].lookup.as_ref());
            let held = lookup.and_then(|lookup| lookup.held(name.rank, (group, form), chunk));
            let key = Key { chunk: chunks[chunk as usize], rank: name.rank, group, form };
            held.or_else(|| self.resident(key))
        };
        let uids: Option<Vec<Uid>> = cells(name, groups).map(there).collect();
        let Some(i) = promise else { return Some((uids?, chunks[..name.end as usize].to_vec())) };
        self.renew(now, i);
        let lookup = self.sessions[i].lookup.as_mut().expect("it holds a promise");
        for (group, form, chunk) in cells(name, groups) {
            let row = lookup.rows.iter_mut().find(|r| (r.rank, r.group, r.form) == (name.rank, group, form));
            let row = row.expect("it promised this rank and group");
            let grant = chunk.checked_sub(row.first).and_then(|at| row.grants.get_mut(at as usize));
            grant.into_iter().for_each(|grant| grant.1 = grant.1.saturating_sub(1));
        }
        let (hit, promised) = (lookup.hit as usize, lookup.chunks.clone());
        if uids.is_none() {
            self.touch(&promised[..hit.min(name.end as usize)]);
        }
        Some((uids?, promised[..hit].to_vec()))
    }

    /// The session that a retrieve takes its pins from: one of its request id with a hit of this prompt, the first
    /// that pins all that is read, or else the first.
    fn promise(&self, chunks: &[ChunkKey], name: &Name, groups: &[GroupSpec]) -> Option<usize> {
        let promises = |i: &usize| {
            let session = &self.sessions[*i];
            let Some(lookup) = session.lookup.as_ref().filter(|_| session.request == name.request) else {
                return false;
            };
            let covered = name.end.min(lookup.hit) as usize;
            let mut groups = (0..).zip(groups);
            covered > 0
                && lookup.chunks[covered - 1] == chunks[covered - 1]
                && groups.all(|(group, spec)| lookup.row(name.rank, (group, spec.form)).is_some())
        };
        let found: Vec<usize> = (0..self.sessions.len()).filter(promises).collect();
        let pins_all = |i: &&usize| {
            let lookup = self.sessions[**i].lookup.as_ref();
            let held =
                |l: &Lookup| cells(name, groups).all(|(g, f, c)| l.held(name.rank, (g, f), c).is_some());
            lookup.is_some_and(held)
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

/// What a retrieve reads: group, layout and chunk.
fn cells<'a>(name: &Name, groups: &'a [GroupSpec]) -> impl Iterator<Item = (u32, Form, u32)> + use<'a> {
    let (start, len) = (name.start, name.end.saturating_sub(name.start));
    (0..).zip(groups).flat_map(move |(group, spec)| {
        needed(spec.window, len).map(move |chunk| (group, spec.form, start + chunk))
    })
}
