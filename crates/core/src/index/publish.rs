//! Telling who follows the cache what can be found in L1 and what no longer.
//!
//! Invariant, as long as chunks are followed: a chunk that was told of and not withdrawn is whole for at least
//! one world size. A chunk is told of by the admission that makes it whole and by nothing else, so one that
//! leaves piece by piece is withdrawn once.

use larder_types::ChunkId;
use larder_types::object::ChunkHash;

use super::{Chunk, Index, ObjectId, State};
use crate::stats::events::{Change, ChunkEvent, ObjectEvent, Tier};

impl Index {
    /// An object became readable.
    pub(super) fn note_readable(&mut self, id: ObjectId) {
        self.note_object(id, Change::Stored);
        if !self.events.chunks.is_on() {
            return;
        }
        let object = self.object(id);
        let (at, world) = (object.chunk, object.cell.rank.world_size());
        let chunk = &self.chunks[at.0 as usize];
        if !self.is_told(chunk) && self.is_whole(chunk, world) {
            self.tell(at, true);
        }
    }

    /// A readable object has left its chunk.
    pub(super) fn note_gone(&mut self, id: ObjectId) {
        self.note_object(id, Change::Removed);
        if !self.events.chunks.is_on() {
            return;
        }
        let at = self.object(id).chunk;
        let chunk = &self.chunks[at.0 as usize];
        if self.is_told(chunk) && !self.is_visible(chunk) {
            self.tell(at, false);
        }
    }

    /// A reader has read an object.
    pub(crate) fn note_used(&mut self, id: ObjectId) {
        if self.is_resident(id) {
            self.note_object(id, Change::Used);
        }
    }

    /// See [`Core::publish_snapshot`](crate::Core::publish_snapshot).
    pub(crate) fn publish_snapshot(&mut self, place: impl Fn(&ChunkHash) -> Option<u64>) {
        let present = self.chunks.iter().filter(|(_, chunk)| !self.is_told(chunk) && self.is_visible(chunk));
        let mut present: Vec<(u64, ChunkId)> =
            present.filter_map(|(i, chunk)| Some((place(&chunk.hash)?, ChunkId(i as u32)))).collect();
        present.sort_unstable();
        present.into_iter().for_each(|(_, chunk)| self.tell(chunk, true));
    }

    /// Chunks that were told of must be there. For tests.
    pub(super) fn check_told(&self) {
        let told = self.chunks.iter().filter(|(_, chunk)| self.events.chunks.is_on() && self.is_told(chunk));
        for (_, chunk) in told {
            assert!(self.is_visible(chunk), "{chunk:?} is announced and cannot be found");
        }
    }

    fn note_object(&mut self, id: ObjectId, change: Change) {
        if self.events.objects.is_on() {
            let (key, layout) = (self.key(id), self.layout(id));
            let bytes = if change == Change::Stored { layout.bytes() } else { 0 };
            self.events.objects.push(|| ObjectEvent { tier: Tier::L1, change, key, bytes });
        }
    }

    fn tell(&mut self, at: ChunkId, visible: bool) {
        let chunk = &mut self.chunks[at.0 as usize];
        chunk.told_in = if visible { self.events.recording } else { 0 };
        let (model, _) = self.names.get(chunk.name);
        let hash = chunk.hash;
        self.events.chunks.push(|| ChunkEvent { tier: Tier::L1, visible, model: model.clone(), hash });
    }

    fn is_told(&self, chunk: &Chunk) -> bool {
        chunk.told_in == self.events.recording
    }

    /// Whether a lookup of some world size could find the chunk.
    fn is_visible(&self, chunk: &Chunk) -> bool {
        let objects = chunk.objects.iter().map(|id| self.object(*id));
        objects.filter(|o| o.state == State::Resident).any(|o| self.is_whole(chunk, o.cell.rank.world_size()))
    }

    /// Whether each group that the chunk has readable objects of has those of all ranks of the world.
    fn is_whole(&self, chunk: &Chunk, world: u32) -> bool {
        let readable = || {
            let objects = chunk.objects.iter().map(|id| self.object(*id));
            objects.filter(|o| o.state == State::Resident && o.cell.rank.world_size() == world)
        };
        let ranks = |group| readable().filter(|o| o.cell.group == group).count();
        readable().next().is_some() && readable().all(|o| ranks(o.cell.group) == world as usize)
    }
}
