//! Belady bounds: the hits of a clairvoyant policy, which no policy can beat.
//!
//! Keeping a chunk from one use to the next takes one place in L1 for that interval and saves one load or one
//! computation. The bound is the largest number of such intervals of which no more overlap than L1 has
//! places. A greedy choice is optimal (Belady 1966, with bypass): whenever too many overlap, drop the one
//! with the farthest next use. Chunk hashes are chained, so a request that uses a chunk also uses all chunks
//! before it; dropping the deepest of several chunks with the same next use keeps every hit a prefix.
//!
//! Only intervals that end in a counted request count. The chunks of the request being served take no place,
//! so this bound holds for every L1.
//!
//! The server's L1 holds all chunks of a request at the same time, whether found, loaded or computed, unless
//! it refuses stores. The second bound (`*_holding`) is closer for such an L1 that serves one request at a
//! time: while a request is served, its chunks take places from the intervals that span it. The same greedy
//! choice is optimal.

use std::collections::BinaryHeap;

use super::model::L2Size;
use super::trace::{ChunkNumber, Trace};

/// Bounds for the requests after the warm-up, in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Most hits in L1.
    pub l1_hits: u64,
    /// Most hits in both tiers together.
    pub hits: u64,
    /// Fewest reads from L2 if no chunk is computed twice; `None` unless L2 is unbounded.
    pub l2_reads: Option<u64>,
    /// As `l1_hits`, if L1 holds all chunks of the request being served.
    pub l1_hits_holding: u64,
    /// As `l2_reads`, if L1 holds all chunks of the request being served.
    pub l2_reads_holding: Option<u64>,
}

/// Next use of a chunk that no later request uses.
const NEVER: u32 = u32::MAX;

/// Computes the bounds for an L1 of `l1_chunks` and an L2, without counting the first `warmup` requests.
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

/// The next request that looks up each chunk of each request, in the order of the trace.
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

/// Counted lookups of kept chunks, with at most `capacity` chunks kept at a time. If `holds`, the chunks of
/// the request being served are part of that capacity.
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

/// Chunks kept until their next use.
struct Kept {
    /// Next use of each chunk; [`NEVER`] if it is not kept.
    until: Vec<u32>,
    /// Next use, depth and chunk, farthest and deepest first. May contain stale entries of chunks that have
    /// been used since.
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

    /// Stops keeping a chunk at its use at `now`. Returns whether it was kept until then.
    fn take(&mut self, chunk: ChunkNumber, now: u32) -> bool {
        let entry = &mut self.until[chunk.0 as usize];
        let was_kept = *entry == now;
        if was_kept {
            *entry = NEVER;
            self.chunks -= 1;
        }
        was_kept
    }

    /// Drops chunks, farthest next use first, until at most `places` are kept.
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

    /// Most hits over all choices of chunks to keep after each request, by exhaustive search.
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
        fn bounds_equal_an_exhaustive_search(
            paths in prop::collection::vec(prop::collection::vec(0u64..2, 1..4), 1..8),
            capacity in 0usize..4,
            warmup in 0usize..4,
        ) {
            // Chunks are nodes of a binary tree: each name encodes the whole path from the root.
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
