//! L1, the memory tier: chunks, their objects, and the space they lie in.
//!
//! A *chunk* (model, salt, hash) has up to one *object* per cell (KV rank, object group). Each
//! object owns one extent of the arena from its reservation until nothing can refer to it any more.
//!
//! ```text
//!            reserve                admit
//!   absent -----------> Staged ---------------> Resident
//!                         | abort, unlink          | evict, clear, last share of a temporary one
//!                         v                        v
//!                      Unlinked (no longer found) ---> memory free once its pins are zero
//! ```
//!
//! Invariants (checked by [`Index::check`] in every step of the simulation):
//!
//! - Only a resident object is ever found by a reader; admission is the only way to get there.
//! - Memory returns to the allocator only when the object is unlinked, has no pins and is not lent to
//!   I/O. A staged object has one pin, its writer's. Loans are counted apart from pins: they keep the
//!   memory, but not a temporary object.
//! - A chunk is in the eviction order exactly if it has resident objects and none of them is
//!   pinned. So a pinned object cannot be evicted, and naming a victim never has to search for one
//!   that nobody reads.
//! - I/O is no use of a chunk: one that is lent keeps its place in the order, and moves when a request
//!   uses it. It is stepped over when victims are named; the limits of write-back bound how many
//!   there can be.
//! - A chunk leaves whole: all ranks and groups together, for one without the others serves nobody.
//! - Chunks that the running operation needs (its own prefix) are *protected*: making room for a
//!   later chunk of a prompt never costs an earlier one of it.
//! - Every byte an object owns is on the account of its cache salt ([`quota`](larder_policy::quota)).

pub mod alloc;
mod browse;
mod check;
mod deferred;
mod lifecycle;
pub(crate) mod names;
mod pinning;
mod publish;
mod quotas;
mod victims;

use larder_types::ChunkId;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::object::{ChunkHash, KvRank, ObjectGroup, ObjectKey};
use slab::Slab;
use smallvec::SmallVec;

use self::alloc::{Allocator, Extent};
use self::deferred::Pace;
use self::names::{ChunkKey, NameId, Names};
use crate::stats::counters::L1Counters;
use crate::stats::events::Events;
use crate::stats::labelled::{LabelledCounters, SaltCounters};
use crate::stats::residency::ResidencyTracker;
use larder_policy::eviction::{self, ChunkMeta, EvictionKind, EvictionPolicy, RemovalCause};
use larder_policy::quota::{QuotaUsage, TenantId};
use larder_policy::reuse::ReusePredictor;
use larder_types::AdapterId;
use larder_types::layout::Layout;
use larder_types::time::Time;

pub use self::browse::{Listed, Page, Removal};

/// An object with memory, in any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub(crate) u32);

/// Which object of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardKey {
    /// Which piece of the KV data.
    pub rank: KvRank,
    /// Which group of layers.
    pub group: ObjectGroup,
}

/// How long an object stays once nobody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Goes with its last share.
    Temporary,
    /// Stays until eviction picks it.
    Permanent,
}

/// Why [`Index::reserve`] gave no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is resident: there is nothing to write.
    Resident,
    /// Somebody is writing it.
    Staged,
    /// Not enough memory, even after evicting what may be evicted.
    NoSpace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Staged,
    Resident,
    Unlinked,
}

#[derive(Debug)]
struct Object {
    chunk: ChunkId,
    salt: TenantId,
    cell: ShardKey,
    extent: Extent,
    layout: Layout,
    state: State,
    retention: Retention,
    pins: u64,
    /// How many times it is lent to I/O.
    loans: u64,
    /// The adapter that it was loaded from.
    origin: Option<AdapterId>,
    /// Its way to L2 has been put off.
    waiting: bool,
}

#[derive(Debug)]
struct Chunk {
    name: NameId,
    hash: ChunkHash,
    objects: SmallVec<[ObjectId; 2]>,
    /// Pins of the resident objects.
    pins: u64,
    /// Their loans.
    loans: u64,
    resident: u32,
    resident_bytes: u64,
    /// In the eviction order.
    listed: bool,
    /// The last operation that must not lose this chunk.
    protected_by: u64,
    /// The recording in which it was told of and not withdrawn; 0: none.
    told_in: u32,
}

impl Chunk {
    /// Bytes that evicting it would give back at once.
    fn evictable_bytes(&self) -> u64 {
        if self.listed && self.loans == 0 { self.resident_bytes } else { 0 }
    }

