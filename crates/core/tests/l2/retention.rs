//! R9-R25: how long what was loaded stays.

use larder_policy::PrefetchKind;
use larder_policy::prefetch::plan::Fetch;

use crate::driver::Todo;
use crate::rig::{READ_TTL, Rig, config, prompt};

#[test]
fn r9_under_default_loaded_objects_are_dropped_with_their_reader() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 3);
    assert_eq!(rig.resident(&p), [0, 1, 2]);
    assert!(rig.read("r", &p, 0, 3));
    assert_eq!(rig.resident(&p), []);
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn r10_under_retain_objects_stay_unpinned_readable_and_deletable() {
    let mut rig = Rig::new(8, 1, PrefetchKind::Retain);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 3);
    assert!(rig.read("r", &p, 0, 3));
    assert_eq!((rig.resident(&p), rig.evictable_pages()), (vec![0, 1, 2], 3));
    assert_eq!(rig.lookup("again", &p, 1).expect("all in L1").chunks, 3);
    assert!(rig.read("again", &p, 0, 3));
    assert_eq!(rig.clear(false), 3);
    rig.assert_idle();
}

#[test]
fn r12_each_object_has_a_pin_for_each_reader() {
    for policy in [PrefetchKind::Default, PrefetchKind::Retain] {
        for readers in [1, 2, 4] {
            let mut rig = Rig::new(8, 1, policy);
            let p = prompt(1, 2);
            rig.put_all(0, &p);
            assert_eq!(rig.hit("r", &p, readers), 2);
            for _ in 0..readers {
                assert_eq!(rig.resident(&p), [0, 1]);
                assert!(rig.read("r", &p, 0, 2));
            }
            let stays = policy == PrefetchKind::Retain;
            assert_eq!(rig.resident(&p), if stays { vec![0, 1] } else { vec![] });
            assert_eq!(rig.read("r", &p, 0, 2), stays, "no pin is left");
            rig.end("r");
            rig.assert_idle();
        }
    }
}

#[test]
fn r13_r14_a_second_request_finds_it_in_l1_or_loads_it_again() {
    for (policy, loads) in [(PrefetchKind::Retain, 3), (PrefetchKind::Default, 6)] {
        let mut rig = Rig::new(8, 1, policy);
        let p = prompt(1, 3);
        rig.put_all(0, &p);
        for request in ["one", "two"] {
            assert_eq!(rig.hit(request, &p, 1), 3);
            rig.end(request);
        }
        assert_eq!(rig.loaded(0).len(), loads, "{policy:?}");
        assert_eq!(rig.core.stats().residency().rereads, loads as u64 - 3, "{policy:?}");
        rig.assert_idle();
    }
}

#[test]
fn r15_s2_loaded_objects_are_never_stored_back() {
    for policy in [PrefetchKind::Default, PrefetchKind::Retain] {
        let mut rig = Rig::new(8, 2, policy);
        let p = prompt(1, 3);
        rig.put_all(0, &p);
        rig.hit("r", &p, 1);
        rig.end("r");
        rig.warmed(&prompt(1, 3), Fetch::Prefix);
        rig.settle();
        assert!(rig.driver.adapters.iter().all(|a| a.stored.is_empty()), "{policy:?}");
    }
}

