//! L2 as a set of chunks that answers without delay.
//!
//! A bounded one evicts the least recently used chunk, as the server's adapters do. A store, and a lookup
//! that finds the chunk, count as a use.

use crate::whatif::shadow::SecondTier;
use larder_types::ids::ChunkId;

use super::L2Size;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    there: bool,
    older: u32,
    newer: u32,
}

/// The second tier. Chunks are identified by their numbers in the trace.
#[derive(Debug)]
pub(super) struct Tier {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    chunks: u64,
    capacity: Option<u64>,
    pub(super) evicted: u64,
}

impl Tier {
    /// An empty tier for chunks with numbers below `unique`; `None` for [`L2Size::None`].
    pub(super) fn new(size: L2Size, unique: u64) -> Option<Self> {
        let capacity = match size {
            L2Size::None => return None,
            L2Size::Chunks(chunks) => Some(chunks),
            L2Size::Unbounded => None,
        };
        let links = vec![Link { there: false, older: NONE, newer: NONE }; unique as usize];
        Some(Self { links, oldest: NONE, newest: NONE, chunks: 0, capacity, evicted: 0 })
    }

    /// Whether it has a chunk; if so, marks it as used.
    pub(super) fn find(&mut self, chunk: u32) -> bool {
        let there = self.links[chunk as usize].there;
        if there && self.capacity.is_some() {
            self.unlink(chunk);
            self.link(chunk);
        }
        there
    }

    /// Stores a chunk.
    pub(super) fn put(&mut self, chunk: u32) {
        if self.find(chunk) {
            return;
        }
        let Some(capacity) = self.capacity else {
            self.links[chunk as usize].there = true;
            return;
        };
        while self.chunks >= capacity && self.oldest != NONE {
            let oldest = self.oldest;
            self.unlink(oldest);
            self.links[oldest as usize].there = false;
            self.chunks -= 1;
            self.evicted += 1;
        }
        if self.chunks < capacity {
            self.links[chunk as usize].there = true;
            self.link(chunk);
            self.chunks += 1;
        }
    }

    fn link(&mut self, chunk: u32) {
        self.links[chunk as usize].older = self.newest;
        self.links[chunk as usize].newer = NONE;
        match self.newest {
            NONE => self.oldest = chunk,
            newest => self.links[newest as usize].newer = chunk,
        }
        self.newest = chunk;
    }

    fn unlink(&mut self, chunk: u32) {
        let Link { older, newer, .. } = self.links[chunk as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }
}

impl SecondTier for Tier {
    fn find(&mut self, chunk: ChunkId) -> bool {
        self.find(chunk.0)
    }

    fn put(&mut self, chunk: ChunkId) {
        self.put(chunk.0);
    }
}
