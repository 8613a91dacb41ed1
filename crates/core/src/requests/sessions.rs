//! Sessions: requests from their lookup to their end.
//!
//! ```text
//! lookup ---> pins held ---> moved to retrieves, freed by the scheduler, ---> end_session
//!                            expired, or lost with the connection
//! ```
//!
//! A lookup pins every object that its hit needs once per reader, and nothing else. The pins that are left are
//! released with the session: when the client ends it, when its connection is lost, when the read TTL is over, or
//! when the session has reached its maximal age.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use larder_policy::prefix_scan::{PrefixScan, required_range};
use larder_types::object::{ChunkHash, KvRank};
use larder_types::{ChunkId, ConnectionId, Layout, Time};

use super::by_owner::ByOwner;
use super::lease::{PinnedObject, ShardPins};
use super::transfer::{Prefix, TransferSpec};
use crate::context::Context;
use crate::ids::{JobId, SessionId};
use crate::index::{Index, ObjectId, ShardKey};
use crate::prefetch::{LookupSink, LookupStatus, Target};
use crate::timers::{Timer, TimerKind};

/// What to look up.
#[derive(Clone, Debug)]
pub struct LookupSpec<'a> {
    /// The request, unique among those alive.
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
    /// How many workers will each read every object.
    pub readers: u32,
}

impl LookupSpec<'_> {
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
    /// Leading chunks that are known to have been requested before, until the lookup is answered.
    known: u32,
    /// Fires when the session has reached its maximal age.
    age: Timer,
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
    target: Target,
    hit: u32,
    shards: Vec<ShardPins>,
    /// Pins that are left.
    pins: u64,
    since: Time,
    /// Fires when the pins expire.
    expiry: Timer,
}

/// A session that a lookup opened or took over.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    /// The request had no session before.
    pub(crate) is_new: bool,
    /// Jobs that must be cancelled: that of an earlier lookup of the request, or of a session that was ended to
    /// keep the limit.
    pub(crate) cancelled: Option<JobId>,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    by_request: HashMap<Arc<str>, SessionId>,
    by_connection: ByOwner<ConnectionId, SessionId>,
    /// Sessions with pins of a lookup, by the time since when.
    pinning: BTreeSet<(Time, SessionId)>,
}

impl Sessions {
    /// The session of a lookup. An earlier lookup of the same request ends.
    pub(crate) fn open(&mut self, cx: &mut Context, spec: &LookupSpec<'_>) -> Opened {
        let expires = cx.now + cx.config.session_ttl;
        if let Some(&id) = self.by_request.get(spec.request_id) {
            let cancelled = self.end_lookup(cx, id);
            let session = self.session_mut(id);
            let former = std::mem::replace(&mut session.connection, spec.connection);
            cx.timers.move_to(&mut session.age, expires);
            self.by_connection.remove(former, id);
            self.by_connection.insert(spec.connection, id);
            return Opened { id, is_new: false, cancelled };
        }
        // Requests that are never ended cost the oldest sessions, not memory.
        let mut cancelled = None;
        if self.sessions.len() >= cx.config.sessions_max
            && let Some((&oldest, _)) = self.sessions.first_key_value()
        {
            cancelled = self.expire(cx, oldest);
        }
        let id = SessionId(cx.new_id());
        let session = Session {
            request_id: spec.request_id.clone(),
            connection: spec.connection,
            lookup: LookupState::ENDED,
            known: 0,
            age: cx.timers.arm(expires, TimerKind::Session(id)),
        };
        self.by_request.insert(spec.request_id.clone(), id);
        self.by_connection.insert(spec.connection, id);
        self.sessions.insert(id, session);
        Opened { id, is_new: true, cancelled }
    }

