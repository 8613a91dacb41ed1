//! The index of L1: chunks, their objects, and the memory they own.
//!
//! A *chunk* (model, salt, hash) has at most one *object* per shard (KV rank, object group, layout): engines whose
//! data differ in type or shape share chunks, but no objects. An object owns one extent of the arena from its
//! reservation until nothing can refer to it any more.
//!
//! ```text
//!            reserve                admit
//!   absent -----------> Staged ---------------> Resident
//!                         | abort, unlink          | evict, clear, last pin of a temporary object
//!                         v                        v
//!                      Unlinked (not findable) ---> memory is free when no pin is left
//! ```
//!
//! Invariants (checked by [`Index::check`] in every step of the simulation):
//!
//! - A lookup finds resident objects only, and an object becomes resident only by admission.
//! - Memory returns to the allocator when its object is unlinked and has neither pins nor I/O pins. A staged
//!   object has one pin, its writer's. I/O pins are counted apart: they keep the memory, but do not keep a
//!   temporary object in the index.
//! - A chunk is in the eviction order exactly if it has resident objects and none of them is pinned. So a pinned
//!   object cannot be evicted, and victim selection never meets one.
//! - I/O is not a use of a chunk: a chunk under I/O keeps its place in the order and is skipped when victims are
//!   selected. The limits of write-back bound how many there are.
//! - A chunk is evicted whole, with all ranks and groups: a part of it is of no use.
//! - Chunks that the running operation needs (its own prefix) are *protected*: allocating for a later chunk of a
//!   prompt never evicts an earlier one of it.
//! - Each byte that an object owns counts as usage of its tenant ([`quota`](larder_policy::quota)).
//!
//! [`Index`] holds the data and answers questions; [`IndexMut`] changes it and reports to the statistics and to
//! the reuse predictor.

pub mod alloc;
mod browse;
mod check;
mod chunks;
mod clearing;
mod deferred;
mod layouts;
mod lifecycle;
mod names;
mod objects;
mod pinning;
mod publish;
mod victims;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use larder_policy::eviction::{ChunkMeta, EvictionKind, EvictionPolicy, RemovalCause};
use larder_policy::quota::{QuotaUsage, Quotas, TenantId};
use larder_policy::reuse::ReusePredictor;
use larder_types::object::{ChunkHash, KvRank, ObjectGroup, ObjectKey};
use larder_types::{AdapterId, ChunkId, Layout, LayoutId};
use smallvec::SmallVec;

use self::alloc::{Allocator, Extent};
use self::chunks::{Chunk, Chunks, Option32};
use self::deferred::AllocationRate;
use self::layouts::Layouts;
use self::names::{ChunkKey, Names};
use self::objects::{Object, Objects, Origin, State};
use crate::stats::Stats;

pub use self::browse::{Listed, Page, Removal};
pub use self::clearing::{Clearing, VisibleChunk};

/// An object with memory, in any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u32);

/// Selects an object of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardKey {
    /// Which piece of the KV data.
    pub rank: KvRank,
    /// Which group of layers.
    pub group: ObjectGroup,
    /// How the bytes are to be read. If it is not known, the only object of that rank and group is selected; none if
    /// there are several, because it cannot be said which of them is meant.
    pub layout: LayoutId,
}

impl ShardKey {
    /// The shard that an object key names.
    pub const fn of(key: &ObjectKey) -> Self {
        Self { rank: key.kv_rank, group: key.object_group, layout: key.layout }
    }

    /// Whether `other` is a shard of the same rank and group, of whatever layout.
    pub fn same_piece(self, other: Self) -> bool {
        self.rank == other.rank && self.group == other.group
    }
}

/// How long an object stays without pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It is dropped with its last pin.
    Temporary,
    /// It stays until it is evicted.
    Permanent,
}

/// Why [`IndexMut::reserve`] gave no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object is resident.
    Resident,
    /// The object is being written.
    Staged,
    /// There is not enough memory, even if everything evictable were evicted.
    NoSpace,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    alloc: Allocator,
    names: Names,
    layouts: Layouts,
    chunks: Chunks,
    objects: Objects,
    order: Box<dyn EvictionPolicy>,
    quotas_enforced: bool,
    quota_usage: QuotaUsage,
    /// The current operation, for [protection](IndexMut::protect).
    operation: u32,
    /// Clears that have begun, modulo 2^16.
    clears: u16,
    evictable_bytes: u64,
    pinned: u64,
    temporary: u64,
    deferred: u64,
    rate: AllocationRate,
    staged: u64,
    staged_bytes: u64,
    resident: u64,
    high_water_mark: u64,
    changes: u64,
}

