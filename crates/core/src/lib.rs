//! The storage core of Larder: what is cached in L1, where it lies, which requests hold it, and what is
//! evicted, loaded or written back.
//!
//! [`Core`] is a state machine. It is given the time and an event, changes its state and answers with what
//! happened and with [`Effect`]s to execute; it never sleeps, spawns, reads a clock or does I/O. The same
//! code runs in the server, in the trace simulator and in the deterministic tests. It does not touch bytes
//! either: it hands out [`Slot`]s, offsets in an arena that others map.
//!
//! Parts, from the bottom up. Each has private fields and knows only those above it in this list:
//!
//! - [`stats`]: counters, residency statistics and event logs.
//! - `timers`: deadlines. `io`: what adapters are asked, and memory that I/O may touch.
//! - [`index`]: chunks, their objects and pins, the allocator, and eviction.
//! - `context`: the parts above, as every part below may use them.
//! - `write_back`: objects on their way from L1 to L2.
//! - `prefetch`: lookups that need L2, and loads from L2 to L1.
//! - `requests`: workers, sessions, stores, retrieves and leases of peers.
//! - [`Core`]: owns the parts and routes each event to them.

mod config;
mod context;
mod core;
mod gauges;
mod ids;
pub mod index;
mod io;
mod prefetch;
mod requests;
pub mod stats;
mod timers;
mod write_back;

pub use crate::config::{CoreConfig, Trim};
pub use crate::core::Core;
pub use crate::gauges::{AdapterGauges, Gauges};
pub use crate::ids::{IoId, LookupId, PeerLeaseId, PrefetchId, TaskId};
pub use crate::io::{Effect, Hit, IoItem, Lookup, LookupReport, StoreResult};
pub use crate::prefetch::{
    LookupStatus, PREFETCH_REQUESTS_MAX, PrefetchJobs, PrefetchRefused, PrefetchResult, PrefetchSpec,
    PrefetchStatus,
};
pub use crate::requests::lost::LostConnection;
pub use crate::requests::sessions::LookupSpec;
pub use crate::requests::stores::{Committed, PreparedStore};
pub use crate::requests::transfer::{Copied, NotRegistered, Slot, TransferSpec};
pub use crate::requests::worker_spec::{Group, WorkerSpec};
pub use crate::requests::workers::TooManyWorkers;
