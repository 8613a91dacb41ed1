//! What leaves when space is needed, and in which order.

use larder_core::Trim;
use larder_policy::eviction::EvictionKind;
use larder_types::Time;
use larder_types::object::KvRank;

use crate::support::{Deed, READ_TTL, Rig, Who, prompt, worker};

fn store(rig: &mut Rig, request: &str, seed: u8, chunks: u8) {
    let p = prompt(seed, chunks);
    assert_eq!(rig.store(&worker(1, request), &p, 0, u32::from(chunks)), usize::from(chunks));
}

#[test]
fn lru_evicts_the_oldest_prompt_from_its_tail() {
    let mut rig = Rig::new(4);
    store(&mut rig, "a", 1, 2);
    store(&mut rig, "b", 2, 2);
    store(&mut rig, "c", 3, 1);
    assert_eq!((rig.resident(&prompt(1, 2)), rig.resident(&prompt(2, 2))), (vec![0], vec![0, 1]));
    store(&mut rig, "d", 4, 1);
    assert_eq!((rig.resident(&prompt(1, 2)), rig.resident(&prompt(2, 2))), (vec![], vec![0, 1]));
    assert_eq!(rig.core.stats().l1().evicted_chunks, 2, "no more than needed");
}

/// LMCache#4867: the reference loses the head of such a prompt before its tail.
#[test]
fn lru_evicts_the_tail_of_a_prompt_stored_in_two_calls() {
    let mut rig = Rig::new(4);
    let p = prompt(1, 4);
    rig.store(&worker(1, "a"), &p, 0, 2);
    rig.store(&worker(1, "a"), &p, 2, 4);
    store(&mut rig, "b", 2, 1);
    assert_eq!(rig.resident(&p), [0, 1, 2]);
    store(&mut rig, "c", 3, 1);
    assert_eq!(rig.resident(&p), [0, 1]);
}

#[test]
fn the_end_of_a_lookup_touches_its_prefix() {
    let mut rig = Rig::new(3);
    for (request, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        store(&mut rig, request, seed, 1);
    }
    rig.lookup(&worker(1, "r"), &prompt(1, 1), 1);
    store(&mut rig, "d", 4, 1);
    assert_eq!(rig.resident(&prompt(1, 1)), [0], "held");
    rig.end("r");
    store(&mut rig, "e", 5, 1);
    assert_eq!(rig.resident(&prompt(1, 1)), [0], "used last");
    assert_eq!(rig.resident(&prompt(3, 1)), []);
}

#[test]
fn pinned_and_staged_objects_are_not_evicted() {
    let mut rig = Rig::new(3);
    store(&mut rig, "a", 1, 1);
    rig.prepare(&worker(1, "b"), &prompt(2, 1), 0, 1);
    rig.lookup(&worker(1, "r"), &prompt(1, 1), 1);
    assert_eq!(rig.prepare(&worker(1, "c"), &prompt(3, 2), 0, 2).chunks(), [0]);
    assert_eq!(rig.resident(&prompt(1, 1)), [0]);
    assert_eq!(rig.core.stats().l1().refused_objects, 1);
    rig.wait(READ_TTL);
    assert_eq!(rig.prepare(&worker(1, "d"), &prompt(4, 1), 0, 1).chunks(), [0], "expired pins");
    assert_eq!(rig.resident(&prompt(1, 1)), []);
}

#[test]
fn a_prompt_is_not_evicted_for_its_own_continuation() {
    let mut rig = Rig::new(3);
    let p = prompt(1, 5);
    assert_eq!(rig.store(&worker(1, "a"), &p, 0, 2), 2);
    assert_eq!(rig.prepare(&worker(1, "a"), &p, 2, 5).chunks(), [0]);
    assert_eq!(rig.resident(&p), [0, 1]);
}

