//! What the core's calls cost, with 100,000 chunks resident: `cargo run --release --example cost`.

#![expect(clippy::print_stdout, reason = "prints measurements")]

use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Layout;
use larder_types::Time;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_core::LookupSpec;
use larder_core::TransferSpec;
use larder_core::{Core, CoreConfig};
use larder_core::{Group, WorkerSpec};
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};

const OBJECT: u64 = 1 << 20;
const RESIDENT: u64 = 100_000;
const PROMPT: u32 = 512;
const STORE: u32 = 8;
const ROUNDS: u64 = 2000;

/// Hashes as unlike one another as digests are.
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

struct Bench {
    core: Core,
    now: u64,
    model: Arc<str>,
    salt: Arc<str>,
    request: Arc<str>,
}

impl Bench {
    fn new(chunks: u64) -> Self {
        let config =
            CoreConfig { capacity_bytes: chunks * OBJECT, residency_sample: 0.01, ..CoreConfig::default() };
        let mut core = Core::new(config);
        let layout = Layout::new(&[OBJECT], DType::UInt8).expect("not empty");
        let model: Arc<str> = "org/model-of-usual-name".into();
        let groups = vec![Group { id: 0, window: None, layout }];
        core.register(
            Time::ZERO,
            WorkerSpec {
                instance: InstanceId(1),
                model: model.clone(),
                world_size: 1,
                block_tokens: None,
                groups,
            },
        );
        Self { core, now: 0, model, salt: "".into(), request: "request".into() }
    }

    fn time(&mut self) -> Time {
        self.now += 1;
        Time::from_millis(self.now / 1000)
    }

    fn transfer<T>(
        &mut self,
        chain: &[ChunkHash],
        (start, end): (u32, u32),
        call: impl FnOnce(&mut Core, Time, &TransferSpec<'_>) -> T,
    ) -> T {
        let now = self.time();
        let spec = TransferSpec {
            instance: InstanceId(1),
            connection: ConnectionId(1),
            request_id: &self.request,
            model: &self.model,
            rank: KvRank::new(1, 0),
            salt: &self.salt,
            chunk_hashes: chain,
            start,
            end,
        };
        call(&mut self.core, now, &spec)
    }

    fn store(&mut self, chain: &[ChunkHash], start: u32, end: u32) {
        let range = (start, end);
        let prepared = self.transfer(chain, range, |c, now, s| c.prepare_store(now, s)).expect("registered");
        assert_eq!(prepared.slots.len(), (end - start) as usize);
        self.transfer(chain, range, |c, now, s| c.commit_store(now, s));
    }

    fn lookup(&mut self, chain: &Arc<[ChunkHash]>) -> u32 {
        let now = self.time();
        let spec = LookupSpec {
            request_id: &self.request,
            connection: ConnectionId(1),
            model: &self.model,
            world_size: 1,
            worker_id: None,
            salt: &self.salt,
            chunk_hashes: chain,
            readers: 1,
        };
        self.core.lookup(now, &spec).expect("there is no L2").chunks
    }

    fn end(&mut self) {
        let now = self.time();
        self.core.end_session(now, &self.request.clone());
    }
}

/// Times of one kind of call.
struct Clock(Vec<Duration>);

impl Clock {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = black_box(work());
        self.0.push(start.elapsed());
        out
    }

    /// The median, for the machine may have other things to do.
    fn tell(&mut self, what: &str, chunks: u32) {
        self.0.sort_unstable();
        let nanos = self.0[self.0.len() / 2].as_nanos() as f64;
        println!("{what:<54} {:>8.2} us {:>7.1} ns per chunk", nanos / 1000.0, nanos / f64::from(chunks));
    }
}

fn main() {
    let prompts = RESIDENT / u64::from(PROMPT) + 1;
    let mut bench = Bench::new(prompts * u64::from(PROMPT));
    for n in 0..prompts {
        bench.store(&prompt(n, PROMPT), 0, PROMPT);
    }
    println!("{} chunks resident", bench.core.gauges().l1.chunks);

    let [mut lookup, mut miss, mut end, mut prepare, mut commit] = [const { Clock(Vec::new()) }; 5];
    for round in 0..ROUNDS {
        let chain = prompt(round * 7 % prompts, PROMPT);
        let hit = lookup.time(|| bench.lookup(&chain));
        assert_eq!(hit, PROMPT);
        let range = (0, PROMPT);
        let slots = prepare.time(|| bench.transfer(&chain, range, |c, now, s| c.prepare_retrieve(now, s)));
        assert!(slots.is_ok_and(|s| s.is_some()));
        commit.time(|| bench.transfer(&chain, range, |c, now, s| c.commit_retrieve(now, s)));
        bench.end();
        bench.lookup(&chain);
        end.time(|| bench.end());
        let unknown = prompt(round + (1 << 40), PROMPT);
        miss.time(|| bench.lookup(&unknown));
        bench.end();
    }
    lookup.tell("lookup of 512 chunks, all found", PROMPT);
    miss.tell("lookup of 512 chunks, none found", PROMPT);
    end.tell("end_session with all shares held", PROMPT);
    prepare.tell("prepare_retrieve of 512 chunks", PROMPT);
    commit.tell("commit_retrieve of 512 chunks", PROMPT);

    for (what, head) in [("a prompt of 8 chunks", 0), ("chunks 504..512 of a prompt", PROMPT - STORE)] {
        let [mut prepare, mut commit] = [const { Clock(Vec::new()) }; 2];
        for round in 0..ROUNDS {
            let chain = prompt(round + (u64::from(head + 1) << 20), head + STORE);
            if head > 0 {
                bench.store(&chain, 0, head);
            }
            let range = (head, head + STORE);
            let prepared =
                prepare.time(|| bench.transfer(&chain, range, |c, now, s| c.prepare_store(now, s)));
            assert_eq!(prepared.map(|p| p.slots.len()), Ok(STORE as usize));
            commit.time(|| bench.transfer(&chain, range, |c, now, s| c.commit_store(now, s)));
        }
        prepare.tell(&format!("prepare_store, evicting, {what}"), STORE);
        commit.tell(&format!("commit_store, {what}"), STORE);
    }
}