/// The index, to change, together with what it reports to.
#[derive(Debug)]
pub struct IndexMut<'a> {
    index: &'a mut Index,
    stats: &'a mut Stats,
    predictor: &'a mut Option<ReusePredictor>,
}

impl Deref for IndexMut<'_> {
    type Target = Index;

    fn deref(&self) -> &Index {
        self.index
    }
}

impl DerefMut for IndexMut<'_> {
    fn deref_mut(&mut self) -> &mut Index {
        self.index
    }
}

impl Index {
    /// An empty index over an arena of `capacity` bytes. Objects are aligned to `align` bytes, or to more if there were
    /// 2^32 places otherwise.
    pub fn new(capacity: u64, align: u64, eviction: EvictionKind) -> Self {
        let order = eviction.create();
        let align = align.max((capacity >> 32).saturating_add(1).next_power_of_two());
        Self {
            alloc: Allocator::new(capacity, align),
            names: Names::default(),
            layouts: Layouts::default(),
            chunks: Chunks::default(),
            objects: Objects::default(),
            quotas_enforced: order.enforces_quotas(),
            order,
            quota_usage: QuotaUsage::default(),
            operation: 0,
            clears: 0,
            evictable_bytes: 0,
            pinned: 0,
            temporary: 0,
            deferred: 0,
            rate: AllocationRate::default(),
            staged: 0,
            staged_bytes: 0,
            resident: 0,
            high_water_mark: 0,
            changes: 0,
        }
    }

