//! The `fs` adapter over files in the page cache. `examples/fs_speed.rs` compares with the machine's bounds.

use std::path::PathBuf;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder_arena::{Arena, IoPin, Region};
use larder_l2::adapters::fs::{Fs, FsConfig, FsNativeConfig};
use larder_l2::{Adapter, CapacityLimits, Transfer};
use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use tokio::runtime::{Builder, Runtime};

const OBJECTS: u64 = 32;

#[derive(Debug)]
struct Unpinned;

impl IoPin for Unpinned {}

/// An adapter over a new directory, and memory for its objects.
struct Bench {
    runtime: Runtime,
    directory: PathBuf,
    adapter: Fs,
    arena: Arc<Arena>,
    object_bytes: u64,
}

fn key(n: u64) -> ObjectKey {
    let hash = ChunkHash::new(&n.to_be_bytes()).expect("eight bytes are a legal hash");
    ObjectKey::new(hash, "org/model", KvRank::new(1, 0), 0, "").expect("a legal key")
}

impl Bench {
    fn new(object_bytes: u64) -> Self {
        let directory =
            std::env::temp_dir().join(format!("larder-bench-{}-{object_bytes}", std::process::id()));
        let config = FsNativeConfig { fs: FsConfig::new(&directory), num_workers: 4 };
        let adapter = Fs::open_native(&config, CapacityLimits::capacity(0), None).expect("a directory");
        let arena = Arc::new(Arena::private(OBJECTS * object_bytes).expect("memory"));
        arena.commit(arena.size()).expect("memory");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, directory, adapter, arena, object_bytes }
    }

    fn transfers(&self) -> Vec<Transfer> {
        (0..OBJECTS)
            .map(|n| {
                let offset = n * self.object_bytes;
                let region = Region::new(self.arena.clone(), offset, self.object_bytes, Arc::new(Unpinned));
                Transfer { key: key(n), region: region.expect("inside the arena") }
            })
            .collect()
    }

    fn store(&self, transfers: Vec<Transfer>) {
        let stored = self.runtime.block_on(self.adapter.store(transfers));
        assert!(stored.iter().all(Result::is_ok));
    }

    fn load(&self, transfers: Vec<Transfer>) {
        let loaded = self.runtime.block_on(self.adapter.load(transfers));
        assert!(loaded.iter().all(Result::is_ok));
    }

    fn delete(&self) {
        self.runtime.block_on(self.adapter.delete((0..OBJECTS).map(key).collect()));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.runtime.block_on(self.adapter.close());
        // A directory left in the place for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn files(c: &mut Criterion) {
    let mut group = c.benchmark_group("fs");
    for object_kib in [64, 4096] {
        let bench = Bench::new(object_kib << 10);
        group.throughput(Throughput::Bytes(OBJECTS * bench.object_bytes));
        group.bench_function(BenchmarkId::new("store KiB", object_kib), |b| {
            b.iter_batched(
                || {
                    bench.delete();
                    bench.transfers()
                },
                |transfers| bench.store(transfers),
                BatchSize::PerIteration,
            );
        });
        bench.store(bench.transfers());
        group.bench_function(BenchmarkId::new("load KiB", object_kib), |b| {
            b.iter_batched(|| bench.transfers(), |transfers| bench.load(transfers), BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, files);
criterion_main!(benches);
