//! Each call costs O(its own request): it takes no longer when others hold much more, and no more than
//! proportionally longer for a larger request.
//!
//! What is compared is processor time of this thread, the smallest of several runs, with a wide margin: a call that
//! scans what others hold exceeds it by orders of magnitude.

use std::sync::Arc;
use std::time::Duration;

use larder_core::index::{Retention, ShardKey, StandaloneIndex};
use larder_core::{Core, CoreConfig, Group, LookupSpec, TransferSpec, WorkerSpec};
use larder_policy::eviction::EvictionKind;
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
            rig.core.peer_result(NOW, id.expect("within the limits")).expect("it was not reported");
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
            start: 0,
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
        timed(t, "take_result", || rig.core.take_result(NOW, ConnectionId(OWN), &request));
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
        timed(t, "free", || rig.core.free(NOW, (ConnectionId(OWN), &request), None, (0, chunks)));
        timed(t, "end_session", || rig.core.end_session(NOW, ConnectionId(OWN), &request));
        let id = timed(t, "peer_lookup", || rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys));
        timed(t, "peer_result", || rig.core.peer_result(NOW, id.expect("within the limits")))
            .expect("it was not reported");
        timed(t, "peer_unlock", || rig.core.peer_unlock(NOW, ConnectionId(OWN), &keys));
        timed(t, "peer_unlock of absent keys", || {
            rig.core.peer_unlock(NOW, ConnectionId(OWN), &rig.keys(&prompt(9_000_000, chunks)));
        });
        rig.lookup(OWN, &request, &hashes);
        timed(t, "connection_lost", || rig.core.connection_lost(NOW, ConnectionId(OWN)));
        timed(t, "ping", || rig.core.ping(NOW, ConnectionId(OWN), InstanceId(OWN as i64)));
        timed(t, "unregister", || rig.core.unregister(NOW, ConnectionId(OWN), InstanceId(OWN as i64)));
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
    let mut lookup = |client, keys| rig.core.peer_lookup(NOW, ConnectionId(client), keys);
    let ids: Vec<_> =
        (0..4).map(|client| lookup(client, &keys[..1]).expect("the client has no other")).collect();
    assert_eq!(lookup(3, &keys[..1]), None, "one client may have a quarter of the leases");
    assert_eq!(rig.core.gauges().peer_leases, 3);
    assert_eq!(rig.core.peer_result(NOW, ids[0]), None, "the oldest lease has ended");
    for client in 10..13 {
        rig.core.peer_lookup(NOW, ConnectionId(client), &keys).expect("the client has no other");
    }
    assert_eq!(rig.core.gauges().peer_leases, 2, "two leases of four keys");
    rig.core.check();
}

/// An index without workers: many objects can be stored in a moment.
fn full_index(objects: u64) -> StandaloneIndex {
    let mut l1 = StandaloneIndex::new(objects * PAGE, PAGE, EvictionKind::Lru);
    let (model, salt): (Arc<str>, Arc<str>) = ("model".into(), "".into());
    let layout = Layout::new(&[PAGE], DType::UInt8).expect("not empty");
    let shard = ShardKey { rank: KvRank::new(1, 0), group: 0, layout: layout.id() };
    for hashes in (0..objects / 512).map(|n| prompt(n, 512)) {
        for hash in hashes.iter() {
            let reserved = l1.edit().reserve((&model, &salt, hash), shard, &layout, Retention::Permanent);
            l1.edit().admit(reserved.expect("there is space"), 0);
        }
    }
    l1
}

#[test]
fn a_step_of_a_clear_changes_as_much_in_a_large_index_as_in_a_small_one() {
    for objects in [1 << 12, 1 << 16] {
        let mut l1 = full_index(objects);
        let mut clearing = l1.edit().begin_clear(false);
        let mut steps = 0;
        while !clearing.is_done() {
            let before = l1.changes();
            l1.edit().clear_step(&mut clearing);
            assert!(l1.changes() - before <= 1024, "{} changes in one step", l1.changes() - before);
            steps += 1;
        }
        assert_eq!((clearing.removed(), l1.usage().resident_objects), (objects, 0));
        assert!(steps <= objects / 256, "{steps} steps");
        l1.check();
        // Where nothing is left, a step is bounded by the chunks that it looks at.
        let mut clearing = l1.edit().begin_clear(true);
        (0..objects / 1024).for_each(|_| l1.edit().clear_step(&mut clearing));
        assert!(clearing.is_done());
    }
}

