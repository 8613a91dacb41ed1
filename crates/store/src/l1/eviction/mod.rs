//! Which chunk leaves when space is needed.
//!
//! A policy is an order over chunks, not a cache: it is told what may be evicted and what was used,
//! and names a victim. [`L1`](super::L1) keeps the books and does the evicting. A policy knows only
//! chunks that nobody holds: a chunk enters when its last share ends and leaves when somebody takes
//! one, so naming a victim never has to skip anything.

mod lru;
mod noop;

use super::ChunkId;
pub use lru::Lru;
pub use noop::Noop;

/// An order over the chunks that may be evicted.
pub trait EvictionPolicy: Send + std::fmt::Debug {
    /// `chunk` may be evicted from now on; it was used just now. It is not in the order yet.
    fn enter(&mut self, chunk: ChunkId);

    /// `chunk` may no longer be evicted: somebody holds it, or it is gone. It is in the order.
    fn leave(&mut self, chunk: ChunkId);

    /// `chunk`, which is in the order, was used just now.
    fn used(&mut self, chunk: ChunkId);

    /// The chunk to evict first, if any may be evicted. Does not change the order.
    fn victim(&self) -> Option<ChunkId>;

    /// The chunk to evict after `chunk`, which is in the order.
    fn warmer(&self, chunk: ChunkId) -> Option<ChunkId>;
}

/// The eviction policies by name (`--eviction-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionKind {
    /// `LRU`: the least recently used chunk first; of one prompt, the last chunk first.
    #[default]
    Lru,
    /// `noop`: nothing is evicted; a full L1 refuses stores.
    Noop,
}

impl EvictionKind {
    /// A fresh, empty order.
    pub fn create(self) -> Box<dyn EvictionPolicy> {
        match self {
            Self::Lru => Box::new(Lru::default()),
            Self::Noop => Box::new(Noop),
        }
    }

    /// The name as flags and status reports write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::Noop => "noop",
        }
    }
}
