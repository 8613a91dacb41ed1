//! Publishing to the event logs which chunks of L1 can be found.
//!
//! Invariant while chunk events are recorded: a chunk that is published is whole for at least one world size and group.
//! Groups with a window lack most chunks of a prompt, so not all groups have to have it. A chunk is published by the
//! admission that makes it whole and by nothing else, so one that is removed object by object is withdrawn once.

use larder_types::ChunkId;
use larder_types::object::{KvRank, ObjectGroup};
use smallvec::SmallVec;

use super::{Chunk, Index, IndexMut, ObjectId, State, VisibleChunk};
use crate::stats::events::{Change, ChunkEvent, EventLogs, ObjectEvent, Tier};

impl IndexMut<'_> {
    /// An object became resident.
    pub(super) fn publish_admission(&mut self, id: ObjectId) {
        self.publish_object(id, Change::Stored);
        if !self.stats.events.chunks().is_on() {
            return;
        }
        let at = self.object(id).chunk;
        let chunk = &self.chunks[at];
        if !self.stats.events.is_published(chunk) && self.is_visible(chunk) {
            self.publish_chunk(at, true);
        }
    }

    /// A resident object was unlinked.
    pub(super) fn publish_removal(&mut self, id: ObjectId) {
        self.publish_object(id, Change::Removed);
        if !self.stats.events.chunks().is_on() {
            return;
        }
        let at = self.object(id).chunk;
        let chunk = &self.chunks[at];
        if self.stats.events.is_published(chunk) && !self.is_visible(chunk) {
            self.publish_chunk(at, false);
        }
    }

    /// A worker read an object.
    pub(crate) fn publish_use(&mut self, id: ObjectId) {
        if self.is_resident(id) {
            self.publish_object(id, Change::Used);
        }
    }

    /// Publishes chunks that were visible when they were looked at, those that still are and are not published.
    pub(crate) fn publish_seen(&mut self, seen: &[VisibleChunk]) {
        for chunk in seen {
            if let Some(id) = self.still_visible(chunk)
                && !self.stats.events.is_published(&self.chunks[id])
            {
                self.publish_chunk(id, true);
            }
        }
    }

    fn publish_object(&mut self, id: ObjectId, change: Change) {
        let Self { index, stats, .. } = self;
        stats.events.push_object(|| {
            let bytes = if change == Change::Stored { index.layout(id).bytes() } else { 0 };
            ObjectEvent { tier: Tier::L1, change, key: index.key(id), bytes }
        });
    }

    fn publish_chunk(&mut self, at: ChunkId, visible: bool) {
        let Self { index, stats, .. } = self;
        let chunk = &mut index.chunks[at];
        chunk.published_epoch = if visible { stats.events.chunk_epoch() } else { 0 };
        let (model, _) = index.names.get(chunk.name);
        let hash = chunk.hash;
        stats.events.push_chunk(|| ChunkEvent { tier: Tier::L1, visible, model: model.clone(), hash });
    }
}

impl EventLogs {
    /// Whether the readers of the current recording know the chunk.
    fn is_published(&self, chunk: &Chunk) -> bool {
        chunk.published_epoch == self.chunk_epoch()
    }
}

impl Index {
    /// Checks that published chunks are visible. For tests.
    pub(super) fn check_published(&self, events: &EventLogs) {
        let published = |chunk: &&Chunk| events.chunks().is_on() && events.is_published(chunk);
        for chunk in self.chunks.iter().map(|(_, chunk)| chunk).filter(published) {
            assert!(self.is_visible(chunk), "{chunk:?} is published and cannot be found");
        }
    }

    /// Whether lookups of some world size could find the chunk, as far as a group of layers is concerned: the group has
    /// the resident objects of all ranks.
    pub(super) fn is_visible(&self, chunk: &Chunk) -> bool {
        let resident =
            self.objects_of(chunk).map(|(_, object)| object).filter(|o| o.state == State::Resident);
        let mut pieces: SmallVec<[(ObjectGroup, KvRank); 8]> = resident.map(|o| (o.group, o.rank)).collect();
        // Ranks may have different layouts, and objects of several layouts may be there for one rank.
        pieces.sort_unstable_by_key(|(group, rank)| (*group, rank.world_size(), *rank));
        pieces.dedup();
        let same = |a: &(ObjectGroup, KvRank), b: &(ObjectGroup, KvRank)| {
            a.0 == b.0 && a.1.world_size() == b.1.world_size()
        };
        pieces.chunk_by(same).any(|ranks| ranks.len() == ranks[0].1.world_size() as usize)
    }
}