/// Table 2.6: five chunks, the third load fails.
#[test]
fn r16_a_load_fails() {
    let p = prompt(1, 5);
    for (policy, after) in [(PrefetchKind::Default, vec![]), (PrefetchKind::Retain, vec![0, 1, 3, 4])] {
        let mut rig = Rig::new(8, 1, policy);
        rig.put_all(0, &p);
        rig.spoil(0, &p, 2);
        assert_eq!(rig.hit("r", &p, 1), 2);
        let during = if policy == PrefetchKind::Retain { vec![0, 1, 3, 4] } else { vec![0, 1] };
        assert_eq!(rig.resident(&p), during);
        assert_eq!(rig.evictable_pages(), during.len() as u64 - 2, "the hit is held, the rest is not");
        assert_eq!(rig.core.gauges().l1.staged_bytes, 0);
        assert_eq!(rig.core.stats().requests().l2.missing_objects, 1);
        rig.end("r");
        assert_eq!(rig.resident(&p), after);
        rig.assert_idle();
    }
    // A warm-up asks for no policy; what came stays.
    for (fetch, chunks) in [(Fetch::Prefix, 2), (Fetch::Full, 4)] {
        let mut rig = Rig::simple(8);
        rig.put_all(0, &p);
        rig.spoil(0, &p, 2);
        assert_eq!(rig.warmed(&p, fetch).chunks, chunks);
        assert_eq!(rig.resident(&p), [0, 1, 3, 4]);
        rig.assert_idle();
    }
}

/// R17: flags stay with their keys when the plan is made again for lack of space.
#[test]
fn r17_flags_match_their_keys_after_a_second_plan() {
    let mut rig = Rig::new(3, 1, PrefetchKind::Retain);
    let p = prompt(1, 5);
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 3);
    rig.end("r");
    assert_eq!(rig.resident(&p), [0, 1, 2]);
    rig.assert_idle();
}

#[test]
fn r18_retained_objects_are_evicted_in_order_and_pinned_ones_are_not() {
    let mut rig = Rig::new(4, 1, PrefetchKind::Retain);
    let (a, b) = (prompt(1, 2), prompt(2, 2));
    rig.put_all(0, &a);
    rig.hit("a", &a, 1);
    rig.end("a");
    rig.put_all(0, &b);
    rig.hit("b", &b, 1);
    assert_eq!(rig.store(&prompt(3, 2), 0, 2), 2);
    assert_eq!((rig.resident(&a), rig.resident(&b)), (vec![], vec![0, 1]));
    rig.settle();
    rig.end("b");
    rig.assert_idle();
}

/// R19 (differs from the reference): one request that retains a temporary object makes it permanent.
#[test]
fn r19_a_prefetch_request_makes_a_temporary_object_permanent() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    rig.hit("r", &p, 1);
    let result = rig.warmed(&p, Fetch::Prefix);
    assert_eq!((result.chunks, result.l1_objects, result.l2_objects), (2, 2, 0));
    rig.end("r");
    assert_eq!(rig.resident(&p), [0, 1]);
    rig.assert_idle();
}

#[test]
fn r19_a_store_makes_a_temporary_object_permanent() {
    let mut rig = Rig::new(8, 2, PrefetchKind::Default);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    rig.hit("r", &p, 1);
    assert_eq!(rig.store(&p, 0, 2), 0, "nothing to write");
    rig.end("r");
    rig.settle();
    assert_eq!(rig.resident(&p), [0, 1]);
    assert_eq!(rig.core.stats().requests().l2.promoted_objects, 2);
    // The store was to reach both adapters; the first has it.
    assert_eq!(rig.driver.adapters[0].stored, []);
    assert_eq!(rig.driver.adapters[1].stored.len(), 2);
    rig.assert_idle();
}

#[test]
fn r19_a_store_during_the_load_makes_it_permanent() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    rig.answer_lookups();
    assert_eq!(rig.loads().len(), 2);
    assert_eq!(rig.store(&p, 0, 2), 0, "both are on their way");
    rig.settle();
    rig.end("r");
    assert_eq!(rig.resident(&p), [0, 1]);
    rig.assert_idle();
}

#[test]
fn r19_a_hit_of_a_retaining_policy_makes_a_temporary_object_permanent() {
    // In L1 as a whole, and as the head of a longer prompt.
    for chunks in [2, 4] {
        let mut rig = Rig::simple(8);
        let p = prompt(1, chunks);
        rig.put_all(0, &p);
        rig.hit("temporary", &prompt(1, 2), 1);
        rig.core.set_prefetch_policy(PrefetchKind::Retain.create());
        assert_eq!(rig.hit_now("retaining", &p), u32::from(chunks));
        rig.end("retaining");
        rig.end("temporary");
        assert_eq!(rig.resident(&p).len(), usize::from(chunks));
        rig.assert_idle();
    }
}

