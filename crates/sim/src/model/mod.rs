//! The reference: what the core should do, written as plainly as possible.
//!
//! Lists that are searched from end to end, books that are computed anew after each event. It
//! follows `storage.md` 10 and the protocol, not the core's code. It does not choose victims: which
//! chunk was evicted is observed, and then judged against what the model knows of holders and
//! recency.

mod calls;
mod jobs;
mod loads;
mod time;
mod write_back;

pub use calls::{LookupCall, RetrieveOutcome, StorePlan, WarmCall};
pub use loads::Reserved;
pub use write_back::Left;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use larder_core::index::{Index, ObjectId, Retention, ShardKey};
use larder_core::stats::{AdapterCounters, L2Counters};
use larder_core::{Hit, PrefetchResult};
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::object::KvRank;

use self::jobs::Job;
use self::loads::Load;
use self::write_back::{Entry, Queues, Task};
use crate::scenario::{Millis, Scenario, Universe};

/// Names one reservation for ever.
pub type Uid = usize;

/// A chunk: model, salt, node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// Index of the model.
    pub model: u8,
    /// Index of the salt.
    pub salt: u8,
    /// Index of the node.
    pub node: u16,
}

/// An object: a chunk's piece for one rank. Its bytes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The chunk.
    pub chunk: ChunkKey,
    /// The piece.
    pub rank: KvRank,
}

/// What has become of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being written.
    Staged,
    /// Readable.
    Resident,
    /// Not to be found, but somebody may be using its memory.
    Unlinked,
    /// Its memory is free.
    Free,
}

/// One reservation.
#[derive(Clone, Copy, Debug)]
pub struct Alloc {
    /// What it is for.
    pub key: Key,
    /// Where it is.
    pub offset: u64,
    /// Its exact size.
    pub bytes: u64,
    /// Its size in pages.
    pub pages: u64,
    /// What has become of it.
    pub state: State,
    /// It goes with its last share.
    pub temporary: bool,
    /// I/O that works on its memory.
    pub loans: u32,
    /// The adapter it was loaded from.
    pub origin: Option<u32>,
}

/// What the core has, to look at: where it puts things and what it evicts are its own choice.
#[derive(Debug)]
pub struct View<'a> {
    /// The memory tier.
    pub l1: &'a Index,
    /// Names.
    pub universe: &'a Universe,
}

impl View<'_> {
    /// Offset and size of the object of that name that is readable, or being written.
    pub fn object(&self, key: Key, staged: bool) -> Option<(u64, u64)> {
        self.find(key, staged).map(|o| (self.l1.offset(o), self.l1.layout(o).bytes()))
    }

    /// Whether the object of that name stays when nobody holds it.
    pub fn stays(&self, key: Key, staged: bool) -> bool {
        self.find(key, staged).is_some_and(|o| self.l1.retention(o) == Retention::Permanent)
    }

    fn find(&self, key: Key, staged: bool) -> Option<ObjectId> {
        let model = &self.universe.models[usize::from(key.chunk.model)];
        let salt = &self.universe.salts[usize::from(key.chunk.salt)];
        let chunk = self.l1.chunk(model, salt, self.universe.hash(key.chunk.node))?;
        let cell = ShardKey { rank: key.rank, group: 0 };
        if staged { self.l1.staged(chunk, cell) } else { self.l1.resident(chunk, cell) }
    }
}

/// What the core should have done outside.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "in step with the effects of the core; loads and stores name their I/O")]
pub enum Expected {
    Lookup { adapter: u32, job: u64, keys: Vec<Key> },
    Load { adapter: u32, ios: Vec<u64> },
    Store { adapter: u32, task: u64, ios: Vec<u64>, keys: Vec<Key> },
    LookupDone { request: u32, chunk: Option<ChunkKey>, chunks: usize, hit: Option<Hit> },
    PrefetchDone { id: u64 },
}

/// What some I/O is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IoFor {
    Load(u64),
    Store(u64),
}

/// Memory that an adapter works on.
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// Whose memory.
    pub uid: Uid,
    adapter: u32,
    purpose: IoFor,
}

/// The name of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The worker.
    pub instance: i64,
    /// The request, by its number in the table of ids.
    pub request: u32,
    /// The piece.
    pub rank: KvRank,
    /// Index of the salt.
    pub salt: u8,
    /// First chunk.
    pub start: u32,
    /// Behind the last chunk.
    pub end: u32,
    /// The last chunk's node, if there is one.
    pub tail: Option<u16>,
}

