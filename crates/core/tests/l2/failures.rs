//! C6, C19-C22: loads that fail, hang, come late or never; requests that go away.

use larder_core::CoreConfig;
use larder_core::IoId;
use larder_core::LookupStatus;
use larder_policy::PrefetchKind;
use larder_types::AdapterId;

use crate::driver::Todo;
use crate::rig::{Chain, LOAD_DEADLINE, PAGE, READ_TTL, Rig, config, prompt};

/// A lookup of three chunks that are being loaded.
fn loading(policy: PrefetchKind) -> (Rig, Chain) {
    let mut rig = Rig::new(8, 1, policy);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    rig.answer_lookups();
    assert_eq!(rig.loads().len(), 3);
    (rig, p)
}

fn ios(rig: &Rig) -> Vec<IoId> {
    let ios = rig.driver.todo.iter().filter_map(|t| match t {
        Todo::Load { item, .. } => Some(item.io),
        _ => None,
    });
    ios.collect()
}

#[test]
fn a_deadline_answers_with_what_is_there() {
    let (mut rig, p) = loading(PrefetchKind::Default);
    rig.step(|t| matches!(t, Todo::Load { .. }));
    rig.wait(LOAD_DEADLINE - 1);
    assert_eq!(rig.result("r"), LookupStatus::Pending);
    rig.wait(1);
    assert_eq!(rig.result("r"), LookupStatus::Ready(1));
    assert_eq!(rig.core.stats().requests().l2.late_objects, 2);
    assert!(rig.read("r", &p, 0, 1));
    assert_eq!(rig.core.gauges().l1.staged_bytes, 0);
    assert_eq!(rig.used_pages(), 3, "the I/O is not over");
    rig.settle();
    rig.end("r");
    rig.assert_idle();
    assert_eq!(rig.used_pages(), 0, "late and temporary");
}

#[test]
fn a_late_load_is_admitted_if_it_is_retained() {
    let (mut rig, p) = loading(PrefetchKind::Retain);
    rig.wait(LOAD_DEADLINE);
    assert_eq!(rig.result("r"), LookupStatus::Ready(0));
    rig.settle();
    assert_eq!(rig.resident(&p), [0, 1, 2]);
    rig.assert_idle();
}

/// A detached load that hangs blocks its memory, but not its place in the index.
#[test]
fn a_detached_load_yields_to_a_store() {
    let (mut rig, p) = loading(PrefetchKind::Retain);
    rig.end("r");
    assert_eq!(rig.store(&p, 0, 3), 3, "elsewhere");
    assert_eq!(rig.used_pages(), 6);
    rig.settle();
    assert_eq!(rig.used_pages(), 3);
    rig.assert_idle();
}

#[test]
fn a_fresh_detached_load_is_joined_and_a_stale_one_yields() {
    let (mut rig, p) = loading(PrefetchKind::Retain);
    rig.end("r");
    rig.wait(LOAD_DEADLINE - 1);
    rig.lookup("fresh", &p, 1);
    rig.answer_lookups();
    assert_eq!((rig.loads().len(), rig.used_pages()), (3, 3));
    rig.end("fresh");
    rig.wait(1);
    rig.lookup("late", &p, 1);
    rig.answer_lookups();
    assert_eq!((rig.loads().len(), rig.used_pages()), (6, 6));
    rig.settle();
    assert_eq!(rig.result("late"), LookupStatus::Ready(3));
    rig.end("late");
    rig.assert_idle();
}

/// Nobody else may hope for a load that others have waited for too long.
#[test]
fn a_load_that_takes_too_long_is_not_joined() {
    let (mut rig, p) = loading(PrefetchKind::Default);
    rig.wait(LOAD_DEADLINE / 2);
    rig.lookup("two", &p, 1);
    rig.answer_lookups();
    rig.wait(LOAD_DEADLINE / 2);
    rig.lookup("three", &p, 1);
    rig.answer_lookups();
    assert_eq!(rig.result("three"), LookupStatus::Ready(0));
    assert_eq!(rig.result("two"), LookupStatus::Pending);
    rig.settle();
    assert_eq!(rig.result("two"), LookupStatus::Ready(3));
    rig.end("two");
    rig.assert_idle();
}

