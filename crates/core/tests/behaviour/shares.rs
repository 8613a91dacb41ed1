//! What one client may keep from others: memory of L1, sessions, registrations.

use larder_core::{CoreConfig, Group, TooManyWorkers, WorkerSpec};
use larder_types::{ConnectionId, InstanceId};

use crate::support::{PAGE, QUARANTINE, Rig, layout, prompt, worker};

/// An L1 of `pages` pages of which one client may hold half, and workers 1 and 2.
fn rig(pages: u64) -> Rig {
    let mut rig = Rig::with(CoreConfig { capacity_bytes: pages * PAGE, client_share: 0.5, ..Rig::config() });
    assert!(rig.register(1, "m", 1, 1) && rig.register(2, "m", 1, 1));
    rig
}

#[test]
fn client_that_reserves_and_never_commits_leaves_half_of_l1_to_others() {
    let mut rig = rig(16);
    let slots = |rig: &mut Rig, who: i64, seed: u8| {
        rig.prepare(&worker(who, &seed.to_string()), &prompt(seed, 3), 0, 3).slots.len()
    };
    let taken: Vec<usize> = (0..5).map(|seed| slots(&mut rig, 1, seed)).collect();
    assert_eq!(taken, [3, 3, 2, 0, 0]);
    assert_eq!(slots(&mut rig, 2, 10), 3);
    // After its connection is lost, its memory waits for the end of its copies.
    rig.lose(1);
    assert_eq!(slots(&mut rig, 1, 20), 0);
    rig.wait(QUARANTINE);
    assert_eq!(slots(&mut rig, 1, 21), 3);
}

#[test]
fn client_that_looks_up_and_never_ends_is_promised_half_of_l1() {
    let mut rig = rig(16);
    for seed in 0..5 {
        rig.store(&worker(1, "s"), &prompt(seed, 3), 0, 3);
    }
    let hits: Vec<u32> =
        (0..5).map(|seed| rig.lookup(&worker(1, &seed.to_string()), &prompt(seed, 3), 1)).collect();
    assert_eq!(hits, [3, 3, 2, 0, 0]);
    assert_eq!(rig.lookup(&worker(2, "other"), &prompt(4, 3), 1), 3, "another client has its own share");
    rig.end("other");
    for seed in 10..12 {
        assert_eq!(rig.store(&worker(2, "s"), &prompt(seed, 3), 0, 3), 3, "others still store");
    }
    // What was promised is kept, and what is given back can be promised again.
    for (seed, hit) in [(0, 3), (1, 3), (2, 2)] {
        let who = worker(1, &seed.to_string());
        assert!(rig.prepare_retrieve(&who, &prompt(seed, 3), 0, hit).is_some());
        assert_eq!(rig.lookup(&worker(1, "more"), &prompt(10, 3), 1), 0, "a retrieve holds it too");
    }
    assert!(rig.commit_retrieve(&worker(1, "0"), &prompt(0, 3), 0, 3));
    assert_eq!(rig.lookup(&worker(1, "more"), &prompt(10, 3), 1), 3);
}

#[test]
fn one_prompt_alone_may_be_as_large_as_l1() {
    let mut rig = rig(8);
    let p = prompt(1, 7);
    assert_eq!(rig.store(&worker(1, "s"), &p, 0, 7), 7);
    assert_eq!(rig.lookup(&worker(1, "r"), &p, 1), 7);
    assert_eq!(rig.lookup(&worker(1, "other"), &p, 1), 0, "the client holds more than its share");
}

#[test]
fn pins_of_one_object_count_no_more_than_l1_holds() {
    let mut rig = rig(16);
    let p = prompt(1, 4);
    rig.store(&worker(1, "s"), &p, 0, 4);
    for request in 0..10 {
        assert_eq!(rig.lookup(&worker(1, &request.to_string()), &p, 1), 4, "request {request}");
    }
}

