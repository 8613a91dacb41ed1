//! The core's inner parts without its books: one request at a time, policies that only look at keys.
//!
//! With nobody else about, a lookup, its loads, the store and the end of a request come down to a
//! short list of calls on the eviction policy. This makes the same calls in the same order as
//! [`Core`](larder_store::Core) with one worker does, on the server's own eviction policies, and keeps
//! what L1 knows of a chunk in one byte-sized flag set instead of an index, an allocator and leases.
//! Which chunks there are, and which leave, is therefore the same; only that they are found by number
//! and not by name makes it quick.
//!
//! That the counts and every chunk in L1 are equal to the core's is tested for each policy that is
//! served here. Any other policy may use hooks that these calls do not know: it is served by the core.

use larder_store::l1::ChunkId;
use larder_store::l1::eviction::{About, EvictionKind, EvictionPolicy, Gone, Verdict};
use larder_store::policy::{PrefetchKind, StoreKind};
use larder_store::quota::{Ledger, SaltId};

use super::tier::Tier;
use super::{Counts, Serve, Setup};
use crate::simulate::trace::{ChunkNumber, Trace};

/// Chunks lacking in L1 that are asked of L2 at first, and twice as many each time, as the core does.
const FIRST_WINDOW: usize = 32;

/// What L1 knows of a chunk.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// It is in L1, readable or about to be.
    there: bool,
    /// Somebody holds it; so it is not in the eviction order.
    held: bool,
    /// It goes when nobody holds it any more.
    temporary: bool,
    /// The last operation that must not lose it.
    protected_by: u32,
}

/// A memory tier with the server's eviction and fixed policies, for one request at a time.
#[derive(Debug)]
pub struct Direct<'a> {
    trace: &'a Trace,
    order: Box<dyn EvictionPolicy>,
    ledger: Ledger,
    l2: Option<Tier>,
    chunks: Vec<State>,
    capacity: u64,
    /// Chunks in L1.
    used: u64,
    /// Chunks in the eviction order.
    evictable: u64,
    operation: u32,
    retains: bool,
    hit: u32,
    counts: Counts,
    /// Of the running lookup: which chunks are in L1, as far as was looked. Kept for its memory.
    in_l1: Vec<bool>,
    asked: Vec<usize>,
}

impl<'a> Direct<'a> {
    /// Whether a setup is of those that can be served without the core.
    pub fn can(trace: &Trace, setup: &Setup) -> bool {
        let fixed = matches!(setup.prefetch, PrefetchKind::Default | PrefetchKind::Retain)
            && setup.store == StoreKind::Default
            && matches!(
                setup.eviction,
                EvictionKind::Lru | EvictionKind::Arc | EvictionKind::S3Fifo | EvictionKind::Noop
            );
        fixed && setup.concurrency <= 1 && trace.events().is_none()
    }