/// A store or a retrieve.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Names the transfer for ever.
    pub seq: u64,
    /// What the protocol knows it by.
    pub name: Name,
    pub(crate) connection: u64,
    pub(crate) uids: Vec<Uid>,
    pub(crate) deadline: Millis,
    /// It can no longer be committed.
    pub overdue: bool,
    /// Chunks to warm when it ends.
    pub(crate) prefix: Vec<ChunkKey>,
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) instance: i64,
    pub(crate) model: u8,
    pub(crate) world: u32,
    pub(crate) bytes: u64,
    pub(crate) window: Option<u32>,
    last_seen: Millis,
    pinged: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) rank: KvRank,
    pub(crate) first: u32,
    pub(crate) grants: Vec<(Uid, u32)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    pub(crate) chunks: Vec<ChunkKey>,
    pub(crate) hit: u32,
    pub(crate) rows: Vec<Row>,
    pub(crate) deadline: Millis,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) seq: u64,
    pub(crate) request: u32,
    pub(crate) owner: u64,
    pub(crate) expires: Millis,
    pub(crate) result: Option<u32>,
    pub(crate) lookup: Option<Lookup>,
    pub(crate) job: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) owner: u64,
    pub(crate) found: Vec<Option<(Key, Uid, u32)>>,
    pub(crate) told: bool,
    pub(crate) deadline: Millis,
}

impl Peer {
    fn holds(&self) -> bool {
        self.found.iter().flatten().any(|(_, _, shares)| *shares > 0)
    }
}

/// The reference model.
#[derive(Debug)]
pub struct Model {
    pub(crate) scenario: Rc<Scenario>,
    /// Every reservation there ever was.
    pub allocs: Vec<Alloc>,
    /// Those whose memory is not free.
    pub live: Vec<Uid>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) strangers: BTreeSet<i64>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) stores: Vec<Transfer>,
    pub(crate) retrieves: Vec<Transfer>,
    pub(crate) done: BTreeMap<Name, usize>,
    pub(crate) peers: Vec<Peer>,
    /// Shares of each reservation, its writer's included.
    pins: Vec<u32>,
    /// When each evictable chunk was used last: the number of an event.
    pub stamps: BTreeMap<ChunkKey, u64>,
    /// Chunks that may be evicted.
    pub evictable: BTreeSet<ChunkKey>,
    /// Those, and chunks that only I/O keeps.
    listed: BTreeSet<ChunkKey>,
    touched: BTreeSet<ChunkKey>,
    event: u64,
    seq: u64,
    /// Workers dropped for their silence, and when, since somebody looked.
    pub reaped: Vec<(i64, Millis)>,
    /// The latest time.
    pub(crate) now: Millis,
    /// Quotas of salts, in bytes.
    pub limits: BTreeMap<u8, u64>,
    /// The limit of the others.
    pub default_limit: Option<u64>,
    /// Whether what is loaded stays, from now on.
    pub prefetch: PrefetchKind,
    /// Chunks that would stay by what the core has learned, if it learns: that is for it to choose.
    pub kept: Option<BTreeSet<ChunkKey>>,
    /// Whether what is stored leaves L1, from now on.
    pub store: OffloadKind,
    pub(crate) jobs: BTreeMap<u64, Job>,
    questions: BTreeMap<u64, (u64, u32)>,
    pub(crate) loads: BTreeMap<u64, Load>,
    /// All I/O that is not over.
    pub ios: BTreeMap<u64, Io>,
    io_ids: BTreeMap<u64, u64>,
    io_purposes: BTreeMap<u64, IoFor>,
    entries: BTreeMap<u64, Entry>,
    queues: Queues,
    pub(crate) tasks: BTreeMap<u64, Task>,
    task_ids: BTreeMap<u64, u64>,
    /// Warm-ups: what they came to, and until when that is told.
    pub(crate) warms: BTreeMap<u64, Option<(PrefetchResult, Millis)>>,
    /// What the core should have done outside since somebody looked.
    pub expected: Vec<Expected>,
    /// Reservations since somebody looked.
    pub reserved: Vec<Reserved>,
    /// Objects that left for L2 since somebody looked.
    pub left: Vec<Left>,
    /// Jobs answered since somebody looked.
    pub answered: u64,
    /// Reservations that stopped for a reason that cannot be seen, since somebody looked.
    pub unclear_stops: u64,
    /// What happened between the tiers.
    pub counters: L2Counters,
    /// What happened at each adapter.
    pub of_adapter: Vec<AdapterCounters>,
}

