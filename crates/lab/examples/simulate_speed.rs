//! How fast traces are simulated: `cargo run --release --example simulate_speed -- TRACE...`.

#![expect(clippy::print_stdout, reason = "prints measurements")]

use std::path::Path;
use std::time::Instant;

use larder_lab::simulate::model::{L2Size, Machine, Setup, run, serve};
use larder_lab::simulate::trace::{ReadOptions, read};
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let started = Instant::now();
        let trace = read(Path::new(&path), &ReadOptions::default())?;
        println!("{}: read in {:.2} s", trace.name, started.elapsed().as_secs_f64());
        for percent in [0.5, 2.5, 10.0, 40.0] {
            for (l2, prefetch) in [
                (L2Size::None, PrefetchKind::Default),
                (L2Size::Unbounded, PrefetchKind::Default),
                (L2Size::Unbounded, PrefetchKind::Retain),
            ] {
                let setup = Setup {
                    l1_chunks: (trace.unique_chunks() as f64 * percent / 100.0) as u64,
                    l2,
                    prefetch,
                    store: OffloadKind::Default,
                    eviction: EvictionKind::Lru,
                    concurrency: 1,
                    warmup: 0.5,
                };
                let speed = |started: u64| trace.chunk_accesses() as f64 / (cpu_ns() - started) as f64 * 1e3;
                let started = cpu_ns();
                let counts = run(&trace, &setup, &mut || {});
                let direct = speed(started);
                let started = cpu_ns();
                let whole = serve(&trace, &setup, &mut Machine::new(&trace, &setup), &mut || {});
                let machine = speed(started);
                assert_eq!(counts, whole, "both ways count the same");
                println!(
                    "{percent:>5} % {l2:?} {}: {direct:.2} M/s, core {machine:.2} M/s, l1 {:.3} l2 {:.3} reads {:.3} no room {:.3} miss {:.3}",
                    prefetch.name(),
                    counts.l1_hits as f64 / counts.chunk_accesses as f64,
                    counts.l2_hits as f64 / counts.chunk_accesses as f64,
                    counts.l2_reads as f64 / counts.chunk_accesses as f64,
                    counts.no_space as f64 / counts.chunk_accesses as f64,
                    counts.misses() as f64 / counts.chunk_accesses as f64,
                );
            }
        }
    }
    Ok(())
}

/// Time on the CPU: wall time says little on a machine that others use too.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
