//! Sessions: the life of a request, from its lookup to its end.
//!
//! ```text
//! lookup ---> shares held ---> moved to retrieves, freed by the scheduler, ---> end_session
//!                              run out, or lost with the connection
//! ```
//!
//! A lookup takes one share per reader of every object its hit needs, and nothing else. Whatever is
//! left of them ends with the session: when the client says so, when its connection goes, when the
//! read TTL or the session's own time runs out.

use larder_types::ChunkId;
use std::collections::BTreeSet;
use std::sync::Arc;

use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use crate::core::{Core, Deadline};
use crate::index::{Index, ShardKey};
use crate::prefetch::finish::shape;
use crate::prefetch::{Hit, LookupStatus, Target};
use crate::requests::lease::{Grant, Row};
use crate::requests::workers::Model;
use larder_policy::prefix_scan::{PrefixScan, required_range};
use larder_types::ids::ConnectionId;
use larder_types::layout::Layout;
use larder_types::time::Time;

/// One request.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) request_id: Arc<str>,
    pub(crate) owner: ConnectionId,
    pub(crate) lookup: Option<Lookup>,
    /// Its lookup is still going on.
    pub(crate) job: Option<u64>,
    /// The hit that nobody has asked for yet.
    result: Option<u32>,
    /// Leading chunks that had been asked for before, as far as that is learned.
    known: u32,
    expires: Time,
}

/// What a lookup found and holds.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) model: Arc<str>,
    pub(crate) salt: Arc<str>,
    /// Hashes of the hit's chunks.
    pub(crate) chunk_hashes: Arc<[ChunkHash]>,
    pub(crate) hit: u32,
    pub(crate) rows: Vec<Row>,
    /// It is counted among those that hold shares.
    counted: bool,
    /// When it took them.
    since: Time,
    deadline: Time,
}

/// Shares held for another server.
#[derive(Debug)]
pub(crate) struct PeerLease {
    owner: ConnectionId,
    /// One per key asked for; `None` was not found.
    found: Vec<Option<(ObjectKey, Grant)>>,
    /// The peer has been told what was found.
    told: bool,
    /// When it took its shares.
    since: Time,
    deadline: Time,
}

/// What to look up.
#[derive(Clone, Debug)]
pub struct LookupSpec<'a> {
    /// The request, unique among those alive.
    pub request_id: &'a Arc<str>,
    /// Who asks, and so who holds the shares.
    pub connection: ConnectionId,
    /// Model as the engine names it.
    pub model: &'a Arc<str>,
    /// Pieces one chunk's KV is split into.
    pub world_size: u32,
    /// One piece only, or all of them.
    pub worker_id: Option<u32>,
    /// Isolation domain.
    pub salt: &'a Arc<str>,
    /// Hashes of all whole chunks of the prompt, from its start.
    pub chunk_hashes: &'a Arc<[ChunkHash]>,
    /// How many workers will each read every object.
    pub readers: u32,
}

impl Session {
    /// Every share the session holds.
    pub(crate) fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.lookup.iter().flat_map(|l| &l.rows).flat_map(|r| &r.grants)
    }

    pub(crate) fn holds_shares(&self) -> bool {
        self.grants().any(|g| g.shares > 0)
    }
}

impl PeerLease {
    /// Every share of the lease.
    pub(crate) fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.found.iter().flatten().map(|(_, grant)| grant)
    }

    fn holds_shares(&self) -> bool {
        self.grants().any(|g| g.shares > 0)
    }

    /// A share of the object of that name, if one is left.
    fn share_of(&mut self, key: &ObjectKey) -> Option<&mut Grant> {
        let mut held = self.found.iter_mut().flatten().filter(|(k, g)| g.shares > 0 && k == key);
        held.next().map(|(_, grant)| grant)
    }
}

impl Lookup {
    fn release_all(&mut self, l1: &mut Index) {
        // From the end: what leaves the hands last is the warmest.
        for row in &mut self.rows {
            row.grants.iter_mut().rev().for_each(|g| g.release(l1));
        }
    }
}