impl Model {
    /// Nothing is stored, nobody is there.
    pub fn new(scenario: Rc<Scenario>) -> Self {
        let adapters = scenario.l2.adapters.len();
        let (prefetch, store) = (scenario.l2.prefetch, scenario.l2.store);
        Self {
            scenario,
            allocs: Vec::new(),
            live: Vec::new(),
            workers: Vec::new(),
            strangers: BTreeSet::new(),
            sessions: Vec::new(),
            stores: Vec::new(),
            retrieves: Vec::new(),
            done: BTreeMap::new(),
            peers: Vec::new(),
            pins: Vec::new(),
            stamps: BTreeMap::new(),
            evictable: BTreeSet::new(),
            listed: BTreeSet::new(),
            touched: BTreeSet::new(),
            event: 0,
            seq: 0,
            reaped: Vec::new(),
            now: 0,
            limits: BTreeMap::new(),
            default_limit: None,
            prefetch,
            kept: None,
            store,
            jobs: BTreeMap::new(),
            questions: BTreeMap::new(),
            loads: BTreeMap::new(),
            ios: BTreeMap::new(),
            io_ids: BTreeMap::new(),
            io_purposes: BTreeMap::new(),
            entries: BTreeMap::new(),
            queues: vec![Default::default(); adapters],
            tasks: BTreeMap::new(),
            task_ids: BTreeMap::new(),
            warms: BTreeMap::new(),
            expected: Vec::new(),
            reserved: Vec::new(),
            left: Vec::new(),
            answered: 0,
            unclear_stops: 0,
            counters: L2Counters::default(),
            of_adapter: vec![AdapterCounters::default(); adapters],
        }
    }

    /// The model of a server that starts when this one has died. Transfers keep their numbers apart.
    pub fn restarted(&self) -> Self {
        Self { seq: self.seq, now: self.now, ..Self::new(self.scenario.clone()) }
    }

    /// Shares of a reservation, its writer's included.
    pub fn pins(&self, uid: Uid) -> u32 {
        self.pins.get(uid).copied().unwrap_or(0)
    }

