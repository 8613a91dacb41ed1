//! Adaptive: the chunk with the lowest predicted value first, where that has done better than LRU.
//!
//! The [reuse predictor](crate::reuse) puts chunks into classes and learns at what age each class is used again.
//! That gives every chunk a worth, which changes with its age. The order is by worth, lowest first; among equals the
//! least recently used chunk first, and of one prompt the last chunk. The predictor also simulates LRU on the same
//! requests. Whenever LRU is better, or nothing has been learned yet, the order is that of LRU.
//!
//! Keeps: both orders over the same chunks. Cost: O(1), amortised, for each operation and each chunk visited, and one
//! look-up in the predictor for each use. Memory: 32 bytes for each chunk id, and that of the predictor.
//!
//! Guarantee: in LRU order, that of LRU. In order of worth, the chunks that one request used last are evicted from
//! the end of its prompt. (Chunks behind them that only an earlier request used, in prompts with the same
//! beginning, can be worth more and stay. They are found again once the chunks before them are back.)

use super::{ChunkMeta, EvictDecision, EvictionPolicy, Visit};
use crate::lru::{LruLinks, LruList};
use crate::quota::QuotaUsage;
use crate::reuse::{EvictionOrder, ReusePredictor, WorthOrder};
use larder_types::ids::ChunkId;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Adaptive {
    links: LruLinks,
    by_recency: LruList,
    by_worth: WorthOrder,
    /// The order is by worth.
    learned: bool,
}

impl EvictionPolicy for Adaptive {
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>) {
        self.links.push(&mut self.by_recency, chunk.0);
        if let Some(reuse) = about.reuse {
            reuse.insert_into(&mut self.by_worth, chunk.0, about.key());
        }
    }

    fn remove(&mut self, chunk: ChunkId) {
        self.links.remove(&mut self.by_recency, chunk.0);
        if self.by_worth.contains(chunk.0) {
            self.by_worth.remove(chunk.0);
        }
    }

    fn on_access(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>) {
        self.remove(chunk);
        self.insert(chunk, about);
    }

    fn prepare(&mut self, reuse: Option<&ReusePredictor>) {
        let Some(reuse) = reuse else { return };
        reuse.prepare(&mut self.by_worth);
        self.learned = reuse.active_policy().rank == EvictionOrder::Worth;
    }

    fn visit_victims(&self, _: &QuotaUsage, visit: Visit<'_>) {
        let mut visit = |n| visit(ChunkId(n)) == EvictDecision::Done;
        if self.learned {
            let usual = self.by_worth.worst().is_none_or(&mut visit);
            let _ = usual || self.by_worth.worst_first().skip(1).any(&mut visit);
        } else {
            self.links.iter(&self.by_recency).any(&mut visit);
        }
    }
}
