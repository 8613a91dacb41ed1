//! What the core knows of L2, and what its adapters say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_core::AdapterGauges;
use larder_core::stats::AdapterCounters;
use larder_l2::{Adapter, Circuit, Space};
use larder_types::ids::AdapterId;

use super::core_metrics::{Kind, Metric, Snapshot, by_salt, counter, gauge, labels};
use crate::app::state::State;

pub(super) fn metrics(out: &mut Vec<Metric>, state: &State, snapshot: &Snapshot) {
    let adapters: Vec<(AdapterId, &Arc<dyn Adapter>)> = state.l2.adapters().collect();
    totals(out, snapshot);
    by_name(out, &adapters, &snapshot.adapters);
    under_way(out, &adapters, &snapshot.adapters);
    file_systems(out, &adapters);
    states(out, &state.config.l1.tag, adapters.len());
}

/// Over all adapters, as LMCache counts.
fn totals(out: &mut Vec<Metric>, snapshot: &Snapshot) {
    let sum = |read: fn(&AdapterCounters) -> u64| snapshot.adapters.iter().map(|(c, _)| read(c)).sum();
    let requests = [
        ("lmcache_mp_l2_store_submitted_requests_total", "Batches handed to L2", sum(|c| c.store_requests)),
        ("lmcache_mp_l2_prefetch_lookup_requests_total", "Questions what L2 has", sum(|c| c.lookups)),
        (
            "lmcache_mp_l2_prefetch_load_submitted_requests_total",
            "Loads handed to L2, one for each adapter",
            sum(|c| c.load_requests),
        ),
    ];
    out.extend(requests.map(|(name, help, value)| counter(name, help, "", value)));
    let salts = &snapshot.tally.salts;
    out.extend([
        by_salt(
            "lmcache_mp_l2_store_submitted_objects_chunks_total",
            "Objects in batches",
            &[],
            salts,
            |c| c.l2_to_store,
        ),
        by_salt(
            "lmcache_mp_l2_store_completed_objects_chunks_total",
            "Objects stored in L2",
            &[],
            salts,
            |c| c.l2_stored,
        ),
        by_salt("lmcache_mp_l2_prefetch_lookup_objects_chunks_total", "Objects asked for", &[], salts, |c| {
            c.l2_asked
        }),
        by_salt(
            "lmcache_mp_l2_prefetch_load_submitted_objects_chunks_total",
            "Objects in loads",
            &[],
            salts,
            |c| c.l2_to_load,
        ),
        by_salt("lmcache_mp_l2_prefetch_load_completed_chunks_total", "Objects loaded", &[], salts, |c| {
            c.l2_loaded
        }),
    ]);
    let name = "lmcache_mp_l2_evicted_objects_chunks_total";
    out.push(by_salt(name, "Objects evicted from L2", &[], salts, |c| c.l2_evicted));
    let l2 = &snapshot.counters.l2;
    out.extend([
        counter(
            "lmcache_mp_l2_retained_chunks_total",
            "Loaded objects kept after all",
            "",
            l2.promoted_objects,
        ),
        counter("lmcache_mp_l2_loads_shared_total", "Loads that several lookups shared", "", l2.loads_shared),
        counter(
            "lmcache_mp_l2_deferred_chunks_total",
            "Stores put off until the chunk is about to leave L1",
            "",
            l2.deferred_objects,
        ),
        counter(
            "lmcache_mp_l2_unstored_chunks_total",
            "Chunks put off that left L1 without going to L2",
            "",
            snapshot.l1.evicted_waiting_objects,
        ),
        counter(
            "lmcache_mp_policy_faults_total",
            "Answers of policies that broke their rules",
            "",
            l2.policy_faults,
        ),
    ]);
}

