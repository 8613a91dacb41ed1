//! The status report, in the shape that LMCache's tools read.
//!
//! It reads the core once. Its cost does not grow with the number of cached objects.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use larder_arena::Arena;
use larder_core::Core;
use larder_core::PrefetchJobs;
use larder_core::WorkerSpec;
use larder_core::{AdapterGauges, Gauges};
use larder_l2::{Adapter, Circuit};
use larder_policy::reuse;
use larder_types::Time;
use larder_types::ids::AdapterId;
use serde_json::{Map, Value, json};

use super::part::Part;
use super::tasks;
use crate::app::core_handle::CoreHandle;
use crate::app::tasks::Tasks;
use crate::config::Config;
use crate::l2::L2;
use crate::observe::kv_events::EventStreams;

/// Limit of prefetch jobs that are listed.
const JOBS_SHOWN_MAX: usize = 100;

/// Everything that a report reads from the core, at one moment.
struct Snapshot {
    gauges: Gauges,
    adapters: Vec<AdapterGauges>,
    workers: Vec<(WorkerSpec, u64)>,
    requested_chunks: u64,
    hit_chunks: u64,
    lookups: u64,
    learned: Option<reuse::Snapshot>,
    /// Event records kept, and the sequence number of the last one.
    events: (usize, u64),
    jobs: PrefetchJobs,
}

impl Snapshot {
    fn of(core: &Core, now: Time) -> Self {
        let counters = core.stats().requests();
        let silent = |seen| now.as_millis().saturating_sub(Time::as_millis(seen));
        Self {
            gauges: core.gauges(),
            adapters: core.adapters().map(|(id, _)| core.adapter_gauges(id)).collect(),
            workers: core.workers().map(|(spec, seen)| (spec.clone(), silent(seen))).collect(),
            requested_chunks: counters.lookup_requested_chunks,
            hit_chunks: counters.lookup_hit_chunks,
            lookups: counters.lookups,
            learned: core.learned(),
            events: (core.stats().chunk_events().len(), core.stats().chunk_events().last()),
            jobs: core.prefetch_jobs(JOBS_SHOWN_MAX),
        }
    }
}

/// The whole report. The status is always 200; `is_healthy` reports problems.
pub(super) async fn status(
    config: Part<Config>,
    (core, l2): (Part<CoreHandle>, Part<L2>),
    arena: Part<Arc<Arena>>,
    streams: Part<EventStreams>,
    tasks: Part<Tasks>,
) -> Response {
    let snapshot = core.read(Snapshot::of);
    let storage = storage(&config, &snapshot, &l2, core.is_poisoned(), arena.committed());
    let mut report = report(&config, &snapshot, storage, &tasks);
    let events = streams.gauges();
    report["kv_events"] = json!({
        "enabled": streams.are_served(), "incarnation": streams.incarnation(),
        "log_depth": snapshot.events.0, "log_capacity": streams.capacity(),
        "next_seq": snapshot.events.1 + 1, "lost_markers": 0, "unbound_stores": events.unbound,
        "subscribers": events.subscribers,
    });
    Json(report).into_response()
}

