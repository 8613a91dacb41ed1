//! P1-P10: which cell comes from where.

use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use std::collections::BTreeMap;

use larder_policy::prefetch::plan::{L1Id, LoadPlan, PlanInput, plan_load};
use larder_policy::prefix_scan::{AttentionWindow, required_range};
use larder_types::ids::AdapterId;
use proptest::prelude::*;

/// Row by row the columns; by number of the pool or adapter.
type Cells = Vec<(u32, Vec<Vec<u32>>)>;

fn plan(
    fetch: Fetch,
    windows: &[AttentionWindow],
    columns: u32,
    l1: &[(u32, &[&[u32]])],
    l2: &[(u32, &[&[u32]])],
) -> (Cells, Cells) {
    let l1: Vec<_> = l1.iter().map(|(id, rows)| (L1Id(*id), ShardBitmap::from_rows(columns, rows))).collect();
    let l2: Vec<_> =
        l2.iter().map(|(id, rows)| (AdapterId(*id), ShardBitmap::from_rows(columns, rows))).collect();
    let plan = plan_load(&PlanInput { windows, columns, fetch, l1: &l1, l2: &l2 });
    let rows = |g: &ShardBitmap| (0..g.rows()).map(|r| g.row(r).collect()).collect();
    (
        plan.l1.iter().map(|(id, g)| (id.0, rows(g))).collect(),
        plan.l2.iter().map(|(id, g)| (id.0, rows(g))).collect(),
    )
}

/// One row under full attention, nothing in L1.
fn flat(columns: u32, l2: &[(u32, &[u32])]) -> BTreeMap<u32, Vec<u32>> {
    let rows: Vec<(u32, [&[u32]; 1])> = l2.iter().map(|(id, row)| (*id, [*row])).collect();
    let l2: Vec<(u32, &[&[u32]])> = rows.iter().map(|(id, rows)| (*id, &rows[..])).collect();
    let (l1, l2) = plan(Fetch::Prefix, &[None], columns, &[], &l2);
    assert!(l1.is_empty());
    l2.into_iter().map(|(id, rows)| (id, rows[0].clone())).collect()
}

#[test]
fn p1_flat() {
    let map = |entries: &[(u32, &[u32])]| -> BTreeMap<u32, Vec<u32>> {
        entries.iter().map(|(id, cells)| (*id, cells.to_vec())).collect()
    };
    assert_eq!(flat(3, &[(0, &[0, 1, 2])]), map(&[(0, &[0, 1, 2])]), "one has all");
    assert_eq!(flat(3, &[(0, &[0, 1])]), map(&[(0, &[0, 1])]), "one has some");
    assert_eq!(flat(3, &[(0, &[0, 1]), (1, &[1, 2])]), map(&[(0, &[0, 1]), (1, &[2])]), "overlap");
    assert_eq!(flat(4, &[(0, &[0, 2]), (1, &[1, 3])]), map(&[(0, &[0, 2]), (1, &[1, 3])]), "disjoint");
    assert_eq!(flat(3, &[(0, &[]), (1, &[])]), map(&[]), "no hits");
    assert_eq!(flat(3, &[]), map(&[]), "no adapters");
    assert_eq!(flat(0, &[(0, &[])]), map(&[]), "no keys");
    assert_eq!(flat(3, &[(1, &[1, 2]), (0, &[0, 1])]), map(&[(0, &[0, 1]), (1, &[2])]), "any order");
    let three = flat(5, &[(0, &[0, 3]), (1, &[1, 2, 3]), (2, &[2, 4])]);
    assert_eq!(three, map(&[(0, &[0, 3]), (1, &[1, 2]), (2, &[4])]), "three");
    assert_eq!(flat(2, &[(5, &[0, 1])]), map(&[(5, &[0, 1])]), "others gave no answer");
}

#[test]
fn p2_l1_before_l2_and_low_numbers_first() {
    let all: &[&[u32]] = &[&[0, 1]];
    let (l1, l2) = plan(Fetch::Prefix, &[None], 2, &[(0, &[&[0]])], &[(0, all)]);
    assert_eq!((l1, l2), (vec![(0, vec![vec![0]])], vec![(0, vec![vec![1]])]));
    let (l1, _) = plan(Fetch::Prefix, &[None], 2, &[(10, all), (9, &[&[1]])], &[]);
    assert_eq!(l1, [(9, vec![vec![1]]), (10, vec![vec![0]])], "by number, not by digits or place");
    let (_, l2) = plan(Fetch::Prefix, &[None], 2, &[], &[(10, all), (2, &[&[0]])]);
    assert_eq!(l2, [(2, vec![vec![0]]), (10, vec![vec![1]])]);
}

