//! The reference model: the expected behaviour of the core, written as simply as possible.
//!
//! All lists are searched linearly, and all pins are counted again after each event. The model follows the
//! protocol, not the core's code. Answers of calls, leases, pins and the admission of stores are predicted
//! exactly. Three choices of the core are observed, and checked against what the model allows:
//!
//! - which chunks are evicted,
//! - where in memory an object is placed,
//! - what is done for L2 (`observe`): loads, write-back, and the answers of lookups that need L2.

mod calls;
mod engines;
mod jobs;
mod observe;
mod time;

pub use calls::{LookupCall, RetrieveOutcome, StorePlan, WarmCall};
pub use jobs::{Job, Owner};
pub use observe::Observed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use larder_core::PrefetchResult;
use larder_core::index::{Index, ObjectId, Retention, ShardKey};
use larder_core::stats::L2Counters;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::object::KvRank;
use larder_types::{Layout, LayoutId};

pub use crate::scenario::Form;
use crate::scenario::{GroupSpec, Millis, Scenario, Universe};

/// Unique number of a reservation.
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

/// Key of an object: a chunk, a rank, a group and a layout. It determines the object's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The chunk.
    pub chunk: ChunkKey,
    /// The rank.
    pub rank: KvRank,
    /// The group of layers.
    pub group: u32,
    /// The layout.
    pub form: Form,
}

/// State of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being written.
    Staged,
    /// Readable.
    Resident,
    /// Removed from the index; pins or I/O may still use its memory.
    Unlinked,
    /// Its memory is free.
    Free,
}

/// A reservation.
#[derive(Clone, Copy, Debug)]
pub struct Alloc {
    /// Key of the object.
    pub key: Key,
    /// Offset in the arena.
    pub offset: u64,
    /// Exact size.
    pub bytes: u64,
    /// Size in pages.
    pub pages: u64,
    /// State.
    pub state: State,
    /// Whether it is removed with its last pin.
    pub temporary: bool,
    /// Number of I/O operations that use its memory.
    pub io: u32,
    /// Whether it was reserved for a load from L2.
    pub loaded: bool,
    /// The adapter it was loaded from.
    pub origin: Option<u32>,
}

/// The core's L1, read to observe where objects are placed and which are removed.
#[derive(Debug)]
pub struct View<'a> {
    /// The memory tier.
    pub l1: &'a Index,
    /// Names and prompts.
    pub universe: &'a Universe,
    /// So much memory waits for writers that may be late that none is handed out.
    pub quarantine_is_full: bool,
}

impl View<'_> {
    /// Offset and size of the object of `key`: the staged one or the readable one.
    pub fn object(&self, key: Key, staged: bool) -> Option<(u64, u64)> {
        self.find(key, staged).map(|o| (self.l1.offset(o), self.l1.layout(o).bytes()))
    }

    /// Whether the object of `key` is permanent: it stays in L1 after its last pin.
    pub fn stays(&self, key: Key, staged: bool) -> bool {
        self.find(key, staged).is_some_and(|o| self.l1.retention(o) == Retention::Permanent)
    }

    /// The adapter that the staged object of `key` is loaded from.
    pub fn origin(&self, key: Key) -> Option<u32> {
        self.find(key, true).and_then(|o| self.l1.origin(o)).map(|adapter| adapter.0)
    }

    fn find(&self, key: Key, staged: bool) -> Option<ObjectId> {
        let model = &self.universe.models[usize::from(key.chunk.model)];
        let salt = &self.universe.salts[usize::from(key.chunk.salt)];
        let chunk = self.l1.chunk(model, salt, self.universe.hash(key.chunk.node))?;
        let layout = self.universe.layout(key.form).map_or(LayoutId::UNKNOWN, Layout::id);
        let cell = ShardKey { rank: key.rank, group: key.group, layout };
        if staged { self.l1.staged(chunk, cell) } else { self.l1.resident(chunk, cell) }
    }
}

