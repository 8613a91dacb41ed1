use super::{ChunkId, EvictionPolicy};

/// Evicts nothing.
#[derive(Debug)]
pub struct Noop;

impl EvictionPolicy for Noop {
    fn enter(&mut self, _: ChunkId) {}
    fn leave(&mut self, _: ChunkId) {}
    fn used(&mut self, _: ChunkId) {}

    fn victim(&self) -> Option<ChunkId> {
        None
    }

    fn warmer(&self, _: ChunkId) -> Option<ChunkId> {
        None
    }
}
