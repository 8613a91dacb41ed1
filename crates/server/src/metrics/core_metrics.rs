//! The core's counters and gauges as metrics.

use std::sync::Arc;

use larder_l2::Adapter;
use larder_store::core::{AdapterGauges, Gauges};
use larder_store::counters::{AdapterCounters, Counters, L1Counters};
use larder_store::l2::AdapterId;
use larder_store::policy::reuse;

use crate::state::State;

/// One name with its samples.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// Labels in braces, or nothing, and the value.
    pub(super) samples: Vec<(String, f64)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Reads the core, once.
pub(super) fn snapshot(state: &State) -> Vec<Metric> {
    let (counters, l1, gauges, adapters, learned) = {
        let core = state.core_for_report();
        let of = |id| (*core.adapter_counters(id), core.adapter_gauges(id));
        let adapters: Vec<_> = state.l2.adapters().map(|(id, a)| (id, a.clone(), of(id))).collect();
        (*core.counters(), *core.l1().counters(), core.gauges(), adapters, core.learned())
    };
    let tag = &state.config.l1.tag;
    let mut out = Vec::new();
    l1_metrics(&mut out, tag, &counters, &l1, &gauges);
    request_metrics(&mut out, &counters);
    holder_metrics(&mut out, &gauges);
    adapter_metrics(&mut out, &adapters);
    if let Some(recorder) = &state.recorder {
        let (written, dropped) = recorder.lines();
        out.extend([
            counter("lmcache_mp_recording_lines_total", "Lines written to the file of --record", "", written),
            counter(
                "lmcache_mp_recording_dropped_total",
                "Lines lost because it could not keep up",
                "",
                dropped,
            ),
        ]);
    }
    if let Some(learned) = learned {
        learned_metrics(&mut out, &learned);
    }
    out.push(Metric {
        name: "lmcache_mp_l1_committed_bytes",
        help: "Bytes of L1 that are backed by memory",
        kind: Kind::Gauge,
        samples: vec![(String::new(), state.arena.populated() as f64)],
    });
    out.push(Metric {
        name: "lmcache_mp_build_info",
        help: "Version of the server",
        kind: Kind::Gauge,
        samples: vec![(format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0)],
    });
    out
}

fn counter(name: &'static str, help: &'static str, labels: &str, value: u64) -> Metric {
    Metric { name, help, kind: Kind::Counter, samples: vec![(labels.to_owned(), value as f64)] }
}

fn gauge(name: &'static str, help: &'static str, labels: &str, value: f64) -> Metric {
    Metric { name, help, kind: Kind::Gauge, samples: vec![(labels.to_owned(), value)] }
}

fn l1_metrics(out: &mut Vec<Metric>, tag: &str, counters: &Counters, l1: &L1Counters, gauges: &Gauges) {
    let tag = escape(tag);
    let tagged = format!("{{l1_tag=\"{tag}\"}}");
    let backend = format!("{{backend=\"dram\",l1_tag=\"{tag}\"}}");
    let usage = &gauges.l1;
    let ratio = usage.used_bytes as f64 / (usage.capacity_bytes as f64).max(1.0);
    out.extend([
        counter(
            "lmcache_mp_l1_read_chunks_total",
            "Objects whose read from L1 finished",
            &tagged,
            counters.retrieved_objects,
        ),
        counter("lmcache_mp_l1_write_chunks_total", "Objects committed to L1", &tagged, l1.admitted_objects),
        counter("lmcache_mp_l1_evicted_chunks_total", "Objects evicted from L1", &tagged, l1.evicted_objects),
        counter("lmcache_mp_l1_evicted_bytes_total", "Bytes evicted from L1", &tagged, l1.evicted_bytes),
        gauge("lmcache_mp_l1_memory_usage_bytes", "Bytes allocated in L1", &backend, usage.used_bytes as f64),
        gauge("lmcache_mp_l1_capacity_bytes", "Size of L1", &backend, usage.capacity_bytes as f64),
        gauge("lmcache_mp_l1_usage_ratio", "Allocated part of L1", &backend, ratio),
        gauge(
            "lmcache_mp_l1_staging_bytes",
            "Bytes reserved for writing, not committed",
            &backend,
            usage.staged_bytes as f64,
        ),
        gauge("lmcache_mp_l1_objects", "Readable objects in L1", &tagged, usage.resident_objects as f64),
        gauge("lmcache_mp_l1_staging_objects", "Objects being written", &tagged, usage.staged_objects as f64),
        gauge(
            "lmcache_mp_l1_unlinked_objects",
            "Objects removed from L1 whose memory somebody may still use",
            &tagged,
            usage.unlinked_objects as f64,
        ),
        counter(
            "lmcache_mp_l1_allocation_failure_chunks_total",
            "Objects that found no room in L1",
            "{during=\"l1_store\",model_name=\"\"}",
            l1.refused_objects,
        ),
    ]);
}