    /// An empty tier.
    pub fn new(trace: &'a Trace, setup: &Setup) -> Self {
        Self {
            trace,
            order: setup.eviction.create(),
            ledger: Ledger::default(),
            l2: Tier::new(setup.l2, trace.unique_chunks()),
            chunks: vec![State::default(); trace.unique_chunks() as usize],
            capacity: setup.l1_chunks,
            used: 0,
            evictable: 0,
            operation: 0,
            retains: setup.prefetch == PrefetchKind::Retain,
            hit: 0,
            counts: Counts::default(),
            in_l1: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// Whether a chunk is in L1.
    pub fn holds(&self, chunk: ChunkNumber) -> bool {
        self.state(chunk).there
    }

    fn state(&self, chunk: ChunkNumber) -> State {
        self.chunks[chunk.0 as usize]
    }

    fn state_mut(&mut self, chunk: ChunkNumber) -> &mut State {
        &mut self.chunks[chunk.0 as usize]
    }

    /// A chunk that is in the order is held from now on.
    fn hold(&mut self, chunk: ChunkNumber) {
        self.state_mut(chunk).held = true;
        self.evictable -= 1;
        self.order.leave(ChunkId::new(chunk.0));
    }

    /// Nobody holds a chunk any more.
    fn release(&mut self, chunk: ChunkNumber) {
        let state = self.state_mut(chunk);
        state.held = false;
        if state.temporary {
            state.there = false;
            self.used -= 1;
            self.order.forget(ChunkId::new(chunk.0), &about(self.trace, chunk), Gone::Removed);
        } else {
            self.enter(chunk);
        }
    }

    fn enter(&mut self, chunk: ChunkNumber) {
        self.evictable += 1;
        self.order.enter(ChunkId::new(chunk.0), &about(self.trace, chunk));
    }

    /// Marks leading chunks as used, the last one first.
    fn touch(&mut self, chunks: &[ChunkNumber]) {
        for chunk in chunks.iter().rev() {
            let State { there, held, .. } = self.state(*chunk);
            if there && !held {
                self.order.used(ChunkId::new(chunk.0), &about(self.trace, *chunk));
            }
        }
    }

    /// Takes memory for a chunk that is not there, held by whoever fills it. Whether there was any.
    fn reserve(&mut self, chunk: ChunkNumber, temporary: bool) -> bool {
        if self.used == self.capacity && !self.evict() {
            return false;
        }
        self.used += 1;
        let protected_by = self.operation;
        *self.state_mut(chunk) = State { there: true, held: true, temporary, protected_by };
        true
    }

    /// Evicts the coldest chunk that may go. Whether there was one.
    fn evict(&mut self) -> bool {
        if self.evictable == 0 {
            return false;
        }
        // The policies served here learn nothing of reuse.
        self.order.settle(None);
        let (chunks, operation) = (&self.chunks, self.operation);
        let mut victim = None;
        self.order.coldest_first(&self.ledger, &mut |chunk| {
            if chunks[chunk.number() as usize].protected_by == operation {
                return Verdict::Stays;
            }
            victim = Some(chunk);
            Verdict::Enough
        });
        let Some(victim) = victim else { return false };
        let chunk = ChunkNumber(victim.number());
        self.order.leave(victim);
        self.order.forget(victim, &about(self.trace, chunk), Gone::Evicted);
        self.state_mut(chunk).there = false;
        self.evictable -= 1;
        self.used -= 1;
        self.counts.l1_evictions += 1;
        true
    }

    /// What L1 alone serves: all of a prompt, or all there is when there is no L2.
    fn take_from_l1(&mut self, hit: &[ChunkNumber]) {
        hit.iter().for_each(|chunk| self.order.reused(ChunkId::new(chunk.0)));
        hit.iter().for_each(|chunk| self.hold(*chunk));
        self.counts.l1_hits += hit.len() as u64;
        self.hit = hit.len() as u32;
    }

    /// Looks for what L1 lacks in L2, a window of chunks at a time, until nobody has a chunk. What L1 has
    /// on the way is held. Returns the longest prefix that both together have.
    fn look(&mut self, chain: &[ChunkNumber]) -> usize {
        self.in_l1.clear();
        let (mut window, mut reached) = (FIRST_WINDOW, 0);
        loop {
            let first = self.in_l1.len();
            self.asked.clear();
            for chunk in &chain[first..] {
                if self.asked.len() == window {
                    break;
                }
                let there = self.state(*chunk).there;
                match there {
                    true => self.hold(*chunk),
                    false => self.asked.push(self.in_l1.len()),
                }
                self.in_l1.push(there);
            }
            if self.asked.is_empty() {
                return self.in_l1.len();
            }
            let l2 = self.l2.as_mut().expect("only a lookup with L2 looks there");
            let mut gap = None;
            for place in &self.asked {
                // All are asked for at once, so those behind a gap are used too.
                if !l2.find(chain[*place].0) {
                    gap = gap.or(Some(*place));
                }
            }
            reached = gap.unwrap_or(self.in_l1.len()).max(reached);
            if gap.is_some() {
                return reached;
            }
            window *= 2;
        }
    }

    /// Gets memory for what of the hit is in L2; shortens the hit if there is not enough.
    fn load(&mut self, chain: &[ChunkNumber], hit: usize) -> usize {
        self.let_go(chain, hit);
        let lacks_room =
            (0..hit).find(|place| !self.in_l1[*place] && !self.reserve(chain[*place], !self.retains));
        let Some(reached) = lacks_room else { return hit };
        self.counts.no_room += self.in_l1[reached..].iter().filter(|there| !**there).count() as u64;
        self.let_go(chain, reached);
        reached
    }

    /// Gives back what of L1 was held behind the hit.
    fn let_go(&mut self, chain: &[ChunkNumber], hit: usize) {
        for place in (hit..self.in_l1.len()).rev() {
            if self.in_l1[place] {
                self.release(chain[place]);
            }
        }
        self.in_l1.truncate(hit);
    }
}

impl Serve for Direct<'_> {
    fn lookup(&mut self, request: usize) {
        let trace = self.trace;
        let chain = trace.looked_up(&trace.requests()[request]);
        self.counts.chunk_accesses += chain.len() as u64;
        let resident = chain.iter().take_while(|chunk| self.state(**chunk).there).count();
        if resident == chain.len() || self.l2.is_none() {
            return self.take_from_l1(&chain[..resident]);
        }
        let found = self.look(chain);
        self.operation += 1;
        let hit = self.load(chain, found);
        for (chunk, in_l1) in chain[..hit].iter().zip(&self.in_l1) {
            if *in_l1 {
                self.order.reused(ChunkId::new(chunk.0));
                self.counts.l1_hits += 1;
            } else {
                self.counts.l2_hits += 1;
                self.counts.l2_reads += 1;
            }
        }
        self.hit = hit as u32;
    }

    /// Only recordings say when chunks have been read, and the core serves those.
    fn retrieve(&mut self, _: usize, _: u32, _: u32) {}

    fn store(&mut self, request: usize, start: u32, end: u32) {
        let trace = self.trace;
        let chain = &trace.chunks(&trace.requests()[request])[..end as usize];
        self.operation += 1;
        for chunk in chain.iter().rev() {
            let operation = self.operation;
            let state = self.state_mut(*chunk);
            state.protected_by = operation;
            if state.there && !state.held {
                self.order.used(ChunkId::new(chunk.0), &about(self.trace, *chunk));
            }
        }
        let mut stored = Vec::new();
        for chunk in &chain[start as usize..] {
            if !self.state(*chunk).there {
                if !self.reserve(*chunk, false) {
                    break;
                }
                stored.push(*chunk);
            }
        }
        if stored.is_empty() {
            return;
        }
        stored.iter().rev().for_each(|chunk| self.release(*chunk));
        self.touch(chain);
        if let Some(l2) = &mut self.l2 {
            stored.iter().for_each(|chunk| l2.put(chunk.0));
            self.counts.l2_writes += stored.len() as u64;
        }
    }

    fn end(&mut self, request: usize) {
        let trace = self.trace;
        let hit = &trace.chunks(&trace.requests()[request])[..std::mem::take(&mut self.hit) as usize];
        hit.iter().rev().for_each(|chunk| self.release(*chunk));
        self.touch(hit);
    }

    fn hit(&self, _: usize) -> u32 {
        self.hit
    }

    fn counts(&self) -> Counts {
        let l2_evictions = self.l2.as_ref().map_or(0, |l2| l2.evicted);
        Counts { l2_evictions, ..self.counts }
    }
}

/// What a policy may want to know of a chunk: that of the only model and salt.
fn about(trace: &Trace, chunk: ChunkNumber) -> About<'_> {
    About { hash: trace.hash(chunk), seed: 0, salt: SaltId::default(), reuse: None }
}