#[test]
fn all_ranks_of_a_chunk_are_evicted_together() {
    let mut rig = Rig::empty(5, EvictionKind::Lru, None);
    rig.register(1, "m", 2, 1);
    rig.register(2, "m", 2, 1);
    let ranks = [0, 1].map(|r| Who { rank: KvRank::new(2, r), ..worker(1 + i64::from(r), "a") });
    let (old, new) = (prompt(1, 2), prompt(2, 1));
    for w in &ranks {
        rig.store(w, &old, 0, 2);
    }
    rig.store(&ranks[0], &new, 0, 1);
    rig.store(&ranks[1], &new, 0, 1);
    assert_eq!(rig.core.stats().l1().evicted_chunks, 1);
    assert_eq!(rig.core.stats().l1().evicted_objects, 2);
    assert_eq!((rig.lookup(&ranks[0], &old, 1), rig.lookup(&ranks[0], &new, 1)), (1, 1));
}

/// Found by the simulation (seed 250 of its first version).
#[test]
fn the_head_stays_more_recent_if_another_rank_could_not_be_stored() {
    let mut rig = Rig::empty(3, EvictionKind::Lru, None);
    rig.register(1, "m", 2, 1);
    rig.register(2, "m", 2, 1);
    let ranks = [0, 1].map(|r| Who { rank: KvRank::new(2, r), ..worker(1 + i64::from(r), "a") });
    let old = prompt(1, 3);
    rig.store(&ranks[0], &old, 0, 3);
    assert_eq!(rig.prepare(&ranks[1], &old, 0, 3).slots, []);
    rig.store(&ranks[0], &prompt(2, 1), 0, 1);
    let left = old.iter().map(|hash| rig.core.index().chunk(&"m".into(), &"".into(), hash).is_some());
    assert_eq!(left.collect::<Vec<_>>(), [true, true, false]);
}

/// A reader of the middle of a prompt must not leave the head colder than what it read.
#[test]
fn the_head_stays_more_recent_than_the_range_that_was_read() {
    let cases: [(&str, Deed); 4] = [
        ("retrieve committed after its session ended", |rig| {
            rig.prepare_retrieve(&worker(1, "r"), &prompt(1, 4), 2, 4).expect("held");
            rig.end("r");
            rig.commit_retrieve(&worker(1, "r"), &prompt(1, 4), 2, 4);
        }),
        ("retrieve ran out", |rig| {
            rig.prepare_retrieve(&worker(1, "r"), &prompt(1, 4), 2, 4).expect("held");
            rig.end("r");
            rig.wait(READ_TTL);
        }),
        ("reader lost", |rig| {
            rig.prepare_retrieve(&worker(1, "r"), &prompt(1, 4), 0, 4).expect("held");
            rig.end("r");
            rig.lose(1);
            rig.wait(READ_TTL);
        }),
        ("freed in two parts", |rig| {
            rig.free("r", 0, 2);
            rig.free("r", 2, 4);
        }),
    ];
    for (name, read) in cases {
        let mut rig = Rig::new(5);
        store(&mut rig, "a", 1, 4);
        rig.lookup(&worker(7, "r"), &prompt(1, 4), 1);
        read(&mut rig);
        store(&mut rig, "b", 2, 1);
        store(&mut rig, "c", 3, 1);
        assert_eq!(rig.resident(&prompt(1, 4)), [0, 1, 2], "{name}");
    }
}

#[test]
fn trimming_starts_above_the_watermark_and_frees_the_ratio() {
    let trim = Some(Trim { above: 0.8, release: 0.3 });
    let mut rig = Rig::empty(10, EvictionKind::Lru, trim);
    rig.register(1, "m", 1, 1);
    store(&mut rig, "a", 1, 8);
    assert_eq!(rig.used_pages(), 8);
    store(&mut rig, "b", 2, 1);
    assert_eq!(rig.used_pages(), 5);
    assert_eq!(rig.resident(&prompt(1, 8)), [0, 1, 2, 3], "tails first");
}

