//! `--record`: what a real server was asked, asked again in the simulator, comes to the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crate::support::{CHUNK, Client, Directory, TestServer, config, with_files};
use bytes::Bytes;
use larder_lab::simulate::model::{Counts, L2Size, Machine, Setup, serve};
use larder_lab::simulate::trace::{ChunkNumber, ReadOptions, read};
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_server::config::Config;
use larder_types::ids::AdapterId;
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::ops;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;

const W: InstanceId = InstanceId(7);
/// Chunks of 768 bytes lie 4096 apart.
const L1_CHUNKS: u64 = 14;
const REQUESTS: usize = 120;

/// Numbers without a pattern, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A request under way.
struct Open {
    name: String,
    /// A token for each chunk; a chunk is that token sixteen times.
    path: Vec<u32>,
    hit: usize,
}

impl Open {
    /// The key of a part of its prompt, in chunks; of worker 0, or of the scheduler.
    fn key(&self, start: usize, worker: Option<u32>) -> CacheKey {
        let tokens: Vec<u32> = self.path.iter().flat_map(|token| [*token; CHUNK]).collect();
        CacheKey {
            model_name: "m".into(),
            world_size: 1,
            worker_id: worker,
            end: tokens.len() as u64,
            tokens: tokens.into(),
            start: (start * CHUNK) as u64,
            request_id: self.name.as_str().into(),
            cache_salt: "".into(),
            request_configs: None,
            num_kv_readers: Some(1),
        }
    }

    async fn look_up(server: &TestServer, c: &mut Client, name: String, path: Vec<u32>) -> Self {
        let mut open = Self { name, path, hit: 0 };
        let lookup = ops::Lookup { key: open.key(0, None), tp_size: 1 };
        c.call(lookup).await;
        let request_id: std::sync::Arc<str> = open.name.as_str().into();
        let timeout = std::time::Duration::from_secs(20);
        let wait = ops::WaitPrefetchStatus { request_id, timeout };
        let hit = c.call(wait).await.expect("a hit");
        open.hit = usize::try_from(hit).unwrap();
        quiet(server).await;
        open
    }

    async fn retrieve(&self, c: &mut Client) {
        let key = CacheKey { end: (self.hit * CHUNK) as u64, ..self.key(0, Some(0)) };
        let plan = c.call(ops::PrepareRetrieve { key: key.clone(), instance_id: W }).await;
        assert!(matches!(plan, RetrievePlan::Slots(_)), "{plan:?}");
        assert!(c.call(ops::CommitRetrieve { key, instance_id: W }).await);
    }

    async fn store_and_end(self, server: &TestServer, c: &mut Client) {
        let key = self.key(self.hit, Some(0));
        if self.hit < self.path.len() {
            let plan = c.call(ops::PrepareStore::new(key.clone(), W)).await;
            let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
            if !slots.is_empty() {
                let commit = ops::CommitStore { key, instance_id: W, data: Bytes::new() };
                assert!(c.call(commit).await);
            }
            quiet(server).await;
        }
        let name: std::sync::Arc<str> = self.name.as_str().into();
        c.call(ops::EndSession { request_id: name }).await;
        quiet(server).await;
    }
}

/// Waits until nothing is on its way between the tiers.
async fn quiet(server: &TestServer) {
    let idle = |state: &larder_server::app::state::State| {
        state.core().read(|core, _| {
            let busy = core.adapters().map(|(id, _)| core.adapter_gauges(id));
            let busy: u64 = busy.map(|g| g.loading_objects + g.storing_objects + g.queued_keys).sum();
            busy + core.gauges().write_back_pending + core.gauges().prefetch_jobs == 0
        })
    };
    server.until("the tiers are quiet", idle).await;
}

/// Prompts that share prefixes, one or two requests at a time, some read and some not.
async fn drive(server: &TestServer, seed: u64) {
    let mut c = server.client().await;
    c.register(7, "m").await;
    let mut dice = Dice(seed);
    let mut open: Option<Open> = None;
    for n in 0..REQUESTS {
        let mut path = vec![dice.roll(4) as u32];
        (0..dice.roll(6)).for_each(|_| path.push(dice.roll(2) as u32));
        let next = Open::look_up(server, &mut c, format!("r{n}"), path).await;
        if next.hit > 0 && dice.roll(3) > 0 {
            next.retrieve(&mut c).await;
        }
        if let Some(before) = open.take() {
            before.store_and_end(server, &mut c).await;
        }
        if dice.roll(4) == 0 {
            open = Some(next);
        } else {
            next.store_and_end(server, &mut c).await;
        }
    }
    if let Some(last) = open {
        last.store_and_end(server, &mut c).await;
    }
}

/// What the server's own books say.
fn counted(server: &TestServer) -> Counts {
    server.state.core().read(|core, _| {
        let (counters, l1) = (core.stats().requests(), core.stats().l1());
        let l2 = core.adapters().next().map(|_| core.stats().adapter(AdapterId(0)));
        Counts {
            requests: counters.lookups,
            chunk_accesses: counters.lookup_requested_chunks,
            tokens: counters.lookup_requested_chunks * CHUNK as u64,
            l1_hits: counters.lookup_hit_objects - counters.l2.hit_objects,
            l2_hits: counters.l2.hit_objects,
            l2_reads: l2.map_or(0, |l2| l2.loaded_objects),
            no_space: counters.l2.no_room_objects,
            l2_writes: l2.map_or(0, |l2| l2.stored_objects),
            l1_evictions: l1.evicted_chunks,
            l2_evictions: 0,
        }
    })
}

