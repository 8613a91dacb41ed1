//! LRU: the least recently used chunk first.
//!
//! Keeps: one list over the chunks in the order. Cost: O(1) for each operation and for each chunk
//! visited. Memory: 8 bytes for each chunk id.
//!
//! Guarantee: a prompt whose chunks are touched from the last to the first is evicted from its end,
//! however many calls stored it.

use super::{ChunkMeta, EvictDecision, EvictionPolicy, Visit};
use crate::lru::{LruLinks, LruList};
use crate::quota::QuotaUsage;
use larder_types::ids::ChunkId;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Lru {
    links: LruLinks,
    order: LruList,
}

impl EvictionPolicy for Lru {
    fn insert(&mut self, chunk: ChunkId, _: &ChunkMeta<'_>) {
        self.links.push(&mut self.order, chunk.0);
    }

    fn remove(&mut self, chunk: ChunkId) {
        self.links.remove(&mut self.order, chunk.0);
    }

    fn on_access(&mut self, chunk: ChunkId, _: &ChunkMeta<'_>) {
        self.links.move_to_newest(&mut self.order, chunk.0);
    }

    fn visit_victims(&self, _: &QuotaUsage, visit: Visit<'_>) {
        for n in self.links.iter(&self.order) {
            if visit(ChunkId(n)) == EvictDecision::Done {
                return;
            }
        }
    }
}
