//! Engines of one name with data of different type or shape: no engine is promised or given the data of another.

use larder_core::{Group, WorkerSpec};
use larder_types::dtype::DType;
use larder_types::{ConnectionId, InstanceId, Layout};

use crate::support::{Chain, PAGE, Rig, Who, prompt, worker};

/// One page, as elements of another type or shape.
fn of_one_page(shape: &[u64], dtype: DType) -> Layout {
    let layout = Layout::new(shape, dtype).expect("not empty");
    assert_eq!(layout.bytes(), PAGE);
    layout
}

fn float16() -> Layout {
    of_one_page(&[2, 16, 64], DType::Float16)
}

fn bfloat16() -> Layout {
    of_one_page(&[2, 16, 64], DType::BFloat16)
}

impl Rig {
    /// A worker of model "m" with objects of that layout, on the connection of the same number.
    fn register_layout(&mut self, instance: i64, world_size: u32, layout: Layout) {
        let groups = vec![Group { id: 0, window: None, layout }];
        let (model, block_tokens) = ("m".into(), None);
        let spec = WorkerSpec { instance: InstanceId(instance), model, world_size, block_tokens, groups };
        self.core.register(self.time(), ConnectionId(instance as u64), spec);
    }

    fn unregister(&mut self, instance: i64) {
        let now = self.time();
        self.core.unregister(now, ConnectionId(instance as u64), InstanceId(instance));
    }

    /// Looks up over `scheduler` and reads all of the hit. What was promised must be readable.
    fn read_all(&mut self, scheduler: u64, who: &Who, chain: &Chain) -> u32 {
        let hit = self.lookup(&Who { connection: scheduler, ..who.clone() }, chain, 1);
        if hit > 0 {
            assert!(self.prepare_retrieve(who, chain, 0, hit).is_some(), "a promised hit was refused");
            assert!(self.commit_retrieve(who, chain, 0, hit));
        }
        self.end(&who.request);
        hit
    }
}

fn empty() -> Rig {
    Rig::empty(64, larder_policy::eviction::EvictionKind::Lru, None)
}

#[test]
fn bytes_of_equal_size_are_not_served_in_another_type_or_shape() {
    let others = [
        bfloat16(),
        of_one_page(&[2, 16, 128], DType::Float8E4M3Fn),
        of_one_page(&[2, 16, 32], DType::Float32),
        of_one_page(&[4, 16, 32], DType::Float16),
        of_one_page(&[2, 1, 16, 64], DType::Float16),
    ];
    for other in others {
        let (mut rig, p) = (empty(), prompt(1, 4));
        rig.register_layout(1, 1, float16());
        rig.store(&worker(1, "s"), &p, 0, 4);
        rig.unregister(1);
        rig.register_layout(2, 1, other.clone());
        assert_eq!(rig.read_all(2, &worker(2, "r"), &p), 0, "{other:?}");
        assert!(rig.prepare_retrieve(&worker(2, "r"), &p, 0, 4).is_none());
        assert_eq!(rig.store(&worker(2, "s"), &p, 0, 4), 4, "stored again");
        assert_eq!(rig.used_pages(), 4, "no worker can read the old ones any more");
        assert_eq!(rig.read_all(2, &worker(2, "r"), &p), 4);
    }
}

#[test]
fn an_engine_finds_its_objects_again_after_a_restart() {
    let (mut rig, p) = (empty(), prompt(1, 4));
    rig.register_layout(1, 1, float16());
    rig.store(&worker(1, "s"), &p, 0, 4);
    rig.unregister(1);
    rig.register_layout(2, 1, float16());
    assert_eq!(rig.read_all(2, &worker(2, "r"), &p), 4);
}

#[test]
fn engines_of_different_layouts_live_side_by_side() {
    let (mut rig, p) = (empty(), prompt(1, 4));
    rig.register_layout(1, 1, float16());
    rig.register_layout(2, 1, bfloat16());
    for round in 0..3 {
        for instance in [1, 2] {
            let (request, scheduler) = (format!("r{round}-{instance}"), 100 + instance as u64);
            let who = worker(instance, &request);
            let hit = rig.lookup(&Who { connection: scheduler, ..who.clone() }, &p, 1);
            if hit > 0 {
                assert!(rig.prepare_retrieve(&who, &p, 0, hit).is_some(), "promised to {instance}");
                rig.commit_retrieve(&who, &p, 0, hit);
            }
            rig.store(&who, &p, hit, 4);
            rig.end(&request);
            assert_eq!(hit, if round == 0 { 0 } else { 4 }, "round {round}, engine {instance}");
        }
    }
    assert_eq!(rig.used_pages(), 8);
}

#[test]
fn a_scheduler_of_its_own_connection_is_answered_for_the_only_layout() {
    let (mut rig, p) = (empty(), prompt(1, 4));
    rig.register_layout(1, 1, float16());
    rig.store(&worker(1, "s"), &p, 0, 4);
    assert_eq!(rig.read_all(100, &worker(1, "r"), &p), 4);
}

#[test]
fn an_unknown_scheduler_is_promised_nothing_while_layouts_differ() {
    let (mut rig, p) = (empty(), prompt(1, 4));
    rig.register_layout(1, 1, float16());
    rig.store(&worker(1, "s"), &p, 0, 4);
    rig.register_layout(2, 1, bfloat16());
    assert_eq!(rig.read_all(100, &worker(1, "r"), &p), 0, "it may be that of either engine");
    assert_eq!(rig.core.stats().requests().lookups_ambiguous, 1);
    // The first store shows the engine, even if nothing is new.
    let who = worker(1, "r2");
    assert_eq!(rig.lookup(&Who { connection: 100, ..who.clone() }, &p, 1), 0);
    assert_eq!(rig.store(&who, &p, 0, 4), 0);
    rig.end("r2");
    assert_eq!(rig.read_all(100, &worker(1, "r3"), &p), 4);
    // The other scheduler can only be that of the other engine.
    rig.store(&worker(2, "s"), &p, 0, 4);
    assert_eq!(rig.read_all(200, &worker(2, "r4"), &p), 4);
}

