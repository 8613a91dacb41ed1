//! Policies: plain functions over plain data that decide what the core then does.
//!
//! - [`prefetch`]: where each cell of a lookup comes from, and whether what was loaded stays.
//! - [`store`]: which adapters get what is stored, and whether L1 keeps it then.
//!
//! Which chunk leaves when space is needed is decided in [`eviction`](crate::l1::eviction).

pub mod prefetch;
pub mod reuse;
pub mod store;

pub use prefetch::{PrefetchKind, PrefetchPolicy};
pub use store::{StoreKind, StorePolicy};