    /// Readable objects that somebody keeps from eviction.
    fn held_objects(&self) -> u64 {
        if self.pins > 0 { u64::from(self.resident) } else { 0 }
    }
}

/// The memory tier.
#[derive(Debug)]
pub struct Index {
    alloc: Allocator,
    names: Names,
    map: HashMap<ChunkKey, ChunkId>,
    chunks: Slab<Chunk>,
    objects: Slab<Object>,
    by_offset: BTreeMap<u64, ObjectId>,
    order: Box<dyn EvictionPolicy>,
    quotas_enforced: bool,
    /// What is learned about reuse, if a policy wants to know.
    reuse: Option<ReusePredictor>,
    /// How long chunks live, for people.
    pub(crate) lives: ResidencyTracker,
    pub(crate) ledger: QuotaUsage,
    pub(crate) tally: LabelledCounters,
    pub(crate) events: Events,
    operation: u64,
    evictable_bytes: u64,
    held: u64,
    temporary: u64,
    waiting: u64,
    pace: Pace,
    staged: u64,
    staged_bytes: u64,
    resident: u64,
    high_water_mark: u64,
    counters: L1Counters,
}

impl Index {
    /// An empty tier over an arena of `capacity` bytes.
    pub fn new(capacity: u64, align: u64, eviction: EvictionKind) -> Self {
        let order = eviction.create();
        Self {
            alloc: Allocator::new(capacity, align),
            names: Names::default(),
            map: HashMap::new(),
            chunks: Slab::new(),
            objects: Slab::new(),
            by_offset: BTreeMap::new(),
            quotas_enforced: order.enforces_quotas(),
            ledger: QuotaUsage::default(),
            tally: LabelledCounters::default(),
            events: Events::default(),
            order,
            reuse: None,
            lives: ResidencyTracker::new(0.0),
            operation: 0,
            evictable_bytes: 0,
            held: 0,
            temporary: 0,
            waiting: 0,
            pace: Pace::default(),
            staged: 0,
            staged_bytes: 0,
            resident: 0,
            high_water_mark: 0,
            counters: L1Counters::default(),
        }
    }

    /// Learns from requests from now on, for the policies that want to know.
    pub fn learn(&mut self, reuse: ReusePredictor) {
        self.reuse = Some(reuse);
    }

    /// What was learned.
    pub fn reuse(&self) -> Option<&ReusePredictor> {
        self.reuse.as_ref()
    }

    /// A request asks for a prompt. Before anything of it is pinned. Returns how many leading chunks are
    /// known to have been asked for before.
    pub(crate) fn asked_for(
        &mut self,
        now: Time,
        model: &Arc<str>,
        salt: &Arc<str>,
        chunk_hashes: &[ChunkHash],
    ) -> u32 {
        let seed = eviction::name_digest(model, salt);
        self.lives.asked(salt, chunk_hashes, |hash| eviction::digest(seed, hash.as_bytes()));
        let Some(reuse) = &mut self.reuse else { return 0 };
        let capacity = mean_chunks(&self.alloc, self.chunks.len());
        let capacity = capacity.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        reuse.on_request(
            now,
            capacity,
            chunk_hashes.iter().map(|hash| eviction::digest(seed, hash.as_bytes())),
        )
    }

    /// How many chunks there is room for, of the size that those here have on average. `None` if there are none.
    pub(crate) fn capacity_chunks(&self) -> Option<u64> {
        mean_chunks(&self.alloc, self.chunks.len())
    }

    /// What became of that.
    pub(crate) fn answered(&mut self, asked: u32, known: u32, hit: u32) {
        if let Some(reuse) = &mut self.reuse {
            reuse.on_answer(asked, known, hit);
        }
    }

    /// Begins an operation: what it [protects](Self::protect) is safe from eviction until the next.
    pub fn begin(&mut self) {
        self.operation += 1;
        self.pace.begin();
    }

    /// The chunk's entry, if it has any object, staged or resident.
    pub fn chunk(&self, model: &Arc<str>, salt: &Arc<str>, hash: &ChunkHash) -> Option<ChunkId> {
        let name = self.names.find(model, salt)?;
        self.map.get(&ChunkKey { name, hash: *hash }).copied()
    }

