//! R1-R8, S7: policies by themselves, and policies that break their rules.

use larder_policy::AdapterDesc;
use larder_policy::offload::{OffloadTarget, all_to_all};
use larder_policy::prefetch::LoadCandidates;
use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::plan::{L1Id, LoadPlan, PlanInput};
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_policy::{OffloadKind, OffloadPolicy, PrefetchKind, PrefetchPolicy};
use larder_types::AdapterId;
use larder_types::object::ObjectKey;

use crate::rig::{Rig, prompt};

fn ask(policy: &dyn PrefetchPolicy, keys: &[ObjectKey], l1: u32, adapter: u32) -> Vec<bool> {
    let columns: Vec<u32> = (0..keys.len() as u32).collect();
    policy.retain(&LoadCandidates {
        keys,
        columns: &columns,
        l1: L1Id(l1),
        adapter: AdapterId(adapter),
        reuse: None,
    })
}

#[test]
fn r1_to_r5_all_or_nothing_whatever_the_keys_and_the_pair() {
    for (kind, stays) in [(PrefetchKind::Default, false), (PrefetchKind::Retain, true)] {
        let policy = kind.create();
        for n in [0u16, 1, 5, 10, 100] {
            let chain = prompt(1, n);
            // R4: the keys span two groups.
            let keys: Vec<_> = (0..u32::from(n)).map(|c| Rig::key(&chain, c % 2, c)).collect();
            for (l1, adapter) in [(0, 0), (0, 3), (2, 1)] {
                assert_eq!(ask(&*policy, &keys, l1, adapter), vec![stays; usize::from(n)]);
            }
        }
    }
}

#[test]
fn r6_both_make_the_same_plan() {
    let flat = [(AdapterId(0), vec![vec![0, 1]]), (AdapterId(1), vec![vec![1, 2]])];
    let windowed = [(AdapterId(0), vec![vec![1, 2, 3], vec![2]]), (AdapterId(1), vec![vec![0], vec![3]])];
    let cases =
        [(vec![None], 3, vec![vec![]], flat), (vec![None, Some(2)], 4, vec![vec![0], vec![]], windowed)];
    for (windows, columns, l1, l2) in cases {
        let grid = |rows: &[Vec<u32>]| {
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            ShardBitmap::from_rows(columns, &rows)
        };
        let l1 = [(L1Id(0), grid(&l1))];
        let l2 = l2.map(|(id, rows)| (id, grid(&rows)));
        let input = PlanInput { windows: &windows, columns, fetch: Fetch::Prefix, l1: &l1, l2: &l2 };
        let default = PrefetchKind::Default.create().plan(&input);
        assert_eq!(PrefetchKind::Retain.create().plan(&input), default);
        assert!(!default.l2.is_empty());
    }
}

#[test]
fn r7_policies_are_found_by_name() {
    assert_eq!(
        PrefetchKind::ALL.iter().map(|k| k.name()).collect::<Vec<_>>(),
        ["default", "retain", "adaptive"]
    );
    assert_eq!(
        OffloadKind::ALL.iter().map(|k| k.name()).collect::<Vec<_>>(),
        ["default", "skip_l1", "gated"]
    );
    for kind in PrefetchKind::ALL {
        assert_eq!(PrefetchKind::from_name(kind.name()), Some(*kind));
    }
    for kind in OffloadKind::ALL {
        assert_eq!(OffloadKind::from_name(kind.name()), Some(*kind));
    }
    assert_eq!(PrefetchKind::from_name("Retain"), None);
    assert_eq!(OffloadKind::from_name(""), None);
    assert_eq!((PrefetchKind::default().name(), OffloadKind::default().name()), ("default", "default"));
}

#[test]
fn s7_every_key_goes_to_every_adapter() {
    let chain = prompt(1, 2);
    let keys = Rig::keys(&chain, &[0, 1]);
    let adapters = ["a", "b"].map(|name| AdapterDesc { name: name.into(), readable: true });
    for kind in OffloadKind::ALL {
        let policy = kind.create();
        let all = [0, 1].map(|i| OffloadTarget { adapter: AdapterId(i), keys: vec![0, 1] });
        assert_eq!(policy.targets(&keys, &adapters), all);
        assert_eq!(policy.targets(&keys, &[]), []);
        assert_eq!(policy.removes_from_l1(&keys[0]), *kind == OffloadKind::SkipL1);
    }
    assert_eq!(all_to_all(&[], &adapters)[0].keys, []);
}

/// An offload policy with given answers.
#[derive(Debug)]
struct Fixed(Answer);

type Answer = fn(&[ObjectKey]) -> Vec<OffloadTarget>;

impl OffloadPolicy for Fixed {
    fn targets(&self, keys: &[ObjectKey], _: &[AdapterDesc]) -> Vec<OffloadTarget> {
        (self.0)(keys)
    }

    fn removes_from_l1(&self, _: &ObjectKey) -> bool {
        false
    }
}

