//! Compares policies with the naive model where it supports them, the fast path with the whole core, and all
//! policies with the Belady bound.

use larder_lab::simulate::belady::bound;
use larder_lab::simulate::model::{Counts, Direct, L2Size, Machine, Setup, run, serve};
use larder_lab::simulate::trace::{ChunkNumber, Trace};
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};
use proptest::prelude::*;

use crate::{l2_sizes, naive, prompts, setup, unchained};

/// Every combination of registered policies.
fn all_policies(base: Setup) -> impl Iterator<Item = Setup> {
    PrefetchKind::ALL.iter().flat_map(move |prefetch| {
        OffloadKind::ALL.iter().flat_map(move |store| {
            EvictionKind::ALL.iter().map(move |eviction| Setup {
                prefetch: *prefetch,
                store: *store,
                eviction: *eviction,
                ..base
            })
        })
    })
}

fn by_core(trace: &Trace, setup: &Setup) -> (Counts, Vec<bool>) {
    let mut machine = Machine::new(trace, setup);
    let counts = serve(trace, setup, &mut machine, &mut || {});
    machine.core().check();
    let chunks = (0..trace.unique_chunks() as u32).map(ChunkNumber);
    (counts, chunks.map(|chunk| machine.holds(chunk)).collect())
}

/// Simulates on the core and, if supported, on the fast path. Counts and the final chunks in L1 must be
/// equal.
pub(crate) fn run_both(trace: &Trace, setup: &Setup) -> Counts {
    let (counts, left) = by_core(trace, setup);
    if Direct::can(trace, setup) {
        let mut direct = Direct::new(trace, setup);
        assert_eq!(serve(trace, setup, &mut direct, &mut || {}), counts, "{setup:?}");
        let chunks = (0..trace.unique_chunks() as u32).map(ChunkNumber);
        assert_eq!(chunks.map(|chunk| direct.holds(chunk)).collect::<Vec<_>>(), left, "{setup:?}");
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fixed_policies_equal_the_naive_model(
        requests in prompts(40, 8),
        l1_chunks in 1u64..16,
        l2 in l2_sizes(),
        prefetch in prop::sample::select(vec![PrefetchKind::Default, PrefetchKind::Retain]),
        store in prop::sample::select(vec![OffloadKind::Default, OffloadKind::SkipL1]),
    ) {
        let setup = Setup { prefetch, store, ..setup(l1_chunks, l2) };
        let trace = Trace::from_chunks("random", 1, &requests);
        prop_assert_eq!(run(&trace, &setup, &mut || {}), naive::run(&requests, &setup));
        prop_assert_eq!(by_core(&trace, &setup).0, naive::run(&requests, &setup));
    }

    /// Prompts long enough for several batches of lookups in L2.
    #[test]
    fn fast_path_equals_the_core(
        requests in prop_oneof![3 => prompts(30, 90), 1 => unchained(30)],
        l1_chunks in 1u64..120,
        l2 in prop_oneof![Just(L2Size::Unbounded), Just(L2Size::None), (1u64..200).prop_map(L2Size::Chunks)],
        warmup in 0.0..1.0,
    ) {
        let trace = Trace::from_chunks("random", 4, &requests);
        for setup in all_policies(Setup { warmup, ..setup(l1_chunks, l2) }) {
            run_both(&trace, &setup);
        }
    }

    #[test]
    fn no_policy_exceeds_the_bounds(
        requests in prompts(40, 8),
        l1_chunks in 1u64..16,
        l2 in l2_sizes(),
        warmup in 0.0..1.0,
        concurrency in 1usize..4,
    ) {
        let trace = Trace::from_chunks("random", 1, &requests);
        for setup in all_policies(Setup { warmup, concurrency, ..setup(l1_chunks, l2) }) {
            let counts = run(&trace, &setup, &mut || {});
            let accounted = counts.l1_hits + counts.l2_hits + counts.misses();
            prop_assert_eq!(accounted, counts.chunk_accesses);
            prop_assert!(l2 != L2Size::None || counts.l2_hits + counts.l2_reads + counts.l2_writes == 0);
            // Requests that are open at the same time use the same loads.
            prop_assert!(concurrency > 1 || counts.l2_hits == counts.l2_reads);
            let best = bound(&trace, l1_chunks, l2, setup.warmup_requests(&trace));
            prop_assert!(counts.l1_hits <= best.l1_hits, "{:?} {:?} {:?}", setup, counts, best);
            // `noop` refuses computed chunks, so the closer bound does not apply.
            let holds = concurrency == 1 && setup.eviction != EvictionKind::Noop;
            let held = counts.l1_hits <= best.l1_hits_holding;
            prop_assert!(held || !holds, "{:?} {:?} {:?}", setup, counts, best);
            prop_assert!(counts.l1_hits + counts.l2_hits <= best.hits, "{:?} {:?} {:?}", setup, counts, best);
        }
    }
}

#[test]
fn open_requests_hit_only_chunks_stored_before() {
    let requests = vec![vec![1, 2], vec![1, 2], vec![1, 2]];
    let trace = Trace::from_chunks("same", 1, &requests);
    for (concurrency, hits) in [(1, 4), (2, 2), (3, 0)] {
        let setup = Setup { concurrency, ..setup(10, L2Size::Unbounded) };
        assert_eq!(run(&trace, &setup, &mut || {}).l1_hits, hits, "{concurrency} open requests");
    }
}

#[test]
fn warmup_requests_are_not_counted() {
    let requests = vec![vec![1], vec![2], vec![1], vec![1]];
    let trace = Trace::from_chunks("few", 16, &requests);
    let counts = run(&trace, &Setup { warmup: 0.5, ..setup(10, L2Size::Unbounded) }, &mut || {});
    let expected = Counts { requests: 2, tokens: 32, chunk_accesses: 2, l1_hits: 2, ..Counts::default() };
    assert_eq!(counts, expected);
    assert_eq!(counts.token_hit_rate(16), 1.0);
}