    /// Entries of the leading `hashes`, up to the first that has none.
    pub fn leading_chunks<'a>(
        &'a self,
        model: &Arc<str>,
        salt: &Arc<str>,
        hashes: &'a [ChunkHash],
    ) -> impl Iterator<Item = Option<ChunkId>> + 'a {
        let name = self.names.find(model, salt);
        hashes.iter().map(move |h| self.map.get(&ChunkKey { name: name?, hash: *h }).copied())
    }

    /// The resident object in `cell` of `chunk`.
    pub fn resident(&self, chunk: ChunkId, cell: ShardKey) -> Option<ObjectId> {
        self.object_in(chunk, cell).filter(|o| self.object(*o).state == State::Resident)
    }

    /// The name of an object that is linked.
    pub(crate) fn key(&self, object: ObjectId) -> ObjectKey {
        let Object { chunk, cell, .. } = *self.object(object);
        let chunk = &self.chunks[chunk.0 as usize];
        let (model, salt) = self.names.get(chunk.name);
        ObjectKey {
            chunk_hash: chunk.hash,
            model_name: model.clone(),
            kv_rank: cell.rank,
            object_group: cell.group,
            cache_salt: salt.clone(),
        }
    }

    /// The chunk of an object that is linked.
    pub(crate) fn chunk_of(&self, object: ObjectId) -> ChunkId {
        self.object(object).chunk
    }

    /// Whether an object that somebody pins can still be found.
    pub fn is_resident(&self, object: ObjectId) -> bool {
        self.object(object).state == State::Resident
    }

    /// Whether an object is still being written and could be admitted.
    pub(crate) fn is_staged(&self, object: ObjectId) -> bool {
        self.object(object).state == State::Staged
    }

    /// Where an object's bytes lie: its offset in the arena. Its size is that of its layout.
    pub fn offset(&self, object: ObjectId) -> u64 {
        self.object(object).extent.offset
    }

    /// An object's layout.
    pub fn layout(&self, object: ObjectId) -> &Layout {
        &self.object(object).layout
    }

    /// Marks a chunk as used just now. A pinned one becomes the warmest when its last pin goes.
    pub fn touch(&mut self, chunk: ChunkId) {
        let entry = &self.chunks[chunk.0 as usize];
        if entry.listed {
            self.order.on_access(chunk, &about(&self.names, entry, self.reuse.as_ref()));
        }
    }

    /// A lookup found a chunk: it was worth keeping. Once for each chunk and lookup; touching it, which
    /// one request does several times, does not say so.
    pub fn found(&mut self, chunk: ChunkId) {
        self.order.on_hit(chunk);
        let entry = &self.chunks[chunk.0 as usize];
        self.lives.used(&entry.hash, || about(&self.names, entry, None).key());
    }

    /// Touches `chunk` and keeps it from eviction until the next [`begin`](Self::begin).
    pub fn protect(&mut self, chunk: ChunkId) {
        self.chunks[chunk.0 as usize].protected_by = self.operation;
        self.touch(chunk);
    }

    /// The staged object in a cell.
    pub fn staged(&self, chunk: ChunkId, cell: ShardKey) -> Option<ObjectId> {
        self.object_in(chunk, cell).filter(|o| self.object(*o).state == State::Staged)
    }

    /// Gives up unused space behind `end`: the machine has no memory for it.
    pub fn cut(&mut self, end: u64) {
        self.alloc.cut(end);
    }

    /// Every byte that was ever handed out lies below this offset.
    pub fn high_water_mark(&self) -> u64 {
        self.high_water_mark
    }

    /// What is in L1 now.
    pub fn usage(&self) -> Usage {
        Usage {
            capacity_bytes: self.alloc.capacity(),
            used_bytes: self.alloc.used_bytes(),
            evictable_bytes: self.evictable_bytes,
            staged_bytes: self.staged_bytes,
            chunks: self.chunks.len() as u64,
            resident_objects: self.resident,
            staged_objects: self.staged,
            unlinked_objects: self.objects.len() as u64 - self.resident - self.staged,
            held_objects: self.held,
            temporary_objects: self.temporary,
        }
    }

    /// Whether quotas have an effect: the eviction policy is one that enforces them.
    pub fn quotas_enforced(&self) -> bool {
        self.quotas_enforced
    }

    /// What happened to whom since the start, in L1 and between it and everybody else.
    pub fn tally(&self) -> &LabelledCounters {
        &self.tally
    }

    /// What happened in L1 since the start.
    pub fn counters(&self) -> &L1Counters {
        &self.counters
    }

    fn object(&self, id: ObjectId) -> &Object {
        &self.objects[id.0 as usize]
    }

    fn object_mut(&mut self, id: ObjectId) -> &mut Object {
        &mut self.objects[id.0 as usize]
    }

    /// Counts something for the salt of a chunk.
    fn count(&mut self, chunk: ChunkId, count: impl FnOnce(&mut SaltCounters)) {
        let (_, salt) = self.names.get(self.chunks[chunk.0 as usize].name);
        count(self.tally.salts.of(salt));
    }

    fn chunk_mut(&mut self, id: ChunkId) -> &mut Chunk {
        &mut self.chunks[id.0 as usize]
    }

    fn object_in(&self, chunk: ChunkId, cell: ShardKey) -> Option<ObjectId> {
        self.chunks[chunk.0 as usize].objects.iter().copied().find(|o| self.object(*o).cell == cell)
    }

    fn new_chunk(
        &mut self,
        model: &Arc<str>,
        salt: &Arc<str>,
        hash: &ChunkHash,
        account: TenantId,
    ) -> ChunkId {
        let name = self.names.acquire(model, salt, account);
        self.lives.born(hash, eviction::digest(self.names.digest(name), hash.as_bytes()));
        let chunk = Chunk {
            name,
            hash: *hash,
            objects: SmallVec::new(),
            pins: 0,
            loans: 0,
            resident: 0,
            resident_bytes: 0,
            listed: false,
            protected_by: self.operation,
            told_in: 0,
        };
        let id = ChunkId(self.chunks.insert(chunk) as u32);
        self.map.insert(ChunkKey { name, hash: *hash }, id);
        id
    }

    fn remove_chunk(&mut self, id: ChunkId, how: RemovalCause) {
        let chunk = self.chunks.remove(id.0 as usize);
        let about = about(&self.names, &chunk, self.reuse.as_ref());
        self.order.on_removed(id, &about, how);
        self.lives.left(&chunk.hash, about.key(), how == RemovalCause::Evicted);
        debug_assert!(!chunk.listed && chunk.resident == 0, "{chunk:?} removed");
        debug_assert!(chunk.pins == 0 && chunk.loans == 0, "{chunk:?} removed");
        self.map.remove(&ChunkKey { name: chunk.name, hash: chunk.hash });
        self.names.release(chunk.name);
    }

    /// Changes a chunk and keeps the eviction order in step. A chunk that was in it and still is
    /// keeps its place.
    fn update(&mut self, id: ChunkId, change: impl FnOnce(&mut Chunk)) {
        let chunk = &mut self.chunks[id.0 as usize];
        self.evictable_bytes -= chunk.evictable_bytes();
        self.held -= chunk.held_objects();
        change(chunk);
        let listed = chunk.resident > 0 && chunk.pins == 0;
        match (chunk.listed, listed) {
            (false, true) => self.order.insert(id, &about(&self.names, chunk, self.reuse.as_ref())),
            (true, false) => self.order.remove(id),
            _ => {}
        }
        chunk.listed = listed;
        self.evictable_bytes += chunk.evictable_bytes();
        self.held += chunk.held_objects();
    }
}