    /// The index, to change. Changes are counted in `stats`; the predictor, if there is one, is asked by
    /// adaptive policies.
    pub fn edit<'a>(
        &'a mut self,
        stats: &'a mut Stats,
        predictor: &'a mut Option<ReusePredictor>,
    ) -> IndexMut<'a> {
        IndexMut { index: self, stats, predictor }
    }

    /// How many chunks fit, of the mean size of those in L1. The mean is over all models.
    /// `None` if L1 is empty.
    pub(crate) fn capacity_chunks(&self) -> Option<u64> {
        let bytes = u128::from(self.alloc.capacity()) * u128::from(self.chunks.len());
        let chunks = bytes.checked_div(u128::from(self.alloc.used_bytes()));
        chunks.map(|n| u64::try_from(n).unwrap_or(u64::MAX))
    }

    /// The chunk of that name, if it has any object, staged or resident.
    pub fn chunk(&self, model: &Arc<str>, salt: &Arc<str>, hash: &ChunkHash) -> Option<ChunkId> {
        let name = self.names.find(model, salt)?;
        self.chunks.find(&ChunkKey { name, hash: *hash })
    }

    /// The chunk of each hash, in order. Only the names are looked up at once, so that a caller that stops early
    /// pays for what it has seen.
    pub fn leading_chunks<'a>(
        &'a self,
        model: &Arc<str>,
        salt: &Arc<str>,
        hashes: &'a [ChunkHash],
    ) -> impl Iterator<Item = Option<ChunkId>> + 'a {
        let name = self.names.find(model, salt);
        hashes.iter().map(move |h| self.chunks.find(&ChunkKey { name: name?, hash: *h }))
    }

    /// The resident object of a shard of a chunk.
    pub fn resident(&self, chunk: ChunkId, shard: ShardKey) -> Option<ObjectId> {
        self.object_in(chunk, shard).filter(|o| self.object(*o).state == State::Resident)
    }

    /// Calls `found` with each resident object of a chunk.
    pub(crate) fn for_each_resident(&self, chunk: ChunkId, mut found: impl FnMut(ShardKey, ObjectId)) {
        let objects = self.objects_of(&self.chunks[chunk]);
        let resident = objects.filter(|(_, object)| object.state == State::Resident);
        resident.for_each(|(id, object)| found(self.shard(object), id));
    }

    /// The staged object of a shard of a chunk.
    pub fn staged(&self, chunk: ChunkId, shard: ShardKey) -> Option<ObjectId> {
        self.object_in(chunk, shard).filter(|o| self.object(*o).state == State::Staged)
    }

    /// The resident object of that key.
    pub fn find(&self, key: &ObjectKey) -> Option<ObjectId> {
        let chunk = self.chunk(&key.model_name, &key.cache_salt, &key.chunk_hash)?;
        self.resident(chunk, ShardKey::of(key))
    }

    /// The key of an object that is not unlinked.
    pub fn key(&self, object: ObjectId) -> ObjectKey {
        let object = self.object(object);
        let (shard, chunk) = (self.shard(object), &self.chunks[object.chunk]);
        let (model, salt) = self.names.get(chunk.name);
        ObjectKey {
            chunk_hash: chunk.hash,
            model_name: model.clone(),
            kv_rank: shard.rank,
            object_group: shard.group,
            cache_salt: salt.clone(),
            layout: shard.layout,
        }
    }

    /// The chunk of an object that is not unlinked.
    pub(crate) fn chunk_of(&self, object: ObjectId) -> ChunkId {
        self.object(object).chunk
    }

    /// Whether a pinned object can still be found.
    pub fn is_resident(&self, object: ObjectId) -> bool {
        self.object(object).state == State::Resident
    }

    /// Whether an object is being written and can still be admitted.
    pub(crate) fn is_staged(&self, object: ObjectId) -> bool {
        self.object(object).state == State::Staged
    }

    /// Offset of an object in the arena. Its size is that of its layout.
    pub fn offset(&self, object: ObjectId) -> u64 {
        self.extent(self.object(object)).offset
    }

    /// The layout of an object.
    pub fn layout(&self, object: ObjectId) -> &Layout {
        self.layouts.get(self.object(object).layout)
    }

    /// How long an object stays without pins.
    pub fn retention(&self, object: ObjectId) -> Retention {
        self.object(object).retention
    }

    /// The adapter that an object was loaded from; `None` if a worker stored it.
    pub fn origin(&self, object: ObjectId) -> Option<AdapterId> {
        self.object(object).origin.adapter()
    }

    /// Every byte that was ever handed out lies below this offset.
    pub fn high_water_mark(&self) -> u64 {
        self.high_water_mark
    }

    /// Pins, uses and removals so far: what the cost of a call that makes them depends on.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What is in L1 now.
    pub fn usage(&self) -> Usage {
        Usage {
            capacity_bytes: self.alloc.capacity(),
            used_bytes: self.alloc.used_bytes(),
            evictable_bytes: self.evictable_bytes,
            staged_bytes: self.staged_bytes,
            chunks: self.chunks.len(),
            resident_objects: self.resident,
            staged_objects: self.staged,
            unlinked_objects: self.objects.len() - self.resident - self.staged,
            held_objects: self.pinned,
            temporary_objects: self.temporary,
        }
    }

    /// Whether quotas have an effect: the eviction policy enforces them.
    pub fn quotas_enforced(&self) -> bool {
        self.quotas_enforced
    }

    /// The quotas in force, and the usage of each tenant.
    pub fn quota_usage(&self) -> &QuotaUsage {
        &self.quota_usage
    }

    fn object(&self, id: ObjectId) -> &Object {
        &self.objects[id]
    }

    fn shard(&self, object: &Object) -> ShardKey {
        let layout = self.layouts.get(object.layout).id();
        ShardKey { rank: object.rank, group: object.group, layout }
    }

    /// The memory of an object.
    fn extent(&self, object: &Object) -> Extent {
        let unit = self.alloc.align();
        let units = self.layouts.units(object.layout);
        Extent { offset: u64::from(object.unit) * unit, len: u64::from(units) * unit }
    }

    /// Bytes of the resident objects of a chunk, each rounded up to the alignment.
    fn resident_bytes(&self, chunk: &Chunk) -> u64 {
        u64::from(chunk.resident_units) * self.alloc.align()
    }

    fn objects_of(&self, chunk: &Chunk) -> impl Iterator<Item = (ObjectId, &Object)> {
        let mut next = chunk.first.get();
        std::iter::from_fn(move || {
            let id = next?;
            let object = self.object(id);
            next = object.next.get();
            Some((id, object))
        })
    }

    fn object_mut(&mut self, id: ObjectId) -> &mut Object {
        &mut self.objects[id]
    }

    fn chunk_mut(&mut self, id: ChunkId) -> &mut Chunk {
        &mut self.chunks[id]
    }

    fn object_in(&self, chunk: ChunkId, shard: ShardKey) -> Option<ObjectId> {
        let mut objects = self.objects_of(&self.chunks[chunk]);
        if shard.layout.is_known() {
            return objects.find(|(_, object)| self.shard(object) == shard).map(|(id, _)| id);
        }
        let mut pieces = objects.filter(|(_, object)| self.shard(object).same_piece(shard));
        pieces.next().filter(|_| pieces.next().is_none()).map(|(id, _)| id)
    }

    /// The resident objects of a chunk of the rank and group of `shard`, of whatever layout.
    pub(crate) fn resident_in_any_layout(&self, chunk: ChunkId, shard: ShardKey) -> SmallVec<[ObjectId; 2]> {
        let is_one = |(_, object): &(ObjectId, &Object)| {
            self.shard(object).same_piece(shard) && object.state == State::Resident
        };
        self.objects_of(&self.chunks[chunk]).filter(is_one).map(|(id, _)| id).collect()
    }

    /// The digest of a chunk's model, salt and hash.
    fn digest(&self, chunk: &Chunk) -> u64 {
        chunk_meta(&self.names, chunk, None).key()
    }
}

