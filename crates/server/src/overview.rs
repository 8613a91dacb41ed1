//! Everything that the dashboard at `/` and `larder top` show, read at one moment.
//!
//! Counters start at 0 with the server and only grow. What happened in a span of time is the difference of two
//! overviews, so the server keeps no history for them. The core's lock is taken once, for a time that does not depend on
//! the number of objects.

use std::time::Duration;

use larder_core::stats::AdapterCounters;
use larder_core::{AdapterGauges, Core, WorkerSpec};
use larder_l2::Adapter;
use larder_policy::reuse;
use larder_types::Time;
use larder_types::ids::AdapterId;
use serde::{Deserialize, Serialize};

use crate::app::core_handle::{CORE_POISONED, CoreHandle};
use crate::app::state::State;
use crate::config::Config;
use crate::l2::L2 as L2Tier;
use crate::metrics::{DURATION_BUCKETS, Traffic};

/// See the [module](self). Sizes are in bytes, times in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The server's version.
    pub version: String,
    /// The server's instance id. Counters of another instance start at 0.
    pub instance_id: String,
    /// Time since the start.
    pub uptime_seconds: f64,
    /// What keeps the server from working as configured, as sentences; empty if it is ready.
    pub problems: Vec<String>,
    /// Tokens in a chunk.
    pub chunk_tokens: u64,
    /// Lookups and hits.
    pub lookups: Lookups,
    /// Copies from workers.
    pub stores: Copies,
    /// Copies to workers.
    pub retrieves: Copies,
    /// The memory tier.
    pub l1: L1,
    /// The second tier.
    pub l2: L2,
    /// Requests by operation, for operations that were requested.
    pub operations: Vec<Operation>,
    /// Upper bounds of [`Operation::buckets`]. The last bucket has none.
    pub bucket_bounds_seconds: Vec<f64>,
    /// Registered workers.
    pub workers: Vec<Worker>,
    /// Open request sessions.
    pub sessions: u64,
    /// Connected request peers.
    pub connections: u64,
    /// The eviction, prefetch and store policies.
    pub policies: Policies,
}

/// Lookups since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lookups {
    /// Finished lookups.
    pub count: u64,
    /// Tokens looked up, in whole chunks.
    pub requested_tokens: u64,
    /// Tokens of the prefixes found that L1 had.
    pub hit_l1_tokens: u64,
    /// Tokens of the prefixes found that L2 added.
    pub hit_l2_tokens: u64,
}

/// Copies between workers and L1 since the start, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// Finished copies.
    pub count: u64,
    /// Bytes of finished copies.
    pub bytes: u64,
    /// Copies that found an object missing (retrieves) or were not finished.
    pub failed: u64,
    /// Copies in progress.
    pub active: u64,
}

/// The memory tier: its objects now, and evictions since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct L1 {
    /// Bytes allocated.
    pub used_bytes: u64,
    /// Its size.
    pub capacity_bytes: u64,
    /// Readable objects.
    pub objects: u64,
    /// Pinned objects, which cannot be evicted.
    pub held_objects: u64,
    /// Objects being written.
    pub staged_objects: u64,
    /// Objects evicted.
    pub evicted_objects: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Objects that L1 had no free memory for, because all of it was pinned.
    pub refused_objects: u64,
}

/// The second tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct L2 {
    /// Lookups and prefetch requests that use L2 now.
    pub prefetches: u64,
    /// Lookups and prefetch requests that wait for the limit of concurrent ones.
    pub prefetches_waiting: u64,
    /// Objects to be stored to L2.
    pub pending_objects: u64,
    /// Objects found in L2 that were not loaded at the lookup's deadline, since the start.
    pub late_objects: u64,
    /// Its adapters, in the order of the configuration.
    pub adapters: Vec<L2Adapter>,
}

/// One adapter of the second tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct L2Adapter {
    /// Its type, as the configuration names it.
    pub type_name: String,
    /// The directory of an adapter that stores files.
    pub base_path: Option<String>,
    /// State of the circuit breaker for reads: `closed` if reads work.
    pub reads: String,
    /// State of the circuit breaker for writes.
    pub writes: String,
    /// Whether objects of an earlier process are still being counted.
    pub recovering: bool,
    /// Bytes stored.
    pub used_bytes: u64,
    /// Capacity in bytes; none without a limit.
    pub capacity_bytes: Option<u64>,
    /// Objects stored.
    pub objects: u64,
    /// Loads into L1.
    pub loads: L2Traffic,
    /// Stores from L1.
    pub stores: L2Traffic,
    /// Objects queued to be stored.
    pub queued_objects: u64,
    /// Objects not stored because the queue was full, since the start.
    pub dropped_objects: u64,
}

