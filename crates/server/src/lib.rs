//! The Larder server: requests, sessions and transfers over the storage core, and what operators see.
//!
//! - [`config`]: what the operator meant.
//! - [`start`]: start-up and shutdown, in order.
//! - [`rpc`]: requests over ZMTP, one file per operation.
//! - [`http`]: health, version, metrics, configuration.
//! - [`state`], [`clock`], [`chains`], [`memory`], [`metrics`]: what those share.

pub mod chains;
pub mod clock;
pub mod config;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod rpc;
pub mod start;
pub mod state;

pub use start::{Server, StartError, run};
