//! Each call costs O(its own request): it takes no longer when others hold much more, and no more than
//! proportionally longer for a larger request.
//!
//! What is compared is processor time of this thread, the smallest of several runs, with a wide margin: a call that
//! scans what others hold exceeds it by orders of magnitude.

use std::sync::Arc;
use std::time::Duration;

use larder_core::{Core, CoreConfig, Group, LookupSpec, TransferSpec, WorkerSpec};
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use larder_types::{ConnectionId, InstanceId, Layout, LayoutId, Time};
use rustix::time::{ClockId, clock_gettime};

const PAGE: u64 = 4096;
const NOW: Time = Time::ZERO;
/// The connection and instance of the measured calls.
const OWN: u64 = 1;
const RUNS: usize = 5;
/// How many times longer a call may take beside much larger state.
const FACTOR: u32 = 8;
const MARGIN: Duration = Duration::from_micros(300);

type Hashes = Arc<[ChunkHash]>;

fn prompt(n: u64, chunks: u32) -> Hashes {
    let hash = |chunk: u32| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        bytes[8..12].copy_from_slice(&chunk.to_be_bytes());
        ChunkHash::from_digest(bytes)
    };
    (0..chunks).map(hash).collect()
}

struct Rig {
    core: Core,
    model: Arc<str>,
    salt: Arc<str>,
}

impl Rig {
    /// A core in which so many workers, requests and peers hold something.
    fn beside(others: u64) -> Self {
        let config = CoreConfig { capacity_bytes: (1 << 17) * PAGE, ..CoreConfig::default() };
        let mut rig = Self { core: Core::new(config), model: "model".into(), salt: "".into() };
        rig.register(OWN);
        for other in 10..10 + others {
            rig.register(other);
            let hashes = prompt(other, 4);
            let request: Arc<str> = format!("request-{other}").into();
            rig.store(other, &request, &hashes);
            assert_eq!(rig.lookup(other, &request, &hashes), 4);
            rig.transfer(other, &request, &hashes, |core, spec| core.prepare_retrieve(NOW, spec))
                .expect("registered");
            assert_eq!(rig.lookup(other, &request, &hashes), 4);
            let id = rig.core.peer_lookup(NOW, ConnectionId(other), &rig.keys(&hashes));
            rig.core.peer_result(NOW, id).expect("it was not reported");
            let pending = prompt(other + 1_000_000, 2);
            rig.transfer(other, &request, &pending, |core, spec| core.prepare_store(NOW, spec))
                .expect("registered");
        }
        rig
    }

    fn register(&mut self, instance: u64) {
        let layout = Layout::new(&[PAGE], DType::UInt8).expect("not empty");
        self.core.register(
            NOW,
            ConnectionId(instance),
            WorkerSpec {
                instance: InstanceId(instance as i64),
                model: self.model.clone(),
                world_size: 1,
                block_tokens: None,
                groups: vec![Group { id: 0, window: None, layout }],
            },
        );
    }

    fn transfer<T>(
        &mut self,
        who: u64,
        request: &Arc<str>,
        hashes: &[ChunkHash],
        call: impl FnOnce(&mut Core, &TransferSpec<'_>) -> T,
    ) -> T {
        let spec = TransferSpec {
            instance: InstanceId(who as i64),
            connection: ConnectionId(who),
            request_id: request,
            model: &self.model,
            rank: KvRank::new(1, 0),
            salt: &self.salt,
            chunk_hashes: hashes,
            start: 0,
            end: hashes.len() as u32,
        };
        call(&mut self.core, &spec)
    }

    fn store(&mut self, who: u64, request: &Arc<str>, hashes: &[ChunkHash]) {
        let prepared = self.transfer(who, request, hashes, |core, spec| core.prepare_store(NOW, spec));
        assert_eq!(prepared.expect("registered").slots.len(), hashes.len());
        let committed = self.transfer(who, request, hashes, |core, spec| core.commit_store(NOW, spec));
        assert!(committed.published().is_some());
    }

    fn lookup(&mut self, who: u64, request: &Arc<str>, hashes: &Hashes) -> u32 {
        let spec = LookupSpec {
            request_id: request,
            connection: ConnectionId(who),
            model: &self.model,
            world_size: 1,
            worker_id: None,
            salt: &self.salt,
            chunk_hashes: hashes,
            readers: 1,
        };
        self.core.lookup(NOW, &spec).hit().expect("there is no L2").chunks
    }

    fn keys(&self, hashes: &[ChunkHash]) -> Vec<ObjectKey> {
        let key = |hash: &ChunkHash| ObjectKey {
            chunk_hash: *hash,
            model_name: self.model.clone(),
            kv_rank: KvRank::new(1, 0),
            object_group: 0,
            cache_salt: self.salt.clone(),
            layout: LayoutId::UNKNOWN,
        };
        hashes.iter().map(key).collect()
    }
}

/// Processor time that this thread has used.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn timed<T>(times: &mut Vec<(&'static str, Duration)>, name: &'static str, call: impl FnOnce() -> T) -> T {
    let began = used();
    let out = call();
    times.push((name, used() - began));
    out
}

