//! Puts the parts of a server together.

use std::sync::{Arc, OnceLock};

use larder_arena::Arena;
use larder_core::Core;
use larder_zmtp::Usage;
use tokio::runtime::Handle;

use super::connection_counter::ConnectionCounter;
use super::copy_pool::CopyPool;
use super::core_handle::CoreHandle;
use super::memory::Memory;
use super::processes::Processes;
use super::quota_file::QuotaFile;
use super::refusals::Refusals;
use super::state::State;
use super::tasks::Tasks;
use crate::config::Config;
use crate::l2::{CoreSlot, L2, L2Effects, LookupWaiters};
use crate::metrics::Metrics;
use crate::observe::bus::Bus;
use crate::observe::kv_events::{EventStreams, TokenBindings};
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;
use crate::observe::request_metrics::RequestMetrics;
use crate::observe::traces::Traces;
use crate::observe::whatif::WhatIf;
use crate::ops::{Context, NotUnderstood, Operations};
use crate::prefix_hashes::PrefixHashCache;

/// What can fail to start, started.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) core: Core,
    pub(super) core_slot: Arc<CoreSlot>,
    pub(super) arena: Arc<Arena>,
    pub(super) l2: L2,
    pub(super) hashes: PrefixHashCache,
    pub(super) quota_file: Option<QuotaFile>,
    pub(super) recorder: Option<Recorder>,
    pub(super) lookup_log: Option<LookupLog>,
    pub(super) usage: Arc<Usage>,
}

/// What watches requests.
struct Observers {
    recorder: Option<Arc<Recorder>>,
    lookup_log: Option<Arc<LookupLog>>,
    whatif: Option<Arc<WhatIf>>,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
    bindings: Arc<TokenBindings>,
    connections: Arc<ConnectionCounter>,
    bus: Arc<Bus>,
}

impl Observers {
    fn new(config: &Config, l2: &L2, recorder: Option<Recorder>, lookup_log: Option<LookupLog>) -> Self {
        let adapters: Vec<&'static str> = l2.adapters().map(|(_, adapter)| adapter.kind()).collect();
        let (recorder, lookup_log) = (recorder.map(Arc::new), lookup_log.map(Arc::new));
        let whatif = config.whatif.then(|| Arc::new(WhatIf::start(!adapters.is_empty())));
        let metrics = Arc::new(Metrics::new(&adapters, config));
        let has_traces = config.otlp.as_ref().is_some_and(|otlp| otlp.tracing);
        let traces = has_traces.then(|| Arc::new(Traces::new(config.chunk_tokens)));
        let bindings = Arc::new(TokenBindings::new(config.chunk_tokens as usize));
        let connections = Arc::new(ConnectionCounter::default());
        let bus = Bus::default()
            .reading(whatif.is_some(), lookup_log.is_some())
            .in_core_order(recorder.clone())
            .with(lookup_log.clone())
            .with(whatif.clone())
            .with(Some(Arc::new(RequestMetrics::new(metrics.clone(), config.chunk_tokens))))
            .with(traces.clone())
            .with(Some(bindings.clone()))
            .with(Some(connections.clone()));
        let bus = Arc::new(bus);
        Self { recorder, lookup_log, whatif, metrics, traces, bindings, connections, bus }
    }
}

/// A server before its first request.
#[derive(Debug)]
pub(super) struct App {
    pub(super) state: Arc<State>,
    pub(super) operations: Arc<Operations>,
    pub(super) connections: Arc<ConnectionCounter>,
    pub(super) memory: Arc<Memory>,
    pub(super) copies: CopyPool,
    pub(super) long_requests: CopyPool,
}