fn request_metrics(out: &mut Vec<Metric>, c: &Counters) {
    let device = "{device=\"cpu\"}";
    let rows = [
        ("lmcache_mp_lookup_hit_l1_keys_total", "Objects found in L1", "", c.lookup_hit_objects),
        (
            "lmcache_mp_lookup_early_exit_requests_total",
            "Lookups that never looked",
            "{reason=\"no_gpu_context\"}",
            c.lookups_unregistered,
        ),
        ("lmcache_mp_num_submitted_stores_total", "Stores given slots", device, c.stores_prepared),
        ("lmcache_mp_num_finished_stores_total", "Stores committed", device, c.stores_committed),
        ("lmcache_mp_num_submitted_retrieves_total", "Retrieves given slots", device, c.retrieves_prepared),
        ("lmcache_mp_num_finished_retrieves_total", "Retrieves committed", device, c.retrieves_committed),
        ("lmcache_mp_stores_abandoned_total", "Stores that were never committed", "", c.stores_abandoned),
        ("lmcache_mp_retrieves_failed_total", "Retrieves of something missing", "", c.retrieves_failed),
        (
            "lmcache_mp_retrieves_abandoned_total",
            "Retrieves that were never committed",
            "",
            c.retrieves_abandoned,
        ),
        ("lmcache_mp_stored_bytes_total", "Bytes stored by workers", "", c.stored_bytes),
        ("lmcache_mp_retrieved_bytes_total", "Bytes retrieved by workers", "", c.retrieved_bytes),
        ("lmcache_mp_leases_expired_total", "Lookups whose hold ran out unused", "", c.leases_expired),
        ("lmcache_mp_sessions_expired_total", "Sessions ended by their time limit", "", c.sessions_expired),
        ("lmcache_mp_workers_reaped_total", "Workers given up as silent", "", c.workers_reaped),
    ];
    out.extend(rows.map(|(name, help, labels, value)| counter(name, help, labels, value)));
}

fn holder_metrics(out: &mut Vec<Metric>, g: &Gauges) {
    let rows = [
        ("lmcache_mp_workers", "Registered workers", g.workers),
        ("lmcache_mp_sessions", "Open request sessions", g.sessions),
        ("lmcache_mp_lookup_leases", "Lookups that hold objects for their readers", g.lookup_leases),
        ("lmcache_mp_active_stores", "Stores prepared and not committed", g.stores),
        ("lmcache_mp_active_retrieves", "Retrieves prepared and not committed", g.retrieves),
        ("lmcache_mp_peer_leases", "Lookups of other servers that hold objects", g.peer_leases),
        (
            "lmcache_mp_quarantined_objects",
            "Objects whose memory a vanished worker may still use",
            g.quarantined_objects,
        ),
        ("lmcache_mp_active_prefetch_jobs", "Lookups and warm-ups that are busy with L2", g.prefetch_jobs),
        ("lmcache_mp_waiting_prefetch_jobs", "Lookups and warm-ups that wait for others", g.prefetch_waiting),
        ("lmcache_mp_l2_store_pending_objects", "Objects that are to go to L2", g.write_back_pending),
    ];
    out.extend(rows.map(|(name, help, value)| gauge(name, help, "", value as f64)));
}

/// What the core knows of one adapter.
type AdapterFigures = (AdapterId, Arc<dyn Adapter>, (AdapterCounters, AdapterGauges));