/// What each call takes for requests of so many chunks, beside so many others.
fn measure(others: u64, chunks: u32) -> Vec<(&'static str, Duration)> {
    let mut rig = Rig::beside(others);
    let mut best: Vec<(&'static str, Duration)> = Vec::new();
    let request: Arc<str> = "own".into();
    for run in 0..RUNS {
        let mut times = Vec::new();
        let t = &mut times;
        let hashes = prompt(run as u64 + 5_000_000, chunks);
        let keys = rig.keys(&hashes);
        timed(t, "prepare_store", || {
            rig.transfer(OWN, &request, &hashes, |core, spec| core.prepare_store(NOW, spec))
                .expect("registered");
        });
        timed(t, "commit_store", || {
            rig.transfer(OWN, &request, &hashes, |core, spec| core.commit_store(NOW, spec))
        });
        let hit = timed(t, "lookup", || rig.lookup(OWN, &request, &hashes));
        assert_eq!(hit, chunks);
        timed(t, "take_result", || rig.core.take_result(NOW, &request));
        timed(t, "prepare_retrieve", || {
            rig.transfer(OWN, &request, &hashes, |core, spec| core.prepare_retrieve(NOW, spec))
                .expect("registered")
        })
        .expect("the hit is pinned");
        timed(t, "commit_retrieve", || {
            rig.transfer(OWN, &request, &hashes, |core, spec| core.commit_retrieve(NOW, spec))
        })
        .expect("it was running");
        rig.lookup(OWN, &request, &hashes);
        timed(t, "free", || rig.core.free(NOW, &request, None, 0, chunks));
        timed(t, "end_session", || rig.core.end_session(NOW, &request));
        let id = timed(t, "peer_lookup", || rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys));
        timed(t, "peer_result", || rig.core.peer_result(NOW, id)).expect("it was not reported");
        timed(t, "peer_unlock", || rig.core.peer_unlock(NOW, ConnectionId(OWN), &keys));
        timed(t, "peer_unlock of absent keys", || {
            rig.core.peer_unlock(NOW, ConnectionId(OWN), &rig.keys(&prompt(9_000_000, chunks)));
        });
        rig.lookup(OWN, &request, &hashes);
        timed(t, "connection_lost", || rig.core.connection_lost(NOW, ConnectionId(OWN)));
        timed(t, "ping", || rig.core.ping(NOW, InstanceId(OWN as i64)));
        timed(t, "unregister", || rig.core.unregister(NOW, InstanceId(OWN as i64)));
        timed(t, "register", || rig.register(OWN));
        timed(t, "remove", || rig.core.remove(NOW, &keys, false));
        timed(t, "gauges", || rig.core.gauges());
        timed(t, "take_effects", || rig.core.take_effects());
        if best.is_empty() {
            best = times;
        } else {
            for (best, new) in best.iter_mut().zip(times) {
                best.1 = best.1.min(new.1);
            }
        }
    }
    rig.core.check();
    best
}

#[test]
fn a_call_takes_no_longer_beside_a_thousand_others() {
    let alone = measure(2, 512);
    let crowded = measure(1000, 512);
    for ((name, alone), (_, crowded)) in alone.into_iter().zip(crowded) {
        assert!(
            crowded <= alone * FACTOR + MARGIN,
            "{name}: {alone:?} alone, {crowded:?} beside 1000 others"
        );
    }
}

#[test]
fn a_large_request_takes_proportionally_longer_at_most() {
    let (small, large) = (measure(2, 512), measure(2, 16_384));
    for ((name, small), (_, large)) in small.into_iter().zip(large) {
        let bound = small.max(Duration::from_micros(1)) * 32 * FACTOR + MARGIN;
        assert!(large <= bound, "{name}: {small:?} for 512 chunks, {large:?} for 16,384");
    }
}

#[test]
fn peer_leases_and_their_keys_are_bounded() {
    let config = CoreConfig { peer_leases_max: 3, peer_keys_max: 10, ..CoreConfig::default() };
    let mut rig = Rig { core: Core::new(config), model: "model".into(), salt: "".into() };
    let keys = rig.keys(&prompt(1, 4));
    let ids: Vec<_> = (0..4).map(|_| rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys[..1])).collect();
    assert_eq!(rig.core.gauges().peer_leases, 3);
    assert_eq!(rig.core.peer_result(NOW, ids[0]), None, "the oldest lease has ended");
    rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys);
    rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys);
    rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys);
    assert_eq!(rig.core.gauges().peer_leases, 2, "two leases of four keys");
    rig.core.check();
}