impl App {
    /// Puts the parts together. Work beside requests runs on `runtime`.
    pub(super) fn new(parts: Parts, runtime: &Handle) -> Self {
        let Parts { config, core, core_slot, arena, l2, hashes, quota_file, recorder, lookup_log, usage } =
            parts;
        let (config, l2, hashes) = (Arc::new(config), Arc::new(l2), Arc::new(hashes));
        let observers = Observers::new(&config, &l2, recorder, lookup_log);
        let bus = observers.bus.clone();
        let memory = Arc::new(Memory::new(arena.clone()));
        let waiters = Arc::new(LookupWaiters::default());
        let edge = Edge { l2: &l2, arena: &arena, memory: &memory, waiters: &waiters, bus: &bus, runtime };
        let (core, processes) = edge.handle(core);
        core_slot.set(&core);
        let records = if config.metrics.observability { config.kv_event_log_records } else { 0 };
        let streams = Arc::new(EventStreams::new(records, core.clone(), hashes.clone(), observers.bindings));
        let copies = CopyPool::new(config.rpc.worker_threads.gpu, runtime.clone());
        let long_requests = CopyPool::new(long_request_threads(), runtime.clone());
        let refusals = Arc::new(Refusals::default());
        let operations = Operations::new(Context {
            core: core.clone(),
            bus: bus.clone(),
            hashes: hashes.clone(),
            arena: arena.clone(),
            memory: memory.clone(),
            waiters,
            processes,
            streams: streams.clone(),
            copies: copies.clone(),
            long_requests: long_requests.clone(),
            refusals: refusals.clone(),
            not_understood: NotUnderstood::default(),
            runtime: runtime.clone(),
            has_l2: l2.adapters().next().is_some(),
            serves_engine_driven: config.rpc.transfer_mode.serves_engine_driven(),
            null_block_id: config.null_block_id,
        });
        let has_traces = observers.traces.is_some();
        let pushes =
            cfg!(feature = "otel") && (has_traces || config.otlp.is_some() && config.metrics.enabled);
        let tasks = Arc::new(Tasks::new(config.coordinator.url.is_some(), pushes));
        let state = State {
            config,
            core,
            arena,
            hashes,
            usage,
            refusals,
            l2,
            bus,
            events: streams,
            reporting: Arc::default(),
            quota_changes: tokio::sync::Mutex::default(),
            quota_file: quota_file.map(Arc::new),
            recorder: observers.recorder,
            lookup_log: observers.lookup_log,
            whatif: observers.whatif,
            metrics: observers.metrics,
            traces: observers.traces,
            #[cfg(feature = "otel")]
            otlp: Arc::default(),
            tasks,
            log: OnceLock::new(),
        };
        let (state, operations) = (Arc::new(state), Arc::new(operations));
        Self { state, operations, connections: observers.connections, memory, copies, long_requests }
    }
}

/// What executes the core's effects.
struct Edge<'a> {
    l2: &'a Arc<L2>,
    arena: &'a Arc<Arena>,
    memory: &'a Arc<Memory>,
    waiters: &'a Arc<LookupWaiters>,
    bus: &'a Arc<Bus>,
    runtime: &'a Handle,
}

impl Edge<'_> {
    /// The core behind its lock, and what finds out about the processes of its workers.
    fn handle(&self, core: Core) -> (Arc<CoreHandle>, Arc<Processes>) {
        let mut processes = None;
        let core = Arc::new_cyclic(|handle| {
            let found = Arc::new(Processes::new(handle.clone(), self.arena.clone(), self.runtime.clone()));
            processes = Some(found.clone());
            let effects = L2Effects {
                core: handle.clone(),
                l2: self.l2.clone(),
                arena: self.arena.clone(),
                memory: self.memory.clone(),
                waiters: self.waiters.clone(),
                processes: found,
                bus: self.bus.clone(),
                runtime: self.runtime.clone(),
            };
            CoreHandle::new(core, Box::new(effects))
        });
        (core, processes.expect("made with the core"))
    }
}

/// Threads for requests that are long to decode and to hash: half of the processors, so that short ones have the rest.
fn long_request_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| (count.get() / 2).clamp(1, 8))
}
