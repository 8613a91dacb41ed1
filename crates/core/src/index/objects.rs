//! The objects of L1, by id and by offset.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::ops::{Index, IndexMut};

use larder_policy::quota::TenantId;
use larder_policy::segmented::SegmentedSlab;
use larder_types::object::{KvRank, ObjectGroup};
use larder_types::{AdapterId, ChunkId};

use super::chunks::Option32;
use super::layouts::LayoutSlot;
use super::{ObjectId, Retention};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Staged,
    Resident,
    Unlinked,
}

/// An object, in any state. There are millions, so its fields are no larger than needed.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) chunk: ChunkId,
    pub(super) tenant: TenantId,
    pub(super) rank: KvRank,
    pub(super) group: ObjectGroup,
    /// Where it begins in the arena, in units of the alignment. Its length is that of its layout.
    pub(super) unit: u32,
    pub(super) layout: LayoutSlot,
    /// Pins of readers, or of its writer.
    pub(super) pins: u64,
    pub(super) io_pins: u32,
    /// The next object of its chunk.
    pub(super) next: Option32,
    pub(super) origin: Origin,
    /// The last clear that began before it became readable, or that has passed it over; see `clearing`.
    pub(super) cleared: u16,
    pub(super) state: State,
    pub(super) retention: Retention,
    /// Its write-back is deferred.
    pub(super) deferred: bool,
}

const _: () = assert!(size_of::<Object>() <= 48, "an object has grown");

/// The adapter that an object was loaded from, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin(Option<NonZeroU16>);

impl Origin {
    pub(super) fn adapter(self) -> Option<AdapterId> {
        self.0.map(|n| AdapterId(u32::from(n.get()) - 1))
    }
}

impl From<AdapterId> for Origin {
    fn from(adapter: AdapterId) -> Self {
        // A configuration has a handful of adapters. One beyond the range would count as a store by a worker.
        Self(u16::try_from(adapter.0 + 1).ok().and_then(NonZeroU16::new))
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Objects {
    slab: SegmentedSlab<Object>,
    by_unit: BTreeMap<u32, ObjectId>,
}

impl Objects {
    pub(super) fn len(&self) -> u64 {
        self.slab.len() as u64
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<&Object> {
        self.slab.get(id.0)
    }

    pub(super) fn insert(&mut self, object: Object) -> ObjectId {
        let unit = object.unit;
        let id = ObjectId(self.slab.insert(object));
        self.by_unit.insert(unit, id);
        id
    }

    pub(super) fn remove(&mut self, id: ObjectId) -> Object {
        let object = self.slab.remove(id.0);
        self.by_unit.remove(&object.unit);
        object
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.slab.iter().map(|(id, object)| (ObjectId(id), object))
    }

    /// The objects that begin at a unit in `from..to`, in that order.
    pub(super) fn in_units(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, ObjectId)> {
        let bound = |unit: u64| u32::try_from(unit).unwrap_or(u32::MAX);
        self.by_unit.range(bound(from)..bound(to)).map(|(unit, id)| (u64::from(*unit), *id))
    }
}

impl Index<ObjectId> for Objects {
    type Output = Object;

    fn index(&self, id: ObjectId) -> &Object {
        &self.slab[id.0]
    }
}

impl IndexMut<ObjectId> for Objects {
    fn index_mut(&mut self, id: ObjectId) -> &mut Object {
        &mut self.slab[id.0]
    }
}
