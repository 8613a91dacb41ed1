//! L2: the slower, larger tier behind the shared-memory arena.
//!
//! - [`adapter`]: the interface of every backend and layer, [`Adapter`].
//! - [`adapters`]: the backends, one folder each, and their registry.
//! - [`config`]: one adapter's configuration; opens the backend and its layers.
//! - [`layers`]: limits, deadlines, retries and so on, around any adapter.
//! - [`capacity`]: how much an adapter may hold, and what it evicts.
//! - [`eviction`]: notification of what an adapter removes on its own.
//! - [`error`]: why an operation on a key failed, and whether a retry may help.
//! - [`spec`]: reading of JSON flags.
//! - `conformance`, `testing` (feature `testing`): the test suite that all adapters and layers pass.

pub mod adapter;
pub mod adapters;
pub mod capacity;
pub mod config;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod error;
pub mod eviction;
mod in_flight;
pub mod layers;
mod pool;
pub mod spec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crate::adapter::{
    Adapter, BoxFuture, Call, Capabilities, Circuit, Cursor, Failures, Health, Integrity, Listed, Page,
    Results, Space, Stored, Transfer, Usage, holds,
};
pub use crate::adapters::OpenContext;
pub use crate::capacity::{CapacityLimits, TenantLimits, Trim};
pub use crate::config::{AdapterConfig, ChecksumMode};
pub use crate::error::{ErrorKind, L2Error, Retry};
pub use crate::eviction::{EvictionListener, EvictionReason};
