//! Policies: which chunk is evicted, what a load from L2 leaves in L1, what is written to L2, and how many
//! bytes each tenant may hold.
//!
//! Policies work on ids and 64-bit digests. They hold no data, do no I/O and read no clock; the caller carries
//! out what they decide. They are called while the caller holds its lock, so a policy must not panic: a panic
//! stops the core of the server.
//!
//! - [`eviction`]: in which order chunks are evicted, in L1 and in L2 adapters of bounded capacity.
//! - [`prefetch`]: where each object of a lookup comes from, and whether a loaded object stays in L1.
//! - [`offload`]: which L2 adapters get what engines store, and when.
//! - [`quota`]: byte limits and usage by cache salt (tenant).
//! - [`reuse`]: predicts from past requests which chunks are used again; read by the adaptive policies.
//! - [`prefix_scan`]: the longest prefix that attention windows can be served from.
//! - [`lru`], [`key_table`], [`segmented`], [`linear_table`]: the data structures under them. None has a step that
//!   takes longer the more is in it.
//!
//! A new policy is one file and one line in the table of its kind (`policy_kinds!` in [`eviction`], [`prefetch`] or
//! [`offload`]).

pub mod eviction;
pub mod key_table;
mod kinds;
pub mod linear_table;
pub mod lru;
pub mod offload;
pub mod prefetch;
pub mod prefix_scan;
pub mod quota;
pub mod reuse;
pub mod segmented;

pub use crate::offload::{AdapterDesc, OffloadKind, OffloadPolicy};
pub use crate::prefetch::{PrefetchKind, PrefetchPolicy};
pub use crate::quota::Quotas;