/// What a policy may want to know of a chunk.
fn about<'a>(names: &Names, chunk: &'a Chunk, reuse: Option<&'a ReusePredictor>) -> ChunkMeta<'a> {
    ChunkMeta {
        hash: &chunk.hash,
        name_digest: names.digest(chunk.name),
        tenant: names.salt(chunk.name),
        reuse,
    }
}

/// What is in L1 at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Size of the arena, rounded down to the alignment.
    pub capacity_bytes: u64,
    /// Bytes of all objects, each rounded up to the alignment.
    pub used_bytes: u64,
    /// Bytes that could be evicted now.
    pub evictable_bytes: u64,
    /// Bytes being written.
    pub staged_bytes: u64,
    /// Chunks with at least one object.
    pub chunks: u64,
    /// Readable objects.
    pub resident_objects: u64,
    /// Objects being written.
    pub staged_objects: u64,
    /// Objects no longer found whose memory somebody may still use.
    pub unlinked_objects: u64,
    /// Readable objects that readers keep from eviction.
    pub held_objects: u64,
    /// Objects, in any state, that go with their last reader.
    pub temporary_objects: u64,
}

/// How many chunks of the mean size of so many fit. Chunks of other models may be of other sizes: the mean
/// is what counts.
fn mean_chunks(alloc: &Allocator, chunks: usize) -> Option<u64> {
    let capacity =
        (u128::from(alloc.capacity()) * chunks as u128).checked_div(u128::from(alloc.used_bytes()));
    capacity.map(|n| u64::try_from(n).unwrap_or(u64::MAX))
}
