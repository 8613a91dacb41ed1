//! What other sizes of L1 and other policies would have done, as counters, so that rates over any time follow.

use larder_lab::whatif::Row;

use super::family::{Families, Labels, owned};
use crate::app::state::State;

pub(super) fn collect(out: &mut Families, state: &State) {
    let Some(whatif) = &state.whatif else { return };
    let report = whatif.report();
    let chunk_tokens = u64::from(state.config.chunk_tokens);
    let chunk_bytes = state.config.l1.bytes.checked_div(report.l1_chunks).unwrap_or(0);
    let rest = report.totals.tokens.saturating_sub(report.totals.chunks.saturating_mul(chunk_tokens));
    let has_l2 = !state.config.l2.adapters.is_empty();
    let rows = |value: &dyn Fn(&Row) -> u64| -> Vec<(Labels, f64)> {
        let sample = |row: &Row| {
            let labels = owned(&[
                ("prefetch_policy", if has_l2 { row.policies.prefetch.name() } else { "none" }),
                ("eviction_policy", row.policies.eviction.name()),
                ("l1_factor", &row.factor.to_string()),
            ]);
            (labels, value(row) as f64)
        };
        report.rows.iter().map(sample).collect()
    };
    let help = "Tokens looked up, as counted for the estimates";
    out.counter("lmcache_mp_whatif_requested_tokens_total", help, &[], report.totals.tokens);
    let computed = rows(&|row| row.computed.saturating_mul(chunk_tokens).saturating_add(rest));
    let help = "Tokens found neither in L1 nor in L2, estimated";
    out.counters("lmcache_mp_whatif_computed_tokens_total", help, computed);
    let read = rows(&|row| row.l2_reads.saturating_mul(chunk_bytes));
    out.counters("lmcache_mp_whatif_l2_read_bytes_total", "Bytes loaded from L2, estimated", read);
    let help = "Requests and stores left out because they came too fast";
    out.counter("lmcache_mp_whatif_dropped_total", help, &[], whatif.dropped());
    out.gauge("lmcache_mp_whatif_sampling_rate", "Part of all chunks in the sample", &[], report.rate);
    let help = "Chunks of the sample that are remembered";
    out.gauge("lmcache_mp_whatif_sampled_keys", help, &[], report.keys as f64);
}
