//! Sessions: requests from their lookup to their end.
//!
//! ```text
//! lookup ---> pins held ---> moved to retrieves, freed by the scheduler, ---> end_session
//!                            expired, or lost with the connection
//! ```
//!
//! A lookup pins every object that its hit needs once per reader, and nothing else. The pins that are left are
//! released with the session: when the client ends it, when its connection is lost, when the read TTL is over, or
//! when the session has reached its maximal age. A retrieve that comes later pins the objects again, as far as they
//! are still there.
//!
//! Request ids are the client's own: a session belongs to the connection of its lookup, and other connections may
//! use the same id at the same time. Workers retrieve over connections of their own, so a retrieve takes its pins
//! from a session of its request id that pins this prompt.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use larder_policy::eviction::{digest, name_digest};
use larder_types::object::{ChunkHash, KvRank};
use larder_types::{ConnectionId, Time};
use smallvec::SmallVec;

use super::by_owner::ByOwner;
use super::clients::Held;
use super::lease::{PinnedObject, ShardPins};
use super::transfer::{Prefix, TransferSpec};
use super::worker_spec::Group;
use crate::config::CoreConfig;
use crate::context::Context;
use crate::ids::{JobId, SessionId};
use crate::index::ObjectId;
use crate::prefetch::{LookupSink, LookupStatus, Target};
use crate::timers::{Timer, TimerKind};

/// What a session takes in bytes besides the id of its request and its lookup, with its entries in tables.
const SESSION_BYTES: usize = 512;

/// Sessions that end for a new one, at most: each call costs its own request.
const ENDED_FOR_ONE_MAX: usize = 2;

/// What to look up.
#[derive(Clone, Debug)]
pub struct LookupSpec<'a> {
    /// The request, unique among those of the connection.
    pub request_id: &'a Arc<str>,
    /// The connection that asks, and so owns the pins.
    pub connection: ConnectionId,
    /// Model as the engine names it.
    pub model: &'a Arc<str>,
    /// Pieces one chunk's KV is split into.
    pub world_size: u32,
    /// One piece only, or all of them.
    pub worker_id: Option<u32>,
    /// Cache salt, which isolates tenants.
    pub salt: &'a Arc<str>,
    /// Hashes of all whole chunks of the prompt, from its start.
    pub chunk_hashes: &'a Arc<[ChunkHash]>,
    /// Leading chunks that the reader has already: they are used again, but neither searched, pinned nor loaded. The hit
    /// counts from the start of the prompt all the same.
    pub start: u32,
    /// How many workers will each read every object.
    pub readers: u32,
}

impl LookupSpec<'_> {
    /// The chunks that are looked up.
    pub fn chunks(&self) -> Range<usize> {
        let end = self.chunk_hashes.len();
        (self.start as usize).min(end)..end
    }

    pub(crate) fn session_name(&self) -> SessionName {
        SessionName { connection: self.connection, request_id: self.request_id.clone() }
    }

    pub(crate) fn target(&self) -> Target {
        Target { model: self.model.clone(), salt: self.salt.clone(), chunk_hashes: self.chunk_hashes.clone() }
    }
}

/// One request.
#[derive(Debug)]
struct Session {
    request_id: Arc<str>,
    connection: ConnectionId,
    lookup: LookupState,
    /// Chunks looked up that are known to have been requested before, without a gap, until the lookup is answered.
    known: u32,
    /// The prompt, if its lookup does not begin at its start, until the lookup is answered.
    whole: Option<Whole>,
    /// Fires when the session has reached its maximal age.
    age: Timer,
}

/// A prompt of which only a part is looked up.
#[derive(Debug)]
struct Whole {
    chunk_hashes: Arc<[ChunkHash]>,
    /// The first chunk that is looked up.
    start: u32,
}

/// The last lookup of a session.
#[derive(Debug)]
enum LookupState {
    /// L2 is being asked.
    Pending(JobId),
    /// It has been answered, or ended.
    Answered {
        /// The hit in chunks, until the client has asked for it.
        unreported: Option<u32>,
        /// What a hit of at least one chunk holds.
        lease: Option<LookupLease>,
    },
}