impl Core {
    /// Looks up a prompt and takes the shares of its hit. A second lookup of a live request
    /// replaces the first and gives its shares back. `None` if L2 may have more than L1: the answer
    /// comes later, with [`Effect::LookupDone`](crate::io::Effect::LookupDone).
    pub fn lookup(&mut self, now: Time, spec: &LookupSpec<'_>) -> Option<Hit> {
        self.advance(now);
        // A request that looks up again has been learned from.
        let is_new = !self.session_ids.contains_key(spec.request_id);
        let id = self.open_session(now, spec);
        let Some(model) = self.models.get(spec.model, spec.world_size) else {
            self.counters.lookups_unregistered += 1;
            self.set_result(id, 0);
            return Some(Hit::default());
        };
        if is_new {
            let known = self.index.asked_for(now, spec.model, spec.salt, spec.chunk_hashes);
            self.sessions.get_mut(&id).expect("it was just opened").known = known;
        }
        let cells = model.cells(spec.world_size, spec.worker_id);
        let (hit, chunks) = find_hit(&self.index, model, &cells, spec);
        if (hit as usize) < spec.chunk_hashes.len() && !cells.is_empty() && !self.adapters.is_empty() {
            let shape = shape(model, spec.world_size, spec.worker_id);
            let job = self.submit_lookup(now, id, spec, shape);
            self.session_mut(id).job = Some(job);
            return None;
        }
        let rows = take_shares(&mut self.index, &cells, &chunks, spec.readers, hit);
        let objects = rows.iter().map(|r| r.grants.len() as u32).sum();
        let report = Hit { chunks: hit, l1_chunks: hit, l1_objects: objects, l2_objects: 0 };
        self.count_hit(spec.chunk_hashes.len() as u32, &report);
        let target = Target {
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            chunk_hashes: spec.chunk_hashes.clone(),
        };
        if !self.adapters.is_empty() {
            let hits =
                rows.iter().flat_map(|r| (r.first..).zip(&r.grants).map(|(c, g)| (r.cell, c, g.object)));
            self.keep_hits(&target, hits);
        }
        self.session_answered(now, id, target, rows, hit);
        Some(report)
    }

    /// The lookup of a session is over: it holds the shares of its hit, and the hit may be told.
    pub(crate) fn session_answered(
        &mut self,
        now: Time,
        id: u64,
        target: Target,
        rows: Vec<Row>,
        hit: u32,
    ) -> Arc<str> {
        let session = self.session_mut(id);
        session.job = None;
        session.result = Some(hit);
        let known = std::mem::take(&mut session.known);
        let request_id = session.request_id.clone();
        self.index.answered(target.chunk_hashes.len() as u32, known, hit);
        if hit > 0 {
            let deadline = now + self.config.read_ttl;
            let Target { model, salt, chunk_hashes } = target;
            let lookup =
                Lookup { model, salt, chunk_hashes, hit, rows, counted: false, since: now, deadline };
            self.session_mut(id).lookup = Some(lookup);
            self.deadlines.insert((deadline, Deadline::Lookup(id)));
            self.recount_lease(id);
        }
        request_id
    }

    /// The hit of a lookup. It is told once.
    pub fn take_result(&mut self, now: Time, request_id: &str) -> LookupStatus {
        self.advance(now);
        let Some(&id) = self.session_ids.get(request_id) else { return LookupStatus::Unknown };
        self.renew(now, id);
        let session = self.session_mut(id);
        if session.job.is_some() {
            return LookupStatus::Pending;
        }
        session.result.take().map_or(LookupStatus::Unknown, LookupStatus::Ready)
    }

