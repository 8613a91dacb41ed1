//! What the HTTP API, the metrics and the tasks beside requests read and change.
//!
//! Requests do not use it: operations have a [`Context`](crate::ops::Context) of their own.

use std::sync::{Arc, OnceLock};

use larder_arena::Arena;
use larder_zmtp::Usage;

use super::core_handle::CoreHandle;
use super::log_control::LogControl;
use super::quota_file::QuotaFile;
use super::refusals::Refusals;
use super::tasks::Tasks;
use crate::config::Config;
use crate::l2::L2;
use crate::metrics::Metrics;
use crate::observe::bus::Bus;
use crate::observe::coordinator::status::ReporterStatus;
use crate::observe::kv_events::EventStreams;
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;
use crate::observe::traces::Traces;
use crate::observe::whatif::WhatIf;
use crate::prefix_hashes::PrefixHashCache;

/// The parts of a running server that operators see.
#[derive(Debug)]
pub struct State {
    /// The settings.
    pub config: Arc<Config>,
    /// The storage core.
    pub core: Arc<CoreHandle>,
    /// L1's memory.
    pub arena: Arc<Arena>,
    /// Hashes of recent prompts.
    pub hashes: Arc<PrefixHashCache>,
    /// What request connections hold and were refused.
    pub usage: Arc<Usage>,
    /// What else was refused to keep a limit.
    pub refusals: Arc<Refusals>,
    /// The second tier.
    pub l2: Arc<L2>,
    /// The observers of requests.
    pub bus: Arc<Bus>,
    /// Subscribers of cache events.
    pub events: Arc<EventStreams>,
    /// The state of the reporting to a coordinator.
    pub reporting: Arc<ReporterStatus>,
    /// Locked while a quota changes, first in its file, then in the core and then in L2.
    pub quota_changes: tokio::sync::Mutex<()>,
    /// Where quotas are kept; `None`: they end with the server.
    pub quota_file: Option<Arc<QuotaFile>>,
    /// The recording of `--record`.
    pub recorder: Option<Arc<Recorder>>,
    /// The log of `--lookup-hash-log-dir`.
    pub lookup_log: Option<Arc<LookupLog>>,
    /// Estimates for other sizes and policies.
    pub whatif: Option<Arc<WhatIf>>,
    /// The server's own counters.
    pub metrics: Arc<Metrics>,
    /// Traces of requests, if they are on.
    pub traces: Option<Arc<Traces>>,
    /// The state of the OpenTelemetry exporter.
    #[cfg(feature = "otel")]
    pub otlp: Arc<crate::otlp::exporter_status::ExporterStatus>,
    /// The tasks beside requests.
    pub tasks: Arc<Tasks>,
    /// The log level, if the process allows changes of it.
    pub log: OnceLock<Arc<LogControl>>,
}

impl State {
    /// The storage core.
    pub fn core(&self) -> &CoreHandle {
        &self.core
    }
}