/// What a lookup found and pins.
#[derive(Debug)]
struct LookupLease {
    /// The whole prompt.
    target: Target,
    /// From its start.
    hit: u32,
    /// The first chunk that was looked up.
    start: u32,
    shards: Vec<ShardPins>,
    /// Pins that are left.
    pins: u64,
    since: Time,
    /// Fires when the pins expire.
    expiry: Timer,
    held: Held,
}

/// A session that a lookup opened or took over.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    /// The request had no session before.
    pub(crate) is_new: bool,
    /// Jobs that must be cancelled: that of an earlier lookup of the request, or of sessions that were ended to
    /// keep the limits.
    pub(crate) cancelled: SmallVec<[JobId; 2]>,
}

/// Sessions of one request id that a retrieve looks at, at most. Engines with the same ids are few.
const SAME_ID_MAX: usize = 16;

/// What a client calls its session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionName {
    pub(crate) connection: ConnectionId,
    pub(crate) request_id: Arc<str>,
}

/// The same, borrowed. Hashed alike.
#[derive(Hash)]
struct SessionNameRef<'a> {
    connection: ConnectionId,
    request_id: &'a str,
}

impl Equivalent<SessionName> for SessionNameRef<'_> {
    fn equivalent(&self, name: &SessionName) -> bool {
        self.connection == name.connection && *self.request_id == *name.request_id
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    by_name: HashMap<SessionName, SessionId>,
    /// The sessions of each request id, of all connections.
    by_request: HashMap<Arc<str>, SmallVec<[SessionId; 1]>>,
    by_connection: ByOwner<ConnectionId, SessionId>,
    /// What all sessions take in bytes, about.
    bytes: usize,
    /// Sessions with pins of a lookup, by the time since when.
    pinning: BTreeSet<(Time, SessionId)>,
}

impl Sessions {
    /// The session of a lookup. An earlier lookup of the same request ends.
    pub(crate) fn open(&mut self, cx: &mut Context, spec: &LookupSpec<'_>) -> Opened {
        let expires = cx.now + cx.config.session_ttl;
        if let Some(id) = self.find(spec.connection, spec.request_id) {
            let cancelled = self.end_lookup(cx, id);
            cx.timers.move_to(&mut self.session_mut(id).age, expires);
            return Opened { id, is_new: false, cancelled: cancelled.into_iter().collect() };
        }
        // Requests that are never ended cost the oldest sessions, not memory.
        let mut cancelled = SmallVec::new();
        for _ in 0..ENDED_FOR_ONE_MAX {
            let Some(victim) = self.in_excess(cx, spec.connection) else { break };
            cancelled.extend(self.expire(cx, victim));
        }
        let id = SessionId(cx.new_id());
        let session = Session {
            request_id: spec.request_id.clone(),
            connection: spec.connection,
            lookup: LookupState::ENDED,
            known: 0,
            whole: None,
            age: cx.timers.arm(expires, TimerKind::Session(id)),
        };
        self.by_name.insert(spec.session_name(), id);
        self.by_request.entry(spec.request_id.clone()).or_default().push(id);
        self.by_connection.insert(spec.connection, id);
        self.bytes += session.bytes();
        self.sessions.insert(id, session);
        Opened { id, is_new: true, cancelled }
    }

    /// The session that ends for a new one of this connection, if there are too many: the oldest of the connection, if it
    /// has more than half of them, otherwise the oldest of all.
    fn in_excess(&self, cx: &Context, connection: ConnectionId) -> Option<SessionId> {
        let CoreConfig { sessions_max, sessions_bytes_max, .. } = cx.config;
        let is_full = self.sessions.len() >= sessions_max || self.bytes >= sessions_bytes_max;
        if !is_full {
            return None;
        }
        let own = self.by_connection.count(connection);
        let own = if own > self.sessions.len() / 2 { self.by_connection.first(connection) } else { None };
        own.or_else(|| self.sessions.first_key_value().map(|(id, _)| *id))
    }

    /// Records how many leading chunks of the lookup had been requested before.
    pub(crate) fn note_request(&mut self, cx: &mut Context, id: SessionId, spec: &LookupSpec<'_>) {
        let known = on_request(cx, spec);
        self.session_mut(id).known = known;
    }