#[test]
fn s7_a_policy_selects_keys_and_adapters_and_unknown_ones_are_ignored() {
    let p = prompt(1, 3);
    // What the policy answers for one store of three keys, and which columns the second adapter gets.
    let cases: [(Answer, &[u32], u64); 3] = [
        (|keys| vec![OffloadTarget { adapter: AdapterId(1), keys: (1..keys.len()).collect() }], &[1, 2], 0),
        (|_| vec![], &[], 0),
        (|keys| vec![OffloadTarget { adapter: AdapterId(7), keys: vec![0, keys.len()] }], &[], 1),
    ];
    for (policy, stored, faults) in cases {
        let mut rig = Rig::new(8, 2, PrefetchKind::Default);
        rig.core.set_store_policy(Box::new(Fixed(policy)));
        rig.store(&p, 0, 3);
        rig.settle();
        let columns = Rig::keys(&p, stored);
        assert_eq!(
            (rig.driver.adapters[1].stored.clone(), rig.driver.adapters[0].stored.len()),
            (columns, 0)
        );
        assert_eq!(rig.core.stats().requests().l2.policy_faults, faults);
        assert_eq!(rig.resident(&p), [0, 1, 2]);
        rig.assert_idle();
    }
    let mut rig = Rig::new(8, 2, PrefetchKind::Default);
    rig.core.set_store_policy(Box::new(Fixed(|_| {
        vec![OffloadTarget { adapter: AdapterId(0), keys: vec![0, 9] }]
    })));
    rig.store(&p, 0, 3);
    rig.settle();
    assert_eq!(rig.driver.adapters[0].stored, Rig::keys(&p, &[0]), "a key that is not there is none");
}

/// A prefetch policy with given answers.
#[derive(Debug)]
struct Odd {
    retain: fn(usize) -> Vec<bool>,
    plan: Option<fn(&PlanInput<'_>) -> LoadPlan>,
}

impl PrefetchPolicy for Odd {
    fn plan(&self, input: &PlanInput<'_>) -> LoadPlan {
        self.plan.map_or_else(|| larder_policy::prefetch::plan::plan_load(input), |plan| plan(input))
    }

    fn retain(&self, arrival: &LoadCandidates<'_>) -> Vec<bool> {
        (self.retain)(arrival.keys.len())
    }
}

#[test]
fn r21_exactly_the_flagged_keys_are_retained() {
    let mut rig = Rig::simple(8);
    rig.core
        .set_prefetch_policy(Box::new(Odd { retain: |n| (0..n).map(|i| i % 2 == 0).collect(), plan: None }));
    let p = prompt(1, 5);
    rig.put_all(0, &p);
    assert_eq!(rig.hit("r", &p, 1), 5);
    rig.end("r");
    assert_eq!(rig.resident(&p), [0, 2, 4]);
    rig.assert_idle();
}

#[test]
fn r22_an_answer_of_the_wrong_length_retains_nothing() {
    let odd: [fn(usize) -> Vec<bool>; 2] = [|n| vec![true; n + 1], |_| vec![]];
    for retain in odd {
        let mut rig = Rig::simple(8);
        rig.core.set_prefetch_policy(Box::new(Odd { retain, plan: None }));
        let p = prompt(1, 3);
        rig.put_all(0, &p);
        assert_eq!(rig.hit("r", &p, 1), 3);
        assert_eq!(rig.core.stats().requests().l2.policy_faults, 1);
        rig.end("r");
        assert_eq!(rig.resident(&p), []);
        rig.assert_idle();
    }
}

#[test]
fn a_plan_is_restricted_to_what_was_found() {
    let plans: [fn(&PlanInput<'_>) -> LoadPlan; 3] = [
        // Everything, from everywhere, found there or not.
        |input| {
            let mut all = ShardBitmap::new(input.windows.len() as u32, input.columns);
            (0..input.columns).for_each(|c| all.insert(0, c));
            let l2 = (0..5).map(|i| (AdapterId(i), all.clone())).collect();
            LoadPlan { l1: [(L1Id(0), all.clone()), (L1Id(4), all)].into(), l2 }
        },
        // A grid of another size.
        |_| LoadPlan {
            l2: [(AdapterId(0), ShardBitmap::from_rows(99, &[&[0, 98]]))].into(),
            ..LoadPlan::default()
        },
        |_| LoadPlan::default(),
    ];
    for (i, plan) in plans.into_iter().enumerate() {
        let mut rig = Rig::new(8, 2, PrefetchKind::Default);
        rig.core.set_prefetch_policy(Box::new(Odd { retain: |n| vec![false; n], plan: Some(plan) }));
        let p = prompt(1, 4);
        rig.store(&p, 0, 1);
        rig.settle();
        rig.put(0, &p, &[1, 2]);
        rig.put(1, &p, &[2, 3]);
        let hit = rig.hit("r", &p, 1);
        assert_eq!(hit, if i == 0 { 4 } else { 0 }, "plan {i}");
        rig.end("r");
        rig.assert_idle();
    }
}
