//! L2: the slower, larger tier behind the shared-memory arena.
//!
//! - [`adapter`]: the contract, [`Adapter`].
//! - [`bounds`]: how much one may hold, and what leaves it.
//! - [`watch`]: being told of what leaves.
//! - [`error`]: why an operation on a key failed, and whether trying again may help.
//! - [`layers`]: limits, deadlines, retries and the like, around any of them; [`layers::build`] stacks them.
//! - `conformance`, `testing` (feature `testing`): one suite that they all pass.
//! - [`mock`], [`fault_inject`]: for tests and for trying things out.
//! - [`fs`]: one file for each object, as the reference writes them.

pub mod adapter;
mod books;
pub mod capacity;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod error;
pub mod eviction;
pub mod fault_inject;
pub mod fs;
mod in_flight;
pub mod layers;
pub mod mock;
mod pool;
mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Circuit, Cursor, Health, Listed, Page, Results, Space, Stored,
    Transfer, Usage, holds,
};
pub use crate::capacity::{CapacityLimits, TenantLimits, Watermarks};
pub use crate::error::{ErrorKind, L2Error, Retry};
pub use crate::eviction::{EvictionListener, EvictionReason};
