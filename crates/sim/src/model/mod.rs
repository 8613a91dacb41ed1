//! The reference: what the core should do, written as plainly as possible.
//!
//! Lists that are searched from end to end, books that are computed anew after each event. It
//! follows `storage.md` 10 and the protocol, not the core's code. It does not choose victims: which
//! chunk was evicted is observed, and then judged against what the model knows of holders and
//! recency.

mod calls;
mod time;

pub use calls::{LookupCall, RetrieveOutcome, StorePlan};

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use larder_wire::object::KvRank;

use crate::scenario::{Millis, Scenario};

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
    touched: BTreeSet<ChunkKey>,
    event: u64,
    seq: u64,
    /// Workers dropped for their silence, and when, since somebody looked.
    pub reaped: Vec<(i64, Millis)>,
}

impl Model {
    /// Nothing is stored, nobody is there.
    pub fn new(scenario: Rc<Scenario>) -> Self {
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
            touched: BTreeSet::new(),
            event: 0,
            seq: 0,
            reaped: Vec::new(),
        }
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
        self.allocs.push(Alloc { key, offset, bytes, pages, state: State::Staged });
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
            let free = allocs[u].state == State::Unlinked && pins[u] == 0;
            if free {
                allocs[u].state = State::Free;
            }
            !free
        });
        let mut chunks = BTreeMap::<ChunkKey, u32>::new();
        for uid in self.in_state(State::Resident) {
            *chunks.entry(self.allocs[uid].key.chunk).or_default() += self.pins[uid];
        }
        let evictable: BTreeSet<ChunkKey> =
            chunks.into_iter().filter(|(_, pins)| *pins == 0).map(|(chunk, _)| chunk).collect();
        for chunk in &evictable {
            if !self.evictable.contains(chunk) || self.touched.contains(chunk) {
                self.stamps.insert(*chunk, self.event);
            }
        }
        self.evictable = evictable;
        self.touched.clear();
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
    }
}
