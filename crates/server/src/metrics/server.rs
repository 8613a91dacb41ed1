//! Metrics of the server itself: event streams, exporters, recorders, version, configuration.

use super::family::{Families, owned};
use crate::app::refusals::Refused;
use crate::app::state::State;
use crate::config::OtlpConfig;
use crate::config::otlp::SERVICE_NAME;

pub(super) fn collect(out: &mut Families, state: &State) {
    limits(out, state);
    events(out, state);
    coordinator(out, state);
    #[cfg(feature = "otel")]
    otlp(out, state);
    recorders(out, state);
    let help = "Log lines lost because stderr could not be written, or was too slow";
    out.counter(
        "lmcache_mp_log_lost_lines_total",
        help,
        &[],
        state.log.get().map_or(0, |log| log.lost_lines()),
    );
    let help = "Bytes of L1 that are backed by memory";
    out.gauge("lmcache_mp_l1_committed_bytes", help, &[], state.arena.committed() as f64);
    identity(out, state);
    constants(out);
}

/// What connections hold together, and what was refused.
fn limits(out: &mut Families, state: &State) {
    let usage = &state.usage;
    let help =
        "Bytes of requests that are being received or wait to be served, above 16 KiB for each connection";
    out.gauge("lmcache_mp_receiving_bytes", help, &[], usage.receiving_bytes() as f64);
    let help = "Bytes of answers that wait for their clients to read, above 32 KiB for each connection";
    out.gauge("lmcache_mp_unread_answer_bytes", help, &[], usage.sending_bytes() as f64);
    let of_connections = [
        ("half_open_connections", usage.half_open_closed()),
        ("idle_peers", usage.peers_displaced()),
        ("peers", usage.peers_refused()),
        ("stalled_requests", usage.messages_stalled()),
        ("receiving_bytes", usage.messages_without_room()),
        ("unread_answers", usage.answers_refused()),
    ];
    let core = state.core().read(|core, _| *core.stats().requests());
    let of_core = [
        ("client_share_stores", core.stores_over_share),
        ("client_share_lookups", core.lookups_over_share),
        ("peer_lookups", core.peer_lookups_refused),
    ];
    let others = Refused::ALL.iter().map(|(kind, name)| (*name, state.refusals.of(*kind)));
    let all = of_connections.into_iter().chain(of_core).chain(others);
    let series = all.map(|(limit, count)| (owned(&[("limit", limit)]), count as f64));
    out.counters(
        "lmcache_mp_refused_total",
        "Connections and requests refused or ended to keep a limit",
        series,
    );
}

fn events(out: &mut Families, state: &State) {
    let streams = state.events.gauges();
    let help = "Subscribers of cache events";
    out.gauge("lmcache_mp_kv_events_subscribers", help, &[], streams.subscribers as f64);
    let help = "Stored chunks not published to subscribers because their tokens are unknown";
    out.counter("lmcache_mp_kv_events_unbound_stores_total", help, &[], streams.unbound);
}

fn coordinator(out: &mut Families, state: &State) {
    if state.config.coordinator.url.is_none() {
        return;
    }
    let counts = state.reporting.counts();
    let help = "1 while this server is registered with the coordinator";
    out.gauge("lmcache_mp_coordinator_registered", help, &[], f64::from(u8::from(counts.registered)));
    let mut counter = |name, help, value| out.counter(name, help, &[], value);
    let help = "Calls to the coordinator that failed or were refused";
    counter("lmcache_mp_coordinator_failures_total", help, counts.failures);
    let help = "Object events delivered to the coordinator";
    counter("lmcache_mp_coordinator_reported_events_total", help, counts.reported);
    let help = "Object events that the coordinator will not get";
    counter("lmcache_mp_coordinator_lost_events_total", help, counts.lost);
    let help = "Objects sent again to the coordinator after a registration";
    counter("lmcache_mp_coordinator_retold_objects_total", help, counts.reported_again);
}

#[cfg(feature = "otel")]
fn otlp(out: &mut Families, state: &State) {
    if state.config.otlp.is_none() {
        return;
    }
    let counts = state.otlp.counts();
    let help = "1 while the collector of `--otlp-endpoint` answers";
    out.gauge("lmcache_mp_otlp_up", help, &[], f64::from(u8::from(counts.is_up)));
    let help = "Pushes to the collector that failed or were refused";
    out.counter("lmcache_mp_otlp_failures_total", help, &[], counts.failures);
    if let Some(traces) = &state.traces {
        let help = "Spans delivered to the collector";
        out.counter("lmcache_mp_otlp_exported_spans_total", help, &[], counts.spans);
        let help = "Spans that the collector will not get";
        out.counter("lmcache_mp_otlp_dropped_spans_total", help, &[], traces.dropped());
    }
}

fn recorders(out: &mut Families, state: &State) {
    if let Some(recorder) = &state.recorder {
        let (written, dropped) = recorder.lines();
        let help = "Lines written to the file of `--record`";
        out.counter("lmcache_mp_recording_lines_total", help, &[], written);
        let help = "Lines of `--record` lost because they came faster than they could be written";
        out.counter("lmcache_mp_recording_dropped_total", help, &[], dropped);
    }
    if let Some(log) = &state.lookup_log {
        let (written, dropped) = log.lines();
        let help = "Lines written to `--lookup-hash-log-dir`";
        out.counter("lmcache_mp_lookup_log_lines_total", help, &[], written);
        let help = "Lines of `--lookup-hash-log-dir` lost because the disk failed or was too slow";
        out.counter("lmcache_mp_lookup_log_dropped_total", help, &[], dropped);
    }
}

fn identity(out: &mut Families, state: &State) {
    let build =
        [("version", env!("CARGO_PKG_VERSION")), ("commit", crate::http::COMMIT.unwrap_or("unknown"))];
    out.gauge("lmcache_mp_build_info", "1; version and commit of the server", &build, 1.0);
    let hash = [("hash", state.metrics.config_hash.as_str())];
    let help = "1; hash of the configuration without the instance id, to compare servers";
    out.gauge("lmcache_mp_config_info", help, &hash, 1.0);
    let name = state.config.otlp.as_ref().map_or(SERVICE_NAME, OtlpConfig::service_name);
    let target = [("service_instance_id", state.config.instance_id.as_str()), ("service_name", name)];
    out.gauge("target_info", "1; instance and service name of the server", &target, 1.0);
}

/// Metrics that LMCache's dashboards query and that are always 0 here.
fn constants(out: &mut Families) {
    let mut gauge = |name, help| out.gauge(name, help, &[], 0.0);
    gauge("lmcache_mp_active_p2p_lookup_jobs", "Lookups at other servers; always 0 here");
    gauge("lmcache_mp_event_bus_queue_depth", "Observations queued; always 0 here");
    gauge("lmcache_mp_event_bus_drain_lag_seconds", "Age of the oldest queued observation; always 0 here");
    let mut counter = |name, help| out.counter(name, help, &[], 0);
    counter("lmcache_mp_event_bus_dropped_events_total", "Observations lost; always 0 here");
    let help = "Errors while counting observations; always 0 here";
    counter("lmcache_mp_event_bus_subscriber_exceptions_total", help);
}
