//! The calls of the core with 100,000 chunks resident.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder_core::{Core, CoreConfig, Group, LookupSpec, TransferSpec, WorkerSpec};
use larder_policy::eviction::EvictionKind;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};
use larder_types::{ConnectionId, InstanceId, Layout, Time};

const OBJECT_BYTES: u64 = 1 << 20;
const RESIDENT_CHUNKS: u64 = 100_000;
const PROMPT: u32 = 512;
const STORE: u32 = 8;

/// Hashes as different from each other as digests are.
fn hash(prompt: u64, chunk: u64) -> ChunkHash {
    let mut bytes = [0; 32];
    let mut z = prompt.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ chunk.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for word in bytes.chunks_exact_mut(8) {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 31);
        word.copy_from_slice(&z.to_le_bytes());
    }
    ChunkHash::from_digest(bytes)
}

fn prompt(n: u64, chunks: u32) -> Arc<[ChunkHash]> {
    (0..u64::from(chunks)).map(|i| hash(n, i)).collect()
}

/// A full core with one worker and one client.
struct Bench {
    core: Core,
    calls: u64,
    model: Arc<str>,
    salt: Arc<str>,
    request: Arc<str>,
}

impl Bench {
    /// Prompts `0..prompts()` are resident, and the memory is full.
    fn full(eviction: EvictionKind) -> Self {
        let capacity_bytes = Self::prompts() * u64::from(PROMPT) * OBJECT_BYTES;
        let mut core = Core::new(CoreConfig { capacity_bytes, eviction, ..CoreConfig::default() });
        let layout = Layout::new(&[OBJECT_BYTES], DType::UInt8).expect("not empty");
        let model: Arc<str> = "org/model-of-usual-name".into();
        let worker = WorkerSpec {
            instance: InstanceId(1),
            model: model.clone(),
            world_size: 1,
            block_tokens: None,
            groups: vec![Group { id: 0, window: None, layout }],
        };
        core.register(Time::ZERO, ConnectionId(1), worker);
        let mut bench = Self { core, calls: 0, model, salt: "".into(), request: "request".into() };
        for n in 0..Self::prompts() {
            bench.store(&prompt(n, PROMPT));
        }
        bench
    }

    fn prompts() -> u64 {
        RESIDENT_CHUNKS / u64::from(PROMPT) + 1
    }

    fn now(&mut self) -> Time {
        self.calls += 1;
        Time::from_millis(self.calls / 1000)
    }

    fn transfer<T>(
        &mut self,
        hashes: &[ChunkHash],
        call: impl FnOnce(&mut Core, Time, &TransferSpec<'_>) -> T,
    ) -> T {
        let now = self.now();
        let spec = TransferSpec {
            instance: InstanceId(1),
            connection: ConnectionId(1),
            request_id: &self.request,
            model: &self.model,
            rank: KvRank::new(1, 0),
            salt: &self.salt,
            chunk_hashes: hashes,
            start: 0,
            end: hashes.len() as u32,
        };
        call(&mut self.core, now, &spec)
    }

    fn store(&mut self, hashes: &[ChunkHash]) {
        let prepared =
            self.transfer(hashes, |core, now, spec| core.prepare_store(now, spec)).expect("registered");
        assert_eq!(prepared.slots.len(), hashes.len());
        self.transfer(hashes, |core, now, spec| core.commit_store(now, spec));
    }

    fn retrieve(&mut self, hashes: &[ChunkHash]) {
        let prepared = self.transfer(hashes, |core, now, spec| core.prepare_retrieve(now, spec));
        assert!(prepared.is_ok_and(|slots| slots.is_some()));
        self.transfer(hashes, |core, now, spec| core.commit_retrieve(now, spec));
    }

    fn lookup(&mut self, hashes: &Arc<[ChunkHash]>) -> u32 {
        let now = self.now();
        let spec = LookupSpec {
            request_id: &self.request,
            connection: ConnectionId(1),
            model: &self.model,
            world_size: 1,
            worker_id: None,
            salt: &self.salt,
            chunk_hashes: hashes,
            start: 0,
            readers: 1,
        };
        self.core.lookup(now, &spec).hit().expect("there is no L2").chunks
    }

    fn end(&mut self) {
        let now = self.now();
        let request = self.request.clone();
        self.core.end_session(now, ConnectionId(1), &request);
    }
}

fn lookups(c: &mut Criterion) {
    let mut bench = Bench::full(EvictionKind::Lru);
    let mut group = c.benchmark_group("core");
    for chunks in [128, PROMPT] {
        group.throughput(Throughput::Elements(chunks.into()));
        for (name, first, found) in [("hit", 0, chunks), ("miss", 1 << 40, 0)] {
            let mut n = 0;
            group.bench_function(BenchmarkId::new(format!("lookup and end, {name}"), chunks), |b| {
                b.iter_batched(
                    || {
                        n += 1;
                        prompt(first + n % Bench::prompts(), chunks)
                    },
                    |hashes| {
                        assert_eq!(bench.lookup(&hashes), found);
                        bench.end();
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        let hashes = prompt(0, chunks);
        group.bench_function(BenchmarkId::new("lookup, retrieve and end", chunks), |b| {
            b.iter(|| {
                bench.lookup(&hashes);
                bench.retrieve(&hashes);
                bench.end();
            });
        });
    }
}

/// Every store evicts as many chunks as it brings.
fn stores(c: &mut Criterion) {
    let mut group = c.benchmark_group("store, evicting");
    group.throughput(Throughput::Elements(STORE.into()));
    for &kind in EvictionKind::ALL {
        let mut bench = Bench::full(kind);
        let mut n = 1 << 41;
        group.bench_function(BenchmarkId::new(kind.name(), STORE), |b| {
            b.iter_batched(
                || {
                    n += 1;
                    prompt(n, STORE)
                },
                |hashes| bench.store(&hashes),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, lookups, stores);
criterion_main!(benches);