#[test]
fn p3_the_prefix_ends_at_the_first_gap_of_all_tiers_and_rows_together() {
    let (l1, l2) = plan(Fetch::Prefix, &[None], 5, &[(0, &[&[0, 2, 4]])], &[(0, &[&[1]])]);
    assert_eq!((l1, l2), (vec![(0, vec![vec![0, 2]])], vec![(0, vec![vec![1]])]));
    let rows: &[&[u32]] = &[&[0, 1, 2, 3], &[0, 1]];
    let (_, l2) = plan(Fetch::Prefix, &[None, None], 4, &[], &[(0, rows)]);
    assert_eq!(l2, [(0, vec![vec![0, 1], vec![0, 1]])]);
}

#[test]
fn p4_a_windowed_row_keeps_its_tail() {
    for (window, kept) in [(1, vec![3]), (2, vec![2, 3]), (4, vec![0, 1, 2, 3])] {
        let (_, l2) = plan(Fetch::Prefix, &[Some(window)], 4, &[], &[(0, &[&[0, 1, 2, 3]])]);
        assert_eq!(l2, [(0, vec![kept])]);
    }
}

#[test]
fn p5_a_windowed_row_needs_only_its_window() {
    let rows: &[&[u32]] = &[&[0, 1, 2, 3], &[3]];
    let (_, l2) = plan(Fetch::Prefix, &[None, Some(1)], 4, &[], &[(0, rows)]);
    assert_eq!(l2, [(0, vec![vec![0, 1, 2, 3], vec![3]])]);
    let rows: &[&[u32]] = &[&[0, 1, 2, 3], &[0, 1]];
    let (_, l2) = plan(Fetch::Prefix, &[None, Some(1)], 4, &[], &[(0, rows)]);
    assert_eq!(l2, [(0, vec![vec![0, 1], vec![1]])], "a missing window shortens the prefix");
}

#[test]
fn p6_what_is_outside_the_prefix_is_in_no_plan() {
    let empty = (vec![], vec![]);
    assert_eq!(plan(Fetch::Prefix, &[None], 4, &[(0, &[&[1, 2]])], &[(0, &[&[3]])]), empty);
    assert_eq!(plan(Fetch::Prefix, &[None], 4, &[(0, &[&[]])], &[(0, &[&[]])]), empty);
    let (l1, l2) = plan(Fetch::Prefix, &[None], 3, &[], &[(0, &[&[0]])]);
    assert_eq!((l1, l2), (vec![], vec![(0, vec![vec![0]])]), "no L1");
    let (l1, l2) = plan(Fetch::Prefix, &[None], 3, &[(0, &[&[0]])], &[]);
    assert_eq!((l1, l2), (vec![(0, vec![vec![0]])], vec![]), "no L2");
}

#[test]
fn p7_full_keeps_gaps_and_rows_are_independent() {
    let rows: &[&[u32]] = &[&[0, 3], &[1]];
    let (l1, l2) = plan(Fetch::Full, &[None, None], 4, &[(0, &[&[2], &[1]])], &[(0, rows), (1, rows)]);
    assert_eq!(l1, [(0, vec![vec![2], vec![1]])]);
    assert_eq!(l2, [(0, vec![vec![0, 3], vec![]])], "nothing is left for the second");
    let windowed = plan(Fetch::Full, &[None, Some(2)], 4, &[], &[(0, rows)]);
    assert_eq!(windowed, (vec![], vec![]));
    let zero = plan(Fetch::Full, &[Some(0)], 2, &[], &[(0, &[&[1]])]);
    assert_eq!(zero.1, [(0, vec![vec![1]])], "a window of zero is full attention");
}