    /// The lookup is about the chunks after those that the reader has, which become the most recently used. Returns
    /// their hashes; `None` if that are all.
    pub(crate) fn look_up_rest(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        spec: &LookupSpec<'_>,
    ) -> Option<Arc<[ChunkHash]>> {
        let (has, rest) = spec.chunk_hashes.split_at(spec.chunks().start);
        let session = self.session_mut(id);
        session.whole = None;
        if has.is_empty() {
            return None;
        }
        cx.index_mut().touch_prefix(spec.model, spec.salt, has);
        let start = has.len() as u32;
        session.known = session.known.saturating_sub(start);
        session.whole = Some(Whole { chunk_hashes: spec.chunk_hashes.clone(), start });
        Some(rest.into())
    }

    /// The lookup goes on with L2.
    pub(crate) fn set_pending(&mut self, id: SessionId, job: JobId) {
        self.session_mut(id).lookup = LookupState::Pending(job);
    }

    /// The lookup found nothing, because no worker serves the model.
    pub(crate) fn set_unserved(&mut self, id: SessionId) {
        self.session_mut(id).lookup = LookupState::Answered { unreported: Some(0), lease: None };
    }

    /// The result of a request's lookup. A hit is reported once.
    pub(crate) fn take_result(
        &mut self,
        cx: &mut Context,
        connection: ConnectionId,
        request_id: &str,
    ) -> LookupStatus {
        let status = self.peek_result(cx, connection, request_id);
        if let LookupStatus::Ready(_) = status
            && let Some(id) = self.find(connection, request_id)
            && let LookupState::Answered { unreported, .. } = &mut self.session_mut(id).lookup
        {
            *unreported = None;
        }
        status
    }

    /// The same, without reporting it.
    pub(crate) fn peek_result(
        &mut self,
        cx: &mut Context,
        connection: ConnectionId,
        request_id: &str,
    ) -> LookupStatus {
        let Some(id) = self.find(connection, request_id) else { return LookupStatus::Unknown };
        self.renew(cx, id);
        match &self.session_mut(id).lookup {
            LookupState::Pending(_) => LookupStatus::Pending,
            LookupState::Answered { unreported, .. } => {
                unreported.map_or(LookupStatus::Unknown, LookupStatus::Ready)
            }
        }
    }

    /// Releases the pins of chunks `start..end` of a request's hit, those of one rank or of all. Pins of other
    /// requests are not affected. A request that frees while its lookup is pending is over: its job is returned,
    /// to be cancelled.
    #[must_use]
    pub(crate) fn free(
        &mut self,
        cx: &mut Context,
        (connection, request_id): (ConnectionId, &str),
        rank: Option<KvRank>,
        (start, end): (u32, u32),
    ) -> Option<JobId> {
        let id = self.find(connection, request_id)?;
        self.renew(cx, id);
        let session = self.sessions.get_mut(&id).expect("ids name live sessions");
        let lease = match &mut session.lookup {
            LookupState::Pending(job) => {
                let job = *job;
                session.lookup = LookupState::ENDED;
                return Some(job);
            }
            LookupState::Answered { unreported, lease } => {
                *unreported = None;
                lease.as_mut()?
            }
        };
        let mut index = cx.index_mut();
        for shard in lease.shards.iter_mut().filter(|s| rank.is_none_or(|rank| rank == s.shard().rank)) {
            for object in shard.range(start, end).iter_mut().rev() {
                lease.pins -= object.release(&mut index);
            }
        }
        let Target { model, salt, chunk_hashes } = &lease.target;
        index.touch_prefix(model, salt, &chunk_hashes[..end.min(lease.hit) as usize]);
        if lease.pins == 0 {
            self.pinning.remove(&(lease.since, id));
            cx.clients.release(&mut lease.held);
        }
        None
    }

