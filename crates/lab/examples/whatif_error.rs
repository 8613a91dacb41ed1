//! Measures the error of the live what-if against the full simulation, and its cost per chunk:
//! `cargo run --release -p larder-lab --example whatif_error -- TRACE...`.

#![expect(clippy::print_stdout, reason = "prints measurements")]

use std::path::Path;

use larder_lab::simulate::model::{L2Size, Setup, run};
use larder_lab::simulate::trace::{ReadOptions, Trace, read};
use larder_lab::simulate::whatif::whatif;
use larder_lab::whatif::{Row, SAMPLE_CHUNKS};
use larder_policy::{OffloadKind, PrefetchKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let trace = read(Path::new(&path), &ReadOptions::default())?;
        println!("{}: {} chunks, {} looked up", trace.name, trace.unique_chunks(), trace.chunk_accesses());
        for l2 in [L2Size::None, L2Size::Unbounded] {
            for percent in [0.5, 1.0, 2.5, 5.0, 10.0] {
                compare(&trace, (trace.unique_chunks() as f64 * percent / 100.0) as u64, l2);
            }
        }
    }
    Ok(())
}

/// Prints the largest and mean errors over all policies and sizes, in points of all chunks looked up.
fn compare(trace: &Trace, l1_chunks: u64, l2: L2Size) {
    let accesses = trace.chunk_accesses() as f64;
    let started = cpu_ns();
    let report = whatif(trace, l1_chunks, l2 != L2Size::None, SAMPLE_CHUNKS);
    let ns = (cpu_ns() - started) as f64 / accesses;
    let off = |row: &Row| {
        let setup = Setup {
            l1_chunks: (l1_chunks as f64 * row.factor).round() as u64,
            l2,
            prefetch: row.policies.prefetch,
            store: OffloadKind::Default,
            eviction: row.policies.eviction,
            concurrency: 1,
            warmup: 0.0,
        };
        let exact = run(trace, &setup, &mut || {});
        let points = |estimate: u64, exact: u64| (estimate as f64 - exact as f64).abs() * 100.0 / accesses;
        [points(row.computed, exact.misses()), points(row.l2_reads, exact.l2_reads)]
    };
    let fixed = report.rows.iter().filter(|row| row.policies.prefetch != PrefetchKind::Adaptive);
    let all: Vec<[f64; 2]> = fixed.map(off).collect();
    let worst = |i: usize| all.iter().map(|off| off[i]).fold(0.0, f64::max);
    let mean = |i: usize| all.iter().map(|off| off[i]).sum::<f64>() / all.len() as f64;
    println!(
        "L1 {l1_chunks}, L2 {l2:?}: 1 in {}, computed off by {:.2} at most, {:.2} on average, reads {:.2}, {:.2}; \
         {ns:.0} ns a chunk",
        report.rate.recip(),
        worst(0),
        mean(0),
        worst(1),
        mean(1),
    );
}

/// CPU time of this thread in ns, which other load on the machine does not distort. 0 if unavailable.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
