use super::{About, EvictionPolicy, Visit};
use crate::quota::Ledger;
use larder_types::ids::ChunkId;

/// Evicts nothing, knows nothing, costs nothing.
#[derive(Debug, Default)]
pub(super) struct Noop;

impl EvictionPolicy for Noop {
    fn enter(&mut self, _: ChunkId, _: &About<'_>) {}
    fn leave(&mut self, _: ChunkId) {}
    fn used(&mut self, _: ChunkId, _: &About<'_>) {}
    fn coldest_first(&self, _: &Ledger, _: Visit<'_>) {}
}
