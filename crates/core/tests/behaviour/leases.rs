//! Shares of readers: who holds what, and when it ends.

use larder_core::LookupStatus;
use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Time;

use crate::support::{
    Deed, PAGE, READ_TTL, REAP, Rig, SESSION_TTL, SESSIONS_MAX, Who, layout, prompt, worker,
};

/// In the reference a late release, after expiry, releases the lock of a newer reader.
#[test]
fn a_late_release_does_not_release_the_pin_of_a_newer_reader() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(1, "old"), &p, 1);
    rig.prepare_retrieve(&worker(1, "old"), &p, 0, 2).expect("held");
    rig.wait(READ_TTL);
    assert_eq!(rig.lookup(&worker(1, "new"), &p, 1), 2);
    assert!(!rig.commit_retrieve(&worker(1, "old"), &p, 0, 2), "it has run out");
    rig.end("old");
    assert_eq!(rig.clear(false), 0, "the newer reader still holds both");
    rig.prepare_retrieve(&worker(1, "new"), &p, 0, 2).expect("held");
}

/// FIX of 1.2: releases are not anonymous.
#[test]
fn releasing_too_often_releases_only_own_pins() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(1, "a"), &p, 2);
    rig.lookup(&worker(1, "b"), &p, 1);
    for _ in 0..3 {
        rig.free("a", 0, 2);
    }
    rig.end("a");
    assert_eq!(rig.clear(false), 0);
    rig.prepare_retrieve(&worker(1, "b"), &p, 0, 2).expect("still held");
}

#[test]
fn one_pin_per_reader() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    for instance in 2..5 {
        rig.register(instance, "m", 1, 1);
    }
    rig.store(&worker(1, "s"), &p, 0, 2);
    assert_eq!(rig.lookup(&worker(1, "r"), &p, 3), 2);
    for reader in 2..5 {
        rig.prepare_retrieve(&worker(reader, "r"), &p, 0, 2).expect("one pin each");
        rig.commit_retrieve(&worker(reader, "r"), &p, 0, 2);
    }
    assert_eq!(rig.core.gauges().l1.evictable_bytes, 2 * PAGE);
}

#[test]
fn a_failed_retrieve_releases_one_pin_of_each_object() {
    let mut rig = Rig::new(3);
    let p = prompt(1, 3);
    rig.store(&worker(1, "s"), &p, 0, 3);
    rig.lookup(&worker(1, "r"), &p, 1);
    rig.free("r", 1, 2);
    rig.store(&worker(1, "s"), &prompt(2, 1), 0, 1);
    assert_eq!(rig.prepare_retrieve(&worker(1, "r"), &p, 0, 3), None, "one has left");
    assert_eq!(rig.core.gauges().lookup_leases, 0);
    assert_eq!(rig.core.stats().requests().retrieves_failed, 1);
}

#[test]
fn a_range_is_freed_as_far_as_it_is_pinned() {
    let mut rig = Rig::new(4);
    let p = prompt(1, 3);
    rig.store(&worker(1, "s"), &p, 0, 3);
    rig.lookup(&worker(1, "r"), &p, 1);
    rig.free("r", 2, 2);
    rig.free("r", 3, 1);
    rig.free("r", 7, u32::MAX);
    rig.free("unknown", 0, 3);
    rig.free("r", 0, 1);
    rig.prepare_retrieve(&worker(1, "r"), &p, 1, 3).expect("the rest is held");
}

#[test]
fn pins_end_with_session_deadline_connection_and_the_next_lookup() {
    let p = prompt(1, 2);
    let ends: [(&str, Deed); 5] = [
        ("end of the session", |rig| rig.end("r")),
        ("read TTL", |rig| rig.wait(READ_TTL)),
        ("connection", |rig| rig.lose(1)),
        ("next lookup", |rig| assert_eq!(rig.lookup(&worker(1, "r"), &prompt(9, 1), 1), 0)),
        ("session TTL", |rig| rig.wait(SESSION_TTL)),
    ];
    for (name, end) in ends {
        let mut rig = Rig::new(4);
        rig.store(&worker(1, "s"), &p, 0, 2);
        assert_eq!(rig.lookup(&worker(1, "r"), &p, 5), 2);
        assert_eq!(rig.core.gauges().l1.evictable_bytes, 0);
        end(&mut rig);
        assert_eq!(rig.core.gauges().l1.evictable_bytes, 2 * PAGE, "{name}");
        let newer = prompt(8, 4);
        rig.store(&worker(1, "s"), &newer, 0, 4);
        assert_eq!(rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2), None, "{name}: evicted since");
    }
}