impl IndexMut<'_> {
    /// Begins an operation: what it [protects](Self::protect) is not evicted until the next one begins.
    pub fn begin_operation(&mut self) {
        self.operation = self.operation.wrapping_add(1);
        self.rate.begin_operation();
    }

    /// Marks a chunk as used now. A pinned one becomes the most recent when its last pin is released.
    pub fn touch(&mut self, chunk: ChunkId) {
        let Self { index, predictor, .. } = self;
        index.changes += 1;
        let entry = &index.chunks[chunk];
        if entry.listed {
            index.order.on_access(chunk, &chunk_meta(&index.names, entry, predictor.as_ref()));
        }
    }

    /// Marks a whole prefix as used now, its first chunk last, so that a prompt is evicted from its end.
    pub(crate) fn touch_prefix(&mut self, model: &Arc<str>, salt: &Arc<str>, hashes: &[ChunkHash]) {
        let chunks: Vec<ChunkId> = self.leading_chunks(model, salt, hashes).flatten().collect();
        chunks.into_iter().rev().for_each(|chunk| self.touch(chunk));
    }

    /// Counts a hit: a lookup found the chunk. Once per chunk and lookup, as opposed to touching, which a
    /// request does several times.
    pub fn on_hit(&mut self, chunk: ChunkId) {
        let Self { index, stats, .. } = self;
        index.order.on_hit(chunk);
        let entry = &index.chunks[chunk];
        stats.residency.on_hit(&entry.hash, || index.digest(entry));
    }

    /// Touches a chunk and keeps it from eviction until the next operation begins.
    pub fn protect(&mut self, chunk: ChunkId) {
        let operation = self.operation;
        self.chunk_mut(chunk).protected_by = operation;
        self.touch(chunk);
    }

    /// Gives up unused capacity behind `end`, which the machine has no memory for.
    pub(crate) fn truncate_capacity(&mut self, end: u64) {
        self.alloc.truncate_capacity(end);
    }

    /// Adds capacity up to `end`, which the machine has memory for again.
    pub(crate) fn grow_capacity(&mut self, end: u64) {
        self.alloc.grow_capacity(end);
    }

    /// Records the adapter that a reserved object is loaded from.
    pub(crate) fn set_origin(&mut self, id: ObjectId, adapter: AdapterId) {
        self.object_mut(id).origin = Origin::from(adapter);
    }

    /// Changes the quotas. If they are enforced, tenants that are over theirs lose their coldest chunks at once,
    /// as far as those may be evicted.
    pub fn update_quotas<T>(&mut self, change: impl FnOnce(&mut Quotas) -> T) -> T {
        let out = self.quota_usage.update_quotas(change);
        if self.quotas_enforced {
            self.begin_operation();
            for tenant in self.quota_usage.over_limit().collect::<Vec<_>>() {
                let excess = self.quota_usage.excess(tenant, 0);
                let (chunks, _) = self.coldest_of(tenant, excess);
                chunks.into_iter().for_each(|chunk| self.evict(chunk));
            }
        }
        out
    }

    /// Changes the pins and objects of a chunk, and keeps the eviction order in step. A chunk that was in the
    /// order and stays in it keeps its place.
    fn update(&mut self, id: ChunkId, change: impl FnOnce(&mut Chunk)) {
        let Self { index, predictor, .. } = self;
        let chunk = &mut index.chunks[id];
        let unit = index.alloc.align();
        index.evictable_bytes -= chunk.evictable_units() * unit;
        index.pinned -= chunk.held_objects();
        change(chunk);
        let listed = chunk.resident > 0 && chunk.pinned == 0;
        match (chunk.listed, listed) {
            (false, true) => index.order.insert(id, &chunk_meta(&index.names, chunk, predictor.as_ref())),
            (true, false) => index.order.remove(id),
            _ => {}
        }
        chunk.listed = listed;
        index.evictable_bytes += chunk.evictable_units() * unit;
        index.pinned += chunk.held_objects();
    }

    fn insert_chunk(
        &mut self,
        (model, salt, hash): (&Arc<str>, &Arc<str>, &ChunkHash),
        tenant: TenantId,
    ) -> ChunkId {
        let name = self.names.acquire(model, salt, tenant);
        let chunk = Chunk {
            name,
            hash: *hash,
            listed: false,
            first: Option32::NONE,
            resident: 0,
            pinned: 0,
            under_io: 0,
            resident_units: 0,
            protected_by: self.operation,
            published_epoch: 0,
        };
        self.stats.residency.on_insert(hash, self.index.digest(&chunk));
        self.chunks.insert(chunk)
    }

    fn remove_chunk(&mut self, id: ChunkId, cause: RemovalCause) {
        let Self { index, stats, predictor } = self;
        let chunk = index.chunks.remove(id);
        debug_assert!(!chunk.listed && chunk.resident == 0, "{chunk:?} removed");
        debug_assert!(chunk.pinned == 0 && chunk.under_io == 0, "{chunk:?} removed");
        let meta = chunk_meta(&index.names, &chunk, predictor.as_ref());
        index.order.on_removed(id, &meta, cause);
        stats.residency.on_remove(&chunk.hash, meta.key(), cause == RemovalCause::Evicted);
        index.names.release(chunk.name);
    }
}

