//! Adaptive: the chunk that is least worth keeping first, as far as that is known to be better than LRU.
//!
//! The [model of reuse](crate::reuse) tells apart classes of chunks and learns at what age each
//! of them is used again. That gives every chunk a worth, which changes with its age, and this order: the
//! least worth first; of those that are worth the same, the one used longest ago, and of one prompt the
//! last chunk. The same model follows what LRU would have done with the same requests, and whenever that
//! is better, or nothing has been learned yet, the order is that of LRU.
//!
//! Keeps: both orders over the same chunks. Cost: O(1) for each operation and for each chunk named,
//! amortised, and a look-up in the model for each use. Memory: 32 bytes for each chunk id, and that of the
//! model.
//!
//! Guarantee: while LRU rules, what LRU guarantees. While worth rules, what one request used last leaves
//! from its end. (What only an earlier request used lies behind that, in other prompts that begin alike.
//! It can be worth more and stay, to be found again when somebody has brought back what is before it.)

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
    /// Worth rules.
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
        if self.by_worth.has(chunk.0) {
            self.by_worth.unlink(chunk.0);
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
        // Any, to stop at the first that is enough.
        if self.learned {
            let usual = self.by_worth.worst().is_none_or(&mut visit);
            let _ = usual || self.by_worth.worst_first().skip(1).any(&mut visit);
        } else {
            self.links.iter(&self.by_recency).any(&mut visit);
        }
    }
}