/// An I/O operation of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// The reservation that it uses.
    pub uid: Uid,
    /// The adapter.
    pub adapter: u32,
    load: bool,
}

/// When a chunk was used last, as an event number. It is a range if a job may have used the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The first event at which the last use may have been.
    pub earliest: u64,
    /// The last event at which it may have been.
    pub latest: u64,
}

/// Identifies a transfer in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The worker.
    pub instance: i64,
    /// The request, by its number in the table of ids.
    pub request: u32,
    /// The rank.
    pub rank: KvRank,
    /// Index of the salt.
    pub salt: u8,
    /// First chunk.
    pub start: u32,
    /// Chunk after the last one.
    pub end: u32,
    /// The last chunk's node, if there is one.
    pub tail: Option<u16>,
}

/// A store or a retrieve.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Unique number of the transfer.
    pub seq: u64,
    /// Its identifier in the protocol; another transfer may have the same.
    pub name: Name,
    pub(crate) connection: u64,
    pub(crate) uids: Vec<Uid>,
    pub(crate) deadline: Millis,
    /// Whether it has expired or lost its worker or connection, so that a commit publishes nothing.
    pub overdue: bool,
    /// Chunks that count as used when it ends.
    pub(crate) prefix: Vec<ChunkKey>,
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) instance: i64,
    pub(crate) model: u8,
    pub(crate) world: u32,
    pub(crate) groups: Vec<GroupSpec>,
    /// The connection that it used last, while that is open.
    pub(crate) connection: Option<u64>,
    /// The connection that looked up what it copied last, while that is open.
    pub(crate) scheduler: Option<u64>,
    /// The rank that it copies for.
    pub(crate) rank: Option<KvRank>,
    /// Open connections that it registered over, or the first after those were lost.
    pub(crate) own: Vec<u64>,
    /// Since when it has none.
    disconnected: Option<Millis>,
    last_seen: Millis,
    pinged: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) rank: KvRank,
    pub(crate) group: u32,
    pub(crate) form: Form,
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

impl Lookup {
    /// The row of a group of layers.
    pub(crate) fn row(&self, rank: KvRank, (group, form): (u32, Form)) -> Option<&Row> {
        self.rows.iter().find(|r| r.rank == rank && r.group == group && r.form == form)
    }

    /// The reservation of a chunk that the lookup still pins.
    pub(crate) fn held(&self, rank: KvRank, group: (u32, Form), chunk: u32) -> Option<Uid> {
        let row = self.row(rank, group)?;
        let (uid, pins) = *row.grants.get(chunk.checked_sub(row.first)? as usize)?;
        (pins > 0).then_some(uid)
    }
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
    pub(crate) answered: bool,
    pub(crate) deadline: Millis,
}

impl Peer {
    fn holds(&self) -> bool {
        self.found.iter().flatten().any(|(_, _, pins)| *pins > 0)
    }
}

