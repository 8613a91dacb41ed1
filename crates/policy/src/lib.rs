//! What Larder decides: which chunk is evicted, what a load from L2 leaves in L1, what is written back to
//! L2, and how much each tenant may hold.
//!
//! Policies work on ids and digests. They hold no data, do no I/O and read no clock; whoever asks them
//! acts on the answer.
//!
//! - [`eviction`]: an order over chunks, for L1 and for L2 adapters of bounded capacity.
//! - [`prefetch`]: where each object of a lookup comes from, and whether it stays in L1.
//! - [`store`]: which adapters get what engines store, and when.
//! - [`quota`]: byte limits and usage of cache salts (tenants).
//! - [`reuse`]: the model of reuse that the adaptive policies learn.
//! - [`fold`]: the longest prefix that attention windows can be served from.
//! - [`list`], [`ghosts`], [`keys`]: the data structures under them.

pub mod eviction;
pub mod ghosts;
pub mod key_table;
pub mod lru;
pub mod offload;
pub mod prefetch;
pub mod prefix_scan;
pub mod quota;
pub mod reuse;

pub use crate::offload::{AdapterDesc, OffloadKind, OffloadPolicy};
pub use crate::prefetch::{PrefetchKind, PrefetchPolicy};
pub use crate::quota::Quotas;