/// One sample per adapter for each name.
fn adapter_metrics(out: &mut Vec<Metric>, adapters: &[AdapterFigures]) {
    type Read = fn(&AdapterCounters) -> u64;
    let counters: [(&str, &str, Read); 9] = [
        ("lmcache_mp_l2_prefetch_lookup_requests_total", "Questions what L2 has", |c| c.lookups),
        ("lmcache_mp_l2_prefetch_lookup_objects_chunks_total", "Objects asked for", |c| c.lookup_objects),
        ("lmcache_mp_l2_prefetch_load_submitted_requests_total", "Loads handed to L2", |c| c.load_requests),
        ("lmcache_mp_l2_prefetch_load_submitted_objects_chunks_total", "Objects in them", |c| c.load_objects),
        ("lmcache_mp_l2_prefetch_load_completed_chunks_total", "Objects loaded", |c| c.loaded_objects),
        ("lmcache_mp_l2_load_failure_chunks_total", "Objects not loaded", |c| c.load_failed_objects),
        ("lmcache_mp_l2_store_submitted_requests_total", "Stores handed to L2", |c| c.store_requests),
        ("lmcache_mp_l2_store_completed_objects_chunks_total", "Objects stored", |c| c.stored_objects),
        ("lmcache_mp_l2_store_failure_chunks_total", "Objects given up", |c| c.store_failed_objects),
    ];
    let labels = |id: &AdapterId, adapter: &Arc<dyn Adapter>| {
        format!("{{l2_name=\"{}\",adapter_index=\"{}\"}}", escape(adapter.kind()), id.0)
    };
    for (name, help, read) in counters {
        let samples = adapters.iter().map(|(id, a, (c, _))| (labels(id, a), read(c) as f64)).collect();
        out.push(Metric { name, help, kind: Kind::Counter, samples });
    }
    type Level = fn(&Arc<dyn Adapter>, &AdapterGauges) -> u64;
    let gauges: [(&str, &str, Level); 5] = [
        ("lmcache_mp_l2_usage_bytes", "Bytes that L2 holds", |a, _| a.usage().used_bytes),
        ("lmcache_mp_num_inflight_l2_stores", "Stores that L2 is busy with", |_, g| g.storing_tasks),
        ("lmcache_mp_num_inflight_l2_loads", "Objects that L2 is loading", |_, g| g.loading_objects),
        ("lmcache_mp_inflight_load_memory_usage_bytes", "Bytes of L1 that L2 is loading into", |_, g| {
            g.loading_bytes
        }),
        ("lmcache_mp_inflight_store_memory_usage_bytes", "Bytes of L1 that L2 is storing", |_, g| {
            g.storing_bytes
        }),
    ];
    for (name, help, read) in gauges {
        let samples = adapters.iter().map(|(id, a, (_, g))| (labels(id, a), read(a, g) as f64)).collect();
        out.push(Metric { name, help, kind: Kind::Gauge, samples });
    }
}

/// What the adaptive policies have learned, if any is in use.
fn learned_metrics(out: &mut Vec<Metric>, learned: &reuse::Snapshot) {
    let labels = |e: &reuse::Expert| format!("{{order=\"{}\",retains=\"{}\"}}", e.rank.name(), e.keep.name());
    let each = |value: &dyn Fn(&(reuse::Expert, f64)) -> f64| {
        learned.losses.iter().map(|expert| (labels(&expert.0), value(expert))).collect()
    };
    let name = "lmcache_mp_policy_expert_loss_chunks";
    let help = "Chunks that a pair of policies would have lacked in L1 lately";
    out.push(Metric { name, help, kind: Kind::Gauge, samples: each(&|(_, loss)| *loss) });
    let name = "lmcache_mp_policy_expert_rules";
    let help = "1 for the pair of policies whose decisions are followed";
    let rules = |(expert, _): &(reuse::Expert, f64)| f64::from(u8::from(*expert == learned.leader));
    out.push(Metric { name, help, kind: Kind::Gauge, samples: each(&rules) });
    out.extend([
        counter(
            "lmcache_mp_policy_expert_changes_total",
            "Changes of the pair of policies that is followed",
            "",
            learned.leader_changes,
        ),
        gauge("lmcache_mp_policy_known_keys", "Chunks that are remembered", "", learned.keys as f64),
        gauge(
            "lmcache_mp_policy_lost_ratio",
            "Part of the chunks asked for lately that had been known and was nowhere",
            "",
            learned.lost_part,
        ),
    ]);
}

/// A label value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