/// R20 (FIX): also where nothing is ever evicted.
#[test]
fn r20_a_temporary_object_is_dropped_when_its_last_pin_expires() {
    let mut config = config(8, 1);
    config.eviction = larder_policy::eviction::EvictionKind::Noop;
    let mut rig = Rig::with(config);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    rig.hit("r", &p, 1);
    rig.wait(READ_TTL - 1);
    assert_eq!(rig.resident(&p), [0, 1]);
    rig.wait(1);
    assert_eq!((rig.resident(&p), rig.used_pages()), (vec![], 0));
}

#[test]
fn r23_releasing_too_often_releases_no_pin_of_another_reader() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    rig.hit("one", &p, 1);
    rig.lookup("two", &p, 1);
    for _ in 0..3 {
        rig.free("one", 0, 2);
        rig.read("one", &p, 0, 2);
    }
    rig.end("one");
    assert!(rig.read("two", &p, 0, 2));
    assert_eq!(rig.resident(&p), []);
}

#[test]
fn r24_two_requests_in_flight_share_one_copy_until_both_are_done() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    rig.lookup("one", &p, 1);
    rig.lookup("two", &p, 2);
    rig.settle();
    assert_eq!((rig.loaded(0).len(), rig.used_pages()), (3, 3));
    assert_eq!((rig.report("one").chunks, rig.report("two").chunks), (3, 3));
    assert!(rig.read("one", &p, 0, 3));
    rig.end("one");
    assert!(rig.read("two", &p, 0, 3));
    assert_eq!(rig.resident(&p), [0, 1, 2], "one reader is left");
    assert!(rig.read("two", &p, 0, 3));
    assert_eq!(rig.resident(&p), []);
    assert_eq!(rig.core.stats().requests().l2.loads_shared, 3);
    rig.end("two");
    rig.assert_idle();
}

#[test]
fn r25_a_retaining_and_a_default_request_race_and_the_object_stays() {
    let kinds = [PrefetchKind::Default, PrefetchKind::Retain];
    for (first, second) in [(kinds[0], kinds[1]), (kinds[1], kinds[0])] {
        let mut rig = Rig::new(8, 1, first);
        let p = prompt(1, 2);
        rig.put_all(0, &p);
        rig.lookup("one", &p, 1);
        rig.answer_lookups();
        rig.core.set_prefetch_policy(second.create());
        rig.lookup("two", &p, 1);
        rig.answer_lookups();
        assert_eq!(rig.core.stats().requests().l2.loads_shared, 2);
        rig.settle();
        rig.end("one");
        rig.end("two");
        assert_eq!(rig.resident(&p), [0, 1], "{first:?} and {second:?}");
        rig.assert_idle();
    }
}

/// The same if the first load has just ended when the second request comes to its own.
#[test]
fn r25_a_retaining_load_meets_an_object_that_has_just_come() {
    let mut rig = Rig::simple(8);
    let (p, longer) = (prompt(1, 2), prompt(1, 3));
    rig.put_all(0, &longer);
    rig.lookup("one", &p, 1);
    rig.lookup("two", &longer, 1);
    rig.step(|t| matches!(t, Todo::Lookup { .. }));
    while rig.step(|t| matches!(t, Todo::Load { .. })) {}
    rig.core.set_prefetch_policy(PrefetchKind::Retain.create());
    rig.answer_lookups();
    assert_eq!(rig.loads(), Rig::keys(&longer, &[2]));
    rig.end("two");
    rig.end("one");
    assert_eq!(rig.resident(&p), [0, 1], "it was to stay, whatever became of the request");
    rig.settle();
    rig.assert_idle();
}