    /// Releases the pins that a lookup of the request holds, if it is the one that looked up from chunk `start` on and
    /// found `end` chunks. Those of a lookup that another has replaced were released with it.
    pub(crate) fn free_lookup(
        &mut self,
        cx: &mut Context,
        (connection, request_id): (ConnectionId, &str),
        (start, end): (u32, u32),
    ) {
        let Some(id) = self.find(connection, request_id) else { return };
        let Some(lease) = self.sessions.get_mut(&id).and_then(Session::lease_mut) else { return };
        if (lease.start, lease.hit) != (start, end) || lease.pins == 0 {
            return;
        }
        let mut index = cx.index_mut();
        lease.shards.iter_mut().for_each(|shard| shard.release(&mut index));
        lease.pins = 0;
        self.pinning.remove(&(lease.since, id));
        cx.clients.release(&mut lease.held);
    }

    /// The connection of the lookup that a transfer belongs to, if that is certain: other engines may use the same
    /// request id.
    pub(crate) fn scheduler_of(&self, spec: &TransferSpec<'_>, groups: &[Group]) -> Option<ConnectionId> {
        let id = match self.by_request.get(spec.request_id)?.as_slice() {
            [only] => Some(*only),
            _ => self.promise(spec, groups),
        };
        id.and_then(|id| self.sessions.get(&id)).map(|session| session.connection)
    }

    /// The hit of a live request's last lookup, in chunks.
    pub(crate) fn hit(&self, connection: ConnectionId, request_id: &str) -> u32 {
        let session = self.find(connection, request_id).and_then(|id| self.sessions.get(&id));
        session.and_then(Session::lease).map_or(0, |lease| lease.hit)
    }

    /// Ends a request. Its pending job is returned, to be cancelled.
    #[must_use]
    pub(crate) fn end(
        &mut self,
        cx: &mut Context,
        connection: ConnectionId,
        request_id: &str,
    ) -> Option<JobId> {
        let id = self.find(connection, request_id)?;
        self.close(cx, id)
    }

    /// Moves one pin of each object that a worker with these groups needs of a range from a lookup of the request to a
    /// retrieve. Objects of which the lookup has no pin left (it has expired, or its connection is gone) are pinned again,
    /// if they are still there. If one cannot be read, nothing is moved, and one pin of each of the others is released:
    /// their reader will not come back.
    pub(crate) fn take_pins(
        &mut self,
        cx: &mut Context,
        spec: &TransferSpec<'_>,
        groups: &[Group],
    ) -> Option<(Vec<ObjectId>, Prefix)> {
        if spec.range().is_empty() {
            return None;
        }
        let Some(id) = self.promise(spec, groups) else {
            let objects = pin_again(cx, spec, groups, &[])?;
            let prefix = Prefix {
                model: spec.model.clone(),
                salt: spec.salt.clone(),
                chunk_hashes: spec.chunk_hashes[..spec.end as usize].into(),
                len: spec.end,
            };
            return Some((objects, prefix));
        };
        self.renew(cx, id);
        let lease = self.sessions.get_mut(&id)?.lease_mut()?;
        let Target { model, salt, chunk_hashes } = &lease.target;
        let prefix = Prefix {
            model: model.clone(),
            salt: salt.clone(),
            chunk_hashes: chunk_hashes.clone(),
            len: lease.hit,
        };
        let held = lease.held(spec, groups)?;
        let taken = pin_again(cx, spec, groups, &held);
        for group in groups.iter().rev() {
            let needed = spec.needed(group);
            let Some(shard) = lease.shards.iter_mut().find(|s| s.shard() == spec.shard(group)) else {
                continue;
            };
            for object in shard.range(needed.start, needed.end).iter_mut().rev().filter(|o| o.pins() > 0) {
                lease.pins -= 1;
                match taken {
                    Some(_) => drop(object.move_one()),
                    None => drop(object.release_one(&mut cx.index_mut())),
                }
            }
        }
        if taken.is_none() {
            let covered = spec.end.min(lease.hit) as usize;
            cx.index_mut().touch_prefix(spec.model, spec.salt, &spec.chunk_hashes[..covered]);
        }
        if lease.pins == 0 {
            self.pinning.remove(&(lease.since, id));
            cx.clients.release(&mut lease.held);
        }
        taken.map(|objects| (objects, prefix))
    }

