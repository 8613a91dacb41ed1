//! What each policy does for the requests that L1 serves.

use larder_policy::eviction::EvictionKind;
use proptest::prelude::*;

use crate::support::{Tier, prompt};

fn evicting() -> impl Iterator<Item = EvictionKind> {
    EvictionKind::ALL.iter().copied().filter(|k| *k != EvictionKind::Noop)
}

/// E9 of the catalogue.
#[test]
fn twenty_chunks_into_space_for_sixteen_never_fail() {
    for kind in evicting() {
        let mut tier = Tier::new(kind, 16);
        for seed in 0..20 {
            assert_eq!(tier.store("", &prompt(seed, 1)), 1, "{}", kind.name());
        }
        assert_eq!((tier.evicted(), tier.l1.usage().chunks), (4, 16), "{}", kind.name());
    }
}

#[test]
fn within_one_prompt_the_tail_goes_first() {
    for kind in evicting() {
        let mut tier = Tier::new(kind, 8);
        let long = prompt(1, 6);
        tier.store("", &long[..3]);
        tier.store("", &long);
        tier.store("", &prompt(2, 2));
        tier.store("", &prompt(3, 2));
        assert_eq!(tier.resident("", &long), [0, 1, 2, 3], "{}", kind.name());
        tier.read("", &long);
        tier.store("", &prompt(4, 4));
        let left = tier.resident("", &long);
        assert_eq!(left, (0..left.len()).collect::<Vec<_>>(), "{}", kind.name());
    }
}

/// E3: a prompt that is asked for survives a scan through many that are not.
#[test]
fn a_scan_does_not_evict_a_prompt_in_use() {
    let left = |kind| {
        let mut tier = Tier::new(kind, 64);
        let hot = prompt(0, 32);
        tier.store("", &hot);
        (0..2).for_each(|_| assert_eq!(tier.read("", &hot), 32));
        (1..160).for_each(|seed| assert_eq!(tier.store("", &prompt(seed, 4)), 4));
        tier.resident("", &hot).len()
    };
    assert_eq!(left(EvictionKind::Arc), 32);
    assert_eq!(left(EvictionKind::S3Fifo), 32);
    assert_eq!(left(EvictionKind::Lru), 0, "or the test shows nothing");
}

/// A few chunks that are asked for less often than new ones push them out. Once they have come back
/// while they are remembered, they stay.
#[test]
fn reused_chunks_are_kept_longer() {
    let hits = |kind| {
        let mut tier = Tier::new(kind, 16);
        let (hot, warm) = (prompt(0, 8), prompt(1, 3));
        tier.store("", &hot);
        let mut hits = 0;
        for round in 0..20 {
            hits += tier.read("", &warm);
            tier.store("", &warm);
            for i in 0..10 {
                tier.store("", &prompt(100 + round * 10 + i, 1));
                tier.read("", &hot);
            }
        }
        hits
    };
    assert_eq!(hits(EvictionKind::Lru), 0, "or the test shows nothing");
    assert_eq!(hits(EvictionKind::Arc), 3 * 18, "found from the third time on");
    assert_eq!(hits(EvictionKind::S3Fifo), 3 * 18, "found from the third time on");
}

#[test]
fn evicted_chunks_are_remembered_and_cleared_ones_are_not() {
    for kind in [EvictionKind::Arc, EvictionKind::S3Fifo] {
        let stays = |cleared: bool| {
            let mut tier = Tier::new(kind, 4);
            let store_hot = |tier: &mut Tier| {
                tier.store("", &prompt(0, 2));
                (0..2).for_each(|_| assert_eq!(tier.read("", &prompt(0, 2)), 2));
            };
            store_hot(&mut tier);
            tier.store("", &prompt(1, 1));
            if cleared {
                tier.l1.edit().clear(false);
                store_hot(&mut tier);
            }
            (2..4).for_each(|seed| assert_eq!(tier.store("", &prompt(seed, 1)), 1));
            assert_eq!(tier.resident("", &prompt(1, 1)), [] as [usize; 0]);
            tier.store("", &prompt(1, 1));
            (10..14).for_each(|seed| assert_eq!(tier.store("", &prompt(seed, 1)), 1));
            tier.resident("", &prompt(1, 1)).len()
        };
        assert_eq!((stays(false), stays(true)), (1, 0), "{}", kind.name());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Store(u16, u16),
    StoreLarge(u16),
    Read(u16),
    Hold(u16),
    ReleaseAll,
    Trim(u64),
    Clear(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u16..8, 1u16..6).prop_map(|(seed, chunks)| Op::Store(seed, chunks)),
        1 => (8u16..10).prop_map(Op::StoreLarge),
        4 => (0u16..10).prop_map(Op::Read),
        2 => (0u16..10).prop_map(Op::Hold),
        2 => Just(Op::ReleaseAll),
        1 => (0u64..16).prop_map(Op::Trim),
        1 => any::<bool>().prop_map(Op::Clear),
    ]
}

proptest! {
    /// For any requests, all sums agree (checked at each step), a store fails only if pinned and protected chunks
    /// leave no space, and pinned objects stay.
    #[test]
    fn every_policy_serves_any_requests(ops in prop::collection::vec(op(), 1..80)) {
        for kind in evicting() {
            let mut tier = Tier::new(kind, 16);
            let mut held = Vec::new();
            for op in &ops {
                match op {
                    Op::Store(seed, chunks) => {
                        let chain = prompt(*seed, *chunks);
                        let missing = chain.len() - tier.resident("", &chain).len();
                        let written = tier.store("", &chain);
                        prop_assert!(written == missing || !held.is_empty() , "{}", kind.name());
                    }
                    Op::StoreLarge(seed) => {
                        let missing = tier.resident("", &prompt(*seed, 1)).is_empty();
                        let written = tier.store_sized("", &prompt(*seed, 1), 5);
                        prop_assert!((written == 1) == missing || !held.is_empty(), "{}", kind.name());
                    }
                    Op::Read(seed) => drop(tier.read("", &prompt(*seed, 6))),
                    Op::Hold(seed) => held.push(tier.hold("", &prompt(*seed, 6))),
                    Op::ReleaseAll => held.drain(..).for_each(|objects| tier.release(&objects)),
                    Op::Trim(pages) => {
                        tier.l1.edit().begin_operation();
                        tier.l1.edit().trim(pages * crate::support::PAGE, u64::MAX);
                    }
                    Op::Clear(force) => drop(tier.l1.edit().clear(*force)),
                }
                tier.l1.check();
                held.retain(|objects| !objects.is_empty());
            }
        }
    }
}
