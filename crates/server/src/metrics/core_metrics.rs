//! The core's counters and gauges as metrics: Index, requests, holders, what was learned.

use std::sync::Arc;

use larder_core::Core;
use larder_core::stats::residency::ResidencyStats;
use larder_core::stats::{AdapterCounters, Counters, L1Counters};
use larder_core::stats::{Labelled, LabelledCounters, ModelCounters, SaltCounters};
use larder_core::{AdapterGauges, Gauges};
use larder_policy::reuse;
use larder_types::Time;

use super::life::{self, Distribution};
use super::{DEVICE, OTHERS, core_l2, process, whatif};
use crate::app::state::State;
use crate::config::OtlpConfig;
use crate::config::otlp::SERVICE_NAME;

/// One name with its samples.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// Labels without braces, and the value.
    pub(super) samples: Vec<(String, f64)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// What a scrape reads of the core, at one moment.
pub(super) struct Snapshot {
    pub(super) counters: Counters,
    pub(super) l1: L1Counters,
    pub(super) gauges: Gauges,
    pub(super) tally: LabelledCounters,
    pub(super) adapters: Vec<(AdapterCounters, AdapterGauges)>,
    learned: Option<reuse::Snapshot>,
    /// Event records kept.
    events: usize,
    life: ResidencyStats,
    /// How long the worker that has been silent longest has been so.
    silent_ms: u64,
    /// How long the oldest shares are held, and how long the oldest slots are being written.
    locked_ms: (u64, u64),
}

impl Snapshot {
    fn of(core: &Core, now: Time) -> Self {
        let now = now.as_millis();
        let seen = core.workers().map(|(_, seen)| seen.as_millis()).min();
        let adapter = |(id, _)| (*core.adapter_counters(id), core.adapter_gauges(id));
        let gauges = core.gauges();
        let for_ms = |since: Option<Time>| since.map_or(0, |since| now.saturating_sub(since.as_millis()));
        Self {
            counters: *core.counters(),
            l1: *core.index().counters(),
            gauges,
            tally: core.index().tally().clone(),
            adapters: core.adapters().map(adapter).collect(),
            learned: core.learned(),
            events: core.chunk_events().len(),
            life: core.index().life().clone(),
            silent_ms: seen.map_or(0, |seen| now.saturating_sub(seen)),
            locked_ms: (for_ms(gauges.oldest_read_pin), for_ms(gauges.oldest_write_reservation)),
        }
    }
}

/// Reads the core, once: what has one value, and what is distributed.
pub(super) fn snapshot(state: &State) -> (Vec<Metric>, Vec<Distribution>) {
    let snapshot = state.core().read(Snapshot::of);
    let mut out = Vec::new();
    let tag = &state.config.l1.tag;
    l1_metrics(&mut out, tag, &snapshot);
    out.push(life::premature_evictions(&snapshot.life, tag));
    out.push(life::rereads(&snapshot.life));
    request_metrics(&mut out, &snapshot.counters);
    failure_metrics(&mut out, &snapshot.tally.models);
    holder_metrics(&mut out, &snapshot);
    core_l2::metrics(&mut out, state, &snapshot);
    learned_metrics(&mut out, snapshot.learned.as_ref());
    whatif::metrics(&mut out, state);
    event_metrics(&mut out, state, snapshot.events);
    coordinator_metrics(&mut out, state);
    #[cfg(feature = "otel")]
    otlp_metrics(&mut out, state);
    server_metrics(&mut out, state);
    constants(&mut out);
    process::metrics(&mut out);
    (out, life::distributions(&snapshot.life, tag))
}

/// A counter with one sample.
pub(super) fn counter(name: &'static str, help: &'static str, labels: &str, value: u64) -> Metric {
    Metric { name, help, kind: Kind::Counter, samples: vec![(labels.to_owned(), value as f64)] }
}

/// A gauge with one sample.
pub(super) fn gauge(name: &'static str, help: &'static str, labels: &str, value: f64) -> Metric {
    Metric { name, help, kind: Kind::Gauge, samples: vec![(labels.to_owned(), value)] }
}

/// Labels as the text format wants them.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    pairs.join(",")
}

