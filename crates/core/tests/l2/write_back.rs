//! S1-S10: from L1 to L2.

use larder_core::{CoreConfig, StoreResult};
use larder_policy::eviction::EvictionKind;
use larder_policy::offload::OffloadTarget;
use larder_policy::{AdapterDesc, OffloadKind, OffloadPolicy, PrefetchKind};
use larder_types::ids::AdapterId;
use larder_types::object::ObjectKey;

use crate::driver::Todo;
use crate::rig::{PAGE, Rig, config, pages_layout, prompt};

fn is_store(todo: &Todo) -> bool {
    matches!(todo, Todo::Store { .. })
}

#[test]
fn s1_a_store_reaches_every_adapter_once_and_pins_nothing_afterwards() {
    let mut rig = Rig::storing(8, 3, OffloadKind::Default);
    let p = prompt(1, 3);
    rig.store(&p, 0, 3);
    assert_eq!(rig.core.write_back_pending(), 3);
    assert_eq!(rig.evictable_pages(), 0, "it is being read");
    rig.settle();
    for adapter in &rig.driver.adapters {
        assert_eq!(adapter.stored, Rig::keys(&p, &[0, 1, 2]), "the first chunk first");
    }
    assert_eq!(rig.store(&p, 0, 3), 0);
    rig.settle();
    assert_eq!(rig.driver.adapters[0].stored.len(), 3);
    assert_eq!(rig.evictable_pages(), 3);
    rig.assert_idle();
}