#[test]
fn lost_connections_leave_nothing() {
    type End = fn(&mut Rig, &Chain);
    let ends: [(&str, End); 4] = [
        ("end of the session", |rig, _| rig.end("r")),
        ("connection", |rig, _| rig.lose(1)),
        ("free", |rig, _| rig.free("r", 0, 3)),
        ("next lookup", |rig, _| {
            rig.lookup("r", &prompt(9, 2), 1);
        }),
    ];
    for (name, end) in ends {
        for done in 0..8 {
            let mut rig = Rig::new(8, 1, PrefetchKind::Default);
            let p = prompt(1, 3);
            rig.store(&p, 1, 2);
            rig.settle();
            rig.driver.adapters[0].objects.clear();
            rig.put(0, &p, &[0, 2]);
            rig.lookup("r", &p, 1);
            (0..done).for_each(|_| {
                rig.step(|_| true);
            });
            end(&mut rig, &p);
            let answered = rig.driver.done.len();
            assert_eq!(answered, 1, "{name} after {done}: one answer");
            rig.settle();
            let more = usize::from(name == "next lookup");
            assert_eq!(rig.driver.done.len(), answered + more, "{name} after {done}");
            rig.end("r");
            assert_eq!(rig.resident(&p), [1], "{name} after {done}");
            rig.assert_idle();
        }
    }
}

#[test]
fn a_cancelled_lookup_is_reported_and_unknown() {
    let (mut rig, _) = loading(PrefetchKind::Default);
    rig.free("r", 0, 1);
    assert_eq!(rig.driver.done.pop().expect("reported").hit, None);
    assert_eq!(rig.result("r"), LookupStatus::Unknown);
    assert_eq!(rig.core.stats().requests().l2.jobs_cancelled, 1);
}

/// C19: memory under I/O is not reused before the I/O has ended, with a result or without.
#[test]
fn memory_is_not_reused_before_the_io_ends() {
    let (mut rig, _) = loading(PrefetchKind::Default);
    let ios = ios(&rig);
    rig.driver.todo.clear();
    rig.end("r");
    assert_eq!(rig.clear(true), 0, "they are not in the index any more");
    assert_eq!(rig.used_pages(), 3);
    let other = prompt(2, 8);
    assert_eq!(rig.prepare("w", &other, 0, 8).slots.len(), 5);
    for (i, io) in ios.iter().enumerate() {
        rig.driver.lent.remove(io);
        rig.core.io_ended(rig.time(), *io);
        rig.core.check();
        assert_eq!(rig.used_pages(), 8 - 1 - i as u64);
    }
}

#[test]
fn the_end_of_the_io_may_come_before_the_result() {
    let (mut rig, p) = loading(PrefetchKind::Default);
    for io in ios(&rig) {
        rig.driver.lent.clear();
        rig.core.io_ended(rig.time(), io);
        rig.core.check();
    }
    while rig.step(|t| matches!(t, Todo::Load { .. })) {}
    rig.driver.todo.clear();
    assert_eq!(rig.result("r"), LookupStatus::Ready(3));
    assert!(rig.read("r", &p, 0, 3));
    rig.end("r");
    rig.assert_idle();
}