/// A hit is a promise: whatever ended its pins, what is still there is served.
#[test]
fn a_retrieve_whose_pins_have_ended_is_served_from_what_is_there() {
    let p = prompt(1, 2);
    let ends: [(&str, Deed); 5] = [
        ("read TTL", |rig| rig.wait(READ_TTL)),
        ("session TTL", |rig| rig.wait(SESSION_TTL)),
        ("connection of the scheduler", |rig| rig.lose(7)),
        ("some freed", |rig| rig.free("r", 1, 2)),
        ("end of the session", |rig| rig.end("r")),
    ];
    for (name, end) in ends {
        let mut rig = Rig::new(4);
        rig.store(&worker(1, "s"), &p, 0, 2);
        assert_eq!(rig.lookup(&worker(7, "r"), &p, 1), 2);
        end(&mut rig);
        rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(rig.core.gauges().l1.evictable_bytes, 0, "{name}: pinned again");
        assert!(rig.commit_retrieve(&worker(1, "r"), &p, 0, 2), "{name}");
        rig.end("r");
        assert_eq!(rig.core.gauges().l1.evictable_bytes, 2 * PAGE, "{name}: nothing is held");
    }
}

/// The pins of a lookup keep its objects readable for its readers, even if L1 is cleared by force.
#[test]
fn a_forced_clear_does_not_break_a_hit() {
    let mut rig = Rig::new(4);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    assert_eq!(rig.lookup(&worker(7, "r"), &p, 1), 2);
    assert_eq!(rig.clear(true), 2);
    assert_eq!(rig.lookup(&worker(7, "other"), &p, 1), 0, "it is gone for new requests");
    rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).expect("promised");
    assert!(rig.commit_retrieve(&worker(1, "r"), &p, 0, 2));
    rig.end("r");
    assert_eq!(rig.used_pages(), 0);
}

#[test]
fn two_clients_may_use_one_request_id() {
    let mut rig = Rig::new(8);
    rig.register(2, "m", 1, 1);
    let (short, long) = (prompt(1, 1), prompt(2, 4));
    rig.store(&worker(1, "s"), &short, 0, 1);
    rig.store(&worker(2, "s"), &long, 0, 4);
    assert_eq!(rig.lookup(&worker(7, "r"), &short, 1), 1);
    assert_eq!(rig.lookup(&worker(8, "r"), &long, 1), 4);
    let now = rig.time();
    let ask = |rig: &mut Rig, connection| rig.core.take_result(now, ConnectionId(connection), "r");
    assert_eq!(ask(&mut rig, 9), LookupStatus::Unknown, "a stranger");
    assert_eq!((ask(&mut rig, 7), ask(&mut rig, 8)), (LookupStatus::Ready(1), LookupStatus::Ready(4)));
    rig.end_of(9, "r");
    rig.end_of(7, "r");
    assert_eq!(rig.core.gauges().lookup_leases, 1, "the other client's");
    rig.prepare_retrieve(&worker(2, "r"), &long, 0, 4).expect("pinned");
    rig.end_of(8, "r");
    assert_eq!(rig.core.gauges().sessions, 0);
}

/// Workers retrieve over their own connections: the pins come from the session that promised this prompt.
#[test]
fn a_retrieve_finds_the_session_of_its_prompt() {
    let mut rig = Rig::new(8);
    let (one, two) = (prompt(1, 2), prompt(2, 2));
    rig.store(&worker(1, "s"), &one, 0, 2);
    rig.store(&worker(1, "s"), &two, 0, 2);
    rig.lookup(&worker(7, "r"), &one, 1);
    rig.lookup(&worker(8, "r"), &two, 1);
    rig.prepare_retrieve(&worker(1, "r"), &two, 0, 2).expect("pinned");
    rig.commit_retrieve(&worker(1, "r"), &two, 0, 2);
    assert_eq!(rig.core.gauges().l1.evictable_bytes, 2 * PAGE, "the first session still pins its own");
    assert_eq!(rig.core.gauges().lookup_leases, 1);
}

