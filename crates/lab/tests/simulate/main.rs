//! Compares the simulation with a naive model and with the whole core, on random prompts and real traces.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod naive;
mod policies;
mod traces;
mod whatif;

use larder_lab::simulate::model::{L2Size, Setup};
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};
use proptest::prelude::*;

/// Prompts as paths in a tree, so that chunk names are chained: prompts with a common chunk have all chunks
/// before it in common.
pub(crate) fn prompts(most: usize, deep: usize) -> impl Strategy<Value = Vec<Vec<u64>>> {
    // Paths of deep prompts rarely turn, so that they have long common prefixes.
    let straight = if deep > 8 { 30 } else { 1 };
    let turn = prop_oneof![straight => Just(0u64), 2 => 1u64..3];
    let path = prop::collection::vec(turn, 0..=deep);
    prop::collection::vec(path, 1..most).prop_map(|paths| paths.iter().map(|path| named(path)).collect())
}

/// Prompts that break the chaining: chunks in any order, also repeated ones.
pub(crate) fn unchained(most: usize) -> impl Strategy<Value = Vec<Vec<u64>>> {
    prop::collection::vec(prop::collection::vec(0u64..60, 0..80), 1..most)
}

/// Names of the chunks along a path.
fn named(path: &[u64]) -> Vec<u64> {
    let name = |path: &[u64]| {
        path.iter().fold(1, |name: u64, turn| name.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(turn + 1))
    };
    (1..=path.len()).map(|n| name(&path[..n])).collect()
}

/// LRU, the default policies, one request at a time and no warm-up.
pub(crate) fn setup(l1_chunks: u64, l2: L2Size) -> Setup {
    Setup {
        l1_chunks,
        l2,
        prefetch: PrefetchKind::Default,
        store: OffloadKind::Default,
        eviction: EvictionKind::Lru,
        concurrency: 1,
        warmup: 0.0,
    }
}

/// Sizes of L2.
pub(crate) fn l2_sizes() -> impl Strategy<Value = L2Size> {
    prop_oneof![Just(L2Size::Unbounded), Just(L2Size::None), (1u64..12).prop_map(L2Size::Chunks)]
}
