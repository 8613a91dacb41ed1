//! Lookups of readers that have the start of their prompt already.

use larder_core::LookupStatus;
use larder_types::ConnectionId;

use crate::support::{PAGE, Rig, prompt, worker};

fn result(rig: &mut Rig, request: &str) -> LookupStatus {
    let now = rig.time();
    rig.core.take_result(now, ConnectionId(1), request)
}

fn free_lookup(rig: &mut Rig, request: &str, found: (u32, u32)) {
    let now = rig.time();
    rig.core.free_lookup(now, (ConnectionId(1), request), found);
    rig.core.check();
}

/// Pages that pins keep from eviction.
fn held(rig: &Rig, stored: u64) -> u64 {
    stored - rig.core.gauges().l1.evictable_bytes / PAGE
}

#[test]
fn only_the_rest_is_pinned_and_the_hit_counts_from_the_start() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 5);
    rig.store(&worker(1, "s"), &p, 0, 5);
    assert_eq!(rig.lookup_from(&worker(1, "r"), &p, 2, 1), 3);
    assert_eq!(held(&rig, 5), 3);
    assert_eq!(result(&mut rig, "r"), LookupStatus::Ready(5));
    rig.free("r", 0, 2);
    assert_eq!(held(&rig, 5), 3, "nothing before the start was pinned");
    rig.free("r", 0, 4);
    assert_eq!(held(&rig, 5), 1);
    assert_eq!(rig.prepare_retrieve(&worker(1, "r"), &p, 4, 5).expect("held").len(), 1);
    assert!(rig.commit_retrieve(&worker(1, "r"), &p, 4, 5));
    assert_eq!((held(&rig, 5), rig.core.gauges().lookup_leases), (0, 0));
    rig.end("r");
}

#[test]
fn what_the_reader_has_need_not_be_cached() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 5);
    rig.store(&worker(1, "s"), &p, 2, 4);
    assert_eq!(rig.lookup(&worker(1, "a"), &p, 1), 0);
    assert_eq!(rig.lookup_from(&worker(1, "b"), &p, 2, 1), 2);
    assert_eq!(result(&mut rig, "b"), LookupStatus::Ready(4));
    assert!(rig.prepare_retrieve(&worker(1, "b"), &p, 2, 4).is_some());
    assert_eq!(rig.lookup_from(&worker(1, "c"), &p, 1, 1), 0, "a gap at once");
    assert_eq!(result(&mut rig, "c"), LookupStatus::Ready(1));
}

#[test]
fn nothing_to_look_up_is_a_hit_of_what_the_reader_has() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 3);
    rig.store(&worker(1, "s"), &p, 0, 3);
    for start in [3, 4, u32::MAX] {
        assert_eq!(rig.lookup_from(&worker(1, "r"), &p, start, 1), 0);
        assert_eq!(result(&mut rig, "r"), LookupStatus::Ready(3));
        assert_eq!(held(&rig, 3), 0);
        rig.end("r");
    }
    assert_eq!(rig.lookup_from(&worker(1, "r"), &prompt(1, 0), 7, 1), 0);
    assert_eq!(result(&mut rig, "r"), LookupStatus::Ready(0));
}

#[test]
fn what_the_reader_has_is_used_again() {
    let mut rig = Rig::new(4);
    rig.store(&worker(1, "a"), &prompt(1, 2), 0, 2);
    rig.store(&worker(1, "b"), &prompt(2, 2), 0, 2);
    rig.lookup_from(&worker(1, "r"), &prompt(1, 2), 2, 1);
    rig.store(&worker(1, "c"), &prompt(3, 2), 0, 2);
    assert_eq!((rig.resident(&prompt(1, 2)), rig.resident(&prompt(2, 2))), (vec![0, 1], vec![]));
}

/// The engine lost what it had and looked the whole prompt up: its release names what the first lookup found.
#[test]
fn a_lookup_that_was_replaced_holds_nothing_and_releases_nothing_of_the_next() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 4);
    rig.store(&worker(1, "s"), &p, 0, 4);
    rig.lookup_from(&worker(1, "r"), &p, 2, 1);
    assert_eq!(held(&rig, 4), 2);
    rig.lookup(&worker(1, "r"), &p, 1);
    assert_eq!(held(&rig, 4), 4);
    free_lookup(&mut rig, "r", (2, 4));
    assert_eq!(held(&rig, 4), 4, "pins of the second lookup");
    rig.free("r", 0, 1);
    assert_eq!(held(&rig, 4), 3);
    free_lookup(&mut rig, "other", (0, 4));
    free_lookup(&mut rig, "r", (0, 3));
    assert_eq!(held(&rig, 4), 3);
    free_lookup(&mut rig, "r", (0, 4));
    assert_eq!((held(&rig, 4), rig.core.gauges().lookup_leases), (0, 0), "it was this one");
    free_lookup(&mut rig, "r", (0, 4));
    rig.end("r");
}

#[test]
fn a_result_can_be_looked_at_before_it_is_taken() {
    let mut rig = Rig::new(4);
    let p = prompt(1, 2);
    rig.store(&worker(1, "s"), &p, 0, 2);
    rig.lookup(&worker(1, "r"), &p, 1);
    let now = rig.time();
    for _ in 0..2 {
        assert_eq!(rig.core.peek_result(now, ConnectionId(1), "r"), LookupStatus::Ready(2));
    }
    assert_eq!(result(&mut rig, "r"), LookupStatus::Ready(2));
    assert_eq!(rig.core.peek_result(now, ConnectionId(1), "r"), LookupStatus::Unknown);
}