/// The reference model.
#[derive(Debug)]
pub struct Model {
    pub(crate) scenario: Rc<Scenario>,
    /// All reservations since the start, by number.
    pub allocs: Vec<Alloc>,
    /// Reservations with memory that is not free.
    pub live: Vec<Uid>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) strangers: BTreeSet<i64>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) stores: Vec<Transfer>,
    pub(crate) retrieves: Vec<Transfer>,
    pub(crate) done: BTreeMap<Name, usize>,
    pub(crate) peers: Vec<Peer>,
    /// Pins of each reservation, including that of its store.
    pins: Vec<u32>,
    /// When each evictable chunk was used last.
    pub stamps: BTreeMap<ChunkKey, Stamp>,
    /// Chunks that may be evicted.
    pub evictable: BTreeSet<ChunkKey>,
    /// Those, and chunks that cannot be evicted only because of I/O.
    listed: BTreeSet<ChunkKey>,
    touched: BTreeSet<ChunkKey>,
    event: u64,
    seq: u64,
    /// Workers dropped since the harness last read this, and when: they made no calls for too long.
    pub reaped: Vec<(i64, Millis)>,
    /// The latest time.
    pub(crate) now: Millis,
    /// Quotas of salts, in bytes.
    pub limits: BTreeMap<u8, u64>,
    /// The limit of salts without a quota.
    pub default_limit: Option<u64>,
    /// The current prefetch policy.
    pub prefetch: PrefetchKind,
    /// Chunks that the adaptive policy retains now, as read from the core's predictor.
    pub kept: Option<BTreeSet<ChunkKey>>,
    /// Whether an offload policy since the start of the server removes objects from L1.
    pub skips_l1: bool,
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Jobs that ended since L1 was observed.
    ended: Vec<Job>,
    /// Cancelled lookups that are not reported yet: the request, and its number of chunks.
    pub cancelled: VecDeque<(u32, usize)>,
    /// Jobs submitted.
    pub submitted: u64,
    /// Expected counters of jobs.
    pub counted: L2Counters,
    /// Objects that workers stored.
    pub(crate) written: BTreeSet<Key>,
    /// I/O operations in progress.
    pub ios: BTreeMap<u64, Io>,
    /// Loads without a result, and until when the core waits for it after their I/O has ended.
    pub(crate) results_due: BTreeMap<Uid, Option<Millis>>,
    /// Reservations whose load has begun.
    begun: BTreeSet<Uid>,
    /// Reservations whose load has succeeded.
    pub arrived: BTreeSet<Uid>,
    /// Prefetch requests: the result, and when it is dropped.
    pub(crate) prefetches: BTreeMap<u64, Option<(PrefetchResult, Millis)>>,
}