/// Transfers of an adapter in one direction, since the start and now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct L2Traffic {
    /// Batches answered, failed ones included.
    pub batches: u64,
    /// Objects transferred.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects whose transfer failed, each attempt.
    pub failed_objects: u64,
    /// Time from call to answer, summed over batches, which may run concurrently.
    pub seconds: f64,
    /// Objects being transferred.
    pub active_objects: u64,
}

/// Requests of one operation since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its name on the wire.
    pub name: String,
    /// Requests that failed.
    pub failed: u64,
    /// Requests by the time from arrival to answer, in the buckets of
    /// [`Overview::bucket_bounds_seconds`]. Not cumulative.
    pub buckets: Vec<u64>,
}

/// A registered worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Instance id. A string, because JavaScript's numbers have fewer digits.
    pub instance_id: String,
    /// The model it serves.
    pub model_name: String,
    /// Workers that share the model.
    pub world_size: u32,
    /// Time since its last request.
    pub last_seen_seconds_ago: f64,
}

/// The policies, and what the adaptive ones have learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policies {
    /// Eviction policy of L1.
    pub eviction: String,
    /// Prefetch policy: whether loaded chunks stay in L1.
    pub prefetch: String,
    /// Store policy of L2.
    pub store: String,
    /// What the adaptive policies have learned; none without one.
    pub learned: Option<Learned>,
}

/// What the adaptive policies have learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Requests learned from.
    pub requests: u64,
    /// Chunks whose history is kept.
    pub keys: u64,
    /// The expert whose decisions are applied.
    pub leader: String,
    /// How often the leader changed.
    pub leader_changes: u64,
    /// All experts.
    pub experts: Vec<Expert>,
}

/// One of the competing policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expert {
    /// Its name: an eviction order and whether loaded chunks stay in L1.
    pub name: String,
    /// Chunks that it would have lost recently.
    pub lost_chunks: f64,
}

/// What keeps the server from serving requests or from using L2, as sentences; empty if it is ready.
pub(crate) fn problems(core: &CoreHandle, l2: &L2Tier) -> Vec<String> {
    let mut problems = l2.problems();
    if core.is_poisoned() {
        problems.push(CORE_POISONED.to_owned());
    }
    problems
}

impl Overview {
    /// Reads the server now.
    pub fn of(state: &State) -> Self {
        let mut overview = state.core().read(|core, now| Self::of_core(&state.config, core, now));
        overview.version = env!("CARGO_PKG_VERSION").to_owned();
        overview.instance_id.clone_from(&state.config.instance_id);
        overview.problems = problems(state.core(), &state.l2);
        overview.connections = u64::try_from(state.metrics.connections.get()).unwrap_or(0);
        overview.bucket_bounds_seconds = DURATION_BUCKETS.to_vec();
        overview.operations = operations(state);
        let adapters = state.l2.adapters().zip(&mut overview.l2.adapters);
        for ((id, adapter), seen) in adapters {
            seen.add_adapter(state, id, &**adapter);
        }
        overview
    }

