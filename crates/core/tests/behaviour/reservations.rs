//! Write reservations: who may publish what, and when its memory is reused.

use larder_core::Committed;
use larder_core::Effect;
use larder_types::object::KvRank;
use larder_types::{ConnectionId, InstanceId};

use crate::support::{PAGE, QUARANTINE, Rig, WRITE_TTL, Who, prompt, worker};

#[test]
fn store_then_read_then_release() {
    let mut rig = Rig::new(8);
    let (w, p) = (worker(1, "r"), prompt(1, 3));
    let prepared = rig.prepare(&w, &p, 0, 3);
    assert_eq!(prepared.chunks(), [0, 1, 2]);
    let offsets: Vec<u64> = prepared.slots.iter().map(|s| s.offset).collect();
    assert_eq!(offsets, [0, PAGE, 2 * PAGE]);
    assert_eq!(rig.lookup(&w, &p, 1), 0, "nothing is found before the commit");
    assert_eq!(rig.commit(&w, &p, 0, 3).published().map(|c| c.objects), Some(3));
    assert_eq!(rig.lookup(&w, &p, 1), 3);
    let slots = rig.prepare_retrieve(&w, &p, 0, 3).expect("held");
    assert_eq!(slots, prepared.slots);
    assert!(rig.commit_retrieve(&w, &p, 0, 3));
    rig.end("r");
    assert_eq!(rig.core.gauges().l1.evictable_bytes, 3 * PAGE);
}

#[test]
fn prepare_store_leaves_out_resident_and_staged_chunks() {
    let mut rig = Rig::new(8);
    rig.register(2, "m", 1, 1);
    let p = prompt(1, 4);
    assert_eq!(rig.store(&worker(1, "a"), &p, 0, 1), 1);
    assert_eq!(rig.prepare(&worker(1, "b"), &p, 1, 2).chunks(), [0]);
    assert_eq!(rig.prepare(&worker(2, "c"), &p, 0, 4).chunks(), [2, 3]);
    assert_eq!(rig.prepare(&worker(1, "d"), &p, 0, 4).slots, []);
    assert_eq!(rig.commit(&worker(1, "d"), &p, 0, 4), Committed::Unknown, "nothing was prepared");
    assert_eq!(rig.commit(&worker(2, "c"), &p, 0, 4).published().map(|c| c.objects), Some(2));
    assert_eq!(rig.resident(&p), [0, 2, 3]);
}

#[test]
fn a_commit_by_another_worker_is_unknown() {
    let mut rig = Rig::new(8);
    rig.register(2, "m", 1, 1);
    let p = prompt(1, 2);
    rig.prepare(&worker(1, "r"), &p, 0, 2);
    assert_eq!(rig.commit(&worker(2, "r"), &p, 0, 2), Committed::Unknown);
    assert_eq!(rig.commit(&worker(1, "other"), &p, 0, 2), Committed::Unknown);
    assert_eq!(rig.commit(&worker(1, "r"), &p, 0, 1), Committed::Unknown);
    assert_eq!(rig.resident(&p), []);
    assert_eq!(rig.commit(&worker(1, "r"), &p, 0, 2).published().map(|c| c.objects), Some(2));
    assert_eq!(rig.commit(&worker(1, "r"), &p, 0, 2), Committed::Unknown, "committed once");
}

#[test]
fn an_aborted_store_leaves_nothing() {
    let mut rig = Rig::new(8);
    let (w, p) = (worker(1, "r"), prompt(1, 2));
    rig.prepare(&w, &p, 0, 2);
    rig.abort(&w, &p, 0, 2);
    assert_eq!((rig.used_pages(), rig.resident(&p).len()), (0, 0));
    assert_eq!(rig.commit(&w, &p, 0, 2), Committed::Unknown);
    assert_eq!(rig.store(&w, &p, 0, 2), 2);
}

/// FIX of 1.3: the reference lets a stalled writer publish the buffer of the one after it.
#[test]
fn a_stalled_writer_cannot_publish_what_another_writes() {
    let mut rig = Rig::new(8);
    rig.register(2, "m", 1, 1);
    let p = prompt(1, 1);
    let first = rig.prepare(&worker(1, "a"), &p, 0, 1);
    rig.wait(WRITE_TTL);
    let second = rig.prepare(&worker(2, "b"), &p, 0, 1);
    assert_ne!(first.slots[0].offset, second.slots[0].offset, "the first may still be writing");
    assert_eq!(rig.commit(&worker(1, "a"), &p, 0, 1), Committed::Expired);
    assert_eq!(rig.resident(&p), [], "the second is still writing");
    assert_eq!(rig.used_pages(), 1, "the first said it is done: its memory is free");
    assert_eq!(rig.commit(&worker(2, "b"), &p, 0, 1).published().map(|c| c.objects), Some(1));
}