#[test]
fn what_is_stored_during_a_clear_stays() {
    let mut l1 = full_index(1 << 12);
    let (model, salt): (Arc<str>, Arc<str>) = ("model".into(), "".into());
    let layout = Layout::new(&[PAGE], DType::UInt8).expect("not empty");
    let shard = ShardKey { rank: KvRank::new(1, 0), group: 0, layout: layout.id() };
    let mut clearing = l1.edit().begin_clear(true);
    l1.edit().clear_step(&mut clearing);
    assert!(clearing.removed() > 0 && !clearing.is_done());
    // They take the places of removed ones, before and behind the position of the clear.
    let new = prompt(1_000_000, 300);
    for hash in new.iter() {
        let reserved = l1.edit().reserve((&model, &salt, hash), shard, &layout, Retention::Permanent);
        l1.edit().admit(reserved.expect("there is space"), 0);
    }
    // A clear that begins later takes them, too.
    let mut later = l1.edit().begin_clear(false);
    while !clearing.is_done() {
        l1.edit().clear_step(&mut clearing);
    }
    assert_eq!(l1.usage().resident_objects, 300);
    l1.check();
    while !later.is_done() {
        l1.edit().clear_step(&mut later);
    }
    assert_eq!((later.removed(), l1.usage().resident_objects), (300, 0));
}

#[test]
fn a_step_of_a_snapshot_returns_a_bounded_number_of_chunks() {
    let l1 = full_index(1 << 14);
    let (mut seen, mut next) = (0, Some(0));
    while let Some(from) = next {
        let (chunks, then) = l1.visible_chunks(from);
        assert!(chunks.len() <= 1024, "{} chunks at once", chunks.len());
        seen += chunks.len();
        next = then;
    }
    assert_eq!(seen, 1 << 14);
}

/// A core with 200 lookups of the same 64 chunks, and their hashes.
fn with_200_lookups() -> (Rig, Hashes) {
    let config = CoreConfig { capacity_bytes: (1 << 14) * PAGE, ..CoreConfig::default() };
    let mut rig = Rig { core: Core::new(config), model: "model".into(), salt: "".into() };
    rig.register(OWN);
    let hashes = prompt(1, 64);
    rig.store(OWN, &"store".into(), &hashes);
    for request in 0..200 {
        rig.lookup(OWN, &format!("request-{request}").into(), &hashes);
    }
    (rig, hashes)
}

#[test]
fn a_step_of_a_lost_connection_releases_a_bounded_number_of_pins() {
    let (mut rig, hashes) = with_200_lookups();
    let keys = rig.keys(&hashes);
    for _ in 0..100 {
        rig.core.peer_lookup(NOW, ConnectionId(OWN), &keys);
    }
    let mut lost = rig.core.begin_connection_lost(NOW, ConnectionId(OWN));
    let mut steps = 0;
    while !lost.is_done() {
        let before = rig.core.index().changes();
        rig.core.connection_lost_step(NOW, &mut lost);
        let changes = rig.core.index().changes() - before;
        assert!(changes <= 1024 + 64, "{changes} changes in one step");
        steps += 1;
        // Others are served meanwhile.
        rig.core.check();
    }
    assert!(steps > 10, "{steps} steps");
    let gauges = rig.core.gauges();
    assert_eq!((gauges.sessions, gauges.peer_leases, gauges.l1.held_objects), (0, 0, 0));
}

#[test]
fn a_call_fires_a_bounded_number_of_timers_and_none_is_forgotten() {
    let (mut rig, _) = with_200_lookups();
    let late = Time::from_millis(3_600_000);
    let mut calls = 0;
    while rig.core.next_deadline().is_some_and(|due| due <= late) {
        let before = rig.core.index().changes();
        rig.core.advance(late);
        let changes = rig.core.index().changes() - before;
        assert!(changes <= 2048 + 2 * 64, "{changes} changes in one call");
        calls += 1;
    }
    assert!(calls > 4, "{calls} calls");
    rig.core.check();
    assert_eq!((rig.core.gauges().sessions, rig.core.gauges().l1.held_objects), (0, 0));
}