#[test]
fn s3_skip_l1_removes_what_was_stored() {
    let mut rig = Rig::storing(8, 1, OffloadKind::SkipL1);
    let p = prompt(1, 3);
    rig.store(&p, 0, 3);
    rig.settle();
    assert_eq!((rig.resident(&p), rig.used_pages()), (vec![], 0));
    assert_eq!(rig.core.stats().requests().l2.left_l1_objects, 3);
    assert_eq!(rig.hit("r", &p, 1), 3);
    assert!(rig.read("r", &p, 0, 3));
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn s3_skip_l1_keeps_what_was_not_stored() {
    let mut rig = Rig::storing(8, 1, OffloadKind::SkipL1);
    let p = prompt(1, 2);
    rig.driver.adapters[0].unstorable.insert(Rig::key(&p, 0, 0), u32::MAX);
    rig.store(&p, 0, 2);
    rig.settle();
    assert_eq!(rig.resident(&p), [0]);
    rig.assert_idle();
}

#[test]
fn s3_skip_l1_keeps_pinned_objects_for_their_readers() {
    let mut rig = Rig::storing(8, 1, OffloadKind::SkipL1);
    let p = prompt(1, 2);
    rig.store(&p, 0, 2);
    assert_eq!(rig.lookup("r", &p, 1).expect("in L1").chunks, 2);
    rig.settle();
    assert_eq!(rig.resident(&p), [0, 1]);
    assert!(rig.read("r", &p, 0, 2));
    assert_eq!(rig.resident(&p), [], "it goes with its last reader");
    rig.assert_idle();
}

#[test]
fn s9_skip_l1_waits_for_every_readable_adapter() {
    let p = prompt(1, 1);
    // Which adapters keep things, which of them fail, and what stays in L1.
    let cases: [(&[bool], &[usize], bool); 6] = [
        (&[true, true], &[], false),
        (&[true, true], &[0], true),
        (&[true, true], &[1], true),
        (&[true, false], &[1], false),
        (&[false, true], &[1], true),
        (&[false, false], &[], true),
    ];
    for (persists, failing, stays) in cases {
        let mut config = CoreConfig { store_policy: OffloadKind::SkipL1, ..config(8, persists.len()) };
        for (adapter, persists) in config.adapters.iter_mut().zip(persists) {
            adapter.readable = *persists;
        }
        let mut rig = Rig::with(config);
        for i in failing {
            rig.driver.adapters[*i].unstorable.insert(Rig::key(&p, 0, 0), u32::MAX);
        }
        rig.store(&p, 0, 1);
        rig.step(is_store);
        assert_eq!(rig.resident(&p), [0], "one of two has answered");
        rig.settle();
        assert_eq!(rig.resident(&p).len(), usize::from(stays), "{persists:?} {failing:?}");
        rig.assert_idle();
    }
}

#[test]
fn s4_a_task_without_an_answer_releases_its_objects() {
    let mut rig = Rig::with(CoreConfig { write_back_retries: 0, ..config(8, 1) });
    let p = prompt(1, 2);
    rig.store(&p, 0, 2);
    let Some(Todo::Store { items, task, .. }) = rig.driver.todo.pop() else { panic!("a task") };
    rig.driver.lent.clear();
    items.iter().for_each(|item| rig.core.io_ended(rig.time(), item.io));
    assert_eq!((rig.evictable_pages(), rig.core.write_back_pending()), (2, 2));
    rig.wait(1000);
    assert_eq!(rig.core.write_back_pending(), 0);
    assert_eq!(rig.core.stats().adapter(AdapterId(0)).store_failed_objects, 2);
    rig.core.l2_stored(rig.time(), task, &[StoreResult::Stored; 2]);
    rig.core.check();
    rig.assert_idle();
}

#[test]
fn s5_objects_evicted_before_their_turn_are_counted_and_skipped() {
    let mut rig =
        Rig::with(CoreConfig { write_back_tasks_max: 1, write_back_objects_max: 1, ..config(2, 1) });
    let (old, new) = (prompt(1, 2), prompt(2, 1));
    rig.store(&old, 0, 2);
    assert_eq!(rig.evictable_pages(), 1, "the other one is being read");
    rig.store(&new, 0, 1);
    rig.settle();
    let stored = rig.driver.adapters[0].stored.len();
    let gone = rig.core.stats().adapter(AdapterId(0)).store_gone_objects;
    assert_eq!((stored, gone, rig.core.write_back_pending()), (2, 1, 0));
    rig.assert_idle();
}

#[test]
fn s8_objects_of_several_sizes_are_stored_with_their_own() {
    let mut rig = Rig::simple(16);
    let (a, b) = (prompt(1, 1), prompt(2, 1));
    rig.store(&a, 0, 1);
    rig.reregister_with(3);
    rig.store(&b, 0, 1);
    rig.settle();
    let objects = &rig.driver.adapters[0].objects;
    let large = Rig::key(&b, 0, 0).with_layout(pages_layout(3).id());
    assert_eq!((objects[&Rig::key(&a, 0, 0)], objects[&large]), (PAGE, 3 * PAGE));
}

#[test]
fn s8_an_object_stored_in_another_layout_meanwhile_is_another_object() {
    for policy in [OffloadKind::Default, OffloadKind::SkipL1] {
        let mut rig = Rig::storing(16, 1, policy);
        let p = prompt(1, 1);
        rig.store(&p, 0, 1);
        let Some(Todo::Store { task, items, .. }) = rig.driver.todo.pop() else { panic!("a task") };
        rig.reregister_with(3);
        assert_eq!(rig.store(&p, 0, 1), 1, "no worker can read the old one");
        rig.driver.todo.push(Todo::Store { adapter: AdapterId(0), task, items });
        rig.settle();
        let large = Rig::key(&p, 0, 0).with_layout(pages_layout(3).id());
        assert_eq!(rig.driver.adapters[0].objects[&large], 3 * PAGE, "{policy:?}");
        assert_eq!(rig.resident(&p).is_empty(), policy == OffloadKind::SkipL1);
        rig.assert_idle();
    }
}

#[test]
fn s10_io_is_bounded() {
    let limits = CoreConfig { write_back_tasks_max: 2, write_back_objects_max: 3, ..config(64, 1) };
    let mut rig = Rig::with(limits);
    let p = prompt(1, 20);
    rig.store(&p, 0, 20);
    loop {
        let gauges = rig.core.adapter_gauges(AdapterId(0));
        assert!(gauges.storing_tasks <= 2);
        for todo in &rig.driver.todo {
            assert!(!matches!(todo, Todo::Store { items, .. } if items.len() > 3));
        }
        if !rig.step(|_| true) {
            break;
        }
    }
    assert_eq!(rig.driver.adapters[0].stored.len(), 20);
    rig.assert_idle();

    let mut rig = Rig::with(CoreConfig { write_back_bytes_max: 2 * PAGE, ..config(64, 1) });
    rig.store(&p, 0, 20);
    loop {
        assert!(rig.core.adapter_gauges(AdapterId(0)).storing_bytes <= 2 * PAGE);
        if !rig.step(|_| true) {
            break;
        }
    }
    assert_eq!(rig.driver.adapters[0].stored.len(), 20);
    rig.assert_idle();
}

#[test]
fn s10_a_full_queue_drops_its_oldest_key_and_a_hung_adapter_does_not_delay_others() {
    let limits = CoreConfig {
        write_back_queue_max: 4,
        write_back_tasks_max: 1,
        write_back_objects_max: 1,
        ..config(64, 2)
    };
    let mut rig = Rig::with(limits);
    let p = prompt(1, 12);
    for i in 0..12 {
        rig.store(&p, i, i + 1);
        while rig.step(|t| matches!(t, Todo::Store { adapter: AdapterId(1), .. } | Todo::Drop(_))) {}
    }
    assert_eq!(rig.driver.adapters[1].stored.len(), 12);
    let hung = rig.core.adapter_gauges(AdapterId(0));
    assert_eq!((hung.queued_keys, hung.storing_objects), (4, 1));
    assert_eq!(rig.core.stats().adapter(AdapterId(0)).store_dropped_objects, 7);
    assert_eq!(rig.evictable_pages(), 11, "only what is being read is kept");
    rig.settle();
    assert_eq!(rig.driver.adapters[0].stored, Rig::keys(&p, &[0, 8, 9, 10, 11]));
    rig.assert_idle();
}

/// Two keys to the first adapter, one of them to the second, and away from L1 once stored.
#[derive(Debug)]
struct Uneven;

impl OffloadPolicy for Uneven {
    fn targets(&self, keys: &[ObjectKey], _: &[AdapterDesc]) -> Vec<OffloadTarget> {
        let all = OffloadTarget { adapter: AdapterId(0), keys: (0..keys.len()).collect() };
        vec![all, OffloadTarget { adapter: AdapterId(1), keys: vec![0] }]
    }

    fn removes_from_l1(&self, _: &ObjectKey) -> bool {
        true
    }
}

#[test]
fn an_object_that_one_full_queue_drops_stays_in_l1_though_another_adapter_has_it() {
    let mut rig = Rig::with(CoreConfig { write_back_queue_max: 1, ..config(8, 2) });
    rig.core.set_store_policy(Box::new(Uneven));
    let p = prompt(1, 2);
    rig.store(&p, 0, 2);
    rig.settle();
    let stored = |i: usize| rig.driver.adapters[i].stored.clone();
    assert_eq!((stored(0), stored(1)), (Rig::keys(&p, &[1]), Rig::keys(&p, &[0])));
    assert_eq!(rig.resident(&p), [0], "the first adapter does not have it");
    rig.assert_idle();
}

#[test]
fn s10_a_failed_store_is_retried_a_few_times() {
    for (fails, stored) in [(1, 1), (2, 1), (3, 0)] {
        let mut rig = Rig::simple(8);
        let p = prompt(1, 2);
        rig.driver.adapters[0].unstorable.insert(Rig::key(&p, 0, 0), fails);
        rig.store(&p, 0, 2);
        rig.settle();
        assert_eq!(rig.driver.adapters[0].stored.len(), 1 + stored);
        let counters = rig.core.stats().adapter(AdapterId(0));
        assert_eq!(counters.store_retried_objects, u64::from(fails.min(2)));
        assert_eq!(counters.store_failed_objects, 1 - stored as u64);
        assert_eq!(rig.core.write_back_pending(), 0);
        rig.assert_idle();
    }
}

#[test]
fn a_store_that_would_fail_again_is_not_retried() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    rig.store(&p, 0, 2);
    let Some(Todo::Store { items, task, .. }) = rig.driver.todo.pop() else { panic!("a task") };
    rig.driver.lent.clear();
    items.iter().for_each(|item| rig.core.io_ended(rig.time(), item.io));
    rig.core.l2_stored(rig.time(), task, &[StoreResult::Refused; 2]);
    let counters = rig.core.stats().adapter(AdapterId(0));
    assert_eq!((counters.store_retried_objects, counters.store_failed_objects), (0, 2));
    assert_eq!(rig.core.write_back_pending(), 0);
    rig.core.check();
    rig.assert_idle();
}