#[test]
fn memory_of_a_late_writer_is_freed_after_the_quarantine() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 1);
    rig.prepare(&worker(1, "a"), &p, 0, 1);
    rig.wait(WRITE_TTL);
    assert_eq!(rig.used_pages(), 1);
    rig.wait(QUARANTINE - 1);
    assert_eq!((rig.used_pages(), rig.core.gauges().quarantined_bytes), (1, PAGE));
    rig.wait(1);
    assert_eq!((rig.used_pages(), rig.core.gauges().quarantined_bytes), (0, 0));
}

/// What a lost worker may still write to is free when its process is known to be gone, and not before.
#[test]
fn memory_of_a_lost_writer_is_freed_with_its_process() {
    let mut rig = Rig::new(8);
    let (w, p) = (worker(1, "a"), prompt(1, 1));
    rig.prepare(&w, &p, 0, 1);
    let (now, connection) = (rig.time(), ConnectionId(1));
    rig.core.process_gone(now, connection);
    assert_eq!(rig.commit(&w, &p, 0, 1).published().map(|c| c.objects), Some(1), "it is not lost");
    let p = prompt(2, 1);
    rig.prepare(&w, &p, 0, 1);
    assert!(!rig.core.awaits_process(connection));
    rig.core.take_effects();
    rig.lose(1);
    assert_eq!(rig.core.take_effects(), [Effect::CheckProcess { connection }]);
    assert!(rig.core.awaits_process(connection));
    rig.core.process_gone(now, ConnectionId(2));
    assert_eq!(rig.used_pages(), 2, "that was another process");
    rig.core.process_gone(now, connection);
    rig.core.check();
    assert_eq!((rig.used_pages(), rig.core.awaits_process(connection)), (1, false));
    assert_eq!(rig.commit(&w, &p, 0, 1), Committed::Unknown);
}

/// The sum of memory that waits for late writers is bounded: no more is handed out meanwhile.
#[test]
fn no_slots_while_half_of_l1_waits_for_late_writers() {
    let mut rig = Rig::new(8);
    rig.register(2, "m", 1, 1);
    rig.prepare(&worker(1, "a"), &prompt(1, 5), 0, 5);
    rig.lose(1);
    assert!(rig.prepare(&worker(2, "b"), &prompt(2, 1), 0, 1).no_space);
    rig.wait(QUARANTINE);
    assert_eq!(rig.store(&worker(2, "b"), &prompt(2, 1), 0, 1), 1);
}

/// A transfer ends by the connection that began it, or by the one that has taken its place.
#[test]
fn a_stranger_ends_no_transfer_and_no_registration() {
    let mut rig = Rig::new(8);
    let (w, p, now) = (worker(1, "a"), prompt(1, 1), rig.time());
    let stranger = Who { connection: 9, ..worker(1, "a") };
    rig.prepare(&w, &p, 0, 1);
    assert_eq!(rig.commit(&stranger, &p, 0, 1), Committed::Unknown);
    assert!(rig.try_prepare(&stranger, &prompt(2, 1), 0, 1).is_err());
    assert!(!rig.core.unregister(now, ConnectionId(9), InstanceId(1)));
    assert!(!rig.core.ping(now, ConnectionId(9), InstanceId(1)), "it should register");
    assert_eq!(rig.commit(&w, &p, 0, 1).published().map(|c| c.objects), Some(1));
    rig.lookup(&w, &p, 1);
    rig.prepare_retrieve(&w, &p, 0, 1).expect("held");
    assert!(!rig.commit_retrieve(&stranger, &p, 0, 1));
    assert!(rig.commit_retrieve(&w, &p, 0, 1));
    rig.lose(1);
    assert!(rig.core.ping(now, ConnectionId(9), InstanceId(1)), "the worker has connected again");
    assert!(rig.core.unregister(now, ConnectionId(9), InstanceId(1)));
}

#[test]
fn aborting_an_expired_store_frees_its_memory() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 1);
    rig.prepare(&worker(1, "a"), &p, 0, 1);
    rig.wait(WRITE_TTL);
    rig.abort(&worker(1, "a"), &p, 0, 1);
    assert_eq!(rig.used_pages(), 0);
}

/// One identity means one transfer: the protocol has no transfer ids.
#[test]
fn a_duplicate_store_waits_until_the_first_has_ended() {
    let mut rig = Rig::new(8);
    let (w, p) = (worker(1, "a"), prompt(1, 2));
    rig.prepare(&w, &p, 0, 2);
    rig.clear(true);
    assert_eq!(rig.prepare(&w, &p, 0, 2).slots, [], "the commit to come would be the first one's");
    assert_eq!(rig.commit(&w, &p, 0, 2).published().map(|c| c.objects), Some(0), "cleared away meanwhile");
    assert_eq!(rig.used_pages(), 0);
    assert_eq!(rig.store(&w, &p, 0, 2), 2);
}

