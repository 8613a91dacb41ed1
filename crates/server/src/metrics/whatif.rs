//! What other sizes and policies would have done, as counters: rates over any time follow.

use larder_lab::whatif::{Report, Row};

use super::core_metrics::{Kind, Metric, counter, gauge, labels};
use crate::app::state::State;

pub(super) fn metrics(out: &mut Vec<Metric>, state: &State) {
    let Some(whatif) = &state.whatif else { return };
    let report = whatif.report();
    let chunk_tokens = u64::from(state.config.chunk_tokens);
    let chunk_bytes = state.config.l1.bytes.checked_div(report.l1_chunks).unwrap_or(0);
    let rest = report.totals.tokens.saturating_sub(report.totals.chunks.saturating_mul(chunk_tokens));
    let name = "lmcache_mp_whatif_requested_tokens_total";
    out.push(counter(name, "Tokens that the estimates are about", "", report.totals.tokens));
    let l2 = !state.config.l2.adapters.is_empty();
    let mut rows = |name, help, value: &dyn Fn(&Row) -> u64| out.push(by_row(name, help, l2, &report, value));
    rows(
        "lmcache_mp_whatif_computed_tokens_total",
        "Tokens found neither in L1 nor in L2, estimated",
        &|row| row.computed.saturating_mul(chunk_tokens).saturating_add(rest),
    );
    rows("lmcache_mp_whatif_l2_read_bytes_total", "Bytes loaded from L2, estimated", &|row| {
        row.l2_reads.saturating_mul(chunk_bytes)
    });
    let name = "lmcache_mp_whatif_dropped_total";
    out.push(counter(name, "Requests and stores left out because they came too fast", "", whatif.dropped()));
    let name = "lmcache_mp_whatif_sampling_rate";
    out.push(gauge(name, "The part of all chunks that is looked at", "", report.rate));
    let name = "lmcache_mp_whatif_sampled_keys";
    out.push(gauge(name, "Chunks of the sample that are remembered", "", report.keys as f64));
}

/// One sample for each pair of policies and size.
fn by_row(
    name: &'static str,
    help: &'static str,
    l2: bool,
    report: &Report,
    value: &dyn Fn(&Row) -> u64,
) -> Metric {
    let sample = |row: &Row| {
        let prefetch = if l2 { row.policies.prefetch.name() } else { "none" };
        let labels = labels(&[
            ("prefetch_policy", prefetch),
            ("eviction_policy", row.policies.eviction.name()),
            ("l1_factor", &row.factor.to_string()),
        ]);
        (labels, value(row) as f64)
    };
    Metric { name, help, kind: Kind::Counter, samples: report.rows.iter().map(sample).collect() }
}