/// What policies may ask about a chunk.
fn chunk_meta<'a>(names: &Names, chunk: &'a Chunk, reuse: Option<&'a ReusePredictor>) -> ChunkMeta<'a> {
    ChunkMeta {
        hash: &chunk.hash,
        name_digest: names.digest(chunk.name),
        tenant: names.tenant(chunk.name),
        reuse,
    }
}

/// What is in L1 at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Size of the arena in bytes, rounded down to the alignment.
    pub capacity_bytes: u64,
    /// Bytes of all objects, each rounded up to the alignment.
    pub used_bytes: u64,
    /// Bytes that could be evicted now.
    pub evictable_bytes: u64,
    /// Bytes being written.
    pub staged_bytes: u64,
    /// Chunks with at least one object.
    pub chunks: u64,
    /// Resident objects.
    pub resident_objects: u64,
    /// Objects being written.
    pub staged_objects: u64,
    /// Objects that cannot be found any more. Their memory may still be in use.
    pub unlinked_objects: u64,
    /// Resident objects that pins keep from eviction.
    pub held_objects: u64,
    /// Temporary objects, in any state.
    pub temporary_objects: u64,
}

/// An index without a core, with statistics of its own. For tests and benchmarks.
#[derive(Debug)]
pub struct StandaloneIndex {
    index: Index,
    stats: Stats,
    predictor: Option<ReusePredictor>,
}

impl StandaloneIndex {
    /// An empty index; see [`Index::new`].
    pub fn new(capacity: u64, align: u64, eviction: EvictionKind) -> Self {
        Self { index: Index::new(capacity, align, eviction), stats: Stats::new(0, 0.0), predictor: None }
    }

    /// Uses a predictor from now on.
    pub fn set_predictor(&mut self, predictor: ReusePredictor) {
        self.predictor = Some(predictor);
    }

    /// The index, to change.
    pub fn edit(&mut self) -> IndexMut<'_> {
        self.index.edit(&mut self.stats, &mut self.predictor)
    }

    /// Its statistics.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Checks all invariants; see [`Index::check`].
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.index.check(&self.stats);
    }
}

impl Deref for StandaloneIndex {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}