    /// The session of the retrieve's request id that promised its chunks, preferably one that still pins them.
    fn promise(&self, spec: &TransferSpec<'_>, groups: &[Group]) -> Option<SessionId> {
        let ids = self.by_request.get(spec.request_id)?;
        let mut found = None;
        for &id in ids.iter().take(SAME_ID_MAX) {
            let Some(lease) = self.sessions.get(&id).and_then(Session::lease) else { continue };
            let covered = spec.end.min(lease.hit) as usize;
            let same_prompt = lease.target.model == *spec.model
                && lease.target.salt == *spec.salt
                && covered > 0
                && lease.target.chunk_hashes[covered - 1] == spec.chunk_hashes[covered - 1];
            let Some(held) = lease.held(spec, groups).filter(|_| same_prompt) else { continue };
            if held.iter().all(Option::is_some) {
                return Some(id);
            }
            found = found.or(Some(id));
        }
        found
    }

    /// The pins of a lookup have expired. A lookup that is pending has none yet.
    pub(crate) fn on_lease_expired(&mut self, cx: &mut Context, id: SessionId) {
        let pins = self.sessions[&id].lease().map_or(0, |lease| lease.pins);
        cx.stats.requests.leases_expired += u64::from(pins > 0);
        let job = self.end_lookup(cx, id);
        debug_assert!(job.is_none(), "a pending lookup holds no lease");
    }

    /// Ends a session that has reached its maximal age. Its pending job is returned, to be cancelled.
    #[must_use]
    pub(crate) fn expire(&mut self, cx: &mut Context, id: SessionId) -> Option<JobId> {
        cx.stats.requests.sessions_expired += 1;
        self.close(cx, id)
    }

    /// The sessions of a connection.
    pub(crate) fn of_connection(&self, connection: ConnectionId) -> Vec<SessionId> {
        self.by_connection.of(connection)
    }

    /// Whether a session has not ended.
    pub(crate) fn is_live(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Ends a session. Its pending job is returned, to be cancelled.
    #[must_use]
    pub(crate) fn close(&mut self, cx: &mut Context, id: SessionId) -> Option<JobId> {
        let job = self.end_lookup(cx, id);
        let session = self.sessions.remove(&id).expect("ids name live sessions");
        self.bytes -= session.bytes();
        cx.timers.disarm(&session.age);
        self.by_name.remove(&session.name());
        let same_id = self.by_request.get_mut(&session.request_id).expect("each session is found by its id");
        same_id.retain(|other| *other != id);
        if same_id.is_empty() {
            self.by_request.remove(&session.request_id);
        }
        self.by_connection.remove(session.connection, id);
        job
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// What they take in bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sessions with pins of a lookup.
    pub(crate) fn pinning(&self) -> usize {
        self.pinning.len()
    }

    /// Since when the oldest of those pins are held.
    pub(crate) fn pinning_since(&self) -> Option<Time> {
        self.pinning.first().map(|(since, _)| *since)
    }

    /// All pins. For tests.
    pub(crate) fn pins(&self) -> impl Iterator<Item = (ObjectId, u32)> + '_ {
        let leases = self.sessions.values().filter_map(Session::lease);
        leases.flat_map(LookupLease::objects).map(|o| (o.object(), o.pins()))
    }

    /// The jobs of pending lookups. For tests.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (SessionId, JobId)> + '_ {
        self.sessions.iter().filter_map(|(id, session)| match session.lookup {
            LookupState::Pending(job) => Some((*id, job)),
            LookupState::Answered { .. } => None,
        })
    }

    /// Armed timers. For tests.
    pub(crate) fn timers(&self) -> usize {
        self.sessions.len() + self.sessions.values().filter(|s| s.lease().is_some()).count()
    }