/// One sample for each name of adapters: those that have it share it.
fn by_name(
    out: &mut Vec<Metric>,
    adapters: &[(AdapterId, &Arc<dyn Adapter>)],
    counted: &[(AdapterCounters, AdapterGauges)],
) {
    let mut add = |name, help, kind, value: &dyn Fn(usize, &Arc<dyn Adapter>) -> u64| {
        let mut sums = BTreeMap::<&str, u64>::new();
        for (id, adapter) in adapters {
            *sums.entry(adapter.kind()).or_default() += value(id.0 as usize, adapter);
        }
        let samples =
            sums.into_iter().map(|(name, sum)| (labels(&[("l2_name", name)]), sum as f64)).collect();
        out.push(Metric { name, help, kind, samples });
    };
    let bytes = |bytes: Option<u64>| bytes.unwrap_or(0);
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    add("lmcache_mp_l2_usage_bytes", "Bytes that L2 holds", gauge, &|_, a| a.usage().used_bytes);
    add("lmcache_mp_l2_capacity_bytes", "Bytes that L2 may hold; 0 without a limit", gauge, &|_, a| {
        bytes(a.usage().capacity_bytes)
    });
    add("lmcache_mp_l2_objects", "Objects that L2 holds", gauge, &|_, a| a.usage().objects);
    add("lmcache_mp_l2_failing_circuits", "Ways (reads, writes) of L2 that fail now", gauge, &|_, a| {
        let health = a.health();
        [health.reads, health.writes].into_iter().filter(|circuit| *circuit != Circuit::Closed).count() as u64
    });
    add("lmcache_mp_l2_loaded_bytes_total", "Bytes loaded from L2", counter, &|i, _| {
        counted[i].0.loaded_bytes
    });
    add(
        "lmcache_mp_l2_store_given_up_chunks_total",
        "Objects whose last attempt failed",
        counter,
        &|i, _| counted[i].0.store_failed_objects,
    );
    add("lmcache_mp_l2_store_dropped_chunks_total", "Objects dropped from a full queue", counter, &|i, _| {
        counted[i].0.store_dropped_objects
    });
}

/// One sample for each adapter.
fn under_way(
    out: &mut Vec<Metric>,
    adapters: &[(AdapterId, &Arc<dyn Adapter>)],
    counted: &[(AdapterCounters, AdapterGauges)],
) {
    type Read = fn(&AdapterGauges) -> u64;
    let rows: [(&'static str, &'static str, Read); 5] = [
        ("lmcache_mp_num_inflight_l2_stores", "Stores that L2 is busy with", |g| g.storing_tasks),
        ("lmcache_mp_num_inflight_l2_loads", "Objects that L2 is loading", |g| g.loading_objects),
        ("lmcache_mp_inflight_load_memory_usage_bytes", "Bytes of L1 that L2 is loading into", |g| {
            g.loading_bytes
        }),
        ("lmcache_mp_inflight_store_memory_usage_bytes", "Bytes of L1 that L2 is storing", |g| {
            g.storing_bytes
        }),
        ("lmcache_mp_l2_store_queued_objects", "Objects that wait for an adapter", |g| g.queued_keys),
    ];
    for (name, help, read) in rows {
        let sample = |(id, adapter): &(AdapterId, &Arc<dyn Adapter>)| {
            (indexed(*id, &***adapter), read(&counted[id.0 as usize].1) as f64)
        };
        let samples = adapters.iter().map(sample).collect();
        out.push(Metric { name, help, kind: Kind::Gauge, samples });
    }
}

/// How full the file systems are: one sample for each adapter that has one, for two may share theirs.
fn file_systems(out: &mut Vec<Metric>, adapters: &[(AdapterId, &Arc<dyn Adapter>)]) {
    type Read = fn(&Space) -> u64;
    let rows: [(&'static str, &'static str, Read); 2] = [
        ("lmcache_mp_l2_disk_free_bytes", "Bytes free for us in an adapter's file system", |s| s.free_bytes),
        ("lmcache_mp_l2_disk_size_bytes", "Size of an adapter's file system", |s| s.size_bytes),
    ];
    let spaces: Vec<(String, Space)> =
        adapters.iter().filter_map(|(id, a)| Some((indexed(*id, &***a), a.usage().space?))).collect();
    if spaces.is_empty() {
        return;
    }
    for (name, help, read) in rows {
        let samples = spaces.iter().map(|(labels, space)| (labels.clone(), read(space) as f64)).collect();
        out.push(Metric { name, help, kind: Kind::Gauge, samples });
    }
}

/// Labels that tell one adapter from every other.
fn indexed(AdapterId(index): AdapterId, adapter: &dyn Adapter) -> String {
    labels(&[("l2_name", adapter.kind()), ("adapter_index", &index.to_string())])
}

/// Adapters stay for as long as the server runs, so none is ever draining.
fn states(out: &mut Vec<Metric>, tag: &str, adapters: usize) {
    let samples = |fixed: &[(&str, &str)]| {
        let sample = |state, n| (labels(&[fixed, &[("state", state)]].concat()), n);
        vec![sample("active", adapters as f64), sample("draining", 0.0)]
    };
    let (name, help) = ("lmcache_mp_l2_store_adapters", "Adapters that are stored to");
    out.push(Metric { samples: samples(&[("l1_tag", tag)]), ..gauge(name, help, "", 0.0) });
    let (name, help) = ("lmcache_mp_l2_prefetch_adapters", "Adapters that are loaded from");
    out.push(Metric { samples: samples(&[]), ..gauge(name, help, "", 0.0) });
}
