//! The policies that learn, through the whole core.

use std::sync::Arc;

use larder_core::CoreConfig;
use larder_policy::eviction::EvictionKind;
use larder_policy::reuse::{EvictionOrder, RetentionRule};
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::object::ChunkHash;

use crate::rig::{Chain, Rig, config};

fn document(id: u16, chunks: u8) -> Chain {
    let [high, low] = id.to_be_bytes();
    (0..chunks).map(|i| ChunkHash::new(&[0xd0, high, low, i]).expect("four bytes")).collect::<Arc<_>>()
}

/// One request from lookup to end: what is there is read, the rest is computed and stored.
fn ask(rig: &mut Rig, chain: &Chain) {
    rig.now += 100;
    let (hit, len) = (rig.hit("r", chain, 1), chain.len() as u32);
    if hit > 0 {
        assert!(rig.read("r", chain, 0, hit));
    }
    if hit < len {
        rig.store(chain, hit, len);
    }
    rig.end("r");
    rig.settle();
}

fn rig(pages: u64, eviction: EvictionKind, prefetch: PrefetchKind, store: OffloadKind) -> Rig {
    let config = CoreConfig { eviction, prefetch_policy: prefetch, store_policy: store, ..config(pages, 1) };
    Rig::with(config)
}

/// Five prompts in turn, with space for three. LRU with retention loses all of them each time.
fn loads_of_a_loop(prefetch: PrefetchKind) -> usize {
    let mut rig = rig(13, EvictionKind::Lru, prefetch, OffloadKind::Default);
    for i in 0..200 {
        ask(&mut rig, &document(i % 5, 4));
    }
    rig.loaded(0).len()
}

#[test]
fn adaptive_prefetch_does_as_the_better_of_the_fixed_policies() {
    let [default, retain, adaptive] =
        [PrefetchKind::Default, PrefetchKind::Retain, PrefetchKind::Adaptive].map(loads_of_a_loop);
    assert!(default * 3 < retain * 2, "or the test shows nothing: {default} of {retain}");
    assert!(adaptive * 10 < default * 11, "{adaptive} loads, {default} by default");
}

/// Two reused prompts and documents used once, with too little space for all.
fn loads_beside_a_scan(eviction: EvictionKind, prefetch: PrefetchKind) -> usize {
    let mut rig = rig(16, eviction, prefetch, OffloadKind::Default);
    for i in 0..300 {
        let chain = if i % 2 == 0 { document(i / 2 % 2, 4) } else { document(1000 + i, 6) };
        ask(&mut rig, &chain);
    }
    if let Some(learned) = rig.core.learned() {
        assert_eq!((learned.active.rank, learned.active.keep), (EvictionOrder::Worth, RetentionRule::Always));
        assert_eq!(learned.requests, 300);
    }
    rig.loaded(0).len()
}

#[test]
fn adaptive_eviction_sees_a_scan() {
    let lru = loads_beside_a_scan(EvictionKind::Lru, PrefetchKind::Retain);
    let adaptive = loads_beside_a_scan(EvictionKind::Adaptive, PrefetchKind::Adaptive);
    assert!(adaptive * 2 < lru, "{adaptive} loads, {lru} under LRU");
}

#[test]
fn gated_stores_keep_chunks_used_once_out_of_l2() {
    let mut rig = rig(64, EvictionKind::Lru, PrefetchKind::Retain, OffloadKind::Gated);
    // Two prompts that are asked for again at once, while nothing else ever is.
    let request = |i: u16| if i % 4 < 2 { document(i / 4 % 2, 4) } else { document(1000 + i, 4) };
    (0..400).for_each(|i| ask(&mut rig, &request(i)));
    let stored = rig.driver.adapters[0].stored.len();
    (400..500).for_each(|i| ask(&mut rig, &request(i)));
    let gated = rig.driver.adapters[0].stored.len() - stored;
    assert!(gated < 20, "{gated} of 200 new chunks were stored");
    assert!(rig.core.stats().requests().l2.deferred_objects > 150);
    rig.assert_idle();
}

#[test]
fn gated_decides_at_once_if_l1_is_too_small_to_defer() {
    // A prompt takes a third of L1.
    let mut rig = rig(12, EvictionKind::Lru, PrefetchKind::Retain, OffloadKind::Gated);
    // Eight prompts that are asked for again when they have left L1, between others that never are.
    let request = |i: u16| document(if i.is_multiple_of(2) { i / 2 % 8 } else { 1000 + i }, 4);
    (0..600).for_each(|i| ask(&mut rig, &request(i)));
    let (stored, loaded) = (rig.driver.adapters[0].stored.len(), rig.loaded(0).len());
    (600..700).for_each(|i| ask(&mut rig, &request(i)));
    let gated = rig.driver.adapters[0].stored.len() - stored;
    assert!(gated < 20, "{gated} of 200 new chunks were stored");
    assert_eq!(rig.loaded(0).len() - loaded, 200, "what comes back was stored when it was new");
    rig.assert_idle();
}

#[test]
fn gated_stores_reused_chunks_before_they_are_evicted() {
    let mut rig = rig(64, EvictionKind::Lru, PrefetchKind::Retain, OffloadKind::Gated);
    // Every prompt is asked for once more when half of L1 has been replaced.
    for i in 0..600 {
        let chain = document(if i % 2 == 0 { i / 2 } else { (i / 2).saturating_sub(30) }, 4);
        ask(&mut rig, &chain);
    }
    let learned = rig.core.learned().expect("it learns");
    assert!(rig.core.stats().requests().l2.deferred_objects > 500, "nothing waited");
    assert!(learned.loss_ratio < 0.03, "{} of what was asked for", learned.loss_ratio);
}

#[test]
fn deferred_objects_are_decided_when_the_server_stops() {
    let mut rig = rig(4096, EvictionKind::Lru, PrefetchKind::Retain, OffloadKind::Gated);
    // Prompts that are asked for again and again, other ones after a while, and in between others.
    let request = |i: u16| document(if i % 4 < 2 { 2 * (i / 150) + i % 2 } else { 1000 + i }, 4);
    (0..400).for_each(|i| ask(&mut rig, &request(i)));
    let waiting = rig.core.index().deferred_objects();
    assert!(waiting > 200, "of {waiting} in an L1 that never was full");
    rig.core.flush_deferred(rig.time());
    rig.driver.collect(&mut rig.core);
    rig.settle();
    let left = rig.core.index().deferred_objects();
    assert_eq!(left + rig.driver.adapters[0].stored.len() as u64, rig.core.index().usage().resident_objects);
    assert!(left < waiting, "nothing was worth storing");
    rig.assert_idle();
}

#[test]
fn gated_stores_everything_before_it_has_learned() {
    let mut rig = rig(64, EvictionKind::Lru, PrefetchKind::Retain, OffloadKind::Gated);
    ask(&mut rig, &document(1, 4));
    assert_eq!(rig.driver.adapters[0].stored.len(), 4);
}

#[test]
fn a_request_that_looks_up_again_is_learned_from_once() {
    let mut rig = Rig::new(16, 1, PrefetchKind::Adaptive);
    for _ in 0..3 {
        rig.hit("r", &document(1, 4), 1);
    }
    assert_eq!(rig.core.learned().expect("it learns").requests, 1);
    assert_eq!(Rig::new(16, 1, PrefetchKind::Retain).core.learned(), None);
}
