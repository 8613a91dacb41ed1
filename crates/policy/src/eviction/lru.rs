//! LRU: the least recently used chunk first.
//!
//! Keeps: one list over the chunks in the order. Cost: O(1) for each operation and for each chunk
//! named. Memory: 8 bytes for each chunk id.
//!
//! Guarantee: a prompt whose chunks are touched from the last to the first is evicted from its end,
//! however many calls stored it.

use super::{About, EvictionPolicy, Verdict, Visit};
use crate::list::{Links, List};
use crate::quota::Ledger;
use larder_types::ids::ChunkId;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Lru {
    links: Links,
    order: List,
}

impl EvictionPolicy for Lru {
    fn enter(&mut self, chunk: ChunkId, _: &About<'_>) {
        self.links.push(&mut self.order, chunk.0);
    }

    fn leave(&mut self, chunk: ChunkId) {
        self.links.unlink(&mut self.order, chunk.0);
    }

    fn used(&mut self, chunk: ChunkId, _: &About<'_>) {
        self.links.refresh(&mut self.order, chunk.0);
    }

    fn coldest_first(&self, _: &Ledger, visit: Visit<'_>) {
        for n in self.links.iter(&self.order) {
            if visit(ChunkId(n)) == Verdict::Enough {
                return;
            }
        }
    }
}