fn report(config: &Config, snapshot: &Snapshot, storage: Value, tasks: &Tasks) -> Value {
    let liveness = &config.liveness;
    let tokens = |chunks: u64| chunks * u64::from(config.chunk_tokens);
    let hit_rate = snapshot.hit_chunks as f64 / (snapshot.requested_chunks as f64).max(1.0);
    let (meta, plain_meta, instances) = workers(snapshot, config.chunk_tokens);
    let mut report = json!({
        "is_healthy": storage["is_healthy"],
        "engine_type": "MPCacheServer",
        "chunk_size": config.chunk_tokens,
        "hash_algorithm": config.hash_algorithm.name(),
        "active_sessions": snapshot.gauges.sessions,
        "storage_manager": storage,
        "active_prefetch_jobs": snapshot.gauges.prefetch_jobs + snapshot.gauges.prefetch_waiting,
        "active_p2p_lookup_jobs": snapshot.gauges.peer_leases,
        "p2p_enabled": false,
        "p2p_state": "unregistered",
        "p2p_peer_count": 0,
        "p2p_peers": [],
        "worker_liveness": {
            "enabled": liveness.worker_reap_timeout.is_some(),
            "reap_timeout_seconds": liveness.worker_reap_timeout.map_or(0.0, |t| t.as_secs_f64()),
            "registration_grace_seconds": liveness.worker_registration_grace.as_secs_f64(),
            "tracked_instances": snapshot.workers.len(),
        },
        "cache_context_meta": meta,
        "registered_gpu_ids": [],
        "registered_non_cuda_instance_ids": instances,
        "non_cuda_context_meta": plain_meta,
        "pending_lookup_count": snapshot.gauges.prefetch_waiting,
        "next_prefetch_job_id": snapshot.jobs.next_id,
        "prefetch_job_ids": snapshot.jobs.ids,
        "pending_request_ids": snapshot.jobs.requests.iter().map(|id| &**id).collect::<Vec<_>>(),
        "periodic_threads": tasks::summary(tasks),
    });
    if let Some(learned) = &snapshot.learned {
        report["learned"] = learned_json(learned);
    }
    report["hit_stats"] = json!({
        "hit_rate": hit_rate,
        "total_requests": snapshot.lookups,
        "total_tokens": tokens(snapshot.requested_chunks),
        "total_retrieved_tokens": tokens(snapshot.hit_chunks),
    });
    report
}

/// What the adaptive policies have learned, and the active expert.
fn learned_json(learned: &reuse::Snapshot) -> Value {
    let losses = learned
        .losses
        .iter()
        .map(|(expert, loss)| json!({"expert": expert.to_string(), "lost_chunks": loss}));
    let ages = learned.ages.iter().enumerate().map(|(i, (seen, again))| {
        let older_than_seconds = if i == 0 { 0.0 } else { 2f64.powi(i as i32 - 1) * reuse::TICK_SECONDS };
        json!({"older_than_seconds": older_than_seconds, "chunks": seen, "used_again": again})
    });
    json!({
        "requests": learned.requests, "keys": learned.keys, "leader": learned.active.to_string(),
        "leader_changes": learned.changes, "experts": losses.collect::<Vec<_>>(),
        "reuse_by_age": ages.collect::<Vec<_>>(),
    })
}

/// The registered workers, in both forms that LMCache's tools read.
fn workers(snapshot: &Snapshot, chunk_tokens: u32) -> (Map<String, Value>, Map<String, Value>, Vec<i64>) {
    let (mut meta, mut plain, mut instances) = (Map::new(), Map::new(), Vec::new());
    for (spec, _) in &snapshot.workers {
        let id = spec.instance.to_string();
        let groups: Vec<Value> = spec.groups.iter().map(|group| group_json(spec, group)).collect();
        let layers: u64 = spec.groups.iter().map(|group| layers(group.layout.shape())).sum();
        let bytes: u64 = spec.groups.iter().map(|group| group.layout.bytes()).sum();
        let use_mla = spec.groups.iter().all(|group| group.layout.shape().len() == 3);
        meta.insert(
            id.clone(),
            json!({
                "model_name": *spec.model, "world_size": spec.world_size,
                "kv_cache_layout": {
                    "num_layers": layers,
                    "cache_size_per_token": bytes / u64::from(chunk_tokens),
                    "kernel_groups": groups,
                },
            }),
        );
        plain.insert(
            id,
            json!({
                "model_name": *spec.model, "world_size": spec.world_size,
                "block_size": spec.block_tokens, "use_mla": use_mla,
            }),
        );
        instances.push(spec.instance.0);
    }
    (meta, plain, instances)
}

