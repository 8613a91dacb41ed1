//! The Larder server: requests, sessions and transfers over the storage core, and what operators see.
//!
//! - [`config`]: the settings, validated.
//! - [`app`]: the running server: the core's lock, start-up and shutdown, in order.
//! - [`transport`]: from a socket's messages to operations and back.
//! - [`ops`]: requests, one file per operation.
//! - [`observe`]: recordings, logs, traces, estimates, event streams and reports of what requests did.
//! - [`l2`]: I/O that the core asks for, executed by adapters.
//! - [`http`]: health, version, metrics, configuration.
//! - [`metrics`]: counters and the `/metrics` page; `otlp` (feature `otel`) pushes them, and the traces.
//! - [`overview`]: the numbers behind the page at `/` and `larder top`.
//! - [`prefix_hashes`]: chunk hashes of recent prompts.
//! - `private_file`: files and directories that only the server's user may read.
//! - [`responder`]: the way back to the client of a request.

pub mod app;
pub mod config;
pub mod http;
pub mod l2;
pub mod metrics;
pub mod observe;
pub mod ops;
#[cfg(feature = "otel")]
pub mod otlp;
pub mod overview;
pub mod prefix_hashes;
mod private_file;
pub mod responder;
pub mod transport;

pub use app::start::{Server, run};
pub use app::start_error::{Remedy, StartError, error_chain};