#[test]
fn a_duplicate_store_waits_for_a_stalled_one() {
    let mut rig = Rig::new(8);
    let (w, p) = (worker(1, "a"), prompt(1, 1));
    rig.prepare(&w, &p, 0, 1);
    rig.wait(WRITE_TTL);
    assert_eq!(rig.prepare(&w, &p, 0, 1).slots, []);
    assert_eq!(rig.commit(&w, &p, 0, 1), Committed::Expired);
    assert_eq!(rig.resident(&p), []);
    assert_eq!(rig.store(&w, &p, 0, 1), 1);
}

#[test]
fn a_duplicate_store_waits_for_one_of_a_lost_connection() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 1);
    rig.prepare(&worker(1, "a"), &p, 0, 1);
    rig.lose(1);
    let back = Who { connection: 100, ..worker(1, "a") };
    assert_eq!(rig.prepare(&back, &p, 0, 1).slots, []);
    assert_eq!(rig.commit(&back, &p, 0, 1), Committed::Expired, "the first copy, now done");
    assert_eq!(rig.used_pages(), 0);
    assert_eq!(rig.store(&back, &p, 0, 1), 1);
}

/// The same, where memory and not a clear made the second differ from the first.
#[test]
fn a_duplicate_store_gets_no_slots_of_the_rest() {
    let mut rig = Rig::new(2);
    rig.register(2, "m", 1, 1);
    let (w, p, other) = (worker(1, "a"), prompt(1, 2), prompt(2, 1));
    rig.prepare(&worker(2, "b"), &other, 0, 1);
    assert_eq!(rig.prepare(&w, &p, 0, 2).chunks(), [0]);
    rig.abort(&worker(2, "b"), &other, 0, 1);
    assert_eq!(rig.prepare(&w, &p, 0, 2).slots, []);
    assert_eq!(rig.commit(&w, &p, 0, 2).published().map(|c| c.objects), Some(1));
}

#[test]
fn a_lost_connection_discards_its_stores_and_waits_for_their_copies() {
    let mut rig = Rig::new(4);
    rig.register(2, "m", 1, 1);
    let p = prompt(1, 4);
    let lost = rig.prepare(&worker(1, "a"), &p, 0, 4);
    rig.lose(1);
    assert_eq!(rig.core.gauges().quarantined_objects, 4);
    assert_eq!(rig.prepare(&worker(2, "b"), &p, 0, 4).slots, [], "the copy may still be running");
    rig.wait(QUARANTINE - 1);
    assert_eq!(rig.used_pages(), 4);
    rig.wait(1);
    assert_eq!(rig.used_pages(), 0);
    assert_eq!(rig.prepare(&worker(2, "b"), &p, 0, 4).slots, lost.slots);
}

#[test]
fn unregistering_discards_uncommitted_stores() {
    let mut rig = Rig::new(4);
    rig.register(2, "m", 1, 1);
    let p = prompt(1, 2);
    rig.prepare(&worker(1, "a"), &p, 0, 2);
    let now = rig.time();
    assert!(rig.core.unregister(now, ConnectionId(1), InstanceId(1)));
    assert_eq!(rig.resident(&p), []);
    assert_eq!(rig.core.stats().requests().stores_abandoned, 1);
    rig.wait(QUARANTINE);
    assert_eq!(rig.used_pages(), 0);
}

#[test]
fn a_forced_clear_does_not_free_what_a_worker_writes() {
    let mut rig = Rig::new(2);
    let p = prompt(1, 2);
    rig.prepare(&worker(1, "a"), &p, 0, 2);
    assert_eq!(rig.clear(false), 0);
    assert_eq!(rig.clear(true), 2);
    assert_eq!(rig.used_pages(), 2);
    assert_eq!(rig.prepare(&worker(1, "b"), &p, 0, 2).slots, []);
    assert_eq!(rig.commit(&worker(1, "a"), &p, 0, 2).published().map(|c| c.objects), Some(0));
    assert_eq!((rig.used_pages(), rig.resident(&p).len()), (0, 0));
}

#[test]
fn each_rank_stores_its_own_shard() {
    let mut rig = Rig::empty(8, Default::default(), None);
    let p = prompt(1, 2);
    let ranks = [0, 1].map(|r| Who { rank: KvRank::new(2, r), ..worker(1 + i64::from(r), "a") });
    rig.register(1, "m", 2, 1);
    rig.register(2, "m", 2, 1);
    assert_eq!(rig.store(&ranks[0], &p, 0, 2), 2);
    assert_eq!(rig.lookup(&ranks[0], &p, 1), 0, "a chunk of one rank alone is no hit");
    assert_eq!(rig.store(&ranks[1], &p, 0, 1), 1);
    assert_eq!(rig.lookup(&ranks[0], &p, 1), 1);
}

#[test]
fn a_rank_of_another_world_size_is_not_registered() {
    let mut rig = Rig::new(8);
    let p = prompt(1, 1);
    let stranger = Who { rank: KvRank::new(2, 0), ..worker(1, "a") };
    assert!(rig.try_prepare(&stranger, &p, 0, 1).is_err());
}