/// Layers of an object with this shape: the axis before slots and elements.
fn layers(shape: &[u64]) -> u64 {
    shape.len().checked_sub(3).map_or(0, |axis| shape[axis])
}

fn group_json(spec: &WorkerSpec, group: &larder_core::Group) -> Value {
    let shape = group.layout.shape();
    let layers = layers(shape);
    json!({
        "kernel_group_idx": group.id, "engine_group_idx": group.id, "object_group_idx": group.id,
        "num_layers": layers,
        "layer_indices": (0..layers).collect::<Vec<_>>(),
        "tokens_per_block": spec.block_tokens,
        "slots_per_block": spec.block_tokens,
        "dtype": format!("torch.{}", group.layout.dtype().name()),
        "chunk_shape": &**shape,
        "is_mla": shape.len() == 3,
    })
}

fn storage(config: &Config, snapshot: &Snapshot, l2: &L2, is_poisoned: bool, committed_bytes: u64) -> Value {
    let gauges = &snapshot.gauges;
    let (l1, count) = (&gauges.l1, snapshot.adapters.len());
    let sum = |of: fn(&AdapterGauges) -> u64| snapshot.adapters.iter().map(of).sum::<u64>();
    let l1_report = json!({
        "is_healthy": !is_poisoned,
        "total_object_count": l1.resident_objects + l1.staged_objects,
        "write_locked_count": l1.staged_objects,
        "read_locked_count": l1.held_objects,
        "temporary_count": l1.temporary_objects,
        "staging_object_count": l1.staged_objects,
        "staging_bytes": l1.staged_bytes,
        "quarantined_object_count": gauges.quarantined_objects,
        "quarantined_bytes": gauges.quarantined_bytes,
        "memory_used_bytes": l1.used_bytes,
        "memory_total_bytes": l1.capacity_bytes,
        "memory_configured_bytes": config.l1.bytes,
        "memory_committed_bytes": committed_bytes,
        "capacity_bytes_by_backend": {"dram": l1.capacity_bytes},
        "memory_usage_ratio": l1.used_bytes as f64 / (l1.capacity_bytes as f64).max(1.0),
        "write_ttl_seconds": config.l1.write_ttl.as_secs(),
        "read_ttl_seconds": config.l1.read_ttl.as_secs(),
    });
    let store = json!({
        "is_healthy": true, "thread_alive": true,
        "pending_keys_count": gauges.write_back_pending,
        "in_flight_task_count": sum(|a| a.storing_tasks),
        "num_l2_adapters": count, "num_active_adapters": count, "num_draining_adapters": 0,
    });
    let eviction = l1_eviction_json(config);
    let prefetch = json!({
        "is_healthy": true, "thread_alive": true,
        "policy": config.l2.prefetch_policy.name(),
        "max_in_flight": config.l2.prefetch_jobs_max,
        "submission_queue_size": 0,
        "pending_queue_size": gauges.prefetch_waiting,
        "in_flight_request_count": gauges.prefetch_jobs,
        "load_phase_count": sum(|a| u64::from(a.loading_objects > 0)),
        "lookup_phase_count": gauges.prefetch_jobs,
        "completed_results_count": 0,
        "num_l2_adapters": count, "num_active_adapters": count, "num_draining_adapters": 0,
    });
    let tag = config.l1.tag.as_str();
    json!({
        "is_healthy": !is_poisoned && l2.problems().is_empty(),
        "l1_managers": {tag: l1_report},
        "store_controllers": {tag: store},
        "l1_eviction_controllers": {tag: eviction},
        "prefetch_controller": prefetch,
        "l2_eviction_controller": {
            "is_healthy": true, "thread_alive": true,
            "adapters": l2.adapters().filter_map(|(id, adapter)| l2_eviction_json(config, id, &**adapter)).collect::<Vec<_>>(),
        },
        "l2_adapters": l2.adapters().map(|(id, adapter)| adapter_json(config, id, &**adapter)).collect::<Vec<_>>(),
        "num_l2_adapters": count,
        "l1_usage": [l1.used_bytes, l1.capacity_bytes],
        "l1_capacity_bytes_by_backend": {"dram": l1.capacity_bytes},
        "l1_manager": l1_report,
        "store_controller": store,
        "l1_eviction_controller": eviction,
        // `lmcache describe` reads it here.
        "eviction_controller": eviction,
    })
}