    /// Records how many leading chunks of the lookup had been requested before.
    pub(crate) fn set_known(&mut self, id: SessionId, known: u32) {
        self.session_mut(id).known = known;
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
    pub(crate) fn take_result(&mut self, cx: &mut Context, request_id: &str) -> LookupStatus {
        let Some(&id) = self.by_request.get(request_id) else { return LookupStatus::Unknown };
        self.renew(cx, id);
        match &mut self.session_mut(id).lookup {
            LookupState::Pending(_) => LookupStatus::Pending,
            LookupState::Answered { unreported, .. } => {
                unreported.take().map_or(LookupStatus::Unknown, LookupStatus::Ready)
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
        request_id: &str,
        rank: Option<KvRank>,
        (start, end): (u32, u32),
    ) -> Option<JobId> {
        let &id = self.by_request.get(request_id)?;
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
        }
        None
    }

    /// The connection of the request's lookup.
    pub(crate) fn connection_of(&self, request_id: &str) -> Option<ConnectionId> {
        let id = self.by_request.get(request_id)?;
        self.sessions.get(id).map(|session| session.connection)
    }

    /// The hit of a live request's last lookup, in chunks.
    pub(crate) fn hit(&self, request_id: &str) -> u32 {
        let session = self.by_request.get(request_id).and_then(|id| self.sessions.get(id));
        session.and_then(Session::lease).map_or(0, |lease| lease.hit)
    }

    /// Ends a request. Its pending job is returned, to be cancelled.
    #[must_use]
    pub(crate) fn end(&mut self, cx: &mut Context, request_id: &str) -> Option<JobId> {
        let &id = self.by_request.get(request_id)?;
        self.close(cx, id)
    }

    /// Moves one pin of each chunk of a range from the lookup of a request to a retrieve. If a chunk has none left
    /// or cannot be read, nothing is moved, and one pin of each of the others is released: their reader will not
    /// come back.
    pub(crate) fn take_pins(
        &mut self,
        cx: &mut Context,
        spec: &TransferSpec<'_>,
        layout: &Layout,
    ) -> Option<(Vec<ObjectId>, Prefix)> {
        if spec.range().is_empty() {
            return None;
        }
        let id = *self.by_request.get(spec.request_id)?;
        self.renew(cx, id);
        let lease = self.sessions.get_mut(&id)?.lease_mut()?;
        let covered = spec.end.min(lease.hit) as usize;
        let same_prompt = lease.target.model == *spec.model
            && lease.target.salt == *spec.salt
            && covered > 0
            && lease.target.chunk_hashes[covered - 1] == spec.chunk_hashes[covered - 1];
        if !same_prompt {
            return None;
        }
        let shard = lease.shards.iter_mut().find(|s| s.shard() == spec.shard(layout))?;
        let objects = shard.range(spec.start, spec.end);
        let whole = objects.len() == spec.range().len()
            && objects.iter().all(|o| o.pins() > 0 && cx.index.is_resident(o.object()));
        let mut taken = None;
        if whole {
            let objects: Vec<ObjectId> = objects.iter_mut().map(PinnedObject::move_one).collect();
            lease.pins -= objects.len() as u64;
            let Target { model, salt, chunk_hashes } = &lease.target;
            let prefix = Prefix {
                model: model.clone(),
                salt: salt.clone(),
                chunk_hashes: chunk_hashes.clone(),
                len: lease.hit,
            };
            taken = Some((objects, prefix));
        } else {
            let mut index = cx.index_mut();
            for object in objects.iter_mut().rev() {
                lease.pins -= object.release_one(&mut index);
            }
            index.touch_prefix(spec.model, spec.salt, &spec.chunk_hashes[..covered]);
        }
        if lease.pins == 0 {
            self.pinning.remove(&(lease.since, id));
        }
        taken
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
        cx.timers.disarm(&session.age);
        self.by_request.remove(&session.request_id);
        self.by_connection.remove(session.connection, id);
        job
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
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
        assert_eq!(self.by_request.len(), self.sessions.len(), "one id per session");
        for (name, id) in &self.by_request {
            assert_eq!(&self.sessions[id].request_id, name, "session is found by its request id");
        }
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
        let lease = (hit > 0).then(|| {
            let pins = shards.iter().flat_map(|s| s.objects()).map(|o| u64::from(o.pins())).sum();
            if pins > 0 {
                self.pinning.insert((cx.now, id));
            }
            let expiry = cx.timers.arm(cx.now + cx.config.read_ttl, TimerKind::LookupLease(id));
            LookupLease { target, hit, shards, pins, since: cx.now, expiry }
        });
        self.session_mut(id).lookup = LookupState::Answered { unreported: Some(hit), lease };
    }
}

impl LookupState {
    /// No lookup, or one that is over.
    const ENDED: Self = Self::Answered { unreported: None, lease: None };
}

impl Session {
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
    fn objects(&self) -> impl Iterator<Item = &PinnedObject> {
        self.shards.iter().flat_map(|shard| shard.objects())
    }
}

/// The shards of a lookup with their attention windows.
pub(crate) type Shards = [(ShardKey, Option<u32>)];

/// The longest prefix that every shard can serve from L1, and the chunks that were looked at.
pub(crate) fn find_prefix(
    index: &Index,
    shards: &Shards,
    spec: &LookupSpec<'_>,
) -> (u32, Vec<Option<ChunkId>>) {
    let mut scan = PrefixScan::new(shards.iter().map(|(_, window)| *window));
    let mut chunks = Vec::new();
    for chunk in index.leading_chunks(spec.model, spec.salt, spec.chunk_hashes) {
        chunks.push(chunk);
        if !scan.push(|row| chunk.is_some_and(|chunk| index.resident(chunk, shards[row].0).is_some())) {
            break;
        }
    }
    (scan.hit(), chunks)
}

/// Pins what each shard needs of a hit's chunks, once per reader.
pub(crate) fn pin_prefix(
    cx: &mut Context,
    shards: &Shards,
    chunks: &[Option<ChunkId>],
    readers: u32,
    hit: u32,
) -> Vec<ShardPins> {
    let mut index = cx.index_mut();
    chunks[..hit as usize].iter().flatten().for_each(|chunk| index.on_hit(*chunk));
    let mut pinned = Vec::with_capacity(shards.len());
    for (shard, window) in shards {
        let needed = required_range(hit, *window);
        let first = needed.start;
        let mut objects = Vec::with_capacity(needed.len());
        for column in needed {
            let object = chunks[column as usize].and_then(|chunk| index.resident(chunk, *shard));
            let object = object.expect("the hit was just found");
            index.pin(object, readers);
            objects.push(PinnedObject::new(object, readers));
        }
        pinned.push(ShardPins::new(*shard, first, objects));
    }
    pinned
}