/// Records a workload and asks the simulator the same. Counts and every chunk in L1 must be equal.
async fn recorded_and_replayed(config: Config, setup: Setup, seed: u64) -> Counts {
    let directory = Directory::new();
    let file = directory.0.join("asked.jsonl");
    let config = Config { record: Some(file.clone()), ..config };
    let server = TestServer::start(config).await;
    drive(&server, seed).await;
    let (counts, state) = (counted(&server), server.state.clone());
    server.stop().await;
    assert_eq!(state.recorder.as_ref().unwrap().lines().1, 0, "nothing was dropped");
    let trace = read(&file, &ReadOptions::default()).unwrap();
    assert_eq!((trace.chunk_bytes, trace.skipped_lines), (Some(768), 0));
    let mut machine = Machine::new(&trace, &setup);
    assert_eq!(serve(&trace, &setup, &mut machine, &mut || {}), counts, "{setup:?}, seed {seed}");
    state.core().read(|core, _| {
        for chunk in (0..trace.unique_chunks() as u32).map(ChunkNumber) {
            let there = core.index().chunk(&"m".into(), &"".into(), trace.hash(chunk)).is_some();
            assert_eq!(machine.holds(chunk), there, "{chunk:?} of {setup:?}, seed {seed}");
        }
    });
    counts
}

fn setup(l2: L2Size) -> Setup {
    Setup {
        l1_chunks: L1_CHUNKS,
        l2,
        prefetch: PrefetchKind::Default,
        store: OffloadKind::Default,
        eviction: EvictionKind::Lru,
        concurrency: 1,
        warmup: 0.0,
    }
}

/// The same on both sides: a server with files behind it, and what it should come to.
async fn compared(directory: &Directory, setup: Setup, seed: u64) -> Counts {
    let mut config = if setup.l2 == L2Size::None { config() } else { with_files(directory) };
    config.l1.bytes = L1_CHUNKS * config.l1.align_bytes;
    config.l1.client_share = 1.0;
    config.l2.prefetch_policy = setup.prefetch;
    config.l2.store_policy = setup.store;
    config.eviction.policy = setup.eviction;
    recorded_and_replayed(config, setup, seed).await
}

#[tokio::test]
async fn a_recorded_workload_comes_to_the_same_in_the_simulator() {
    for (seed, prefetch) in (1..).zip(PrefetchKind::ALL) {
        let setup = Setup { prefetch: *prefetch, ..setup(L2Size::Unbounded) };
        let counts = compared(&Directory::new(), setup, seed).await;
        let busy = counts.l1_hits.min(counts.l2_reads).min(counts.l2_writes).min(counts.l1_evictions);
        assert!(busy > 10, "a workload that tests something: {counts:?}");
    }
    for (seed, eviction) in (11..).zip(EvictionKind::ALL) {
        for (prefetch, l2) in
            [(PrefetchKind::Retain, L2Size::Unbounded), (PrefetchKind::Default, L2Size::None)]
        {
            compared(&Directory::new(), Setup { eviction: *eviction, prefetch, ..setup(l2) }, seed).await;
        }
    }
    for (seed, store) in (21..).zip(OffloadKind::ALL) {
        let setup = Setup { store: *store, ..setup(L2Size::Unbounded) };
        let counts = compared(&Directory::new(), setup, seed).await;
        assert!(counts.l2_reads > 10 && counts.l2_writes > 10, "{setup:?}: {counts:?}");
    }
    let learning = Setup {
        prefetch: PrefetchKind::Adaptive,
        eviction: EvictionKind::Adaptive,
        store: OffloadKind::Gated,
        ..setup(L2Size::Unbounded)
    };
    compared(&Directory::new(), learning, 31).await;
}

#[tokio::test]
async fn a_server_that_starts_again_goes_on_in_its_file() {
    let directory = Directory::new();
    let file = directory.0.join("asked.jsonl");
    for _ in 0..2 {
        let server = TestServer::start(Config { record: Some(file.clone()), ..config() }).await;
        drive(&server, 3).await;
        server.stop().await;
    }
    let trace = read(&file, &ReadOptions::default()).unwrap();
    assert_eq!((trace.requests().len(), trace.skipped_lines), (2 * REQUESTS, 0));
    assert!(trace.requests().is_sorted_by_key(|request| request.at_ms));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_known_at_the_start() {
    let path = "/no/such/folder/asked.jsonl";
    let config = Config { record: Some(path.into()), ..config() };
    let error = larder_server::error_chain(&larder_server::Server::bind(config).await.unwrap_err());
    assert!(error.starts_with(&format!("--record {path}: ")), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_no_reason_not_to_start() {
    let mut server = TestServer::start(Config { record: Some("/dev/full".into()), ..config() }).await;
    server.expect_log("--record: the file cannot be written");
    assert!(server.state.recorder.is_none());
    server.stop().await;
}
