//! C1-C16: what a lookup asks for, takes, gives back, and answers.

use larder_core::CoreConfig;
use larder_core::{Hit, LookupStatus};
use larder_policy::PrefetchKind;
use larder_policy::eviction::EvictionKind;
use larder_policy::prefetch::plan::Fetch;

use crate::driver::Todo;
use crate::rig::{LOAD_DEADLINE, PAGE, Rig, config, pages_layout, prompt};

#[test]
fn hits_gaps_and_nothing() {
    for (held, hit) in [(vec![0, 1, 2, 3], 4), (vec![0, 1, 3], 2), (vec![1, 2, 3], 0), (vec![], 0)] {
        let mut rig = Rig::simple(8);
        let p = prompt(1, 4);
        rig.put(0, &p, &held);
        assert_eq!(rig.hit("r", &p, 1), hit, "{held:?}");
        assert_eq!(rig.loaded(0).len() as u32, hit, "only what is used is loaded");
        rig.end("r");
        rig.assert_idle();
    }
}

#[test]
fn without_adapters_or_with_all_in_l1_the_answer_comes_at_once() {
    let p = prompt(1, 3);
    let mut rig = Rig::new(8, 0, PrefetchKind::Default);
    rig.store(&p, 0, 2);
    let hit = rig.lookup("r", &p, 1).expect("there is no adapter");
    assert_eq!(hit, Hit { chunks: 2, l1_chunks: 2, l1_objects: 2, l2_objects: 0 });
    assert_eq!(rig.result("r"), LookupStatus::Ready(2));

    let mut rig = Rig::simple(8);
    rig.store(&p, 0, 3);
    rig.settle();
    assert_eq!(rig.lookup("r", &p, 1).expect("all in L1").chunks, 3);
    assert_eq!(rig.lookup("none", &prompt(1, 0), 1).expect("no chunks").chunks, 0);
    assert!(rig.driver.adapters[0].asked.is_empty());
}

#[test]
fn l1_hits_outside_the_prefix_are_not_pinned() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 5);
    rig.store(&p, 0, 1);
    rig.store(&p, 3, 5);
    rig.settle();
    rig.driver.adapters[0].objects.clear();
    assert_eq!(rig.hit("r", &p, 1), 1);
    assert_eq!(rig.evictable_pages(), 2);
}

#[test]
fn what_the_reader_has_is_neither_asked_for_nor_loaded() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 6);
    rig.put(0, &p, &[0, 1, 3, 4]);
    rig.store(&p, 2, 3);
    rig.settle();
    let asked = rig.driver.adapters[0].asked.len();
    assert_eq!(rig.lookup_rest(1, "r", (&p, 2), 1), None);
    assert_eq!(rig.result("r"), LookupStatus::Pending);
    rig.settle();
    assert_eq!(rig.loaded(0), Rig::keys(&p, &[3, 4]));
    assert_eq!(rig.report("r"), Hit { chunks: 3, l1_chunks: 1, l1_objects: 1, l2_objects: 2 });
    assert_eq!(rig.driver.adapters[0].asked[asked..], Rig::keys(&p, &[3, 4, 5]));
    assert_eq!(rig.result("r"), LookupStatus::Ready(5));
    rig.free("r", 0, 5);
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn a_result_is_reported_once() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    assert_eq!(rig.result("r"), LookupStatus::Unknown);
    assert_eq!(rig.lookup("r", &p, 1), None);
    assert_eq!(rig.result("r"), LookupStatus::Pending);
    rig.answer_lookups();
    assert_eq!(rig.result("r"), LookupStatus::Pending);
    rig.settle();
    assert_eq!(rig.driver.done.len(), 1);
    assert_eq!(rig.result("r"), LookupStatus::Ready(2));
    assert_eq!(rig.result("r"), LookupStatus::Unknown);
}

#[test]
fn several_adapters_load_each_key_once() {
    let mut rig = Rig::new(8, 2, PrefetchKind::Default);
    let p = prompt(1, 4);
    rig.put(0, &p, &[0, 1, 2]);
    rig.put(1, &p, &[1, 2, 3]);
    assert_eq!(rig.hit("r", &p, 1), 4);
    assert_eq!(rig.loaded(0), Rig::keys(&p, &[0, 1, 2]));
    assert_eq!(rig.loaded(1), Rig::keys(&p, &[3]));
    rig.end("r");
    rig.assert_idle();
}

fn lookup_of(adapter: u32) -> impl Fn(&Todo) -> bool {
    move |todo| matches!(todo, Todo::Lookup { adapter: asked, .. } if asked.0 == adapter)
}

