//! Which chunk leaves when space is needed.
//!
//! A policy is an order over chunks, not a cache: it is told what may be evicted, what was used and
//! what is gone, and names who leaves next. [`L1`](super::L1) keeps the books and does the evicting.
//! The order has only chunks that nobody holds: a chunk enters when its last share ends and leaves
//! when somebody takes one, so naming a victim never has to skip what readers hold. What a policy
//! knows of a chunk besides its place (that it was seen twice, say) stays while the chunk is held,
//! until the chunk is gone.
//!
//! I/O is not a reader: a chunk that is copied to L2 stays in the order, at its place, and
//! [stays](EvictDecision::Skip) when it is named. If it left the order for that time it would come back as
//! the warmest, in the order in which adapters finish, and the tail of a prompt would outlive its head.
//!
//! ```text
//!               enter                  leave, forget(Evicted)     key remembered by
//!   (unknown) ---------> in the order ------------------------>   policies with ghosts
//!       ^                 |  ^  |
//!       |           leave |  |  | leave, forget(Removed)
//!       |                 v  |  v
//!       +------------- held by readers      (nothing remembered)
//!        forget(Removed)
//! ```
//!
//! # Use and reuse
//!
//! One request touches its prefix several times: when it stores, when its readers are done, at its
//! end. That is [`used`](EvictionPolicy::used): it places a chunk in time, and by touching from the
//! last chunk of a prompt to its first, keeps the head of a prompt warmer than its tail. It says
//! nothing about whether the chunk was worth keeping. That a *later* request found it does, and is
//! told apart: [`reused`](EvictionPolicy::reused), once for a chunk and lookup.
//!
//! # A new policy
//!
//! One file beside this one and one line in the table at `policies!` below, which gives it its name
//! for flags and status reports.

mod adaptive;
mod arc;
mod config;
mod isolated;
mod lru;
mod noop;
mod s3fifo;

pub use self::config::EvictionConfig;

use larder_types::object::ChunkHash;

use crate::quota::{QuotaUsage, TenantId};
use crate::reuse::ReusePredictor;
use larder_types::ids::ChunkId;

/// What a policy may want to know of a chunk. Cheap to make; what costs is computed on demand.
#[derive(Clone, Copy, Debug)]
pub struct ChunkMeta<'a> {
    /// The chunk's hash.
    pub hash: &'a ChunkHash,
    /// A digest of its model and salt.
    pub name_digest: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// What was learned, if [some policy](EvictionKind::learns) wants to know.
    pub reuse: Option<&'a ReusePredictor>,
}

impl ChunkMeta<'_> {
    /// A digest of the chunk's whole name, the same whenever the chunk comes back.
    pub fn key(&self) -> u64 {
        digest(self.name_digest, self.hash.as_bytes())
    }
}

/// A 64-bit digest, good enough for tables that a collision does not break. Every step is a full
/// 128-bit product folded in two, so every bit of the input moves every bit of the result.
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

/// A digest of a (model, salt) pair.
pub fn name_digest(model: &str, salt: &str) -> u64 {
    digest(digest(0, model.as_bytes()), salt.as_bytes())
}

/// How a chunk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// Evicted to make room.
    Evicted,
    /// Removed for any other reason: cleared, replaced, or temporary and read.
    Removed,
}

/// What becomes of a chunk that a policy named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictDecision {
    /// It goes, if enough others can go with it; this many bytes.
    Evict(u64),
    /// It must stay: the operation itself needs it, or I/O works on it.
    Skip,
    /// Nobody more is needed.
    Done,
}

/// Who is told the order, and decides on each chunk.
pub type Visit<'a> = &'a mut dyn FnMut(ChunkId) -> EvictDecision;

/// An order over the chunks that may be evicted.
///
/// Told about chunks it has to follow every call; asked, it must name every chunk in the order once.
pub trait EvictionPolicy: Send + std::fmt::Debug {
    /// `chunk` may be evicted from now on; it was used just now. It is not in the order yet, but may
    /// have been before, as nobody has [forgotten](Self::forget) it.
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>);

    /// `chunk` may no longer be evicted: somebody holds it, or it is about to be forgotten. It is in
    /// the order.
    fn remove(&mut self, chunk: ChunkId);

    /// `chunk`, which is in the order, was used just now.
    fn on_access(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>);

    /// A lookup found `chunk`, which need not be in the order nor ever have entered it.
    fn on_hit(&mut self, _chunk: ChunkId) {}

    /// `chunk`, which is not in the order, is gone; another one may get its id.
    fn on_removed(&mut self, _chunk: ChunkId, _about: &ChunkMeta<'_>, _how: RemovalCause) {}

    /// The order will be asked for next.
    fn prepare(&mut self, _reuse: Option<&ReusePredictor>) {}

    /// Names the chunks in the order to evict them, as if every one that [goes](EvictDecision::Evict) were
    /// gone, until one is [enough](EvictDecision::Done) or all are named.
    fn visit_victims(&self, ledger: &QuotaUsage, visit: Visit<'_>);

    /// The same for the chunks of one salt. Only a policy that [enforces
    /// quotas](Self::enforces_quotas) needs to know whose chunks are whose.
    fn visit_victims_of(&self, _tenant: TenantId, _visit: Visit<'_>) {}

    /// Whether a salt at its quota has to make room among its own chunks.
    fn enforces_quotas(&self) -> bool {
        false
    }
}

/// Makes the list of policies out of its table.
macro_rules! policies {
    ($($(#[$meta:meta])+ $kind:ident = $name:literal, $policy:ty;)+) => {
        /// The eviction policies by name (`--eviction-policy`).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum EvictionKind {
            $($(#[$meta])+ $kind,)+
        }

        impl EvictionKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// A fresh, empty order.
            pub fn create(self) -> Box<dyn EvictionPolicy> {
                match self {
                    $(Self::$kind => Box::<$policy>::default(),)+
                }
            }

            /// The name as flags and status reports write it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

policies! {
    /// `LRU`: the least recently used chunk first; of one prompt, the last chunk first.
    #[default]
    Lru = "LRU", lru::Lru;
    /// `ARC`: adapts between chunks used once and chunks used again.
    Arc = "ARC", arc::Arc;
    /// `S3FIFO`: what nobody asks for again soon goes before anything that was asked for.
    S3Fifo = "S3FIFO", s3fifo::S3Fifo;
    /// `adaptive`: what is least worth keeping by what was learned about reuse, or LRU where that is
    /// better.
    Adaptive = "adaptive", adaptive::Adaptive;
    /// `IsolatedLRU`: LRU with a quota for each cache salt.
    IsolatedLru = "IsolatedLRU", isolated::IsolatedLru;
    /// `noop`: nothing is evicted; a full L1 refuses stores.
    Noop = "noop", noop::Noop;
}

impl EvictionKind {
    /// Whether it wants a model of [reuse](crate::reuse).
    pub const fn learns(self) -> bool {
        matches!(self, Self::Adaptive)
    }
}

impl EvictionKind {
    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl std::fmt::Display for EvictionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