/// A counter by cache salt. As in LMCache, objects without a salt are counted without the label. `fixed`
/// labels come first.
pub(super) fn by_salt(
    name: &'static str,
    help: &'static str,
    fixed: &[(&str, &str)],
    salts: &Labelled<SaltCounters>,
    read: fn(&SaltCounters) -> u64,
) -> Metric {
    let with = |salt: &str| labels(&[fixed, &[("cache_salt", salt)]].concat());
    let unsalted = salts.named().find(|(salt, _)| salt.is_empty()).map_or(0, |(_, counts)| read(counts));
    let mut samples = vec![(labels(fixed), unsalted as f64)];
    let salted = salts.named().filter(|(salt, _)| !salt.is_empty());
    samples.extend(salted.map(|(salt, counts)| (with(salt), read(counts) as f64)));
    if *salts.others() != SaltCounters::default() {
        samples.push((with(OTHERS), read(salts.others()) as f64));
    }
    Metric { name, help, kind: Kind::Counter, samples }
}

fn l1_metrics(out: &mut Vec<Metric>, tag: &str, snapshot: &Snapshot) {
    let Snapshot { l1, tally, gauges, .. } = snapshot;
    let (tag, usage) = ([("l1_tag", tag)], &gauges.l1);
    let tagged = labels(&tag);
    let backend = labels(&[("backend", "dram"), tag[0]]);
    let ratio = usage.used_bytes as f64 / (usage.capacity_bytes as f64).max(1.0);
    let salts = &tally.salts;
    out.extend([
        by_salt("lmcache_mp_l1_read_chunks_total", "Objects whose read from L1 finished", &tag, salts, |c| {
            c.read
        }),
        by_salt("lmcache_mp_l1_write_chunks_total", "Objects committed to L1", &tag, salts, |c| c.written),
        by_salt(
            "lmcache_mp_l1_evicted_chunks_total",
            "Objects evicted from L1, or gone from it with their last reader",
            &tag,
            salts,
            |c| c.evicted,
        ),
        counter("lmcache_mp_l1_evicted_bytes_total", "Bytes evicted to make room", &tagged, l1.evicted_bytes),
        counter(
            "lmcache_mp_l1_eviction_loop_ticks_total",
            "How often L1 looked whether something has to be evicted",
            "",
            tally.eviction_checks,
        ),
        counter(
            "lmcache_mp_l1_eviction_loop_triggered_total",
            "How often something was evicted then",
            "",
            tally.eviction_rounds,
        ),
        counter(
            "lmcache_mp_l1_cleared_chunks_total",
            "Objects removed on request",
            &tagged,
            l1.cleared_objects,
        ),
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
        gauge(
            "lmcache_mp_l1_held_objects",
            "Readable objects that readers keep from eviction",
            &tagged,
            usage.held_objects as f64,
        ),
        gauge("lmcache_mp_l1_staging_objects", "Objects being written", &tagged, usage.staged_objects as f64),
        gauge(
            "lmcache_mp_l1_unlinked_objects",
            "Objects removed from L1 whose memory somebody may still use",
            &tagged,
            usage.unlinked_objects as f64,
        ),
        gauge(
            "lmcache_mp_l1_oldest_read_lock_seconds",
            "How long the lookup, retrieve or peer that has held objects longest has done so; 0 without one",
            &tagged,
            snapshot.locked_ms.0 as f64 / 1000.0,
        ),
        gauge(
            "lmcache_mp_l1_oldest_write_lock_seconds",
            "How long the oldest slots that a worker fills, or may still be filling, are reserved; 0 without any",
            &tagged,
            snapshot.locked_ms.1 as f64 / 1000.0,
        ),
    ]);
}

fn request_metrics(out: &mut Vec<Metric>, c: &Counters) {
    let device = labels(&[("device", DEVICE)]);
    let device = device.as_str();
    // As in LMCache, what failed has finished too; the difference is what is under way.
    let stores = c.stores_committed + c.stores_abandoned;
    let retrieves = c.retrieves_committed + c.retrieves_abandoned;
    let rows = [
        ("lmcache_mp_num_submitted_stores_total", "Stores given slots", device, c.stores_prepared),
        ("lmcache_mp_num_finished_stores_total", "Stores committed or abandoned", device, stores),
        ("lmcache_mp_num_submitted_retrieves_total", "Retrieves given slots", device, c.retrieves_prepared),
        ("lmcache_mp_num_finished_retrieves_total", "Retrieves committed or abandoned", device, retrieves),
        ("lmcache_mp_stores_abandoned_total", "Stores that were never committed", "", c.stores_abandoned),
        ("lmcache_mp_retrieves_failed_total", "Retrieves of something missing", "", c.retrieves_failed),
        (
            "lmcache_mp_retrieves_abandoned_total",
            "Retrieves that were never committed",
            "",
            c.retrieves_abandoned,
        ),
        ("lmcache_mp_leases_expired_total", "Lookups whose hold ran out unused", "", c.leases_expired),
        ("lmcache_mp_sessions_expired_total", "Sessions ended by their time limit", "", c.sessions_expired),
        ("lmcache_mp_workers_reaped_total", "Workers given up as silent", "", c.workers_reaped),
    ];
    out.extend(rows.map(|(name, help, labels, value)| counter(name, help, labels, value)));
    let late = labels(&[("exception_type", "TimeoutError")]);
    out.push(counter(
        "lmcache_mp_timeouts_total",
        "Lookups answered at their deadline, with what was there",
        &late,
        c.l2.jobs_overdue,
    ));
}