    /// The scheduler does not need chunks `start..end` of a request's hit: their shares end, those
    /// of `worker_id` or of all ranks. Frees nothing that the lookup of this very request does not
    /// hold. A request that frees while its lookup is going on is over: the lookup is cancelled.
    pub fn free(&mut self, now: Time, request_id: &str, rank: Option<KvRank>, start: u32, end: u32) {
        self.advance(now);
        let Some(&id) = self.session_ids.get(request_id) else { return };
        self.renew(now, id);
        let session = self.sessions.get_mut(&id).expect("ids name live sessions");
        session.result = None;
        if let Some(job) = session.job.take() {
            return self.cancel_job(job);
        }
        let Some(lookup) = &mut session.lookup else { return };
        for row in lookup.rows.iter_mut().filter(|r| rank.is_none_or(|k| k == r.cell.rank)) {
            row.range(start, end).iter_mut().rev().for_each(|g| g.release(&mut self.index));
        }
        let (model, salt, chunk_hashes) =
            (lookup.model.clone(), lookup.salt.clone(), lookup.chunk_hashes.clone());
        let freed = end.min(lookup.hit) as usize;
        self.recount_lease(id);
        self.touch_prefix(&model, &salt, &chunk_hashes[..freed]);
    }

    /// The hit of a live request's last lookup, in chunks.
    pub fn hit(&self, request_id: &str) -> u32 {
        let session = self.session_ids.get(request_id).and_then(|id| self.sessions.get(id));
        session.and_then(|session| session.lookup.as_ref()).map_or(0, |lookup| lookup.hit)
    }

    /// The request is over: what it still holds is given back, what it used is warm.
    pub fn end_session(&mut self, now: Time, request_id: &str) {
        self.advance(now);
        if let Some(&id) = self.session_ids.get(request_id) {
            self.close_session(id);
        }
    }

