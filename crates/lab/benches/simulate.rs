//! Speed of simulating a trace, by eviction policy, with and without an L2.

use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder_lab::simulate::model::{L2Size, Setup, run};
use larder_lab::simulate::trace::{ReadOptions, read};
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};

const L1_PERCENT: u64 = 10;

fn traces(c: &mut Criterion) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/mooncake_cut.jsonl.gz"));
    let options = ReadOptions::default();
    c.bench_function("read a trace", |b| b.iter(|| read(path, &options)));
    let trace = read(path, &options).expect("a trace of the tests");
    let mut group = c.benchmark_group("simulate");
    group.throughput(Throughput::Elements(trace.chunk_accesses()));
    for &eviction in EvictionKind::ALL {
        for l2 in [L2Size::None, L2Size::Unbounded] {
            let setup = Setup {
                l1_chunks: trace.unique_chunks() * L1_PERCENT / 100,
                l2,
                prefetch: PrefetchKind::Default,
                store: OffloadKind::Default,
                eviction,
                concurrency: 1,
                warmup: 0.5,
            };
            let name = format!("{}, L2 {l2:?}", eviction.name());
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| run(&trace, &setup, &mut || {}));
            });
        }
    }
}

criterion_group!(benches, traces);
criterion_main!(benches);