/// The plan would not use the second adapter, so it is not waited for, in this batch or the next.
#[test]
fn an_adapter_that_can_change_nothing_is_not_waited_for() {
    let mut rig = Rig::new(64, 2, PrefetchKind::Default);
    let p = prompt(1, 40);
    rig.put_all(0, &p);
    rig.put_all(1, &p);
    rig.lookup("r", &p, 1);
    while rig.step(lookup_of(0)) {}
    assert_eq!(rig.loads().len(), 40);
    let late = rig.driver.todo.iter().filter(|todo| lookup_of(1)(todo)).count();
    assert_eq!(late, 2, "it has not answered about either window");
    rig.settle();
    assert_eq!(rig.result("r"), LookupStatus::Ready(40));
    assert_eq!((rig.loaded(0).len(), rig.loaded(1).len()), (40, 0));
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn an_adapter_that_comes_first_is_waited_for() {
    let mut rig = Rig::new(64, 2, PrefetchKind::Default);
    let p = prompt(1, 4);
    rig.put(0, &p, &[0, 1]);
    rig.put_all(1, &p);
    rig.lookup("r", &p, 1);
    rig.step(lookup_of(1));
    assert_eq!(rig.loads(), [], "the first may have it");
    assert_eq!(rig.core.next_deadline(), Some(larder_types::Time::from_millis(LOAD_DEADLINE)));
    rig.settle();
    assert_eq!((rig.loaded(0).len(), rig.loaded(1).len()), (2, 2));
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn only_what_l1_lacks_is_asked_for() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 4);
    rig.store(&p, 0, 2);
    rig.settle();
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 4);
    assert_eq!(rig.driver.adapters[0].asked, Rig::keys(&p, &[2, 3]));
    assert_eq!(rig.report("r"), Hit { chunks: 4, l1_chunks: 2, l1_objects: 2, l2_objects: 2 });
}

#[test]
fn l1_in_the_middle_is_used_where_it_is() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 5);
    rig.store(&p, 2, 5);
    rig.settle();
    rig.driver.adapters[0].objects.clear();
    rig.put(0, &p, &[0, 1]);
    let before = rig.object(&p, 0, 3);
    assert_eq!(rig.hit("r", &p, 1), 5);
    assert_eq!(rig.report("r"), Hit { chunks: 5, l1_chunks: 0, l1_objects: 3, l2_objects: 2 });
    assert_eq!(rig.object(&p, 0, 3), before);
    assert!(rig.read("r", &p, 0, 5));
}

#[test]
fn of_a_windowed_row_only_the_window_is_loaded() {
    let mut rig = Rig::simple(32);
    rig.reregister(&[None, Some(2)]);
    let p = prompt(1, 5);
    rig.put_all(0, &p);
    rig.put_group(0, 1, &p, &[0, 1, 2, 3, 4]);
    assert_eq!(rig.hit("r", &p, 1), 5);
    assert_eq!(rig.resident_of(&p, 1), [3, 4]);
    assert_eq!(rig.resident(&p), [0, 1, 2, 3, 4]);
    // The same prompt, longer: what L1 holds of the window before is of no use.
    let longer = prompt(1, 8);
    rig.put_all(0, &longer);
    rig.put_group(0, 1, &longer, &[6, 7]);
    assert_eq!(rig.hit("longer", &longer, 1), 8);
    rig.end("r");
    assert_eq!(rig.resident_of(&longer, 1), [6, 7]);
    rig.end("longer");
    rig.assert_idle();
}

#[test]
fn of_a_windowed_row_what_is_too_far_back_is_not_asked_for() {
    let mut rig = Rig::new(64, 1, PrefetchKind::Retain);
    rig.reregister(&[None, Some(2)]);
    let p = prompt(1, 10);
    rig.put(0, &p, &[0, 1, 2, 3, 4, 5]);
    rig.put_group(0, 1, &p, &[4, 5]);
    assert_eq!(rig.hit("short", &p, 1), 6);
    rig.driver.adapters[0].asked.clear();
    rig.put(0, &p, &[6]);
    rig.put_group(0, 1, &p, &[6]);
    assert_eq!(rig.hit("long", &p, 1), 7);
    let asked = &rig.driver.adapters[0].asked;
    assert!(!asked.iter().any(|k| k.object_group == 1 && p[..5].contains(&k.chunk_hash)), "{asked:?}");
}

#[test]
fn as_many_leading_chunks_as_fit() {
    let mut rig = Rig::simple(16);
    let (held, p) = (prompt(1, 10), prompt(2, 12));
    rig.store(&held, 0, 10);
    rig.settle();
    rig.lookup("holder", &held, 1);
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 6);
    assert_eq!(rig.core.stats().requests().l2.no_room_objects, 6);
    rig.end("r");
    rig.end("holder");
    rig.assert_idle();
}