#[test]
fn objects_under_io_are_not_evicted_and_queued_ones_may_be() {
    let mut rig =
        Rig::with(CoreConfig { write_back_tasks_max: 1, write_back_objects_max: 2, ..config(4, 1) });
    let (a, b) = (prompt(1, 4), prompt(2, 4));
    rig.store(&a, 0, 4);
    assert_eq!(rig.prepare("w", &b, 0, 4).slots.len(), 2);
    assert_eq!(rig.resident(&a), [0, 1]);
    rig.settle();
    assert_eq!(rig.core.stats().adapter(AdapterId(0)).store_gone_objects, 2);
}

/// Memory that is being stored is kept through a forced clear.
#[test]
fn a_forced_clear_leaves_the_memory_to_the_io() {
    let mut rig = Rig::simple(4);
    let p = prompt(1, 2);
    rig.store(&p, 0, 2);
    assert_eq!(rig.clear(true), 2);
    assert_eq!(rig.used_pages(), 2);
    assert_eq!(rig.prepare("w", &prompt(2, 4), 0, 4).slots.len(), 2);
    rig.settle();
    assert_eq!(rig.used_pages(), 2);
}

/// What is under way to L2 gets there, what waits for its turn does not, and what is there stays.
#[test]
fn clear_does_not_change_l2() {
    let mut rig =
        Rig::with(CoreConfig { write_back_tasks_max: 1, write_back_objects_max: 2, ..config(8, 1) });
    let p = prompt(1, 4);
    rig.store(&p, 0, 4);
    assert_eq!(rig.clear(false), 2, "two are being copied");
    rig.settle();
    assert_eq!(rig.core.stats().adapter(AdapterId(0)).store_gone_objects, 2);
    assert_eq!(rig.clear(false), 2);
    assert_eq!(rig.used_pages(), 0);
    assert_eq!(rig.hit("r", &p, 1), 2, "from L2");
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn a_key_that_is_stored_again_meanwhile_is_queued_once() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 1);
    rig.store(&p, 0, 1);
    rig.clear(true);
    rig.store(&p, 0, 1);
    assert_eq!(rig.core.write_back_pending(), 1);
    rig.settle();
    assert_eq!(rig.driver.adapters[0].stored.len(), 1);
    rig.assert_idle();
}

