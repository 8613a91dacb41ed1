//! L2: the slower, larger tier behind the shared-memory arena.
//!
//! - [`adapter`]: the contract, [`Adapter`].
//! - [`error`]: why an operation on a key failed, and whether trying again may help.

pub mod adapter;
pub mod error;

pub use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Circuit, Cursor, Health, Listed, Page, Results, Stored, Transfer, Usage,
};
pub use crate::error::{ErrorKind, L2Error, Retry};
