//! Quotas under `IsolatedLRU`: which tenant loses chunks when another one grows.

use larder_core::index::Refused;
use larder_policy::eviction::EvictionKind;
use larder_policy::quota::Quotas;
use proptest::prelude::*;

use crate::support::{PAGE, Tier, prompt};

const NONE: [usize; 0] = [];

fn isolated(pages: u64) -> Tier {
    Tier::new(EvictionKind::IsolatedLru, pages)
}

#[test]
fn a_tenant_at_its_quota_evicts_its_own_chunks() {
    let mut tier = isolated(16);
    tier.quota("a", 4);
    tier.store("b", &prompt(9, 4));
    tier.store("a", &prompt(1, 3));
    assert_eq!(tier.store("a", &prompt(2, 3)), 3);
    assert_eq!(tier.resident("a", &prompt(1, 3)), [0], "its coldest, though half the memory is free");
    assert_eq!(tier.resident("b", &prompt(9, 4)).len(), 4);
    assert_eq!((tier.pages_of("a"), tier.pages_of("b")), (4, 4));
}

#[test]
fn a_prompt_longer_than_the_quota_keeps_its_head() {
    let mut tier = isolated(16);
    tier.quota("a", 4);
    assert_eq!(tier.store("a", &prompt(1, 9)), 4);
    assert_eq!(tier.resident("a", &prompt(1, 9)), [0, 1, 2, 3]);
    assert_eq!(tier.evicted(), 0);
    assert_eq!(tier.store("a", &prompt(1, 9)), 0, "its own prefix is not evicted");
}

#[test]
fn a_tenant_without_evictable_chunks_is_refused_and_loses_nothing() {
    let mut tier = isolated(16);
    tier.quota("a", 4);
    tier.store("b", &prompt(9, 8));
    tier.store("a", &prompt(1, 4));
    let held = tier.hold("a", &prompt(1, 3));
    tier.l1.edit().begin_operation();
    assert_eq!(tier.reserve("a", &prompt(2, 1)[0], 2), Err(Refused::NoSpace), "one page could go, two must");
    assert_eq!((tier.resident("a", &prompt(1, 4)).len(), tier.evicted()), (4, 0));
    assert!(tier.reserve("a", &prompt(3, 1)[0], 1).is_ok());
    tier.release(&held);
    assert_eq!(tier.resident("b", &prompt(9, 8)).len(), 8);
}

#[test]
fn tenants_within_their_quotas_use_one_memory() {
    let mut tier = isolated(8);
    tier.quota("a", 8);
    tier.quota("b", 8);
    tier.store("a", &prompt(1, 6));
    tier.store("b", &prompt(2, 4));
    assert_eq!(tier.resident("a", &prompt(1, 6)), [0, 1, 2, 3], "the oldest of all give");
    tier.read("a", &prompt(1, 6));
    tier.store("c", &prompt(3, 2));
    assert_eq!(tier.resident("b", &prompt(2, 4)), [0, 1]);
}

/// E6 of the catalogue, and LMCache's allow-list.
#[test]
fn tenants_without_a_quota_have_the_default_limit() {
    let mut tier = isolated(16);
    assert_eq!(tier.store("x", &prompt(1, 3)), 3, "no limit unless there is a default");
    tier.quota("a", 4);
    assert_eq!(tier.store("x", &prompt(2, 3)), 3, "a quota for one is none for another");
    tier.store("a", &prompt(3, 2));
    tier.change_quotas(|q| q.set_default_limit(Some(0)));
    assert_eq!((tier.pages_of("x"), tier.pages_of("a")), (0, 2), "an allow-list wipes the others");
    assert_eq!(tier.store("x", &prompt(1, 3)), 0);
    tier.change_quotas(|q| q.set_default_limit(Some(2 * PAGE)));
    assert_eq!(tier.store("x", &prompt(1, 3)), 2);
    tier.no_quota("a");
    assert_eq!(tier.store("a", &prompt(4, 2)), 2);
    assert_eq!(tier.pages_of("a"), 2);
    tier.change_quotas(|q| *q = Quotas::default());
    assert_eq!(tier.store("x", &prompt(1, 3)), 1);
}