    /// For tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.by_name.len(), self.sessions.len(), "one name per session");
        for (name, id) in &self.by_name {
            assert_eq!(&self.sessions[id].name(), name, "session is found by its name");
            let same_id = &self.by_request[&name.request_id];
            assert_eq!(same_id.iter().filter(|i| *i == id).count(), 1, "session is found by its request id");
        }
        let same_id: usize = self.by_request.values().map(|ids| ids.len()).sum();
        assert_eq!(same_id, self.sessions.len(), "one entry per session");
        assert_eq!(self.by_connection.len(), self.sessions.len(), "each session is found by its connection");
        let leases = self.sessions.iter().filter_map(|(id, session)| Some((*id, session.lease()?)));
        let mut pinning = BTreeSet::new();
        for (id, lease) in leases {
            let pins: u64 = lease.objects().map(|o| u64::from(o.pins())).sum();
            assert_eq!(pins, lease.pins, "pins of {id:?}");
            if pins > 0 {
                pinning.insert((lease.since, id));
            }
        }
        assert_eq!(pinning, self.pinning, "sessions that hold pins");
        let bytes = |session: &Session| session.bytes() + session.lease().map_or(0, LookupLease::bytes);
        assert_eq!(self.sessions.values().map(bytes).sum::<usize>(), self.bytes, "bytes of all sessions");
    }

    fn find(&self, connection: ConnectionId, request_id: &str) -> Option<SessionId> {
        self.by_name.get(&SessionNameRef { connection, request_id }).copied()
    }

    fn session_mut(&mut self, id: SessionId) -> &mut Session {
        self.sessions.get_mut(&id).expect("ids name live sessions")
    }

    /// The request is alive: its pins expire later.
    fn renew(&mut self, cx: &mut Context, id: SessionId) {
        let deadline = cx.now + cx.config.read_ttl;
        if let Some(lease) = self.session_mut(id).lease_mut().filter(|lease| lease.expiry.at() < deadline) {
            cx.timers.move_to(&mut lease.expiry, deadline);
        }
    }

    /// Ends the lookup of a session, if it has one. Releases its pins, or returns its pending job, to be
    /// cancelled.
    fn end_lookup(&mut self, cx: &mut Context, id: SessionId) -> Option<JobId> {
        let lookup = std::mem::replace(&mut self.session_mut(id).lookup, LookupState::ENDED);
        let mut lease = match lookup {
            LookupState::Pending(job) => return Some(job),
            LookupState::Answered { lease, .. } => lease?,
        };
        self.pinning.remove(&(lease.since, id));
        self.bytes -= lease.bytes();
        cx.clients.release(&mut lease.held);
        cx.timers.disarm(&lease.expiry);
        let mut index = cx.index_mut();
        lease.shards.iter_mut().for_each(|shard| shard.release(&mut index));
        let Target { model, salt, chunk_hashes } = &lease.target;
        index.touch_prefix(model, salt, &chunk_hashes[..lease.hit as usize]);
        None
    }
}

impl LookupSink for Sessions {
    fn answer(&mut self, cx: &mut Context, id: SessionId, target: Target, shards: Vec<ShardPins>, hit: u32) {
        let known = std::mem::take(&mut self.session_mut(id).known);
        if let Some(predictor) = &mut cx.predictor {
            predictor.on_answer(target.chunk_hashes.len() as u32, known, hit);
        }
        let session = self.session_mut(id);
        let connection = session.connection;
        let (target, shards, start) = match session.whole.take() {
            None => (target, shards, 0),
            Some(Whole { chunk_hashes, start }) => {
                let shards = shards.into_iter().map(|shard| shard.moved_by(start)).collect();
                (Target { chunk_hashes, ..target }, shards, start)
            }
        };
        let hit = start + hit;
        let lease = (hit > 0).then(|| {
            let pins = shards.iter().flat_map(|s| s.objects()).map(|o| u64::from(o.pins())).sum();
            if pins > 0 {
                self.pinning.insert((cx.now, id));
            }
            let expiry = cx.timers.arm(cx.now + cx.config.read_ttl, TimerKind::LookupLease(id));
            let bytes = cx.slots_bytes(shards.iter().flat_map(|s| s.objects()).map(PinnedObject::object));
            let held = cx.clients.hold(connection, bytes);
            LookupLease { target, hit, start, shards, pins, since: cx.now, expiry, held }
        });
        self.bytes += lease.as_ref().map_or(0, LookupLease::bytes);
        self.session_mut(id).lookup = LookupState::Answered { unreported: Some(hit), lease };
    }
}