/// C20: an adapter that dies drops its regions and says nothing. Nobody waits for the deadline then.
#[test]
fn io_that_ends_without_a_result_is_a_miss_soon() {
    let (mut rig, _) = loading(PrefetchKind::Default);
    let ios = ios(&rig);
    rig.driver.todo.clear();
    rig.driver.lent.clear();
    ios.iter().for_each(|io| rig.core.io_ended(rig.time(), *io));
    assert_eq!(rig.result("r"), LookupStatus::Pending);
    rig.wait(1000);
    assert_eq!(rig.result("r"), LookupStatus::Ready(0));
    // Later answers are ignored.
    ios.iter().for_each(|io| rig.core.l2_loaded(rig.time(), *io, true));
    rig.core.check();
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn one_adapter_fails_and_the_others_serve() {
    let mut rig = Rig::new(8, 2, PrefetchKind::Default);
    let p = prompt(1, 4);
    rig.put(0, &p, &[0, 1]);
    rig.put(1, &p, &[2, 3]);
    rig.spoil(1, &p, 2);
    rig.spoil(1, &p, 3);
    assert_eq!(rig.hit("r", &p, 1), 2);
    assert_eq!(rig.core.stats().adapter(AdapterId(1)).load_failed_objects, 2);
    assert_eq!(rig.core.stats().adapter(AdapterId(0)).loaded_objects, 2);
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn an_adapter_that_does_not_answer_ends_with_the_deadline() {
    let mut rig = Rig::new(8, 2, PrefetchKind::Default);
    let p = prompt(1, 3);
    rig.store(&p, 0, 1);
    rig.settle();
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    rig.step(|t| matches!(t, Todo::Lookup { adapter: AdapterId(0), .. }));
    let question = rig.driver.todo.pop().expect("the other adapter's");
    rig.wait(LOAD_DEADLINE);
    assert_eq!(rig.result("r"), LookupStatus::Ready(1));
    // The answer comes after all.
    rig.driver.todo.push(question);
    rig.settle();
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn short_and_long_answers_are_taken_as_far_as_they_go() {
    for sizes in [vec![], vec![Some(PAGE)], vec![Some(PAGE); 9]] {
        let mut rig = Rig::simple(8);
        let p = prompt(1, 3);
        rig.put_all(0, &p);
        rig.lookup("r", &p, 1);
        let Some(Todo::Lookup { lookup, .. }) = rig.driver.todo.pop() else { panic!("a question") };
        rig.core.l2_found(rig.time(), lookup, &sizes);
        rig.core.l2_found(rig.time(), lookup, &[Some(PAGE); 3]);
        rig.core.check();
        rig.driver.collect(&mut rig.core);
        rig.settle();
        assert_eq!(rig.result("r"), LookupStatus::Ready(sizes.len().min(3) as u32));
    }
}

/// C22: what was cleared away while it was loaded is not claimed.
#[test]
fn a_load_that_was_cleared_away_is_a_miss() {
    let (mut rig, _) = loading(PrefetchKind::Retain);
    rig.step(|t| matches!(t, Todo::Load { .. }));
    assert_eq!(rig.clear(true), 3, "one is there, two are on their way");
    rig.settle();
    assert_eq!(rig.result("r"), LookupStatus::Ready(0));
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn a_cleared_load_that_was_not_handed_out_yet_is_a_miss() {
    let mut rig = Rig::with(CoreConfig { prefetch_bytes_max: PAGE, ..config(8, 1) });
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    rig.answer_lookups();
    assert_eq!(rig.loads().len(), 1);
    rig.clear(true);
    rig.settle();
    assert_eq!(rig.result("r"), LookupStatus::Ready(0));
    assert_eq!(rig.loaded(0).len(), 1);
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn bytes_under_io_are_limited_per_adapter() {
    let mut rig = Rig::with(CoreConfig { prefetch_bytes_max: 2 * PAGE, ..config(32, 2) });
    let p = prompt(1, 10);
    rig.put(0, &p, &[0, 1, 2, 3, 4]);
    rig.put(1, &p, &[5, 6, 7, 8, 9]);
    rig.lookup("r", &p, 1);
    rig.answer_lookups();
    let mut most = 0;
    loop {
        let bytes = [0, 1].map(|i| rig.core.adapter_gauges(AdapterId(i)).loading_bytes / PAGE);
        assert!(bytes.iter().all(|b| *b <= 2));
        most = most.max(bytes[0] + bytes[1]);
        if !rig.step(|_| true) {
            break;
        }
    }
    assert_eq!(most, 4, "one adapter's limit is not the other's");
    assert_eq!(rig.result("r"), LookupStatus::Ready(10));
    rig.end("r");
    rig.assert_idle();
}

#[test]
fn a_job_that_is_cancelled_hands_out_nothing_more() {
    let mut rig = Rig::with(CoreConfig { prefetch_bytes_max: PAGE, ..config(8, 1) });
    let p = prompt(1, 4);
    rig.put_all(0, &p);
    rig.lookup("r", &p, 1);
    rig.answer_lookups();
    rig.end("r");
    assert_eq!(rig.used_pages(), 1, "only what was handed out");
    rig.settle();
    assert_eq!(rig.loaded(0).len(), 1);
    rig.assert_idle();
}

#[test]
fn a_lookup_that_was_overdue_long_ago_holds_no_lease_that_begins_now() {
    for woken in [true, false] {
        let mut rig = Rig::simple(8);
        let p = prompt(1, 2);
        rig.store(&p, 0, 1);
        rig.settle();
        assert_eq!(rig.lookup("r", &p, 1), None, "the adapter is asked and says nothing");
        if woken {
            rig.wait(LOAD_DEADLINE);
            assert_eq!(rig.core.gauges().lookup_leases, 1);
            rig.wait(READ_TTL);
        } else {
            rig.wait(LOAD_DEADLINE + READ_TTL);
        }
        assert_eq!((rig.core.gauges().lookup_leases, rig.evictable_pages()), (0, 1), "woken: {woken}");
    }
}