#[test]
fn loads_evict_other_prompts_but_not_their_own_prefix() {
    let mut rig = Rig::simple(16);
    let (old, p) = (prompt(1, 10), prompt(2, 12));
    rig.store(&p, 0, 2);
    rig.store(&old, 0, 10);
    rig.settle();
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 12);
    assert_eq!(rig.report("r").l1_objects, 2);
    assert_eq!(rig.resident(&old).len(), 4);
}

/// Two rows use the same space: whole chunks only, never one row alone.
#[test]
fn two_rows_and_space_for_some_chunks() {
    for (pages, hit) in [(2, 0), (3, 1), (5, 1), (6, 2), (7, 2), (15, 5)] {
        let mut rig = Rig::simple(pages);
        rig.reregister(&[None, None]);
        let p = prompt(1, 5);
        rig.put_all(0, &p);
        rig.put_group(0, 1, &p, &[0, 1, 2, 3, 4]);
        assert_eq!(rig.hit("r", &p, 1), hit, "{pages} pages");
        assert_eq!(rig.used_pages(), u64::from(hit) * 3, "no staged memory is left");
        rig.end("r");
        rig.assert_idle();
    }
}

/// With windows a shorter prefix needs other cells than a longer one.
#[test]
fn a_shorter_prefix_gets_its_own_window() {
    for pages in 1..16 {
        let mut rig = Rig::simple(pages);
        rig.reregister(&[None, Some(1)]);
        let p = prompt(1, 10);
        rig.put_all(0, &p);
        rig.put_group(0, 1, &p, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let hit = rig.hit("r", &p, 1);
        assert_eq!(u64::from(hit), pages.saturating_sub(2).min(10), "{pages} pages");
        rig.end("r");
        rig.assert_idle();
    }
}

/// What the longer prefix had no use for is still there for the shorter one.
#[test]
fn a_shorter_prefix_pins_released_cells_again() {
    let mut rig = Rig::with(CoreConfig { eviction: EvictionKind::Noop, ..config(14, 1) });
    let p = prompt(1, 5);
    rig.reregister(&[None, None]);
    rig.put_group(0, 1, &p, &[0, 1, 2, 3, 4]);
    rig.warmed(&p, Fetch::Full);
    assert_eq!((rig.resident_of(&p, 1).len(), rig.used_pages()), (5, 10));
    rig.reregister(&[None, Some(1)]);
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 4);
    assert_eq!(rig.report("r").l1_objects, 1);
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn a_chunk_that_was_stored_meanwhile_is_a_hit() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    assert_eq!(rig.store(&p, 1, 2), 1);
    rig.settle();
    assert_eq!(rig.report("r"), Hit { chunks: 3, l1_chunks: 0, l1_objects: 1, l2_objects: 2 });
    assert_eq!(rig.loaded(0), Rig::keys(&p, &[0, 2]));
}

#[test]
fn a_chunk_that_is_being_stored_ends_the_prefix() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    assert_eq!(rig.prepare("storer", &p, 1, 2).slots.len(), 1);
    rig.settle();
    assert_eq!(rig.report("r").chunks, 1);
    assert_eq!(rig.core.stats().requests().l2.contended_objects, 1);
    assert_eq!(rig.loaded(0), Rig::keys(&p, &[0]));
    rig.commit("storer", &p, 1, 2);
    rig.settle();
    rig.end("r");
    rig.assert_idle();
}

/// C15: once it is found in L1 it stays there.
#[test]
fn objects_found_in_l1_are_pinned_from_then_on() {
    let mut rig = Rig::simple(4);
    let p = prompt(1, 4);
    rig.store(&p, 0, 2);
    rig.settle();
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    assert_eq!(rig.prepare("other", &prompt(2, 4), 0, 4).slots.len(), 2, "two are held");
    rig.settle();
    assert_eq!(rig.report("r").chunks, 2);
}

#[test]
fn requests_beyond_the_limit_wait_in_order_and_pin_nothing() {
    let mut rig = Rig::with(CoreConfig { prefetch_jobs_max: 2, ..config(64, 1) });
    let prompts: Vec<_> = (0..7).map(|i| prompt(i, 4)).collect();
    prompts.iter().for_each(|p| assert_eq!(rig.store(p, 0, 2), 2));
    rig.settle();
    for (i, p) in prompts.iter().enumerate() {
        rig.put_all(0, p);
        assert_eq!(rig.lookup(&format!("r{i}"), p, 1), None);
    }
    let gauges = rig.core.gauges();
    assert_eq!((gauges.prefetch_jobs, gauges.prefetch_waiting), (2, 5));
    assert_eq!(rig.evictable_pages(), 10, "the first two hold two each");
    // (+) What L1 can answer does not wait.
    rig.store(&prompt(9, 2), 0, 2);
    assert_eq!(rig.lookup("quick", &prompt(9, 2), 1).expect("at once").chunks, 2);
    rig.settle();
    let order: Vec<_> = rig.driver.done.iter().map(|r| r.request_id.to_string()).collect();
    assert_eq!(order, ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]);
    assert!(rig.driver.done.iter().all(|r| r.hit.is_some_and(|h| h.chunks == 4)));
}

