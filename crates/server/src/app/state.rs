//! What every request, every scrape and every background task shares.

use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};

use larder_arena::Arena;
use larder_core::Core;
use larder_core::Effect;
use tokio::runtime::Handle;

use crate::app::connection_counter::Presence;
use crate::app::core_handle::{CoreHandle, EffectSink};
use crate::app::log_control::LogControl;
use crate::app::memory::Memory;
use crate::app::quota_file::QuotaFile;
use crate::app::tasks::Tasks;
use crate::config::Config;
use crate::l2::{self, L2, Waiting};
use crate::metrics::Metrics;
use crate::observe::coordinator::Standing;
use crate::observe::kv_events::EventStreams;
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;
use crate::observe::traces::Traces;
use crate::observe::whatif::WhatIf;
use crate::prefix_hashes::Chains;

/// The running server's state.
#[derive(Debug)]
pub struct State {
    /// What the operator meant.
    pub config: Config,
    /// L1's memory.
    pub arena: Arc<Arena>,
    /// Who commits it.
    pub memory: Arc<Memory>,
    /// Hashes of recent prompts.
    pub chains: Chains,
    /// The second tier.
    pub l2: L2,
    /// Clients that wait for a lookup to end.
    pub waiting: Waiting,
    /// Who follows what can be found, and how far they are told.
    pub events: EventStreams,
    /// How the reporting to a coordinator stands.
    pub reporting: Standing,
    /// Held by whoever changes a quota, first in its file, then in the core and then in L2.
    pub quota_changes: tokio::sync::Mutex<()>,
    /// Where quotas are kept; `None`: they end with the server.
    pub quota_file: Option<Arc<QuotaFile>>,
    /// Who writes down what is asked, for `larder simulate`.
    pub recorder: Option<Recorder>,
    /// Who writes lookups down as LMCache does.
    pub lookup_log: Option<LookupLog>,
    /// Who knows what other sizes and policies would do.
    pub whatif: Option<WhatIf>,
    /// What is counted besides the core's own counters.
    pub metrics: Metrics,
    /// Traces of requests; `None`: there are none.
    pub traces: Option<Arc<Traces>>,
    /// The state of the OpenTelemetry exporter.
    #[cfg(feature = "otel")]
    pub otlp: Arc<crate::otlp::exporter_status::ExporterStatus>,
    /// What goes on beside requests.
    pub tasks: Tasks,
    /// The level of what is logged, if the process lets it be changed.
    pub log: OnceLock<LogControl>,
    /// Who is connected.
    pub presence: Presence,
    core: CoreHandle,
    runtime: Handle,
}

/// What a state is made of.
#[derive(Debug)]
pub struct Parts {
    /// What the operator meant.
    pub config: Config,
    /// The storage core.
    pub core: Core,
    /// L1's memory.
    pub arena: Arc<Arena>,
    /// Who commits it.
    pub memory: Arc<Memory>,
    /// The second tier.
    pub l2: L2,
    /// Hashes of recent prompts.
    pub chains: Chains,
    /// Where quotas are kept.
    pub quota_file: Option<QuotaFile>,
    /// Who writes down what is asked.
    pub recorder: Option<Recorder>,
    /// Who writes lookups down as LMCache does.
    pub lookup_log: Option<LookupLog>,
}

impl State {
    /// A server's state before the first request. Background work runs on `runtime`.
    pub fn new(parts: Parts, runtime: Handle) -> Arc<Self> {
        let Parts { config, core, arena, memory, l2, chains, quota_file, recorder, lookup_log } = parts;
        let names: Vec<&str> = l2.adapters().map(|(_, adapter)| adapter.kind()).collect();
        let records = if config.metrics.observability { config.kv_event_log_records } else { 0 };
        let metrics = Metrics::new(&names, &config);
        let traced = config.otlp.as_ref().is_some_and(|otlp| otlp.tracing);
        let traces = traced.then(|| Arc::new(Traces::new(config.chunk_tokens)));
        let whatif = config.whatif.then(|| WhatIf::start(!names.is_empty()));
        let pushes = cfg!(feature = "otel") && (traced || config.otlp.is_some() && config.metrics.enabled);
        let tasks = Tasks::new(config.coordinator.url.is_some(), pushes);
        Arc::new_cyclic(|this| Self {
            config,
            arena,
            memory,
            chains,
            l2,
            waiting: Waiting::default(),
            events: EventStreams::new(records),
            reporting: Standing::default(),
            quota_changes: tokio::sync::Mutex::default(),
            quota_file: quota_file.map(Arc::new),
            recorder,
            lookup_log,
            whatif,
            metrics,
            traces,
            #[cfg(feature = "otel")]
            otlp: Arc::default(),
            tasks,
            log: OnceLock::new(),
            presence: Presence::default(),
            core: CoreHandle::new(core, Box::new(L2Effects(this.clone()))),
            runtime,
        })
    }

    /// Runs something beside the requests.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// The storage core.
    pub fn core(&self) -> &CoreHandle {
        &self.core
    }
}

/// Executes effects with the adapters of a state that may have ended.
#[derive(Debug)]
struct L2Effects(Weak<State>);

impl EffectSink for L2Effects {
    fn execute(&self, effects: Vec<Effect>) {
        if let Some(state) = self.0.upgrade() {
            l2::carry_out(&state, effects);
        }
    }
}
