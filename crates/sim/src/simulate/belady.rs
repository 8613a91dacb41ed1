//! What a clairvoyant could do: the bounds that no policy beats.
//!
//! A chunk that two requests in a row use costs L1 one place from the first to the second and saves one
//! load or one computation. Which of those stretches to keep, never more at once than L1 has places, is
//! the choice of the most intervals of which at most so many overlap, and the greedy answer is the best
//! one (Belady 1966, with bypass): whenever there are too many, drop the one whose next use is farthest.
//! Names of chunks are chained, so whoever wants a chunk wants all before it, and dropping the deepest of
//! equals keeps every hit a leading run.
//!
//! Only stretches that end in a counted request count. L1 has no need to hold what a request is being
//! given, so this is a bound for every L1 that has.

use std::collections::BinaryHeap;

use super::model::L2Size;
use super::trace::{ChunkNumber, Trace};

/// Bounds for the requests behind the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The most chunks that L1 can serve.
    pub l1_hits: u64,
    /// The most chunks that both tiers together can serve.
    pub hits: u64,
    /// The fewest reads from L2 of whoever serves everything that was ever seen. Only known if L2 keeps
    /// everything.
    pub l2_reads: Option<u64>,
}

/// No later request uses it.
const NEVER: u32 = u32::MAX;

/// Bounds for an L1 of `l1_chunks` before an L2 of some size, the first `warmup` requests not counted.
pub fn bound(trace: &Trace, l1_chunks: u64, l2: L2Size, warmup: usize) -> Bound {
    let next = next_uses(trace);
    let l1_hits = kept(trace, &next, l1_chunks, warmup);
    match l2 {
        L2Size::None => Bound { l1_hits, hits: l1_hits, l2_reads: None },
        L2Size::Chunks(chunks) => {
            let hits = kept(trace, &next, l1_chunks.saturating_add(chunks), warmup);
            Bound { l1_hits, hits, l2_reads: None }
        }
        L2Size::Unbounded => {
            let hits = kept(trace, &next, u64::MAX, warmup);
            Bound { l1_hits, hits, l2_reads: Some(hits - l1_hits) }
        }
    }
}

/// For each chunk of each request, in the order of the trace, which request looks it up next.
fn next_uses(trace: &Trace) -> Vec<u32> {
    let mut next = Vec::new();
    let mut later = vec![NEVER; trace.unique_chunks() as usize];
    for (place, request) in trace.requests().iter().enumerate().rev() {
        next.extend(trace.chunks(request).iter().rev().map(|chunk| later[chunk.0 as usize]));
        trace.looked_up(request).iter().for_each(|chunk| later[chunk.0 as usize] = place as u32);
    }
    next.reverse();
    next
}

/// How many counted accesses find their chunk kept, at most `capacity` being kept at once.
fn kept(trace: &Trace, next: &[u32], capacity: u64, warmup: usize) -> u64 {
    // Of each chunk, when it is used next if it is kept.
    let mut until = vec![NEVER; trace.unique_chunks() as usize];
    // Farthest and deepest first. Entries of chunks that were used or dropped meanwhile are stale.
    let mut farthest: BinaryHeap<(u32, u32, ChunkNumber)> = BinaryHeap::new();
    let (mut kept, mut hits) = (0_u64, 0);
    let mut next = next.iter();
    for (place, request) in trace.requests().iter().enumerate() {
        for chunk in trace.looked_up(request) {
            if until[chunk.0 as usize] == place as u32 {
                until[chunk.0 as usize] = NEVER;
                kept -= 1;
                hits += u64::from(place >= warmup);
            }
        }
        for ((depth, chunk), use_next) in (0..).zip(trace.chunks(request)).zip(next.by_ref()) {
            let use_next = *use_next;
            let counts = use_next != NEVER && use_next as usize >= warmup;
            if counts && until[chunk.0 as usize] == NEVER {
                until[chunk.0 as usize] = use_next;
                kept += 1;
                if capacity != u64::MAX {
                    farthest.push((use_next, depth, *chunk));
                }
            }
        }
        while kept > capacity {
            let Some((at, _, chunk)) = farthest.pop() else { break };
            if until[chunk.0 as usize] == at {
                until[chunk.0 as usize] = NEVER;
                kept -= 1;
            }
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    /// The best of all choices of what to keep after each request, tried one by one.
    fn exhaustive(requests: &[Vec<u64>], capacity: usize, warmup: usize) -> u64 {
        let mut best = HashMap::from([(BTreeSet::new(), 0)]);
        for (place, request) in requests.iter().enumerate() {
            let mut after = HashMap::new();
            for (cache, hits) in best {
                let found = request.iter().filter(|chunk| cache.contains(*chunk)).count() as u64;
                let hits = hits + if place >= warmup { found } else { 0 };
                let all: Vec<u64> =
                    cache.iter().chain(request).copied().collect::<BTreeSet<_>>().into_iter().collect();
                for mask in 0_u32..1 << all.len() {
                    if mask.count_ones() as usize <= capacity {
                        let kept = |i: &usize| mask >> i & 1 == 1;
                        let kept: BTreeSet<u64> = (0..all.len()).filter(kept).map(|i| all[i]).collect();
                        let known = after.entry(kept).or_insert(0);
                        *known = hits.max(*known);
                    }
                }
            }
            best = after;
        }
        best.into_values().max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_choice_beats_the_bound_and_one_reaches_it(
            paths in prop::collection::vec(prop::collection::vec(0u64..2, 1..4), 1..8),
            capacity in 0usize..4,
            warmup in 0usize..4,
        ) {
            // Chunks of a binary tree: their names say the whole path.
            let name = |path: &[u64]| path.iter().fold(1, |name, turn| 2 * name + turn);
            let requests: Vec<Vec<u64>> =
                paths.iter().map(|path| (1..=path.len()).map(|n| name(&path[..n])).collect()).collect();
            let trace = Trace::from_chunks("t", 1, &requests);
            let found = bound(&trace, capacity as u64, L2Size::Unbounded, warmup);
            prop_assert_eq!(found.l1_hits, exhaustive(&requests, capacity, warmup));
            let mut seen = BTreeSet::<u64>::new();
            let mut again = 0;
            for (place, request) in requests.iter().enumerate() {
                let known = request.iter().filter(|chunk| seen.contains(*chunk)).count() as u64;
                again += if place >= warmup { known } else { 0 };
                seen.extend(request);
            }
            prop_assert_eq!(found.l2_reads, Some(again - found.l1_hits));
            prop_assert_eq!(bound(&trace, capacity as u64, L2Size::None, warmup).hits, found.l1_hits);
        }
    }
}
