//! From where each shard of a lookup is served.
//!
//! A pure function of what was found. Every plan keeps these rules: a planned shard was found where it is planned from,
//! none is planned twice, and a source that contributes nothing is not in the plan.

use std::collections::BTreeMap;

use super::shard_bitmap::ShardBitmap;
use crate::prefix_scan::{AttentionWindow, PrefixScan, required_range};
use larder_types::AdapterId;

/// A pool of L1. There is one today.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L1Id(pub u32);

/// Which shards a request wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fetch {
    /// The longest servable prefix.
    #[default]
    Prefix,
    /// All that is found, with gaps. Not possible for rows with windows.
    Full,
}

/// What was found for a lookup.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// Attention window of each row.
    pub windows: &'a [AttentionWindow],
    /// Number of chunks.
    pub columns: u32,
    /// Which shards are wanted.
    pub fetch: Fetch,
    /// Shards that are pinned in each pool of L1, in any order.
    pub l1: &'a [(L1Id, ShardBitmap)],
    /// Shards that each adapter has, in any order.
    pub l2: &'a [(AdapterId, ShardBitmap)],
}

/// Which shards to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadPlan {
    /// From L1.
    pub l1: BTreeMap<L1Id, ShardBitmap>,
    /// To load.
    pub l2: BTreeMap<AdapterId, ShardBitmap>,
}

/// The plan of every built-in policy: what the request needs of what was found, each shard from the first source that
/// has it, L1 before L2, lower numbers before higher ones. Inconsistent input gives an empty plan.
pub fn plan_load(input: &PlanInput<'_>) -> LoadPlan {
    let rows = input.windows.len() as u32;
    let grids = || input.l1.iter().map(|(_, g)| g).chain(input.l2.iter().map(|(_, g)| g));
    if rows == 0 || grids().any(|g| g.rows() != rows || g.columns() != input.columns) {
        return LoadPlan::default();
    }
    let found = |row: u32, column: u32| grids().any(|g| g.contains(row, column));
    let Some(needed) = needed(input, found) else { return LoadPlan::default() };
    let mut l1: Vec<_> = input.l1.iter().collect();
    let mut l2: Vec<_> = input.l2.iter().collect();
    l1.sort_by_key(|(id, _)| *id);
    l2.sort_by_key(|(id, _)| *id);
    let mut plan = LoadPlan::default();
    let empty = || ShardBitmap::new(rows, input.columns);
    for (row, column) in needed.cells() {
        if let Some((id, _)) = l1.iter().find(|(_, g)| g.contains(row, column)) {
            plan.l1.entry(*id).or_insert_with(empty).insert(row, column);
        } else if let Some((id, _)) = l2.iter().find(|(_, g)| g.contains(row, column)) {
            plan.l2.entry(*id).or_insert_with(empty).insert(row, column);
        }
    }
    plan
}

/// The found shards that the request can use.
fn needed(input: &PlanInput<'_>, found: impl Fn(u32, u32) -> bool) -> Option<ShardBitmap> {
    let rows = input.windows.len() as u32;
    let mut needed = ShardBitmap::new(rows, input.columns);
    match input.fetch {
        Fetch::Full if input.windows.iter().any(|w| w.is_some_and(|w| w > 0)) => return None,
        Fetch::Full => {
            let all = (0..input.columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
            all.filter(|(r, c)| found(*r, *c)).for_each(|(r, c)| needed.insert(r, c));
        }
        Fetch::Prefix => {
            let hit = servable_prefix(input.windows, input.columns, &found);
            for (row, window) in input.windows.iter().enumerate() {
                required_range(hit, *window).for_each(|column| needed.insert(row as u32, column));
            }
        }
    }
    Some(needed)
}

/// The longest servable prefix of `columns` chunks.
pub fn servable_prefix(windows: &[AttentionWindow], columns: u32, present: impl Fn(u32, u32) -> bool) -> u32 {
    let mut fold = PrefixScan::new(windows.iter().copied());
    for column in 0..columns {
        if !fold.push(|row| present(row as u32, column)) {
            break;
        }
    }
    fold.hit()
}
