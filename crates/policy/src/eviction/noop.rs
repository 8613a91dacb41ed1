use super::{ChunkMeta, EvictionPolicy, Visit};
use crate::quota::QuotaUsage;
use larder_types::ids::ChunkId;

/// Evicts nothing.
#[derive(Debug, Default)]
pub(super) struct Noop;

impl EvictionPolicy for Noop {
    fn insert(&mut self, _: ChunkId, _: &ChunkMeta<'_>) {}
    fn remove(&mut self, _: ChunkId) {}
    fn on_access(&mut self, _: ChunkId, _: &ChunkMeta<'_>) {}
    fn visit_victims(&self, _: &QuotaUsage, _: Visit<'_>) {}
}