#[test]
fn asking_again_renews_the_pins() {
    let mut rig = Rig::new(4);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(1, "r"), &p, 1);
    rig.wait(READ_TTL - 1);
    let now = rig.time();
    assert_eq!(rig.core.take_result(now, ConnectionId(1), "r"), LookupStatus::Ready(2));
    assert_eq!(rig.core.take_result(now, ConnectionId(1), "r"), LookupStatus::Unknown, "reported once");
    rig.wait(READ_TTL - 1);
    rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).expect("renewed");
}

/// A request id that is used again and again is as young as its last lookup.
#[test]
fn a_lookup_restarts_the_age_of_its_session() {
    let mut rig = Rig::new(4);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(1, "r"), &p, 1);
    rig.wait(SESSION_TTL - 1);
    rig.lookup(&worker(1, "r"), &p, 1);
    rig.wait(1);
    rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).expect("looked up just now");
}

#[test]
fn a_retrieve_of_a_lost_connection_is_quarantined() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(7, "r"), &p, 1);
    rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).expect("held");
    rig.end("r");
    rig.lose(1);
    assert_eq!(rig.core.gauges().quarantined_objects, 2);
    assert_eq!(rig.clear(true), 2);
    rig.wait(READ_TTL - 1);
    assert_eq!(rig.used_pages(), 2, "the copy may still be running");
    rig.wait(1);
    assert_eq!(rig.used_pages(), 0);
    assert!(!rig.commit_retrieve(&worker(1, "r"), &p, 0, 2), "too late");
}

#[test]
fn what_a_worker_reads_is_released_when_it_unregisters_or_its_process_is_gone() {
    let p = prompt(1, 2);
    let ends: [(&str, Deed); 2] = [
        ("unregistered", |rig| assert!(rig.core.unregister(rig.time(), ConnectionId(1), InstanceId(1)))),
        ("process gone", |rig| {
            rig.lose(1);
            rig.core.process_gone(rig.time(), ConnectionId(1));
        }),
    ];
    for (name, end) in ends {
        let mut rig = Rig::new(4);
        rig.store(&worker(1, "s"), &p, 0, 2);
        rig.lookup(&worker(7, "r"), &p, 1);
        rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).expect("held");
        end(&mut rig);
        rig.core.check();
        assert_eq!(rig.core.gauges().l1.evictable_bytes, 2 * PAGE, "{name}");
        assert!(!rig.commit_retrieve(&worker(1, "r"), &p, 0, 2), "{name}");
    }
}

/// The grace counts from the closed connection; a request over another one ends it.
#[test]
fn a_worker_without_a_connection_is_dropped_after_the_grace() {
    let grace = 30_000;
    let mut rig = Rig::with_disconnect_grace(2, grace);
    rig.wait(5);
    rig.lose(1);
    rig.wait(grace - 1);
    assert!(rig.core.ping(rig.time(), ConnectionId(8), InstanceId(1)), "it is back");
    rig.wait(grace);
    assert_eq!(rig.core.gauges().workers, 1);
    rig.lose(8);
    rig.wait(grace);
    assert_eq!((rig.core.gauges().workers, rig.core.stats().requests().workers_reaped), (0, 1));
}

#[test]
fn a_worker_commits_its_retrieve_over_another_connection() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(7, "r"), &p, 1);
    rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).expect("held");
    rig.lose(1);
    rig.commit_retrieve(&Who { connection: 8, ..worker(1, "r") }, &p, 0, 2);
    assert_eq!(rig.core.gauges().l1.evictable_bytes, 2 * PAGE);
}

/// Two copies of one identity cannot be distinguished when one of them commits.
#[test]
fn duplicate_retrieves_end_together() {
    let mut rig = Rig::new(2);
    let (w, p) = (worker(1, "r"), prompt(1, 1));
    rig.store(&worker(1, "s"), &p, 0, 1);
    rig.lookup(&w, &p, 1);
    let first = rig.prepare_retrieve(&w, &p, 0, 1).expect("held");
    rig.clear(true);
    rig.store(&worker(1, "s"), &p, 0, 1);
    rig.lookup(&w, &p, 1);
    let second = rig.prepare_retrieve(&w, &p, 0, 1).expect("held");
    assert_ne!(first, second);
    assert!(rig.commit_retrieve(&w, &p, 0, 1));
    assert_eq!(rig.used_pages(), 2, "whichever it was, the other may still be read");
    assert!(rig.commit_retrieve(&w, &p, 0, 1));
    assert_eq!(rig.used_pages(), 1);
    assert!(!rig.commit_retrieve(&w, &p, 0, 1));
}