#[test]
fn a_waiting_request_can_be_cancelled() {
    let mut rig = Rig::with(CoreConfig { prefetch_jobs_max: 1, ..config(64, 1) });
    for i in 0..4 {
        rig.put_all(0, &prompt(i, 2));
        rig.lookup(&format!("r{i}"), &prompt(i, 2), 1);
    }
    rig.end("r1");
    rig.free("r2", 0, 2);
    assert_eq!(rig.core.gauges().prefetch_waiting, 1);
    rig.settle();
    let order: Vec<_> = rig.driver.done.iter().map(|r| (r.request_id.to_string(), r.hit.is_some())).collect();
    let order: Vec<_> = order.iter().map(|(id, hit)| (id.as_str(), *hit)).collect();
    assert_eq!(order, [("r1", false), ("r2", false), ("r0", true), ("r3", true)]);
}

#[test]
fn a_waiting_request_is_answered_from_l1_at_its_deadline() {
    let mut rig = Rig::with(CoreConfig { prefetch_jobs_max: 1, ..config(64, 1) });
    let (a, b) = (prompt(1, 2), prompt(2, 4));
    rig.lookup("a", &a, 1);
    rig.store(&b, 0, 2);
    rig.lookup("b", &b, 1);
    rig.wait(LOAD_DEADLINE);
    assert_eq!((rig.result("a"), rig.result("b")), (LookupStatus::Ready(0), LookupStatus::Ready(2)));
    assert!(rig.read("b", &b, 0, 2));
}

#[test]
fn probe_batches_grow_and_stop_at_a_gap() {
    let asked = |held: &[u32], chunks: u16| {
        let mut rig = Rig::simple(1024);
        let p = prompt(1, chunks);
        rig.put(0, &p, held);
        let mut windows = Vec::new();
        rig.lookup("r", &p, 1);
        while let Some(Todo::Lookup { keys, .. }) = rig.driver.todo.first() {
            windows.push(keys.len());
            rig.step(|t| matches!(t, Todo::Lookup { .. }));
        }
        rig.settle();
        windows
    };
    let upto = |n: u32| (0..n).collect::<Vec<u32>>();
    assert_eq!(asked(&[], 1000), [32]);
    assert_eq!(asked(&upto(31), 1000), [32]);
    assert_eq!(asked(&upto(32), 1000), [32, 64]);
    assert_eq!(asked(&upto(100), 1000), [32, 64, 128]);
    assert_eq!(asked(&upto(300), 300), [32, 64, 128, 76]);
    assert_eq!(asked(&upto(10), 10), [10]);
}

/// A row with a window can serve a longer prefix behind a gap, so the gap ends nothing.
#[test]
fn gaps_of_windowed_rows_do_not_stop_probing() {
    let mut rig = Rig::simple(64);
    rig.reregister(&[Some(2)]);
    let p = prompt(1, 100);
    rig.put(0, &p, &[0, 98, 99]);
    assert_eq!(rig.hit("r", &p, 1), 100);
    assert_eq!(rig.resident(&p), [98, 99]);
}

/// Sizes that no object of the row can have.
#[test]
fn an_object_of_another_size_is_absent() {
    for (size, hit) in [(PAGE, 1), (PAGE - 1, 0), (PAGE + 1, 0), (2 * PAGE, 0), (0, 0)] {
        let mut rig = Rig::simple(8);
        let p = prompt(1, 1);
        rig.driver.adapters[0].objects.insert(Rig::key(&p, 0, 0), size);
        assert_eq!(rig.hit("r", &p, 1), hit, "{size} bytes");
    }
}

/// The engine comes back with another type: it finds nothing of the old one in any tier, loads and stores its own.
#[test]
fn objects_of_another_layout_are_neither_found_nor_loaded() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    rig.store(&p, 0, 2);
    rig.settle();
    rig.reregister_with(3);
    assert_eq!(rig.hit("r", &p, 1), 0);
    let large = pages_layout(3).id();
    assert!(rig.driver.adapters[0].asked.iter().any(|key| key.layout == large), "asked in its own layout");
    let key = Rig::key(&p, 0, 0).with_layout(large);
    rig.driver.adapters[0].objects.insert(key, 3 * PAGE);
    assert_eq!(rig.hit("r", &p, 1), 1);
    assert!(rig.read("r", &p, 0, 1));
    rig.end("r");
    assert_eq!(rig.store(&p, 0, 2), 2, "the loaded one was temporary");
    assert_eq!(rig.used_pages(), 6, "what no worker can read any more made way");
    rig.settle();
    rig.assert_idle();
}