/// Objects with which something went wrong, by model.
fn failure_metrics(out: &mut Vec<Metric>, models: &Labelled<ModelCounters>) {
    type Read = fn(&ModelCounters) -> u64;
    type Series<'a> = (&'a [(&'a str, &'a str)], Read);
    let others: Arc<str> = OTHERS.into();
    let mut add = |name, help, series: &[Series<'_>]| {
        let mut samples = Vec::new();
        for (model, counts) in models.named().chain([(&others, models.others())]) {
            for (fixed, read) in series {
                samples.push((labels(&[*fixed, &[("model_name", model)]].concat()), read(counts) as f64));
            }
        }
        out.push(Metric { name, help, kind: Kind::Counter, samples });
    };
    add(
        "lmcache_mp_l1_allocation_failure_chunks_total",
        "Objects that found no room in L1",
        &[
            (&[("during", "l1_store")], |c| c.store_no_room),
            (&[("during", "l2_prefetch")], |c| c.load_no_room),
        ],
    );
    // A reader never meets an object that is being written: it is not found before it is whole.
    add(
        "lmcache_mp_l1_read_failure_chunks_total",
        "Objects that were gone when they were to be read",
        &[
            (&[("during", "l1_retrieve"), ("reason", "not_found")], |c| c.retrieve_missing),
            (&[("during", "l1_retrieve"), ("reason", "write_locked")], |_| 0),
            (&[("during", "l2_store"), ("reason", "not_found")], |c| c.write_back_gone),
            (&[("during", "l2_store"), ("reason", "write_locked")], |_| 0),
        ],
    );
    add(
        "lmcache_mp_l2_prefetch_failure_chunks_total",
        "Objects that L2 has and that were not delivered",
        &[
            (&[("reason", "l1_oom")], |c| c.load_no_room),
            (&[("reason", "l1_contended")], |c| c.load_contended),
            (&[("reason", "not_found")], |c| c.load_missing),
            (&[("reason", "late")], |c| c.load_late),
        ],
    );
}

fn holder_metrics(out: &mut Vec<Metric>, snapshot: &Snapshot) {
    let g = &snapshot.gauges;
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
    out.push(gauge(
        "lmcache_mp_worker_silence_seconds",
        "How long the most silent worker has not been heard of",
        "",
        snapshot.silent_ms as f64 / 1000.0,
    ));
}

/// What the adaptive policies have learned, if there are any.
fn learned_metrics(out: &mut Vec<Metric>, learned: Option<&reuse::Snapshot>) {
    let Some(learned) = learned else { return };
    let of = |expert: &reuse::Expert| labels(&[("expert", &expert.to_string())]);
    let leads = |expert| f64::from(u8::from(expert == learned.active));
    let experts = |name, help, value: &dyn Fn(&(reuse::Expert, f64)) -> f64| Metric {
        name,
        help,
        kind: Kind::Gauge,
        samples: learned.losses.iter().map(|entry| (of(&entry.0), value(entry))).collect(),
    };
    out.extend([
        experts("lmcache_mp_policy_leader", "1 for the expert whose decisions are carried out", &|(
            expert,
            _,
        )| {
            leads(*expert)
        }),
        experts(
            "lmcache_mp_policy_lost_chunks",
            "Chunks that each expert would have lost lately",
            &|(_, loss)| *loss,
        ),
        counter(
            "lmcache_mp_policy_leader_changes_total",
            "How often another expert took over",
            "",
            learned.changes,
        ),
        counter("lmcache_mp_policy_requests_total", "Requests learned from", "", learned.requests),
        gauge("lmcache_mp_policy_keys", "Chunks whose past is remembered", "", learned.keys as f64),
    ]);
}

fn event_metrics(out: &mut Vec<Metric>, state: &State, kept: usize) {
    let name = "lmcache_mp_kv_events_log_depth";
    out.push(gauge(name, "Cache events kept for subscribers", "", kept as f64));
    let streams = state.events.gauges();
    let name = "lmcache_mp_kv_events_subscribers";
    out.push(gauge(name, "Instances that follow cache events", "", streams.subscribers as f64));
    let name = "lmcache_mp_kv_events_unbound_stores_total";
    let help = "Stored chunks that subscribers were not told of, for want of their tokens";
    out.push(counter(name, help, "", streams.unbound));
}