    /// Reservations in a state.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = Uid> + '_ {
        self.live.iter().copied().filter(move |u| self.allocs[*u].state == state)
    }

    /// Pages whose memory is not free.
    pub fn used_pages(&self) -> u64 {
        self.live.iter().map(|u| self.allocs[*u].pages).sum()
    }

    /// The pages of a chunk's readable objects.
    pub fn resident_pages(&self, chunk: ChunkKey) -> u64 {
        let of_chunk = self.in_state(State::Resident).filter(|u| self.allocs[*u].key.chunk == chunk);
        of_chunk.map(|u| self.allocs[u].pages).sum()
    }

    /// The readable or staged object of that name.
    pub(crate) fn linked(&self, key: Key) -> Option<Uid> {
        let linked = |a: &Alloc| a.key == key && matches!(a.state, State::Staged | State::Resident);
        self.live.iter().copied().find(|u| linked(&self.allocs[*u]))
    }

    /// The readable object of that name.
    pub fn resident(&self, key: Key) -> Option<Uid> {
        self.linked(key).filter(|u| self.allocs[*u].state == State::Resident)
    }

    /// Takes a reservation out of sight.
    pub fn unlink(&mut self, uid: Uid) {
        self.allocs[uid].state = State::Unlinked;
    }

    pub(crate) fn reserve(&mut self, key: Key, offset: u64, bytes: u64) -> Uid {
        let pages = bytes.div_ceil(self.scenario.page);
        let (temporary, loans, origin) = (false, 0, None);
        self.allocs.push(Alloc { key, offset, bytes, pages, state: State::Staged, temporary, loans, origin });
        self.live.push(self.allocs.len() - 1);
        self.allocs.len() - 1
    }

    pub(crate) fn touch(&mut self, chunks: &[ChunkKey]) {
        self.touched.extend(chunks);
    }

    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Ends an event: counts all shares anew, frees what nobody needs, notes what was used.
    pub fn settle(&mut self) {
        self.event += 1;
        self.count_pins();
        let (allocs, pins) = (&mut self.allocs, &self.pins);
        self.live.retain(|&u| {
            let alloc = &mut allocs[u];
            if alloc.state == State::Resident && alloc.temporary && pins[u] == 0 {
                alloc.state = State::Unlinked;
            }
            let free = alloc.state == State::Unlinked && pins[u] == 0 && alloc.loans == 0;
            if free {
                alloc.state = State::Free;
            }
            !free
        });
        let mut chunks = BTreeMap::<ChunkKey, (u32, u32)>::new();
        for uid in self.in_state(State::Resident) {
            let held = chunks.entry(self.allocs[uid].key.chunk).or_default();
            *held = (held.0 + self.pins[uid], held.1 + self.allocs[uid].loans);
        }
        chunks.retain(|_, (pins, _)| *pins == 0);
        for chunk in chunks.keys() {
            if !self.listed.contains(chunk) || self.touched.contains(chunk) {
                self.stamps.insert(*chunk, self.event);
            }
        }
        let evictable = chunks.iter().filter(|(_, (_, loans))| *loans == 0);
        self.evictable = evictable.map(|(chunk, _)| *chunk).collect();
        self.listed = chunks.into_keys().collect();
        self.touched.clear();
    }

    /// Takes what was evicted out of the books, if it could be. Returns the chunks, with their pages.
    pub fn accept_evictions(&mut self, view: &View<'_>) -> Vec<(ChunkKey, u64)> {
        let gone = self.gone(view);
        let chunks: BTreeSet<ChunkKey> = gone.iter().map(|u| self.allocs[*u].key.chunk).collect();
        let mut evicted = Vec::new();
        for chunk in chunks {
            if !self.evictable.contains(&chunk) {
                continue;
            }
            let of_chunk = |u: &Uid| self.allocs[*u].key.chunk == chunk;
            let resident: Vec<Uid> = self.in_state(State::Resident).filter(of_chunk).collect();
            assert!(resident.iter().all(|u| gone.contains(u)), "only part of {chunk:?} was evicted");
            evicted.push((chunk, self.resident_pages(chunk)));
            resident.iter().for_each(|u| self.unlink(*u));
        }
        evicted
    }

    /// Readable objects that the core does not have where it put them.
    pub fn gone(&self, view: &View<'_>) -> Vec<Uid> {
        let there = |uid: &Uid| {
            let alloc = &self.allocs[*uid];
            view.object(alloc.key, false) == Some((alloc.offset, alloc.bytes))
        };
        self.in_state(State::Resident).filter(|u| !there(u)).collect()
    }

    fn count_pins(&mut self) {
        let mut pins = std::mem::take(&mut self.pins);
        pins.clear();
        pins.resize(self.allocs.len(), 0);
        let lookups = self.sessions.iter().filter_map(|s| s.lookup.as_ref());
        for (uid, shares) in lookups.flat_map(|l| &l.rows).flat_map(|r| &r.grants) {
            pins[*uid] += shares;
        }
        for (_, uid, shares) in self.peers.iter().flat_map(|p| &p.found).flatten() {
            pins[*uid] += shares;
        }
        for uid in self.stores.iter().chain(&self.retrieves).flat_map(|t| &t.uids) {
            pins[*uid] += 1;
        }
        for job in self.jobs.values() {
            job.holds().for_each(|uid| pins[uid] += job.shares);
        }
        self.loads.values().for_each(|load| pins[load.uid] += 1);
        self.pins = pins;
    }

    /// Whether the copy of a transfer may still be running as far as the contract goes: until its
    /// commit, its limits, or the end of the quarantine.
    pub fn may_copy(&self, seq: u64) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.seq == seq && !t.uids.is_empty())
    }

    /// Whether a transfer of that name is known, running or not.
    pub fn knows(&self, name: &Name) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.name == *name)
    }

    /// Whether a transfer has lost its worker, its connection or its time.
    pub fn is_overdue(&self, seq: u64) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.seq == seq && t.overdue)
    }

    /// Whether that very transfer is known.
    pub fn knows_seq(&self, seq: u64) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.seq == seq)
    }

    /// Whether nothing is held by anybody.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.stores.is_empty()
            && self.retrieves.is_empty()
            && self.peers.is_empty()
            && self.jobs.is_empty()
            && self.loads.is_empty()
            && self.ios.is_empty()
            && self.tasks.is_empty()
            && self.warms.is_empty()
    }
}
