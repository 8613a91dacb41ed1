//! The chunks of L1, by id and by name.

use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

use hashbrown::DefaultHashBuilder;
use larder_policy::linear_table::LinearTable;
use larder_policy::segmented::SegmentedSlab;
use larder_types::ChunkId;
use larder_types::object::ChunkHash;

use super::ObjectId;
use super::names::{ChunkKey, NameId};

/// A chunk with at least one object. There are millions, so it takes no more than a cache line.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) name: NameId,
    pub(super) hash: ChunkHash,
    /// It is in the eviction order.
    pub(super) listed: bool,
    /// The first of its objects; each knows the next.
    pub(super) first: Option32,
    /// Resident objects, those of them with pins, and those with I/O pins.
    pub(super) resident: u32,
    pub(super) pinned: u32,
    pub(super) under_io: u32,
    /// Memory of the resident objects, in units of the alignment.
    pub(super) resident_units: u32,
    /// The last operation that protected it; the lower bits of its number.
    pub(super) protected_by: u32,
    /// The recording in which it was published and not withdrawn since; 0 if none.
    pub(super) published_epoch: u32,
}

const _: () = assert!(size_of::<Chunk>() <= 68, "a chunk has grown");

impl Chunk {
    /// Units that evicting it would free at once.
    pub(super) fn evictable_units(&self) -> u64 {
        if self.listed && self.under_io == 0 { u64::from(self.resident_units) } else { 0 }
    }

    /// Resident objects that pins keep from eviction.
    pub(super) fn held_objects(&self) -> u64 {
        if self.pinned > 0 { u64::from(self.resident) } else { 0 }
    }
}

/// An object id or none, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Option32(u32);

impl Option32 {
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn get(self) -> Option<ObjectId> {
        (self != Self::NONE).then_some(ObjectId(self.0))
    }
}

impl From<ObjectId> for Option32 {
    fn from(id: ObjectId) -> Self {
        Self(id.0)
    }
}

/// All chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    slab: SegmentedSlab<Chunk>,
    by_key: LinearTable<ChunkId>,
    /// Seeded at random: clients choose what is hashed.
    hasher: DefaultHashBuilder,
}

impl Chunks {
    pub(super) fn len(&self) -> u64 {
        self.slab.len() as u64
    }

    /// All ids that have ever been used are smaller.
    pub(super) fn end(&self) -> u32 {
        self.slab.end()
    }

    pub(super) fn get(&self, id: ChunkId) -> Option<&Chunk> {
        self.slab.get(id.0)
    }

    pub(super) fn find(&self, key: &ChunkKey) -> Option<ChunkId> {
        let is_it = |id: &ChunkId| {
            let chunk = &self.slab[id.0];
            chunk.hash == key.hash && chunk.name == key.name
        };
        self.by_key.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// Adds a chunk; its key must not be there.
    pub(super) fn insert(&mut self, chunk: Chunk) -> ChunkId {
        let Self { slab, by_key, hasher } = self;
        let hash = hasher.hash_one(key_of(&chunk));
        let id = ChunkId(slab.insert(chunk));
        by_key.insert_unique(hash, id, |id| hasher.hash_one(key_of(&slab[id.0])));
        id
    }

    pub(super) fn remove(&mut self, id: ChunkId) -> Chunk {
        let chunk = self.slab.remove(id.0);
        let hash = self.hasher.hash_one(key_of(&chunk));
        self.by_key.remove(hash, |known| *known == id).expect("every chunk is in the table");
        chunk
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ChunkId, &Chunk)> {
        self.slab.iter().map(|(id, chunk)| (ChunkId(id), chunk))
    }
}

fn key_of(chunk: &Chunk) -> ChunkKey {
    ChunkKey { name: chunk.name, hash: chunk.hash }
}

impl Index<ChunkId> for Chunks {
    type Output = Chunk;

    fn index(&self, id: ChunkId) -> &Chunk {
        &self.slab[id.0]
    }
}

impl IndexMut<ChunkId> for Chunks {
    fn index_mut(&mut self, id: ChunkId) -> &mut Chunk {
        &mut self.slab[id.0]
    }
}