#[test]
fn p9_input_that_does_not_fit_gives_an_empty_plan() {
    let grid = ShardBitmap::from_rows(2, &[&[0, 1]]);
    let empty = LoadPlan::default();
    let of = |windows: &[AttentionWindow], columns, l2: &[(AdapterId, ShardBitmap)]| {
        plan_load(&PlanInput { windows, columns, fetch: Fetch::Prefix, l1: &[], l2 })
    };
    assert_eq!(of(&[], 2, &[]), empty, "no rows");
    assert_eq!(of(&[None], 3, &[(AdapterId(0), grid.clone())]), empty, "width");
    assert_eq!(of(&[None, None], 2, &[(AdapterId(0), grid.clone())]), empty, "rows");
    assert_ne!(of(&[None], 2, &[(AdapterId(0), grid)]), empty);
}

fn grids(count: usize, rows: usize, columns: u32) -> impl Strategy<Value = Vec<ShardBitmap>> {
    let cells = prop::collection::vec(prop::bool::weighted(0.6), count * rows * columns as usize);
    cells.prop_map(move |cells| {
        let mut cells = cells.into_iter();
        let mut grid = || {
            let mut grid = ShardBitmap::new(rows as u32, columns);
            for row in 0..rows as u32 {
                (0..columns).filter(|_| cells.next() == Some(true)).for_each(|c| grid.insert(row, c));
            }
            grid
        };
        (0..count).map(|_| grid()).collect()
    })
}

type Case = (Vec<AttentionWindow>, u32, Vec<ShardBitmap>, Vec<ShardBitmap>, bool);

fn case() -> impl Strategy<Value = Case> {
    (1usize..4, 0u32..9, 0usize..3, 0usize..4).prop_flat_map(|(rows, columns, l1, l2)| {
        let windows = prop::collection::vec(prop::option::weighted(0.4, 0u32..4), rows);
        (windows, Just(columns), grids(l1, rows, columns), grids(l2, rows, columns), any::<bool>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// P8 and P10: the contract of every plan, and the prefix against its definition.
    #[test]
    fn p8_p10_plans_keep_their_contract((windows, columns, l1, l2, full) in case()) {
        let fetch = if full { Fetch::Full } else { Fetch::Prefix };
        let l1: Vec<_> = (0u32..).map(|i| L1Id(7 - i)).zip(l1).collect();
        let l2: Vec<_> = (0u32..).map(|i| AdapterId(9 - i)).zip(l2).collect();
        let plan = plan_load(&PlanInput { windows: &windows, columns, fetch, l1: &l1, l2: &l2 });
        let found = |r, c| l1.iter().any(|(_, g)| g.contains(r, c)) || l2.iter().any(|(_, g)| g.contains(r, c));
        let mut planned = ShardBitmap::new(windows.len() as u32, columns);
        for (id, grid) in &plan.l1 {
            prop_assert!(!grid.is_empty(), "who contributes nothing is not named");
            let source = &l1.iter().find(|(i, _)| i == id).expect("known").1;
            for (r, c) in grid.cells() {
                prop_assert!(source.contains(r, c), "planned where it was found");
                prop_assert!(!planned.contains(r, c), "planned once");
                planned.insert(r, c);
            }
        }
        for (id, grid) in &plan.l2 {
            prop_assert!(!grid.is_empty());
            let source = &l2.iter().find(|(i, _)| i == id).expect("known").1;
            for (r, c) in grid.cells() {
                prop_assert!(source.contains(r, c) && !planned.contains(r, c));
                planned.insert(r, c);
            }
        }
        if full {
            if windows.iter().all(|w| w.is_none_or(|w| w == 0)) {
                for (r, c) in (0..windows.len() as u32).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                    prop_assert_eq!(planned.contains(r, c), found(r, c));
                }
            } else {
                prop_assert!(planned.is_empty());
            }
            return Ok(());
        }
        let rows = || windows.iter().enumerate().map(|(r, w)| (r as u32, *w));
        let servable = |l: &u32| rows().all(|(r, w)| required_range(*l, w).all(|c| found(r, c)));
        let hit = (0..=columns).rev().find(servable).unwrap_or(0);
        for (r, w) in rows() {
            let kept: Vec<u32> = planned.row(r).collect();
            prop_assert_eq!(kept, required_range(hit, w).collect::<Vec<u32>>());
        }
        if windows.iter().all(Option::is_none) {
            let ones = (0..columns).take_while(|c| rows().all(|(r, _)| found(r, *c))).count();
            prop_assert_eq!(hit as usize, ones, "the leading ones of all rows together");
        }
    }
}
