//! R11 and prefetch requests: loads without pins.

use larder_core::{PREFETCH_REQUESTS_MAX, PrefetchRefused, PrefetchResult, PrefetchSpec, PrefetchStatus};
use larder_policy::PrefetchKind;
use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::{LoadCandidates, PrefetchPolicy};

use crate::rig::{LOAD_DEADLINE, Rig, prompt};

/// A policy that must not be asked.
#[derive(Debug)]
struct Unasked;

impl PrefetchPolicy for Unasked {
    fn retain(&self, _: &LoadCandidates<'_>) -> Vec<bool> {
        panic!("a prefetch request does not ask the policy")
    }
}

#[test]
fn r11_prefetch_requests_retain_without_pins_and_do_not_ask_the_policy() {
    let mut rig = Rig::simple(8);
    rig.core.set_prefetch_policy(Box::new(Unasked));
    let p = prompt(1, 4);
    rig.store(&p, 0, 1);
    rig.settle();
    rig.put_all(0, &p);
    let result = rig.warmed(&p, Fetch::Prefix);
    assert_eq!(result, PrefetchResult { chunks: 4, l1_objects: 1, l2_objects: 3, total_objects: 4 });
    assert_eq!(rig.core.stats().requests().l2.policy_faults, 0);
    assert_eq!((rig.resident(&p).len(), rig.evictable_pages()), (4, 4));
    rig.core.set_prefetch_policy(PrefetchKind::Default.create());
    assert_eq!(rig.lookup("r", &p, 1).expect("in L1").chunks, 4);
    assert!(rig.read("r", &p, 0, 4));
    rig.end("r");
    assert_eq!(rig.resident(&p).len(), 4);
    rig.assert_idle();
}

#[test]
fn full_takes_what_there_is() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 6);
    rig.put(0, &p, &[1, 3, 4]);
    let result = rig.warmed(&p, Fetch::Full);
    assert_eq!(result, PrefetchResult { chunks: 3, l1_objects: 0, l2_objects: 3, total_objects: 6 });
    assert_eq!(rig.resident(&p), [1, 3, 4]);
    rig.assert_idle();
}

#[test]
fn full_with_a_window_is_nothing() {
    let mut rig = Rig::simple(8);
    rig.reregister(&[None, Some(2)]);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    assert_eq!(rig.warmed(&p, Fetch::Full).chunks, 0);
    assert!(rig.driver.adapters[0].asked.is_empty());
    rig.assert_idle();
}

/// C13 and C14: a chunk that is half in L1 and half in L2 counts although another one is contended.
#[test]
fn full_drops_only_the_contended_chunk() {
    let mut rig = Rig::simple(16);
    rig.reregister(&[None, None]);
    let p = prompt(1, 3);
    rig.prepare_except("storer", (&p, 2, 3), &[vec![], vec![0]]);
    rig.commit("storer", &p, 2, 3);
    rig.settle();
    rig.driver.adapters[0].objects.clear();
    rig.put(0, &p, &[0, 1]);
    rig.put_group(0, 1, &p, &[0, 1, 2]);
    rig.prepare("storer", &p, 1, 2);
    let result = rig.warmed(&p, Fetch::Full);
    assert_eq!(result, PrefetchResult { chunks: 2, l1_objects: 1, l2_objects: 3, total_objects: 6 });
}

#[test]
fn full_keeps_the_leading_chunks_that_fit() {
    let mut rig = Rig::simple(7);
    rig.reregister(&[None, None]);
    let p = prompt(1, 4);
    rig.put_all(0, &p);
    rig.put_group(0, 1, &p, &[0, 1, 2, 3]);
    assert_eq!(rig.warmed(&p, Fetch::Full).chunks, 2);
    assert_eq!(rig.used_pages(), 6);
    rig.assert_idle();
}

#[test]
fn the_result_may_be_asked_for_again_until_it_is_forgotten() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    let id = rig.warm(&p, Fetch::Prefix);
    assert_eq!(rig.core.prefetch_status(rig.time(), id), PrefetchStatus::Pending);
    rig.wait(LOAD_DEADLINE);
    for _ in 0..2 {
        let done = PrefetchResult { total_objects: 2, ..PrefetchResult::default() };
        assert_eq!(rig.core.prefetch_status(rig.time(), id), PrefetchStatus::Done(done));
    }
    rig.wait(3_600_000);
    assert_eq!(rig.core.prefetch_status(rig.time(), id), PrefetchStatus::Unknown);
}

#[test]
fn a_result_that_is_taken_is_forgotten() {
    let mut rig = Rig::simple(8);
    let id = rig.warm(&prompt(1, 2), Fetch::Prefix);
    assert_eq!(rig.core.take_prefetch(rig.time(), id), PrefetchStatus::Pending);
    rig.wait(LOAD_DEADLINE);
    assert!(matches!(rig.core.take_prefetch(rig.time(), id), PrefetchStatus::Done(_)));
    assert_eq!(rig.core.take_prefetch(rig.time(), id), PrefetchStatus::Unknown);
    assert_eq!(rig.core.prefetch_status(rig.time(), id), PrefetchStatus::Unknown);
}

#[test]
fn without_adapters_or_chunks_it_is_done_at_once_and_without_workers_refused() {
    let mut rig = Rig::new(8, 0, PrefetchKind::Default);
    let p = prompt(1, 3);
    rig.store(&p, 0, 1);
    rig.store(&p, 2, 3);
    assert_eq!(rig.warmed(&p, Fetch::Prefix).chunks, 1);
    assert_eq!(rig.warmed(&p, Fetch::Full).chunks, 2);
    assert_eq!(rig.warmed(&prompt(1, 0), Fetch::Prefix), PrefetchResult::default());
    let (model, salt) = ("other".into(), "".into());
    let spec =
        PrefetchSpec { model: &model, world_size: 1, salt: &salt, chunk_hashes: &p, fetch: Fetch::Prefix };
    assert_eq!(rig.core.prefetch(rig.time(), &spec), Err(PrefetchRefused::Unregistered));
}

#[test]
fn pending_prefetch_requests_are_limited_and_old_results_are_forgotten() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 2);
    let first = rig.warm(&p, Fetch::Prefix);
    rig.settle();
    (1..PREFETCH_REQUESTS_MAX).for_each(|_| {
        rig.warm(&p, Fetch::Prefix);
    });
    assert!(matches!(rig.core.prefetch_status(rig.time(), first), PrefetchStatus::Done(_)));
    rig.warm(&p, Fetch::Prefix);
    assert_eq!(rig.core.prefetch_status(rig.time(), first), PrefetchStatus::Unknown);
    let (model, salt) = ("m".into(), "".into());
    let spec =
        PrefetchSpec { model: &model, world_size: 1, salt: &salt, chunk_hashes: &p, fetch: Fetch::Prefix };
    assert_eq!(rig.core.prefetch(rig.time(), &spec), Err(PrefetchRefused::TooMany));
    rig.settle();
    rig.assert_idle();
}