#[test]
fn a_late_commit_does_not_end_a_newer_duplicate_retrieve() {
    let mut rig = Rig::new(2);
    let (w, p) = (worker(1, "r"), prompt(1, 1));
    rig.store(&worker(1, "s"), &p, 0, 1);
    rig.lookup(&w, &p, 1);
    rig.prepare_retrieve(&w, &p, 0, 1).expect("held");
    rig.wait(READ_TTL);
    rig.lookup(&w, &p, 1);
    rig.prepare_retrieve(&w, &p, 0, 1).expect("held");
    rig.commit_retrieve(&w, &p, 0, 1);
    assert_eq!(rig.clear(false), 0, "the commit may have been the first one's");
    rig.commit_retrieve(&w, &p, 0, 1);
    assert_eq!(rig.clear(false), 1);
}

#[test]
fn a_silent_worker_is_dropped() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 1);
    rig.prepare(&worker(1, "a"), &p, 0, 1);
    rig.wait(REAP);
    assert_eq!((rig.core.gauges().workers, rig.core.stats().requests().workers_reaped), (0, 1));
    assert!(rig.try_prepare(&worker(1, "a"), &p, 0, 1).is_err());
    let now = rig.time();
    assert!(!rig.core.ping(now, ConnectionId(1), InstanceId(1)), "it should register again");
    assert!(rig.core.ping(now, ConnectionId(1), InstanceId(1)), "reported once");
    assert!(rig.register(1, "m", 1, 1));
}

/// `Core::check` counts the deadlines: one for each worker, however often it is heard of.
#[test]
fn a_worker_has_one_timer_that_ends_with_it() {
    let mut rig = Rig::new(2);
    let registered = rig.core.next_deadline().expect("the worker of the rig");
    for _ in 0..3 {
        rig.wait(1);
        assert!(rig.core.ping(rig.time(), ConnectionId(1), InstanceId(1)));
        rig.core.check();
    }
    assert_eq!(rig.core.next_deadline(), Some(registered), "it looks again when that comes");
    for _ in 0..3 {
        rig.wait(1);
        assert!(rig.core.unregister(rig.time(), ConnectionId(1), InstanceId(1)));
        rig.core.check();
        assert_eq!(rig.core.next_deadline(), None, "nothing is left to wait for");
        assert!(rig.register(1, "m", 1, 1));
        rig.core.check();
        assert_eq!(rig.core.next_deadline(), Some(Time::from_millis(rig.now + REAP)));
    }
}

#[test]
fn an_object_of_another_size_is_a_miss() {
    let mut rig = Rig::new(8);
    rig.register(2, "m", 1, 2);
    let p = prompt(1, 1);
    rig.store(&worker(1, "s"), &p, 0, 1);
    assert_eq!(rig.lookup(&worker(1, "r"), &p, 1), 1);
    assert_eq!(rig.prepare_retrieve(&worker(2, "r"), &p, 0, 1), None);
    let now = rig.time();
    rig.core.unregister(now, ConnectionId(1), InstanceId(1));
    assert_eq!(rig.lookup(&worker(2, "r"), &p, 1), 0, "no worker can read it");
    let prepared = rig.prepare(&worker(2, "s"), &p, 0, 1);
    assert_eq!(prepared.slots[0].layout, layout(2), "it makes way");
}

#[test]
fn peers_pin_what_they_found() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 1);
    let keys = [rig.key(p[0]), rig.key(p[1])];
    let (now, peer) = (rig.time(), ConnectionId(50));
    let id = rig.core.peer_lookup(now, peer, &keys).unwrap();
    assert_eq!(rig.core.peer_result(now, id), Some(vec![Some((0, PAGE)), None]));
    assert_eq!(rig.core.peer_result(now, id), None, "reported once");
    assert_eq!(rig.clear(false), 0);
    rig.core.peer_unlock(now, peer, &keys);
    rig.core.peer_unlock(now, peer, &keys);
    rig.core.check();
    assert_eq!(rig.core.gauges().peer_leases, 0);
    assert_eq!(rig.clear(false), 1);
}

