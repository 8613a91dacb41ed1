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
//!
//! A server's L1 has, unless it refuses stores: all chunks of a request are in it together, those found as
//! well as those loaded and computed. Where requests are long and L1 is short that leaves little room for
//! anything else meanwhile. So there is a second, closer bound, for an L1 that *holds* the request it serves,
//! one request at a time: as many places fewer are left for the stretches that pass over it. The same greedy
//! choice is the best one.

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
    /// As `l1_hits`, where L1 holds the request that is served.
    pub l1_hits_holding: u64,
    /// As `l2_reads`, where L1 holds the request that is served.
    pub l2_reads_holding: Option<u64>,
}

/// No later request uses it.
const NEVER: u32 = u32::MAX;

/// Bounds for an L1 of `l1_chunks` before an L2 of some size, the first `warmup` requests not counted.
pub fn bound(trace: &Trace, l1_chunks: u64, l2: L2Size, warmup: usize) -> Bound {
    let next = next_uses(trace);
    let kept = |capacity, holds| kept(trace, &next, capacity, warmup, holds);
    let (l1_hits, l1_hits_holding) = (kept(l1_chunks, false), kept(l1_chunks, true));
    let hits = match l2 {
        L2Size::None => l1_hits,
        L2Size::Chunks(chunks) => kept(l1_chunks.saturating_add(chunks), false),
        L2Size::Unbounded => kept(u64::MAX, false),
    };
    let reads = |l1_hits| (l2 == L2Size::Unbounded).then(|| hits - l1_hits);
    Bound {
        l1_hits,
        hits,
        l2_reads: reads(l1_hits),
        l1_hits_holding,
        l2_reads_holding: reads(l1_hits_holding),
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

/// How many counted accesses find their chunk kept, at most `capacity` being kept at once, the chunks of the
/// request that is served among them if L1 `holds` it.
fn kept(trace: &Trace, next: &[u32], capacity: u64, warmup: usize, holds: bool) -> u64 {
    let mut kept = Kept::new(trace.unique_chunks());
    let mut hits = 0;
    let mut next = next.iter();
    for (place, request) in trace.requests().iter().enumerate() {
        let asked_for = trace.looked_up(request);
        for chunk in asked_for {
            if kept.take(*chunk, place as u32) {
                hits += u64::from(place >= warmup);
            }
        }
        if holds {
            kept.cut(capacity.saturating_sub(asked_for.len() as u64));
        }
        for ((depth, chunk), use_next) in (0..).zip(trace.chunks(request)).zip(next.by_ref()) {
            if *use_next != NEVER && *use_next as usize >= warmup {
                kept.keep(*chunk, depth, *use_next);
            }
        }
        kept.cut(capacity);
    }
    hits
}

/// Chunks that are kept for their next use.
struct Kept {
    /// Of each chunk, when that is; [`NEVER`] if it is not kept.
    until: Vec<u32>,
    /// Next use, depth and chunk, farthest and deepest first. Entries of chunks that were used or dropped
    /// meanwhile are stale.
    farthest: BinaryHeap<(u32, u32, ChunkNumber)>,
    chunks: u64,
}

impl Kept {
    fn new(unique_chunks: u64) -> Self {
        Self { until: vec![NEVER; unique_chunks as usize], farthest: BinaryHeap::new(), chunks: 0 }
    }

    fn keep(&mut self, chunk: ChunkNumber, depth: u32, until: u32) {
        let entry = &mut self.until[chunk.0 as usize];
        if *entry == NEVER {
            *entry = until;
            self.chunks += 1;
            self.farthest.push((until, depth, chunk));
        }
    }

    /// Ends the stretch of a chunk that is used `now`. Whether it was kept for that.
    fn take(&mut self, chunk: ChunkNumber, now: u32) -> bool {
        let entry = &mut self.until[chunk.0 as usize];
        let was_kept = *entry == now;
        if was_kept {
            *entry = NEVER;
            self.chunks -= 1;
        }
        was_kept
    }

    /// Drops whatever is too much for so many places.
    fn cut(&mut self, places: u64) {
        while self.chunks > places {
            let Some((until, _, chunk)) = self.farthest.pop() else { break };
            self.take(chunk, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    /// The best of all choices of what to keep after each request, tried one by one.
    fn exhaustive(requests: &[Vec<u64>], capacity: usize, warmup: usize, holds: bool) -> u64 {
        let mut best = HashMap::from([(BTreeSet::new(), 0)]);
        for (place, request) in requests.iter().enumerate() {
            let mut after = HashMap::new();
            let held = if holds { request.len().min(capacity) } else { 0 };
            for (cache, hits) in best {
                let found = request.iter().filter(|chunk| cache.contains(*chunk)).count() as u64;
                let hits = hits + if place >= warmup { found } else { 0 };
                let all: Vec<u64> =
                    cache.iter().chain(request).copied().collect::<BTreeSet<_>>().into_iter().collect();
                for mask in 0_u32..1 << all.len() {
                    if mask.count_ones() as usize <= capacity {
                        let kept = |i: &usize| mask >> i & 1 == 1;
                        let kept: BTreeSet<u64> = (0..all.len()).filter(kept).map(|i| all[i]).collect();
                        if kept.iter().filter(|chunk| !request.contains(chunk)).count() + held > capacity {
                            continue;
                        }
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
            prop_assert_eq!(found.l1_hits, exhaustive(&requests, capacity, warmup, false));
            prop_assert_eq!(found.l1_hits_holding, exhaustive(&requests, capacity, warmup, true));
            let mut seen = BTreeSet::<u64>::new();
            let mut again = 0;
            for (place, request) in requests.iter().enumerate() {
                let known = request.iter().filter(|chunk| seen.contains(*chunk)).count() as u64;
                again += if place >= warmup { known } else { 0 };
                seen.extend(request);
            }
            prop_assert_eq!(found.l2_reads, Some(again - found.l1_hits));
            prop_assert_eq!(found.l2_reads_holding, Some(again - found.l1_hits_holding));
            prop_assert_eq!(bound(&trace, capacity as u64, L2Size::None, warmup).hits, found.l1_hits);
        }
    }
}
