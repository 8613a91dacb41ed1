//! Clearing L1, and publishing what is in it, in steps of bounded cost.
//!
//! A clear walks over all chunks. Other calls may come between two steps, and each of them sees an object that is still
//! to be cleared or does not see it any more. What becomes readable after the clear has begun stays: each object has the
//! number of the last clear that had begun by then, and a clear removes objects with smaller numbers only. An object
//! that a clear passes over, because it is pinned, gets the number of that clear. So numbers differ by no more than the
//! clears that run at once, and 16 bits are enough.

use larder_types::ChunkId;
use larder_types::object::ChunkHash;

use super::{Index, IndexMut, ObjectId, State};

/// Chunks that one step looks at, at most.
const STEP_CHUNKS: u32 = 1024;
/// Objects that one step removes, at most, apart from those of the last chunk.
const STEP_REMOVED: u64 = 512;

/// A clear that has begun.
#[derive(Debug)]
pub struct Clearing {
    force: bool,
    number: u16,
    /// The next chunk id to look at, and where it ends.
    next: u32,
    end: u32,
    removed: u64,
    is_done: bool,
}

impl Clearing {
    /// Whether every object has been removed that is to be.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Objects removed so far.
    pub fn removed(&self) -> u64 {
        self.removed
    }
}

/// A chunk in L1 that was visible when it was [looked at](Index::visible_chunks).
#[derive(Clone, Copy, Debug)]
pub struct VisibleChunk {
    id: ChunkId,
    /// Its hash.
    pub hash: ChunkHash,
}

impl IndexMut<'_> {
    /// Begins to remove every chunk that is neither pinned, under I/O, nor being written; with `force`, every chunk.
    pub fn begin_clear(&mut self, force: bool) -> Clearing {
        self.clears = self.clears.wrapping_add(1);
        Clearing { force, number: self.clears, next: 0, end: self.chunks.end(), removed: 0, is_done: false }
    }

    /// Continues a clear. Cost: bounded.
    pub fn clear_step(&mut self, clearing: &mut Clearing) {
        let mut removed = 0;
        let last = clearing.end.min(clearing.next.saturating_add(STEP_CHUNKS));
        while clearing.next < last && removed < STEP_REMOVED {
            removed += self.clear_chunk(ChunkId(clearing.next), clearing);
            clearing.next += 1;
        }
        clearing.removed += removed;
        clearing.is_done = clearing.next == clearing.end;
        self.stats.l1.cleared_objects += removed;
    }

    /// The same at once. Cost: O(chunks).
    pub fn clear(&mut self, force: bool) -> u64 {
        let mut clearing = self.begin_clear(force);
        while !clearing.is_done() {
            self.clear_step(&mut clearing);
        }
        clearing.removed()
    }

    /// Removes the objects of a chunk that a clear removes, and returns their number.
    fn clear_chunk(&mut self, id: ChunkId, clearing: &Clearing) -> u64 {
        let Some(chunk) = self.chunks.get(id) else { return 0 };
        let is_held = chunk.pinned + chunk.under_io > 0 && !clearing.force;
        let mut removed = 0;
        let mut next = chunk.first.get();
        while let Some(object) = next {
            let entry = self.object_mut(object);
            next = entry.next.get();
            let is_older = (clearing.number.wrapping_sub(entry.cleared) as i16) > 0;
            if !is_older {
                continue;
            }
            if !is_held && (clearing.force || entry.state == State::Resident) {
                self.unlink(object);
                removed += 1;
            } else {
                entry.cleared = clearing.number;
            }
        }
        removed
    }

    /// The number of the last clear that has begun, for an object that becomes readable now.
    pub(super) fn mark_as_new(&mut self, id: ObjectId) {
        let clears = self.clears;
        self.object_mut(id).cleared = clears;
    }
}

impl Index {
    /// The chunks with ids from `next` on that a lookup can find, and where to go on; `None` at the end. Cost: bounded.
    pub fn visible_chunks(&self, next: u32) -> (Vec<VisibleChunk>, Option<u32>) {
        let end = self.chunks.end().min(next.saturating_add(STEP_CHUNKS));
        let known = (next..end).filter_map(|id| Some((ChunkId(id), self.chunks.get(ChunkId(id))?)));
        let visible = known.filter(|(_, chunk)| self.is_visible(chunk));
        let visible = visible.map(|(id, chunk)| VisibleChunk { id, hash: chunk.hash }).collect();
        (visible, Some(end).filter(|end| *end < self.chunks.end()))
    }

    /// The id of a chunk that was visible, if a chunk of that hash still is.
    pub(super) fn still_visible(&self, seen: &VisibleChunk) -> Option<ChunkId> {
        let chunk = self.chunks.get(seen.id)?;
        (chunk.hash == seen.hash && self.is_visible(chunk)).then_some(seen.id)
    }
}
