//! Compares the live what-if with the full simulation, for every pair of policies and size that it estimates.

use larder_lab::simulate::model::{Counts, L2Size, Setup, run};
use larder_lab::simulate::trace::{ReadOptions, Trace, read};
use larder_lab::simulate::whatif::whatif;
use larder_lab::whatif::{Report, Row};
use larder_policy::PrefetchKind;

use crate::setup;
use crate::traces::cut;

/// Rows of a report, each with the counts of the full simulation.
fn against_full<'a>(
    trace: &'a Trace,
    report: &'a Report,
    l2: L2Size,
) -> impl Iterator<Item = (&'a Row, Counts)> {
    let fixed = report.rows.iter().filter(|row| row.policies.prefetch != PrefetchKind::Adaptive);
    fixed.map(move |row| {
        let l1_chunks = (report.l1_chunks as f64 * row.factor).round() as u64;
        let (prefetch, eviction) = (row.policies.prefetch, row.policies.eviction);
        (row, run(trace, &Setup { prefetch, eviction, ..setup(l1_chunks, l2) }, &mut || {}))
    })
}

/// Largest errors of computed chunks and of L2 reads, in points of all chunks looked up.
fn off(trace: &Trace, report: &Report, l2: L2Size) -> [f64; 2] {
    let points =
        |estimate: u64, exact: u64| estimate.abs_diff(exact) as f64 * 100.0 / trace.chunk_accesses() as f64;
    against_full(trace, report, l2).fold([0.0, 0.0], |[computed, reads], (row, exact)| {
        [computed.max(points(row.computed, exact.misses())), reads.max(points(row.l2_reads, exact.l2_reads))]
    })
}

#[test]
fn full_sample_equals_the_full_simulation() {
    for name in ["mooncake_cut.jsonl.gz", "claude_code_cut.jsonl.zst"] {
        let trace = read(&cut(name), &ReadOptions::default()).unwrap();
        for l2 in [L2Size::None, L2Size::Unbounded] {
            let report = whatif(&trace, trace.unique_chunks() / 20, l2 != L2Size::None, u64::MAX);
            assert_eq!((report.rate, report.totals.chunks), (1.0, trace.chunk_accesses()));
            for (row, exact) in against_full(&trace, &report, l2) {
                let estimated = (row.computed, row.l2_reads, row.l2_writes);
                assert_eq!(estimated, (exact.misses(), exact.l2_reads, exact.l2_writes), "{name}: {row:?}");
            }
        }
    }
}

/// Whole traces are within 2 points at the usual rates (`docs/simulate.md`). The Claude Code excerpt has only
/// 90 requests of a few long sessions close to the size of L1, so its error is larger.
#[test]
fn half_sample_is_close_to_the_full_simulation() {
    for (name, bound) in [("mooncake_cut.jsonl.gz", 1.5), ("claude_code_cut.jsonl.zst", 10.0)] {
        let trace = read(&cut(name), &ReadOptions::default()).unwrap();
        for l2 in [L2Size::None, L2Size::Unbounded] {
            let l1_chunks = trace.unique_chunks() / 5;
            let report = whatif(&trace, l1_chunks, l2 != L2Size::None, l1_chunks.div_ceil(2));
            assert_eq!(report.rate, 0.5);
            let off = off(&trace, &report, l2);
            assert!(off.iter().all(|off| *off < bound), "{name}, {l2:?}: {off:?} points off");
        }
    }
}