#[test]
fn a_lowered_quota_evicts_at_once_except_pinned_chunks() {
    let mut tier = isolated(16);
    let p = prompt(1, 8);
    tier.store("a", &p);
    tier.store("b", &prompt(2, 8));
    let held = tier.hold("a", &p[..4]);
    tier.quota("a", 2);
    assert_eq!(tier.resident("a", &p), [0, 1, 2, 3]);
    tier.release(&held);
    assert_eq!(tier.pages_of("a"), 4, "over its quota, and no other tenant needs the space yet");
    assert_eq!(tier.store("c", &prompt(3, 5)), 5);
    assert_eq!(tier.resident("b", &prompt(2, 8)).len(), 8, "free space first, then the debtor");
    assert_eq!(tier.pages_of("a"), 3);
    assert_eq!(tier.store("c", &prompt(4, 2)), 2);
    assert_eq!((tier.pages_of("a"), tier.resident("b", &prompt(2, 8)).len()), (2, 7), "then everyone");
}

#[test]
fn other_policies_keep_quotas_without_effect() {
    for kind in EvictionKind::ALL {
        let mut tier = Tier::new(*kind, 8);
        tier.change_quotas(|q| q.set_default_limit(Some(0)));
        let enforced = *kind == EvictionKind::IsolatedLru;
        assert_eq!(tier.l1.quotas_enforced(), enforced, "{}", kind.name());
        assert_eq!(tier.store("a", &prompt(1, 2)), if enforced { 0 } else { 2 }, "{}", kind.name());
    }
}

/// What a salt gives for its quota counts as free when a large object looks for its place.
#[test]
fn large_objects_use_the_space_that_their_tenant_frees() {
    let mut tier = isolated(8);
    tier.quota("a", 4);
    tier.store("a", &prompt(1, 4));
    tier.store("b", &prompt(2, 4));
    tier.l1.edit().begin_operation();
    assert!(tier.reserve("a", &prompt(3, 1)[0], 4).is_ok());
    assert_eq!(tier.resident("a", &prompt(1, 4)), NONE);
    assert_eq!(tier.resident("b", &prompt(2, 4)).len(), 4);
    assert_eq!(tier.reserve("a", &prompt(4, 1)[0], 5), Err(Refused::NoSpace), "larger than the quota");
}

const SALTS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Op {
    Store(usize, u16, u16, u64),
    Read(usize, u16),
    Hold(usize, u16),
    ReleaseAll,
    Quota(usize, u64),
    NoQuota(usize),
    Default(Option<u64>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..3, 0u16..5, 1u16..6, 1u64..3).prop_map(|(s, p, n, size)| Op::Store(s, p, n, size)),
        3 => (0usize..3, 0u16..5).prop_map(|(s, p)| Op::Read(s, p)),
        2 => (0usize..3, 0u16..5).prop_map(|(s, p)| Op::Hold(s, p)),
        2 => Just(Op::ReleaseAll),
        2 => (0usize..3, 0u64..20).prop_map(|(s, pages)| Op::Quota(s, pages)),
        1 => (0usize..3).prop_map(Op::NoQuota),
        1 => prop::option::of(0u64..10).prop_map(Op::Default),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// E8: the accounts add up at every step (`StandaloneIndex::check`). And isolation: no tenant grows beyond its
    /// quota, and a tenant that is over it after a store has evicted no chunk of another one.
    #[test]
    fn nobody_over_a_quota_costs_another_salt_a_chunk(ops in prop::collection::vec(op(), 1..100)) {
        let mut tier = isolated(24);
        let mut held = Vec::new();
        for op in ops {
            match op {
                Op::Store(s, seed, chunks, size) => {
                    let salt = SALTS[s];
                    let limit = tier.l1.quota_usage().quotas().limit_of(salt).unwrap_or(u64::MAX);
                    let before = SALTS.map(|salt| tier.pages_of(salt));
                    tier.store_sized(salt, &prompt(seed, chunks), size);
                    let after = SALTS.map(|salt| tier.pages_of(salt));
                    prop_assert!(after[s] * PAGE <= limit || after[s] <= before[s], "grew beyond the quota");
                    let others_paid = (0..3).any(|i| i != s && after[i] < before[i]);
                    prop_assert!(!others_paid || after[s] * PAGE <= limit, "others paid for {}", salt);
                }
                Op::Read(s, seed) => drop(tier.read(SALTS[s], &prompt(seed, 6))),
                Op::Hold(s, seed) => held.push(tier.hold(SALTS[s], &prompt(seed, 6))),
                Op::ReleaseAll => held.drain(..).for_each(|objects| tier.release(&objects)),
                Op::Quota(s, pages) => tier.quota(SALTS[s], pages),
                Op::NoQuota(s) => tier.no_quota(SALTS[s]),
                Op::Default(limit) => tier.change_quotas(|q| q.set_default_limit(limit.map(|l| l * PAGE))),
            }
            let sum: u64 = tier.l1.quota_usage().usage().map(|(_, usage)| usage.used_bytes).sum();
            prop_assert_eq!(sum, tier.l1.usage().used_bytes);
        }
    }
}
