//! Results of a sweep as a table, JSON lines, CSV or SVG.
//!
//! JSON and CSV have the same fields, in `fields`; scripts rely on their names.

mod csv;
mod json;
mod plot;
mod svg;
mod table;

pub use self::csv::csv;
pub use self::json::json_lines;
pub use self::plot::plot;
pub use self::table::table;

use serde_json::Value;

use super::model::{L2Size, ratio};
use super::sweep::Outcome;

/// The fields of one combination, in the order of the columns.
fn fields(outcome: &Outcome<'_>) -> Vec<(&'static str, Value)> {
    let Outcome { job, counts, bound } = outcome;
    let (trace, setup) = (job.trace, &job.setup);
    let l2_chunks = match setup.l2 {
        L2Size::Unbounded => Value::Null,
        L2Size::Chunks(chunks) => chunks.into(),
        L2Size::None => 0.into(),
    };
    vec![
        ("trace", trace.name.as_str().into()),
        ("chunk_tokens", trace.chunk_tokens.into()),
        ("unique_chunks", trace.unique_chunks().into()),
        ("l1_chunks", setup.l1_chunks.into()),
        ("l2_chunks", l2_chunks),
        ("prefetch_policy", setup.prefetch.name().into()),
        ("eviction_policy", setup.eviction.name().into()),
        ("store_policy", setup.store.name().into()),
        ("concurrency", setup.concurrency.into()),
        ("warmup", setup.warmup.into()),
        ("requests", counts.requests.into()),
        ("tokens", counts.tokens.into()),
        ("chunk_accesses", counts.chunk_accesses.into()),
        ("l1_hits", counts.l1_hits.into()),
        ("l2_reads", counts.l2_reads.into()),
        ("misses", counts.misses().into()),
        ("no_room", counts.no_space.into()),
        ("l2_writes", counts.l2_writes.into()),
        ("token_hit_rate", rounded(counts.token_hit_rate(trace.chunk_tokens))),
        ("l1_evictions", counts.l1_evictions.into()),
        ("l2_evictions", counts.l2_evictions.into()),
        ("belady_l1_hits", bound.l1_hits.into()),
        ("belady_l2_reads", bound.l2_reads.into()),
        ("belady_l1_hits_holding", bound.l1_hits_holding.into()),
        ("belady_l2_reads_holding", bound.l2_reads_holding.into()),
        ("belady_token_hit_rate", rounded(belady_token_hit_rate(outcome))),
    ]
}

/// The highest token hit rate that any policy can reach.
fn belady_token_hit_rate(outcome: &Outcome<'_>) -> f64 {
    ratio(outcome.bound.hits * u64::from(outcome.job.trace.chunk_tokens), outcome.counts.tokens)
}

/// A rate rounded to 6 decimal places.
fn rounded(rate: f64) -> Value {
    ((rate * 1e6).round() / 1e6).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use larder_policy::eviction::EvictionKind;
    use larder_policy::{OffloadKind, PrefetchKind};

    use super::*;
    use crate::simulate::size::Size;
    use crate::simulate::sweep::Sweep;
    use crate::simulate::trace::Trace;

    /// Formats a sweep over two alternating prompts, with sizes of L1 that hold one and both of them.
    fn formatted(format: impl Fn(&[Outcome<'_>]) -> String) -> String {
        let trace = Trace::from_chunks("turns, taken", 4, &[[1, 2], [3, 4], [1, 2], [3, 4]]);
        let sweep = Sweep {
            l1: vec![Size::Chunks(2.0), Size::Chunks(4.0)],
            l2: vec![None],
            prefetch: vec![PrefetchKind::Default],
            eviction: vec![EvictionKind::Lru],
            store: vec![OffloadKind::Default],
            concurrency: 1,
            warmup: 0.5,
            threads: 2,
        };
        let jobs = sweep.jobs(&trace).unwrap();
        let done = AtomicU64::new(0);
        let outcomes = sweep.run(&jobs, &done);
        assert_eq!(done.into_inner(), 8);
        format(&outcomes)
    }

    #[test]
    fn json_has_one_object_per_combination() {
        let text = formatted(json_lines);
        let first = r#"{"trace":"turns, taken","chunk_tokens":4,"unique_chunks":4,"l1_chunks":2,"l2_chunks":null,"prefetch_policy":"default","eviction_policy":"LRU","store_policy":"default","concurrency":1,"warmup":0.5,"requests":2,"tokens":16,"chunk_accesses":4,"l1_hits":0,"l2_reads":4,"misses":0,"no_room":0,"l2_writes":0,"token_hit_rate":1.0,"l1_evictions":2,"l2_evictions":0,"belady_l1_hits":2,"belady_l2_reads":2,"belady_l1_hits_holding":0,"belady_l2_reads_holding":4,"belady_token_hit_rate":1.0}"#;
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn csv_has_the_fields_of_json_as_columns() {
        let text = formatted(csv);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("trace,chunk_tokens,"), "{text}");
        assert!(
            lines[1].starts_with("\"turns, taken\",4,4,2,,default,LRU,default,1,0.5,2,16,4,0,4,0,"),
            "{text}"
        );
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn table_and_plot_name_trace_and_policies() {
        let text = formatted(table);
        assert!(text.contains("turns, taken: 4 requests"), "{text}");
        assert!(text.contains("default"), "{text}");
        let svg = formatted(plot);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(svg.contains("turns, taken") && svg.contains("Belady"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