    /// Reads the core, at one moment.
    fn of_core(config: &Config, core: &Core, now: Time) -> Self {
        let chunk_tokens = u64::from(config.chunk_tokens);
        let (c, l1, gauges) = (core.stats().requests(), core.stats().l1(), core.gauges());
        let adapter = |(id, _)| L2Adapter::of_core(core.stats().adapter(id), &core.adapter_gauges(id));
        Self {
            uptime_seconds: now.as_millis() as f64 / 1000.0,
            chunk_tokens,
            lookups: Lookups {
                count: c.lookups,
                requested_tokens: c.lookup_requested_chunks * chunk_tokens,
                hit_l1_tokens: (c.lookup_hit_chunks - c.l2.hit_chunks) * chunk_tokens,
                hit_l2_tokens: c.l2.hit_chunks * chunk_tokens,
            },
            stores: Copies {
                count: c.stores_committed,
                bytes: c.stored_bytes,
                failed: c.stores_abandoned,
                active: gauges.stores,
            },
            retrieves: Copies {
                count: c.retrieves_committed,
                bytes: c.retrieved_bytes,
                failed: c.retrieves_failed + c.retrieves_abandoned,
                active: gauges.retrieves,
            },
            l1: L1 {
                used_bytes: gauges.l1.used_bytes,
                capacity_bytes: gauges.l1.capacity_bytes,
                objects: gauges.l1.resident_objects,
                held_objects: gauges.l1.held_objects,
                staged_objects: gauges.l1.staged_objects,
                evicted_objects: l1.evicted_objects,
                evicted_bytes: l1.evicted_bytes,
                refused_objects: l1.refused_objects,
            },
            l2: L2 {
                prefetches: gauges.prefetch_jobs,
                prefetches_waiting: gauges.prefetch_waiting,
                pending_objects: gauges.write_back_pending,
                late_objects: c.l2.late_objects,
                adapters: core.adapters().map(adapter).collect(),
            },
            workers: core.workers().map(|(spec, seen)| Worker::of(spec, now.since(seen))).collect(),
            sessions: gauges.sessions,
            policies: Policies {
                eviction: config.eviction.policy.name().to_owned(),
                prefetch: config.l2.prefetch_policy.name().to_owned(),
                store: config.l2.store_policy.name().to_owned(),
                learned: core.learned().map(|learned| Learned::of(&learned)),
            },
            ..Self::default()
        }
    }
}

impl Worker {
    fn of(spec: &WorkerSpec, silence: Duration) -> Self {
        Self {
            instance_id: spec.instance.to_string(),
            model_name: spec.model.to_string(),
            world_size: spec.world_size,
            last_seen_seconds_ago: silence.as_secs_f64(),
        }
    }
}

impl Learned {
    fn of(learned: &reuse::Snapshot) -> Self {
        let expert =
            |(expert, lost): &(reuse::Expert, f64)| Expert { name: expert.to_string(), lost_chunks: *lost };
        Self {
            requests: learned.requests,
            keys: learned.keys,
            leader: learned.active.to_string(),
            leader_changes: learned.changes,
            experts: learned.losses.iter().map(expert).collect(),
        }
    }
}

impl L2Adapter {
    fn of_core(counters: &AdapterCounters, gauges: &AdapterGauges) -> Self {
        let loads = L2Traffic {
            objects: counters.loaded_objects,
            active_objects: gauges.loading_objects,
            ..L2Traffic::default()
        };
        let stores = L2Traffic {
            objects: counters.stored_objects,
            active_objects: gauges.storing_objects,
            ..L2Traffic::default()
        };
        Self {
            loads,
            stores,
            queued_objects: gauges.queued_keys,
            dropped_objects: counters.store_dropped_objects,
            ..Self::default()
        }
    }

    /// Adds what the adapter reports and what the server counts of it.
    fn add_adapter(&mut self, state: &State, id: AdapterId, adapter: &dyn Adapter) {
        let (usage, health) = (adapter.usage(), adapter.health());
        let configured = state.config.l2.adapters.get(id.0 as usize);
        self.type_name = adapter.kind().to_owned();
        let status = configured.map(|config| config.backend.settings().status());
        self.base_path = status.and_then(|status| status["base_path"].as_str().map(str::to_owned));
        self.reads = health.reads.as_str().to_owned();
        self.writes = health.writes.as_str().to_owned();
        self.recovering = usage.recovering;
        self.used_bytes = usage.used_bytes;
        self.capacity_bytes = usage.capacity_bytes;
        self.objects = usage.objects;
        let (loads, stores) = state.metrics.l2_traffic(id);
        self.loads.add(&loads);
        self.stores.add(&stores);
    }
}

impl L2Traffic {
    fn add(&mut self, seen: &Traffic) {
        self.batches = seen.batches;
        self.bytes = seen.bytes;
        self.failed_objects = seen.failed_objects;
        self.seconds = seen.time.as_secs_f64();
    }
}

fn operations(state: &State) -> Vec<Operation> {
    let latencies = state.metrics.latencies();
    let operation =
        |(operation, latency): (larder_wire::operation::Operation, crate::metrics::Latency)| Operation {
            name: operation.name().to_owned(),
            failed: latency.failed,
            buckets: latency.buckets.to_vec(),
        };
    latencies.map(operation).collect()
}