fn coordinator_metrics(out: &mut Vec<Metric>, state: &State) {
    if state.config.coordinator.url.is_none() {
        return;
    }
    let counts = state.reporting.counts();
    let help = "Whether this server is registered with the coordinator";
    out.push(gauge("lmcache_mp_coordinator_registered", help, "", f64::from(u8::from(counts.registered))));
    for (name, help, value) in [
        ("lmcache_mp_coordinator_failures_total", "Calls that it did not answer or refused", counts.failures),
        ("lmcache_mp_coordinator_reported_events_total", "Object events that it has", counts.reported),
        ("lmcache_mp_coordinator_lost_events_total", "Object events that it will never have", counts.lost),
        (
            "lmcache_mp_coordinator_retold_objects_total",
            "Objects that it was told of anew, after a registration",
            counts.retold,
        ),
    ] {
        out.push(counter(name, help, "", value));
    }
}

#[cfg(feature = "otel")]
fn otlp_metrics(out: &mut Vec<Metric>, state: &State) {
    if state.config.otlp.is_none() {
        return;
    }
    let counts = state.otlp.counts();
    let help = "Whether the collector of --otlp-endpoint answers";
    out.push(gauge("lmcache_mp_otlp_up", help, "", f64::from(u8::from(counts.is_up))));
    let name = "lmcache_mp_otlp_failures_total";
    out.push(counter(name, "Pushes that it did not answer or refused", "", counts.failures));
    if let Some(traces) = &state.traces {
        let name = "lmcache_mp_otlp_exported_spans_total";
        out.push(counter(name, "Spans that it has", "", counts.spans));
        let name = "lmcache_mp_otlp_dropped_spans_total";
        out.push(counter(name, "Spans that it will never have", "", traces.dropped()));
    }
}

fn server_metrics(out: &mut Vec<Metric>, state: &State) {
    if let Some(recorder) = &state.recorder {
        let (written, dropped) = recorder.lines();
        let name = "lmcache_mp_recording_lines_total";
        out.push(counter(name, "Lines written to the file of --record", "", written));
        let name = "lmcache_mp_recording_dropped_total";
        out.push(counter(name, "Lines lost because it could not keep up", "", dropped));
    }
    if let Some(log) = &state.lookup_log {
        let (written, dropped) = log.lines();
        let name = "lmcache_mp_lookup_log_lines_total";
        out.push(counter(name, "Lines written to --lookup-hash-log-dir", "", written));
        let name = "lmcache_mp_lookup_log_dropped_total";
        out.push(counter(name, "Lines lost because the disk failed or could not keep up", "", dropped));
    }
    let committed = state.arena.populated() as f64;
    out.push(gauge("lmcache_mp_l1_committed_bytes", "Bytes of L1 that are backed by memory", "", committed));
    let build =
        [("version", env!("CARGO_PKG_VERSION")), ("commit", crate::http::COMMIT.unwrap_or("unknown"))];
    out.push(gauge("lmcache_mp_build_info", "Version of the server", &labels(&build), 1.0));
    let hash = labels(&[("hash", state.metrics.config_hash.as_str())]);
    out.push(gauge("lmcache_mp_config_info", "The configuration", &hash, 1.0));
    let name = state.config.otlp.as_ref().map_or(SERVICE_NAME, OtlpConfig::service_name);
    let target = [("service_instance_id", state.config.instance_id.as_str()), ("service_name", name)];
    out.push(gauge("target_info", "Who is scraped", &labels(&target), 1.0));
}

/// What LMCache's dashboards ask for and what is always the same here: no event waits, none is lost.
fn constants(out: &mut Vec<Metric>) {
    for (name, help) in [
        ("lmcache_mp_active_p2p_lookup_jobs", "Lookups at other servers, of which there are none"),
        ("lmcache_mp_event_bus_queue_depth", "Observations that wait; counting never waits here"),
        ("lmcache_mp_event_bus_drain_lag_seconds", "How long they wait"),
    ] {
        out.push(gauge(name, help, "", 0.0));
    }
    for (name, help) in [
        ("lmcache_mp_event_bus_dropped_events_total", "Observations lost; none ever is here"),
        ("lmcache_mp_event_bus_subscriber_exceptions_total", "Failures to count; there are none here"),
    ] {
        out.push(counter(name, help, "", 0));
    }
}