    /// Looks objects up by key for another server and holds those found. Returns the id to ask for
    /// the result with.
    pub fn peer_lookup(&mut self, now: Time, owner: ConnectionId, keys: &[ObjectKey]) -> u64 {
        self.advance(now);
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let object = self.find_object(key);
            found.push(object.map(|object| {
                self.index.pin(object, 1);
                (key.clone(), Grant { object, shares: 1 })
            }));
        }
        let id = self.new_id();
        let deadline = now + self.config.read_ttl;
        self.deadlines.insert((deadline, Deadline::Peer(id)));
        self.reading.insert((now, id));
        self.peers.insert(id, PeerLease { owner, found, told: false, since: now, deadline });
        id
    }

    /// Offset and size of each object of a peer's lookup that it holds, in the order asked, once.
    pub fn peer_result(&mut self, now: Time, id: u64) -> Option<Vec<Option<(u64, u64)>>> {
        self.advance(now);
        let lease = self.peers.get_mut(&id).filter(|l| !l.told)?;
        lease.told = true;
        let place = |object| (self.index.offset(object), self.index.layout(object).bytes());
        let held = lease.found.iter().map(|f| f.as_ref().filter(|(_, g)| g.shares > 0));
        let places = held.map(|f| f.map(|(_, grant)| place(grant.object))).collect();
        if !lease.holds_shares() {
            self.end_peer_lease(id);
        }
        Some(places)
    }

    /// A peer is done with these objects: one share of each ends, one of `owner`'s own if it has
    /// any, else one of another peer's that knows what it holds.
    pub fn peer_unlock(&mut self, now: Time, owner: ConnectionId, keys: &[ObjectKey]) {
        self.advance(now);
        // From the end: keys come in the order of a prompt, whose first chunk should be the warmest.
        for key in keys.iter().rev() {
            let own = self.peers.values_mut().filter(|l| l.owner == owner).find_map(|l| l.share_of(key));
            let share = match own {
                Some(share) => Some(share),
                None => self.peers.values_mut().filter(|l| l.told).find_map(|l| l.share_of(key)),
            };
            if let Some(share) = share {
                share.release_one(&mut self.index);
            }
        }
        let done = self.peers.iter().filter(|(_, l)| l.told && !l.holds_shares());
        let done: Vec<u64> = done.map(|(id, _)| *id).collect();
        done.into_iter().for_each(|id| self.end_peer_lease(id));
    }

    /// The resident object of that name.
    pub(crate) fn find_object(&self, key: &ObjectKey) -> Option<crate::index::ObjectId> {
        let chunk = self.index.chunk(&key.model_name, &key.cache_salt, &key.chunk_hash)?;
        self.index.resident(chunk, ShardKey { rank: key.kv_rank, group: key.object_group })
    }

    fn open_session(&mut self, now: Time, spec: &LookupSpec<'_>) -> u64 {
        let expires = now + self.config.session_ttl;
        if let Some(&id) = self.session_ids.get(spec.request_id) {
            self.drop_lookup(id);
            let session = self.session_mut(id);
            session.owner = spec.connection;
            let expired = std::mem::replace(&mut session.expires, expires);
            self.deadlines.remove(&(expired, Deadline::Session(id)));
            self.deadlines.insert((expires, Deadline::Session(id)));
            return id;
        }
        // A client that never ends its requests costs those that came first, not the server.
        if self.sessions.len() >= self.config.sessions_max
            && let Some((&oldest, _)) = self.sessions.first_key_value()
        {
            self.session_expired(oldest);
        }
        let id = self.new_id();
        self.deadlines.insert((expires, Deadline::Session(id)));
        self.session_ids.insert(spec.request_id.clone(), id);
        let request_id = spec.request_id.clone();
        let owner = spec.connection;
        self.sessions.insert(
            id,
            Session { request_id, owner, lookup: None, job: None, result: None, known: 0, expires },
        );
        id
    }

    fn set_result(&mut self, id: u64, hit: u32) {
        self.session_mut(id).result = Some(hit);
    }

    fn session_mut(&mut self, id: u64) -> &mut Session {
        self.sessions.get_mut(&id).expect("ids name live sessions")
    }

    /// The request is alive: its shares wait longer for their readers.
    pub(crate) fn renew(&mut self, now: Time, id: u64) {
        let deadline = now + self.config.read_ttl;
        let Some(lookup) = self.sessions.get_mut(&id).and_then(|s| s.lookup.as_mut()) else { return };
        if lookup.deadline < deadline {
            self.deadlines.remove(&(lookup.deadline, Deadline::Lookup(id)));
            lookup.deadline = deadline;
            self.deadlines.insert((deadline, Deadline::Lookup(id)));
        }
    }

    /// Moves the whole prefix to the warm end, its first chunk last, so that a prompt is evicted
    /// from its end.
    pub(crate) fn touch_prefix(&mut self, model: &Arc<str>, salt: &Arc<str>, chunk_hashes: &[ChunkHash]) {
        let chunks: Vec<ChunkId> = self.index.leading_chunks(model, salt, chunk_hashes).flatten().collect();
        chunks.into_iter().rev().for_each(|c| self.index.touch(c));
    }

    /// Ends the lookup of a session, if it has one; touches what it had found.
    fn drop_lookup(&mut self, id: u64) {
        let session = self.session_mut(id);
        session.result = None;
        if let Some(job) = session.job.take() {
            self.cancel_job(job);
        }
        let Some(mut lookup) = self.session_mut(id).lookup.take() else { return };
        self.deadlines.remove(&(lookup.deadline, Deadline::Lookup(id)));
        self.leases -= u64::from(lookup.counted);
        self.reading.remove(&(lookup.since, id));
        lookup.release_all(&mut self.index);
        self.touch_prefix(&lookup.model, &lookup.salt, &lookup.chunk_hashes[..lookup.hit as usize]);
    }

    /// Shares of a session's lookup came or went. What the search for one that is left costs has been paid
    /// by those that went before it.
    pub(crate) fn recount_lease(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let holds = session.holds_shares();
        let Some(lookup) = &mut session.lookup else { return };
        self.leases -= u64::from(lookup.counted);
        self.leases += u64::from(holds);
        lookup.counted = holds;
        let place = (lookup.since, id);
        if holds {
            self.reading.insert(place)
        } else {
            self.reading.remove(&place)
        };
    }

    fn close_session(&mut self, id: u64) {
        self.drop_lookup(id);
        let session = self.sessions.remove(&id).expect("ids name live sessions");
        self.deadlines.remove(&(session.expires, Deadline::Session(id)));
        self.session_ids.remove(&session.request_id);
    }

    pub(crate) fn lookup_expired(&mut self, id: u64) {
        self.counters.leases_expired += u64::from(self.sessions[&id].holds_shares());
        self.drop_lookup(id);
    }

    pub(crate) fn session_expired(&mut self, id: u64) {
        self.counters.sessions_expired += 1;
        self.close_session(id);
    }

    pub(crate) fn end_sessions_of(&mut self, owner: ConnectionId) {
        let ids: Vec<u64> =
            self.sessions.iter().filter(|(_, s)| s.owner == owner).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.close_session(id));
    }

    /// Recomputes who holds shares since when. For tests.
    pub(crate) fn check_reading(&self) {
        let holding = |(id, session): (&u64, &Session)| {
            session.lookup.as_ref().filter(|_| session.holds_shares()).map(|lookup| (lookup.since, *id))
        };
        let lookups = self.sessions.iter().filter_map(holding);
        let peers = self.peers.iter().map(|(id, lease)| (lease.since, *id));
        let retrieves = self.retrieves.iter().filter(|(_, r)| !r.objects.is_empty());
        let retrieves = retrieves.map(|(id, retrieve)| (retrieve.since, *id));
        let reading: BTreeSet<(Time, u64)> = lookups.chain(peers).chain(retrieves).collect();
        assert_eq!(reading, self.reading, "who holds shares since when");
    }

    pub(crate) fn peer_expired(&mut self, id: u64) {
        self.counters.leases_expired += u64::from(self.peers[&id].holds_shares());
        self.end_peer_lease(id);
    }

    fn end_peer_lease(&mut self, id: u64) {
        let Some(mut lease) = self.peers.remove(&id) else { return };
        self.deadlines.remove(&(lease.deadline, Deadline::Peer(id)));
        self.reading.remove(&(lease.since, id));
        lease.found.iter_mut().flatten().rev().for_each(|(_, g)| g.release(&mut self.index));
    }

    pub(crate) fn end_peer_leases_of(&mut self, owner: ConnectionId) {
        let ids: Vec<u64> = self.peers.iter().filter(|(_, l)| l.owner == owner).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.end_peer_lease(id));
    }
}