#[test]
fn peer_with_a_lease_is_promised_no_more_than_half_of_l1() {
    let mut rig = rig(8);
    let p = prompt(1, 7);
    rig.store(&worker(1, "s"), &p, 0, 7);
    rig.store(&worker(1, "s"), &p, 0, 7);
    let keys: Vec<_> = p.iter().map(|hash| rig.key(*hash)).collect();
    let (now, peer) = (rig.time(), ConnectionId(50));
    let found = |rig: &mut Rig| {
        let id = rig.core.peer_lookup(now, peer, &keys).unwrap();
        rig.core.peer_result(now, id).unwrap().iter().flatten().count()
    };
    assert_eq!((found(&mut rig), found(&mut rig)), (7, 0));
    rig.core.peer_unlock(now, peer, &keys);
    rig.core.check();
    assert_eq!(found(&mut rig), 7);
    rig.lose(50);
}

#[test]
fn client_with_most_sessions_loses_its_own() {
    let mut rig = Rig::with(CoreConfig { capacity_bytes: 16 * PAGE, sessions_max: 8, ..Rig::config() });
    assert!(rig.register(1, "m", 1, 1));
    rig.store(&worker(1, "s"), &prompt(1, 1), 0, 1);
    assert_eq!(rig.lookup(&worker(2, "engine"), &prompt(1, 1), 1), 1);
    for request in 0..20 {
        rig.lookup(&worker(1, &request.to_string()), &prompt(1, 1), 1);
    }
    assert_eq!(rig.core.gauges().sessions, 8);
    assert_eq!(rig.core.stats().requests().sessions_expired, 13);
    assert!(rig.prepare_retrieve(&worker(1, "engine"), &prompt(1, 1), 0, 1).is_some(), "it is the oldest");
}

#[test]
fn sessions_are_bounded_in_bytes() {
    let mut rig =
        Rig::with(CoreConfig { capacity_bytes: 64 * PAGE, sessions_bytes_max: 10_000, ..Rig::config() });
    assert!(rig.register(1, "m", 1, 1));
    let p = prompt(1, 50);
    rig.store(&worker(1, "s"), &p, 0, 50);
    for request in 0..50 {
        assert_eq!(rig.lookup(&worker(1, &request.to_string()), &p, 1), 50);
    }
    assert!((2..=8).contains(&rig.core.gauges().sessions), "{} sessions", rig.core.gauges().sessions);
}

#[test]
fn registrations_are_bounded_for_each_client_in_all_and_in_names() {
    let config = CoreConfig {
        workers_max: 6,
        workers_per_connection_max: 3,
        worker_name_bytes_max: 100,
        ..Rig::config()
    };
    let mut rig = Rig::with(config);
    let mut register = |client, instance, model: &str| {
        let groups = vec![Group { id: 0, window: None, layout: layout(1) }];
        let instance = InstanceId(instance);
        let spec = WorkerSpec { instance, model: model.into(), world_size: 1, block_tokens: None, groups };
        let now = rig.time();
        let answer = rig.core.register_within_limits(now, ConnectionId(client), spec);
        rig.core.check();
        answer
    };
    assert_eq!(register(9, 100, &"x".repeat(101)), Err(TooManyWorkers::NameBytes { max: 100 }));
    for instance in 1..=3 {
        assert_eq!(register(1, instance, "m"), Ok(true));
    }
    assert_eq!(register(1, 4, "m"), Err(TooManyWorkers::OfClient { max: 3 }));
    assert_eq!(register(1, 3, "m"), Ok(false), "it is registered");
    for instance in 4..=6 {
        assert_eq!(register(2, instance, "m"), Ok(true));
    }
    assert_eq!(register(3, 7, "m"), Err(TooManyWorkers::InAll { max: 6 }));
    let now = rig.time();
    assert!(rig.core.unregister(now, ConnectionId(1), InstanceId(1)));
    rig.core.check();
    let groups = vec![Group { id: 0, window: None, layout: layout(1) }];
    let (instance, model) = (InstanceId(8), "m".into());
    let spec = WorkerSpec { instance, model, world_size: 1, block_tokens: None, groups };
    assert_eq!(rig.core.register_within_limits(now, ConnectionId(1), spec), Ok(true));
}