impl Model {
    /// An empty model.
    pub fn new(scenario: Rc<Scenario>) -> Self {
        let (prefetch, skips_l1) = (scenario.l2.prefetch, scenario.l2.store == OffloadKind::SkipL1);
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
            skips_l1,
            jobs: BTreeMap::new(),
            ended: Vec::new(),
            cancelled: VecDeque::new(),
            submitted: 0,
            counted: L2Counters::default(),
            written: BTreeSet::new(),
            ios: BTreeMap::new(),
            results_due: BTreeMap::new(),
            begun: BTreeSet::new(),
            arrived: BTreeSet::new(),
            prefetches: BTreeMap::new(),
        }
    }

    /// The model of the server that is started after this one has died. Sequence numbers are not reused.
    pub fn restarted(&self) -> Self {
        Self { seq: self.seq, now: self.now, ..Self::new(self.scenario.clone()) }
    }

    /// Pins of a reservation, including that of its store.
    pub fn pins(&self, uid: Uid) -> u32 {
        self.pins.get(uid).copied().unwrap_or(0)
    }

    /// Reservations in a state.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = Uid> + '_ {
        self.live.iter().copied().filter(move |u| self.allocs[*u].state == state)
    }

    /// Number of pages that are not free.
    pub fn used_pages(&self) -> u64 {
        self.live.iter().map(|u| self.allocs[*u].pages).sum()
    }

    /// Number of pages of a chunk's readable objects.
    pub fn resident_pages(&self, chunk: ChunkKey) -> u64 {
        let of_chunk = self.in_state(State::Resident).filter(|u| self.allocs[*u].key.chunk == chunk);
        of_chunk.map(|u| self.allocs[u].pages).sum()
    }

    /// The readable or staged object of `key`.
    pub(crate) fn linked(&self, key: Key) -> Option<Uid> {
        let linked = |a: &Alloc| a.key == key && matches!(a.state, State::Staged | State::Resident);
        self.live.iter().copied().find(|u| linked(&self.allocs[*u]))
    }

    /// The readable object of `key`.
    pub fn resident(&self, key: Key) -> Option<Uid> {
        self.linked(key).filter(|u| self.allocs[*u].state == State::Resident)
    }

    /// Removes a reservation from the index.
    pub fn unlink(&mut self, uid: Uid) {
        self.allocs[uid].state = State::Unlinked;
    }

    pub(crate) fn reserve(&mut self, key: Key, offset: u64, bytes: u64) -> Uid {
        let pages = bytes.div_ceil(self.scenario.page);
        let (temporary, io, loaded, origin) = (false, 0, false, None);
        let state = State::Staged;
        self.allocs.push(Alloc { key, offset, bytes, pages, state, temporary, io, loaded, origin });
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

    /// Ends an event: counts all pins again, frees memory without pins and I/O, and updates the stamps.
    pub fn settle(&mut self) {
        self.event += 1;
        self.count_pins();
        let (allocs, pins) = (&mut self.allocs, &self.pins);
        self.live.retain(|&u| {
            let alloc = &mut allocs[u];
            let free = alloc.state == State::Unlinked && pins[u] == 0 && alloc.io == 0;
            if free {
                alloc.state = State::Free;
            }
            !free
        });
        let mut chunks = BTreeMap::<ChunkKey, (u32, u32)>::new();
        for uid in self.in_state(State::Resident) {
            let held = chunks.entry(self.allocs[uid].key.chunk).or_default();
            *held = (held.0 + self.pins[uid], held.1 + self.allocs[uid].io);
        }
        chunks.retain(|_, (pins, _)| *pins == 0);
        for chunk in chunks.keys() {
            if !self.listed.contains(chunk) || self.touched.contains(chunk) {
                self.stamps.insert(*chunk, Stamp { earliest: self.event, latest: self.event });
            }
        }
        for chunk in self.jobs.values().chain(&self.ended).flat_map(|job| &job.chunks) {
            self.stamps.entry(*chunk).and_modify(|stamp| {
                *stamp = Stamp { earliest: stamp.earliest.min(self.event - 1), latest: self.event };
            });
        }
        let evictable = chunks.iter().filter(|(_, (_, io))| *io == 0);
        self.evictable = evictable.map(|(chunk, _)| *chunk).collect();
        self.listed = chunks.into_keys().collect();
        self.touched.clear();
    }

    /// Removes the chunks that the core has evicted, if they were evictable. Returns them with their pages.
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
            if !resident.iter().all(|u| gone.contains(u)) {
                continue;
            }
            evicted.push((chunk, self.resident_pages(chunk)));
            resident.iter().for_each(|u| self.unlink(*u));
        }
        evicted
    }

    /// Readable objects that the core no longer has at their offset.
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
        for (uid, count) in lookups.flat_map(|l| &l.rows).flat_map(|r| &r.grants) {
            pins[*uid] += count;
        }
        for (_, uid, count) in self.peers.iter().flat_map(|p| &p.found).flatten() {
            pins[*uid] += count;
        }
        for uid in self.stores.iter().chain(&self.retrieves).flat_map(|t| &t.uids) {
            pins[*uid] += 1;
        }
        self.pins = pins;
    }

    /// Whether the memory of a transfer is still kept for its copy: until its commit, its time limit or
    /// the end of the quarantine.
    pub fn may_copy(&self, seq: u64) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.seq == seq && !t.uids.is_empty())
    }

    /// Whether a transfer of that name is known, expired or not.
    pub fn knows(&self, name: &Name) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.name == *name)
    }

    /// Whether a transfer has expired or lost its worker or connection.
    pub fn is_overdue(&self, seq: u64) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.seq == seq && t.overdue)
    }

    /// Whether the transfer with that number is known.
    pub fn knows_seq(&self, seq: u64) -> bool {
        self.stores.iter().chain(&self.retrieves).any(|t| t.seq == seq)
    }

    /// Whether there are no sessions, transfers, peer leases, jobs, I/O operations and prefetch requests.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.stores.is_empty()
            && self.retrieves.is_empty()
            && self.peers.is_empty()
            && self.jobs.is_empty()
            && self.ios.is_empty()
            && self.prefetches.is_empty()
    }
}