/// The longest prefix that every row can serve from L1, and the chunks that were looked at.
fn find_hit(
    l1: &Index,
    model: &Model,
    cells: &[(ShardKey, Option<u32>)],
    spec: &LookupSpec<'_>,
) -> (u32, Vec<Option<ChunkId>>) {
    let mut fold = PrefixScan::new(cells.iter().map(|(_, window)| *window));
    let mut chunks = Vec::new();
    for chunk in l1.leading_chunks(spec.model, spec.salt, spec.chunk_hashes) {
        chunks.push(chunk);
        let present = |row: usize| chunk.is_some_and(|c| usable(l1, model, c, cells[row].0).is_some());
        if !fold.push(present) {
            break;
        }
    }
    (fold.hit(), chunks)
}

/// The object in a cell, if it is resident and of a size that some worker of the model can read.
fn usable(l1: &Index, model: &Model, chunk: ChunkId, cell: ShardKey) -> Option<crate::index::ObjectId> {
    l1.resident(chunk, cell).filter(|o| model.knows(l1.layout(*o)))
}

/// Pins what each row needs of the hit's chunks, one share per reader.
fn take_shares(
    l1: &mut Index,
    cells: &[(ShardKey, Option<u32>)],
    chunks: &[Option<ChunkId>],
    readers: u32,
    hit: u32,
) -> Vec<Row> {
    chunks[..hit as usize].iter().flatten().for_each(|chunk| l1.found(*chunk));
    let mut rows = Vec::with_capacity(cells.len());
    for (cell, window) in cells {
        let needed = required_range(hit, *window);
        let first = needed.start;
        let grants: Vec<Grant> = needed
            .map(|column| {
                let object = chunks[column as usize].and_then(|c| l1.resident(c, *cell));
                Grant { object: object.expect("the hit was just found"), shares: readers }
            })
            .collect();
        grants.iter().for_each(|g| l1.pin(g.object, g.shares));
        rows.push(Row { cell: *cell, first, grants });
    }
    rows
}

/// Whether `layout` is one that workers of the model use.
impl Model {
    pub(crate) fn knows(&self, layout: &Layout) -> bool {
        self.layouts().any(|l| l.bytes() == layout.bytes())
    }
}