#[test]
fn unreported_peer_leases_are_not_unlocked_by_others() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 1);
    rig.store(&worker(1, "s"), &p, 0, 1);
    let (now, keys) = (rig.time(), [rig.key(p[0])]);
    let id = rig.core.peer_lookup(now, ConnectionId(50), &keys).unwrap();
    rig.core.peer_unlock(now, ConnectionId(51), &keys);
    assert_eq!(rig.clear(false), 0);
    assert_eq!(rig.core.peer_result(now, id), Some(vec![Some((0, PAGE))]));
}

#[test]
fn a_peer_lease_without_pins_ends_when_its_result_is_taken() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 1);
    rig.store(&worker(1, "s"), &p, 0, 1);
    let (now, keys, peer) = (rig.time(), [rig.key(p[0])], ConnectionId(50));
    let id = rig.core.peer_lookup(now, peer, &keys).unwrap();
    rig.core.peer_unlock(now, peer, &keys);
    assert_eq!(rig.core.peer_result(now, id), Some(vec![None]), "it is not held any more");
    assert_eq!(rig.core.gauges().peer_leases, 0);
    rig.core.check();
}

#[test]
fn a_peer_can_unlock_cleared_objects() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 1);
    rig.store(&worker(1, "s"), &p, 0, 1);
    let (now, keys, peer) = (rig.time(), [rig.key(p[0])], ConnectionId(50));
    let id = rig.core.peer_lookup(now, peer, &keys).unwrap();
    rig.core.peer_result(now, id);
    rig.clear(true);
    assert_eq!(rig.used_pages(), 1);
    rig.core.peer_unlock(now, peer, &keys);
    rig.core.check();
    assert_eq!((rig.used_pages(), rig.core.gauges().peer_leases), (0, 0));
}

/// A client that never ends its requests costs its oldest ones, and what they hold.
#[test]
fn sessions_are_bounded_and_the_oldest_ends_first() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    for i in 0..=SESSIONS_MAX {
        assert_eq!(rig.lookup(&worker(1, &format!("r{i}")), &p, 1), 2);
    }
    let gauges = rig.core.gauges();
    assert_eq!((gauges.sessions, gauges.lookup_leases), (SESSIONS_MAX as u64, SESSIONS_MAX as u64));
    let now = rig.time();
    assert_eq!(rig.core.take_result(now, ConnectionId(1), "r0"), LookupStatus::Unknown, "the oldest is over");
    assert_eq!(rig.core.take_result(now, ConnectionId(1), "r1"), LookupStatus::Ready(2), "the next is not");
}

/// The gauge of the oldest pin shows its age, whatever was pinned and unpinned since.
#[test]
fn gauges_show_since_when_the_oldest_pins_are_held() {
    let since = |rig: &Rig| {
        let gauges = rig.core.gauges();
        (gauges.oldest_read_pin.map(Time::as_millis), gauges.oldest_write_reservation.map(Time::as_millis))
    };
    let mut rig = Rig::new(4);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    assert_eq!(since(&rig), (None, None));
    rig.wait(10);
    rig.lookup(&worker(1, "first"), &p, 1);
    rig.prepare(&worker(1, "s"), &prompt(2, 1), 0, 1);
    rig.wait(10);
    rig.lookup(&worker(1, "second"), &p, 1);
    rig.prepare(&worker(1, "s"), &prompt(3, 1), 0, 1);
    rig.wait(10);
    assert_eq!(since(&rig), (Some(10), Some(10)));
    rig.prepare_retrieve(&worker(1, "first"), &p, 0, 2).expect("held");
    assert_eq!(since(&rig), (Some(20), Some(10)), "the retrieve took its pins just now");
    rig.commit(&worker(1, "s"), &prompt(2, 1), 0, 1);
    rig.free("second", 0, 1);
    assert_eq!(since(&rig), (Some(20), Some(20)), "it still holds a chunk");
    rig.free("second", 0, 2);
    assert_eq!(since(&rig), (Some(30), Some(20)));
    rig.abort(&worker(1, "s"), &prompt(3, 1), 0, 1);
    rig.wait(READ_TTL);
    assert_eq!(since(&rig), (None, None), "the retrieve has run out");
}
