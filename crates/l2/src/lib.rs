//! L2: the slower, larger tier behind the shared-memory arena.
//!
//! - [`adapter`]: the contract, [`Adapter`].
//! - [`error`]: why an operation on a key failed, and whether trying again may help.
//! - [`mock`], [`fault_inject`]: for tests and for trying things out.
//! - [`fs`]: one file for each object, as the reference writes them.

pub mod adapter;
mod books;
pub mod error;
pub mod fault_inject;
pub mod fs;
mod in_flight;
pub mod mock;
mod pool;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Circuit, Cursor, Health, Listed, Page, Results, Stored, Transfer, Usage,
};
pub use crate::error::{ErrorKind, L2Error, Retry};