/// Whoever fills L1 with retained loads writes nothing back when they are evicted.
#[test]
fn eviction_stores_nothing() {
    let mut rig = Rig::new(4, 1, PrefetchKind::Retain);
    rig.put_all(0, &prompt(1, 4));
    rig.hit("r", &prompt(1, 4), 1);
    rig.end("r");
    rig.store(&prompt(2, 4), 0, 4);
    rig.settle();
    assert_eq!(rig.driver.adapters[0].stored.len(), 4);
}

/// Being copied to L2 is no use of a chunk: whatever the order in which adapters finish, the prompt is
/// evicted from its end, and a prompt that was used meanwhile is warmer than one that was not.
#[test]
fn io_does_not_move_a_chunk_in_the_eviction_order() {
    for eviction in [EvictionKind::Lru, EvictionKind::Arc, EvictionKind::S3Fifo, EvictionKind::IsolatedLru] {
        let one_by_one = CoreConfig { eviction, write_back_objects_max: 1, ..config(8, 1) };
        let mut rig = Rig::with(one_by_one);
        let (used, unused) = (prompt(1, 4), prompt(2, 4));
        rig.store(&used, 0, 4);
        rig.store(&unused, 0, 4);
        // Four at a time, the head of the prompt first, and used while it is being copied.
        assert_eq!(rig.lookup("r", &used, 1).expect("in L1").chunks, 4);
        rig.end("r");
        rig.settle();
        for (left, slots) in [(3, 1), (2, 1), (1, 1), (0, 1)] {
            rig.store(&prompt(10 + left, 1), 0, slots);
            rig.settle();
            assert_eq!(rig.resident(&used), [0, 1, 2, 3], "{eviction:?}");
            assert_eq!(rig.resident(&unused), (0..u32::from(left)).collect::<Vec<_>>(), "{eviction:?}");
        }
        rig.assert_idle();
    }
}

/// Trimming and eviction step over what is being copied, and take it once the copy is done.
#[test]
fn objects_under_io_keep_their_place_in_the_eviction_order() {
    let trim = larder_core::Trim { above: 0.5, release: 0.25 };
    let hung =
        CoreConfig { trim: Some(trim), write_back_tasks_max: 1, write_back_objects_max: 2, ..config(8, 1) };
    let mut rig = Rig::with(hung);
    let (cold, warm) = (prompt(1, 2), prompt(2, 3));
    rig.store(&cold, 0, 2);
    rig.store(&warm, 0, 3);
    assert_eq!((rig.resident(&cold), rig.resident(&warm)), (vec![0, 1], vec![]), "only what can go went");
    rig.settle();
    rig.store(&warm, 0, 3);
    assert_eq!((rig.resident(&cold), rig.resident(&warm)), (vec![], vec![0, 1]), "the coldest first");
    rig.settle();
    rig.assert_idle();
}

/// A backend that gives its tasks up and still reads the memory gets no more of it.
#[test]
fn s10_io_that_outlives_its_task_counts_until_it_ends() {
    let limits = CoreConfig {
        write_back_tasks_max: 2,
        write_back_objects_max: 3,
        write_back_retries: 0,
        ..config(64, 1)
    };
    let mut rig = Rig::with(limits);
    rig.driver.apart = true;
    rig.store(&prompt(1, 20), 0, 20);
    while rig.step(|t| matches!(t, Todo::Store { .. } | Todo::Stored { .. })) {}
    assert_eq!(rig.core.adapter_gauges(AdapterId(0)).storing_objects, 6, "two tasks of three");
    assert_eq!(rig.evictable_pages(), 14);
    rig.settle();
    assert_eq!(rig.driver.adapters[0].stored.len(), 20);
    rig.assert_idle();
}