/// One call evicts some, the calls that follow the rest, without another store.
#[test]
fn a_large_trim_is_spread_over_several_calls() {
    let is_due = |rig: &Rig| rig.core.next_deadline().is_some_and(|due| due <= Time::from_millis(rig.now));
    let trim = Some(Trim { above: 0.5, release: 0.5 });
    let mut rig = Rig::empty(4000, EvictionKind::Lru, trim);
    rig.register(1, "m", 1, 1);
    (1..=10).for_each(|seed| store(&mut rig, &format!("r{seed}"), seed, 200));
    assert_eq!((rig.used_pages(), is_due(&rig)), (2000, false));
    store(&mut rig, "b", 20, 1);
    let after_store = rig.used_pages();
    assert!((1000..2000).contains(&after_store), "{after_store} pages");
    let mut calls = 0;
    while is_due(&rig) {
        rig.core.advance(Time::from_millis(rig.now));
        calls += 1;
    }
    assert_eq!(rig.used_pages(), 0, "after {calls} calls");
}

#[test]
fn noop_refuses_stores_instead_of_evicting() {
    let mut rig = Rig::empty(2, EvictionKind::Noop, None);
    rig.register(1, "m", 1, 1);
    store(&mut rig, "a", 1, 2);
    assert_eq!(rig.prepare(&worker(1, "b"), &prompt(2, 1), 0, 1).slots, []);
    assert_eq!(rig.resident(&prompt(1, 2)), [0, 1]);
}

#[test]
fn an_object_that_cannot_fit_evicts_nothing() {
    let mut rig = Rig::new(4);
    rig.register(2, "big", 1, 5);
    store(&mut rig, "a", 1, 4);
    let big = Who { model: "big".into(), ..worker(2, "b") };
    assert_eq!(rig.prepare(&big, &prompt(2, 1), 0, 1).slots, []);
    assert_eq!(rig.resident(&prompt(1, 4)), [0, 1, 2, 3]);
}

/// Enough bytes may be evicted, but held objects lie between them.
#[test]
fn an_object_that_fits_nowhere_evicts_nothing() {
    let mut rig = Rig::new(6);
    rig.register(2, "big", 1, 3);
    let p = prompt(1, 6);
    store(&mut rig, "a", 1, 6);
    rig.lookup(&worker(1, "r"), &p, 1);
    rig.free("r", 0, 2);
    rig.free("r", 3, 5);
    let big = Who { model: "big".into(), ..worker(2, "b") };
    assert_eq!(rig.prepare(&big, &prompt(2, 1), 0, 1).slots, []);
    assert_eq!(rig.resident(&p), [0, 1, 2, 3, 4, 5]);
    rig.free("r", 5, 6);
    assert_eq!(rig.prepare(&big, &prompt(2, 1), 0, 1).slots[0].offset, 3 * 4096);
    assert_eq!(rig.resident(&p), [0, 1, 2], "exactly the space it needs");
}

#[test]
fn low_offsets_are_used_first() {
    let mut rig = Rig::new(100);
    store(&mut rig, "a", 1, 10);
    assert_eq!(rig.core.index().high_water_mark(), 10 * 4096);
    rig.clear(false);
    store(&mut rig, "b", 2, 4);
    let w = worker(1, "c");
    let offsets: Vec<u64> = rig.prepare(&w, &prompt(3, 3), 0, 3).slots.iter().map(|s| s.offset).collect();
    assert_eq!(offsets, [4 * 4096, 5 * 4096, 6 * 4096]);
    assert_eq!(rig.core.index().high_water_mark(), 10 * 4096);
}

/// A request touches what it stores several times. Only a later lookup shows that it is of use.
#[test]
fn a_lookup_counts_hits_for_the_policy_and_a_store_does_not() {
    for kind in [EvictionKind::Arc, EvictionKind::S3Fifo] {
        let mut rig = Rig::empty(8, kind, None);
        rig.register(1, "m", 1, 1);
        store(&mut rig, "a", 1, 4);
        for request in ["r", "s"] {
            assert_eq!(rig.lookup(&worker(1, request), &prompt(1, 2), 1), 2);
            rig.end(request);
        }
        (2..10).for_each(|seed| store(&mut rig, "scan", seed, 4));
        assert_eq!(rig.resident(&prompt(1, 4)), [0, 1], "{}", kind.name());
    }
}