fn l1_eviction_json(config: &Config) -> Value {
    json!({
        "is_healthy": true, "thread_alive": true,
        "eviction_policy": config.eviction.policy.name(),
        "trigger_watermark": config.eviction.trigger_watermark,
        "eviction_ratio": config.eviction.ratio,
        // Without a watermark that was asked for, space is made when it is needed.
        "evicts_in_advance": config.eviction.background_trim,
    })
}

/// Eviction of an adapter with an `eviction` block that limits something, as LMCache lists it.
fn l2_eviction_json(config: &Config, AdapterId(index): AdapterId, adapter: &dyn Adapter) -> Option<Value> {
    let configured = config.l2.adapters.get(index as usize)?;
    let (eviction, usage) = (configured.eviction?, adapter.usage());
    if usage.capacity_bytes.is_none() && !configured.enforces_quotas() {
        return None;
    }
    // -1, as in LMCache: no capacity.
    let current_usage = usage.capacity_bytes.map_or(-1.0, |bytes| usage.used_bytes as f64 / bytes as f64);
    Some(json!({
        "eviction_policy": eviction.policy.name(),
        "trigger_watermark": eviction.trigger_watermark,
        "eviction_ratio": eviction.ratio,
        "current_usage": current_usage,
        "total_bytes_used": usage.used_bytes,
        "total_capacity_bytes": usage.capacity_bytes.unwrap_or(0),
        "num_cache_salt_buckets": adapter.usage_by_salt().len(),
    }))
}

fn adapter_json(config: &Config, AdapterId(index): AdapterId, adapter: &dyn Adapter) -> Value {
    let (usage, health) = (adapter.usage(), adapter.health());
    let mut report = json!({
        "is_healthy": health.reads == Circuit::Closed && health.writes == Circuit::Closed,
        "type": match adapter.kind() { "fs" => "FSL2Adapter", other => other },
        "type_name": adapter.kind(),
        "reads": health.reads.as_str(),
        "writes": health.writes.as_str(),
        "stored_object_count": usage.objects,
        "current_size_bytes": usage.used_bytes,
        "recovering": usage.recovering,
        "problems": adapter.failures().problems,
    });
    if let Some(capacity) = usage.capacity_bytes {
        report["max_capacity_bytes"] = capacity.into();
    }
    if let Some(space) = usage.space {
        report["disk_free_bytes"] = space.free_bytes.into();
        report["disk_size_bytes"] = space.size_bytes.into();
    }
    let config = config.l2.adapters.get(index as usize);
    if let Some(Value::Object(members)) = config.map(|config| config.backend.settings().status()) {
        report.as_object_mut().expect("made above").extend(members);
    }
    report
}

/// The registered workers and the times since their last requests.
pub(super) async fn workers_only(core: Part<CoreHandle>) -> Response {
    let snapshot = core.read(Snapshot::of);
    let workers: Vec<Value> = snapshot
        .workers
        .iter()
        .map(|(spec, silent_ms)| {
            json!({
                "instance_id": spec.instance.0, "model_name": *spec.model, "world_size": spec.world_size,
                "transfer_mode": "engine_driven", "last_seen_seconds_ago": *silent_ms as f64 / 1000.0,
                "chunk_bytes": spec.groups.iter().map(|g| g.layout.bytes()).sum::<u64>(),
            })
        })
        .collect();
    Json(json!({"workers": workers})).into_response()
}
