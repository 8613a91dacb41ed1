//! The Larder server: requests, sessions and transfers over the storage core, and what operators see.
//!
//! - [`config`]: what the operator meant.
//! - [`start`]: start-up and shutdown, in order.
//! - [`rpc`]: requests over ZMTP, one file per operation.
//! - [`http`]: health, version, metrics, configuration.
//! - [`l2`]: what the core wants of L2, carried out by adapters.
//! - [`overview`]: what the page at `/` and `larder top` show.
//! - [`quota_file`]: quotas that outlast the server.
//! - [`recording`]: what was asked, written down for `larder simulate`.
//! - [`lookup_log`]: lookups, as LMCache logs them.
//! - [`traces`]: how long it took, for a tracing backend; `otlp` (feature `otel`) pushes them, and the metrics.
//! - [`whatif`]: what other sizes and policies would do with it.
//! - [`state`], [`clock`], [`chains`], [`memory`], [`metrics`], [`tasks`], [`log_control`]: what those share.

pub mod chains;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod events;
pub mod http;
pub mod l2;
pub mod log_control;
pub mod lookup_log;
pub mod memory;
pub mod metrics;
#[cfg(feature = "otel")]
pub mod otlp;
pub mod overview;
pub mod presence;
pub mod quota_file;
pub mod recording;
pub mod rpc;
pub mod start;
pub mod state;
mod stop;
pub mod tasks;
pub mod traces;
pub mod whatif;

pub use start::{Server, StartError, run};
