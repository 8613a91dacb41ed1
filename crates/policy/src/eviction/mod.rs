//! The order in which chunks are evicted.
//!
//! A policy is an order over chunks, not a cache. The caller reports which chunks may be evicted, which were
//! used and which are gone; the policy names victims, and the caller evicts them. Only unpinned chunks are in
//! the order: a chunk is inserted when its last pin ends and removed when it is pinned again, so naming a victim
//! never has to skip pinned chunks. Other state that a policy keeps of a chunk (that it was found twice, for
//! example) stays while the chunk is pinned, until [`on_removed`](EvictionPolicy::on_removed).
//!
//! I/O is not a pin: a chunk that is being copied to L2 stays in the order, at its place, and the caller
//! [skips](EvictDecision::Skip) it when it is named. If it left the order for that time it would come back as the
//! most recently used, in the order in which adapters finish, and the tail of a prompt would outlive its head.
//!
//! ```text
//!               insert                remove, on_removed(Evicted)   key kept by policies
//!   (unknown) ---------> in the order --------------------------->  with ghost entries
//!       ^                 |  ^  |
//!       |          remove |  |  | remove, on_removed(Removed)
//!       |                 v  |  v
//!       +------------- pinned           (nothing kept)
//!      on_removed(Removed)
//! ```
//!
//! # Access and hit
//!
//! One request touches its prefix several times: when it stores, when its readers are done, at its end. That is
//! an [access](EvictionPolicy::on_access). It sets the position of the chunk in time; touching a prompt from its
//! last chunk to its first keeps the head of the prompt warmer than its tail. An access does not show that the
//! chunk was worth keeping. A *later* lookup that finds it does: that is a [hit](EvictionPolicy::on_hit), once per
//! chunk and lookup.
//!
//! # A new policy
//!
//! One file in this directory and one line in the table below.

mod adaptive;
mod arc;
mod config;
mod isolated;
mod lru;
mod noop;
mod s3fifo;

pub use self::config::EvictionConfig;

use larder_types::ids::ChunkId;
use larder_types::object::ChunkHash;

use crate::kinds::policy_kinds;
use crate::quota::{QuotaUsage, TenantId};
use crate::reuse::ReusePredictor;

/// What a policy can see of a chunk. Cheap to make; [`key`](Self::key) is computed on demand.
#[derive(Clone, Copy, Debug)]
pub struct ChunkMeta<'a> {
    /// The chunk's hash.
    pub hash: &'a ChunkHash,
    /// [Digest](name_digest) of its model and salt.
    pub name_digest: u64,
    /// The tenant that stored it.
    pub tenant: TenantId,
    /// Reuse prediction, if some policy [learns](EvictionKind::learns).
    pub reuse: Option<&'a ReusePredictor>,
}

impl ChunkMeta<'_> {
    /// Digest of the chunk's full name: model, salt and hash.
    pub fn key(&self) -> u64 {
        digest(self.name_digest, self.hash.as_bytes())
    }
}

/// A 64-bit digest for tables in which a collision is harmless. Every step is a full 128-bit product folded in
/// two, so every bit of the input affects every bit of the result.
pub fn digest(seed: u64, bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |sum: u64, word: u64| {
        let product = u128::from(sum ^ word ^ ODD) * u128::from(ODD.rotate_left(31) | 1);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(fold(fold(seed, 0), bytes.len() as u64), |sum, w| fold(sum, u64::from_le_bytes(*w)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(fold(sum, u64::from_le_bytes(last)), ODD)
}

/// The digest of a (model, salt) pair.
pub fn name_digest(model: &str, salt: &str) -> u64 {
    digest(digest(0, model.as_bytes()), salt.as_bytes())
}

/// Why a chunk is no longer in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// Evicted for space.
    Evicted,
    /// Any other reason: cleared, replaced, or temporary and read.
    Removed,
}

/// The caller's answer to a named victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictDecision {
    /// It can be evicted, which frees this many bytes.
    Evict(u64),
    /// It must stay: the current operation needs it, or I/O uses it.
    Skip,
    /// No further victim is needed.
    Done,
}

/// Called with one victim after the other.
pub type Visit<'a> = &'a mut dyn FnMut(ChunkId) -> EvictDecision;

/// An order over the chunks that may be evicted.
///
/// The caller's guarantees are given at each method. The policy must not panic.
pub trait EvictionPolicy: Send + std::fmt::Debug {
    /// `chunk` may be evicted from now on, and was used just now. It is not in the order; it may have been
    /// before, if it was not [removed from the cache](Self::on_removed) since.
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>);

    /// `chunk`, which is in the order, may no longer be evicted: it is pinned, or about to be removed.
    fn remove(&mut self, chunk: ChunkId);

    /// `chunk`, which is in the order, was used just now.
    fn on_access(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>);

    /// A lookup found `chunk`, which may never have been in the order.
    fn on_hit(&mut self, _chunk: ChunkId) {}

    /// `chunk`, which is not in the order, is no longer in the cache. Its id may be reused.
    fn on_removed(&mut self, _chunk: ChunkId, _about: &ChunkMeta<'_>, _how: RemovalCause) {}

    /// Called before victims are visited.
    fn prepare(&mut self, _reuse: Option<&ReusePredictor>) {}

    /// Visits every chunk in the order once, as if each one [evicted](EvictDecision::Evict) were gone, until one
    /// is answered with [`EvictDecision::Done`].
    fn visit_victims(&self, usage: &QuotaUsage, visit: Visit<'_>);

    /// The same for the chunks of one tenant. Only policies that [enforce quotas](Self::enforces_quotas)
    /// implement it.
    fn visit_victims_of(&self, _tenant: TenantId, _visit: Visit<'_>) {}

    /// Whether a tenant at its quota has to evict its own chunks before it can store more.
    fn enforces_quotas(&self) -> bool {
        false
    }
}

policy_kinds! {
    /// The eviction policies by name (`--eviction-policy`).
    EvictionKind creates EvictionPolicy;

    /// `LRU`: the least recently used chunk first; of one prompt, the last chunk first.
    #[default]
    Lru = "LRU", lru::Lru;
    /// `ARC`: adapts between chunks used once and chunks used again.
    Arc = "ARC", arc::Arc;
    /// `S3FIFO`: chunks that no lookup finds soon go before chunks that were found.
    S3Fifo = "S3FIFO", s3fifo::S3Fifo;
    /// `adaptive`: the chunk with the lowest predicted value first, or LRU where that is better.
    Adaptive = "adaptive", adaptive::Adaptive, learns;
    /// `IsolatedLRU`: LRU with a quota for each cache salt.
    IsolatedLru = "IsolatedLRU", isolated::IsolatedLru;
    /// `noop`: nothing is evicted; a full L1 refuses stores.
    Noop = "noop", noop::Noop;
}

#[cfg(test)]
mod tests;