#[test]
fn a_dead_registration_does_not_decide_for_others() {
    let (mut rig, p) = (empty(), prompt(1, 4));
    rig.register_layout(1, 1, float16());
    rig.store(&worker(1, "s"), &p, 0, 4);
    rig.lose(1);
    rig.register_layout(2, 1, bfloat16());
    assert_eq!(rig.read_all(100, &worker(2, "r"), &p), 0);
    rig.store(&worker(2, "s"), &p, 0, 4);
    assert_eq!(rig.read_all(100, &worker(2, "r"), &p), 4);
    assert_eq!(rig.used_pages(), 8, "the first may still come back");
}

#[test]
fn a_scheduler_that_reconnects_is_unknown_again() {
    let (mut rig, p) = (empty(), prompt(1, 4));
    rig.register_layout(1, 1, float16());
    rig.register_layout(2, 1, bfloat16());
    rig.store(&worker(2, "s"), &p, 0, 4);
    let who = worker(1, "r");
    rig.lookup(&Who { connection: 100, ..who.clone() }, &p, 1);
    rig.store(&who, &p, 0, 4);
    rig.end("r");
    assert_eq!(rig.read_all(100, &who, &p), 4);
    rig.lose(100);
    assert_eq!(rig.read_all(101, &who, &p), 0, "it is not taken for the other engine's");
}

#[test]
fn ranks_of_one_engine_may_differ() {
    // A pipeline of an odd number of layers.
    let stages = [of_one_page(&[2, 16, 64], DType::Float16), of_one_page(&[1, 32, 64], DType::Float16)];
    let (mut rig, p) = (empty(), prompt(1, 4));
    let who = |rank: u32, request: &str| Who {
        rank: larder_types::object::KvRank::new(2, rank),
        ..worker(i64::from(rank) + 1, request)
    };
    for (rank, layout) in stages.iter().enumerate() {
        rig.register_layout(rank as i64 + 1, 2, layout.clone());
    }
    let scheduler = |request: &str| Who { connection: 100, ..who(0, request) };
    assert_eq!(rig.lookup(&scheduler("r1"), &p, 1), 0);
    for rank in [0, 1] {
        rig.store(&who(rank, "r1"), &p, 0, 4);
    }
    rig.end("r1");
    assert_eq!(rig.lookup(&scheduler("r2"), &p, 1), 4);
    for rank in [0, 1] {
        let slots = rig.prepare_retrieve(&who(rank, "r2"), &p, 0, 4).expect("promised");
        assert!(slots.iter().all(|slot| slot.layout == stages[rank as usize]));
        rig.commit_retrieve(&who(rank, "r2"), &p, 0, 4);
    }
    rig.end("r2");
}

#[test]
fn peers_get_no_object_of_doubtful_layout() {
    let (mut rig, p) = (empty(), prompt(1, 1));
    let found = |rig: &mut Rig| {
        let (now, keys, peer) = (rig.time(), [rig.key(p[0])], ConnectionId(50));
        let id = rig.core.peer_lookup(now, peer, &keys);
        let places = rig.core.peer_result(now, id.unwrap()).expect("first time");
        rig.core.peer_unlock(now, peer, &keys);
        rig.core.check();
        places[0].is_some()
    };
    rig.register_layout(1, 1, float16());
    rig.store(&worker(1, "s"), &p, 0, 1);
    assert!(found(&mut rig), "the workers' layout");
    rig.register_layout(2, 1, bfloat16());
    assert!(!found(&mut rig), "workers differ");
    let (now, key) = (rig.time(), rig.key(p[0]));
    for (layout, there) in [(float16(), true), (bfloat16(), false)] {
        let keys = [key.clone().with_layout(layout.id())];
        let id = rig.core.peer_lookup(now, ConnectionId(50), &keys);
        let places = rig.core.peer_result(now, id.unwrap()).expect("first time");
        assert_eq!(places[0].is_some(), there, "the peer says what it can read");
        rig.core.peer_unlock(now, ConnectionId(50), std::slice::from_ref(&key));
        rig.core.check();
    }
    assert_eq!(rig.core.gauges().peer_leases, 0);
    rig.unregister(1);
    assert!(!found(&mut rig), "the object is not in the workers' layout");
    rig.store(&worker(2, "s"), &p, 0, 1);
    assert!(found(&mut rig));
    rig.unregister(2);
    assert!(found(&mut rig), "no worker, and one object");
}

#[test]
fn a_removal_without_a_layout_removes_the_objects_of_all() {
    let (mut rig, p) = (empty(), prompt(1, 2));
    rig.register_layout(1, 1, float16());
    rig.register_layout(2, 1, bfloat16());
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.store(&worker(2, "s"), &p, 0, 2);
    let now = rig.time();
    rig.core.remove(now, &[rig.key(p[0])], false);
    rig.core.check();
    assert_eq!(rig.used_pages(), 2);
    rig.core.remove(now, &[rig.key(p[1]).with_layout(float16().id())], false);
    assert_eq!(rig.used_pages(), 1);
    assert_eq!(rig.read_all(2, &worker(2, "r"), &prompt(1, 2)), 0, "its first chunk is gone");
}