impl LookupState {
    /// No lookup, or one that is over.
    const ENDED: Self = Self::Answered { unreported: None, lease: None };
}

impl Session {
    fn name(&self) -> SessionName {
        SessionName { connection: self.connection, request_id: self.request_id.clone() }
    }

    /// What it takes in bytes without a lookup, about.
    fn bytes(&self) -> usize {
        SESSION_BYTES + self.request_id.len()
    }

    fn lease(&self) -> Option<&LookupLease> {
        match &self.lookup {
            LookupState::Answered { lease, .. } => lease.as_ref(),
            LookupState::Pending(_) => None,
        }
    }

    fn lease_mut(&mut self) -> Option<&mut LookupLease> {
        match &mut self.lookup {
            LookupState::Answered { lease, .. } => lease.as_mut(),
            LookupState::Pending(_) => None,
        }
    }
}

impl LookupLease {
    /// What it takes in bytes, about.
    fn bytes(&self) -> usize {
        size_of_val(&*self.target.chunk_hashes) + self.objects().count() * size_of::<PinnedObject>()
    }

    fn objects(&self) -> impl Iterator<Item = &PinnedObject> {
        self.shards.iter().flat_map(|shard| shard.objects())
    }

    /// What a retrieve needs: for each group, and each chunk that it needs of the range, the object, if a pin of it is
    /// left. `None` if the lookup was for other groups.
    fn held(&self, spec: &TransferSpec<'_>, groups: &[Group]) -> Option<Vec<Option<ObjectId>>> {
        let mut held = Vec::new();
        for group in groups {
            let shard = self.shards.iter().find(|s| s.shard() == spec.shard(group))?;
            let needed = spec.needed(group);
            held.extend(shard.held(needed.start, needed.end));
        }
        Some(held)
    }
}

/// One pin of each object that a retrieve needs, group by group: that of the lookup where `held` has one, otherwise a new
/// one. `None` if an object is not there in the worker's layout, or if new pins are more than the client's share of L1;
/// nothing is pinned then.
///
/// What the lookup pins is readable even if it was removed from the index meanwhile: its memory is kept.
fn pin_again(
    cx: &mut Context,
    spec: &TransferSpec<'_>,
    groups: &[Group],
    held: &[Option<ObjectId>],
) -> Option<Vec<ObjectId>> {
    let index = &cx.index;
    let mut held = held.iter().copied().chain(std::iter::repeat(None));
    let mut objects: Vec<(ObjectId, bool)> = Vec::new();
    for group in groups {
        let needed = spec.needed(group);
        let hashes = &spec.chunk_hashes[needed.start as usize..needed.end as usize];
        for (chunk, held) in index.leading_chunks(spec.model, spec.salt, hashes).zip(&mut held) {
            let object = held.or_else(|| index.resident(chunk?, spec.shard(group)))?;
            objects.push((object, held.is_none()));
        }
    }
    let new = objects.iter().filter(|(_, is_new)| *is_new).map(|(object, _)| *object);
    if cx.slots_bytes(new) > cx.client_room(spec.connection) {
        cx.stats.requests.lookups_over_share += 1;
        return None;
    }
    let mut index = cx.index_mut();
    objects.iter().filter(|(_, is_new)| *is_new).for_each(|(object, _)| index.pin(*object, 1));
    Some(objects.into_iter().map(|(object, _)| object).collect())
}

/// Lets statistics and the predictor see a new request. Returns how many of its leading chunks had been requested
/// before, as far as that is known.
fn on_request(cx: &mut Context, spec: &LookupSpec<'_>) -> u32 {
    let seed = name_digest(spec.model, spec.salt);
    let digest = |hash: &ChunkHash| digest(seed, hash.as_bytes());
    cx.stats.residency.on_request(spec.salt, spec.chunk_hashes, digest);
    let Some(predictor) = &mut cx.predictor else { return 0 };
    let capacity = cx.index.capacity_chunks();
    let capacity = capacity.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    predictor.on_request(cx.now, capacity, spec.chunk_hashes.iter().map(digest))
}
