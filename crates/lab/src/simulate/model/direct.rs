//! The fast path: replays a trace on a [shadow cache](crate::whatif::shadow), one request at a time.
//!
//! Tests check that its counts and the chunks in L1 equal those of the core for each policy that
//! [`Direct::can`] accepts. Other policies may need hooks that a shadow does not call, so the core runs them.

use crate::whatif::shadow::{Policies, Shadow};
use larder_policy::OffloadKind;
use larder_types::ids::ChunkId;

use super::tier::Tier;
use super::{Counts, Serve, Setup};
use crate::simulate::trace::{ChunkNumber, Trace};

/// L1 with one of the server's eviction policies and a fixed prefetch policy, for one request at a time.
#[derive(Debug)]
pub struct Direct<'a> {
    trace: &'a Trace,
    shadow: Shadow<Tier>,
    hit: u32,
    /// Chunks of the current request. A field only to reuse the allocation.
    chain: Vec<ChunkId>,
}

impl<'a> Direct<'a> {
    /// Whether a setup can be simulated without the core.
    pub fn can(trace: &Trace, setup: &Setup) -> bool {
        policies(setup).fixed()
            && setup.store == OffloadKind::Default
            && setup.concurrency <= 1
            && trace.events().is_none()
    }

    /// An empty L1.
    ///
    /// # Panics
    /// If the policies are not [fixed](Policies::fixed); see [`can`](Self::can).
    pub fn new(trace: &'a Trace, setup: &Setup) -> Self {
        let l2 = Tier::new(setup.l2, trace.unique_chunks());
        let shadow = Shadow::new(policies(setup), setup.l1_chunks, l2);
        Self { trace, shadow, hit: 0, chain: Vec::new() }
    }

    /// Whether a chunk is in L1.
    pub fn holds(&self, chunk: ChunkNumber) -> bool {
        self.shadow.holds(ChunkId(chunk.0))
    }
}

fn policies(setup: &Setup) -> Policies {
    Policies { prefetch: setup.prefetch, eviction: setup.eviction }
}

impl Serve for Direct<'_> {
    fn lookup(&mut self, request: usize) {
        let request = &self.trace.requests()[request];
        self.chain.clear();
        self.chain.extend(self.trace.looked_up(request).iter().map(|chunk| ChunkId(chunk.0)));
        self.hit = self.shadow.lookup(self.trace.hashes(), &self.chain) as u32;
    }

    /// Nothing to do: only recordings have retrieves, and the core replays those.
    fn retrieve(&mut self, _: usize, _: u32, _: u32) {}

    /// Stores only chunks that were looked up: only recordings have others, and the core replays those.
    fn store(&mut self, _: usize, start: u32, end: u32) {
        self.shadow.store(self.trace.hashes(), &self.chain[..end as usize], start as usize);
    }

    fn end(&mut self, _: usize) {
        let hit = std::mem::take(&mut self.hit) as usize;
        self.shadow.end(self.trace.hashes(), &self.chain[..hit]);
    }

    fn hit(&self, _: usize) -> u32 {
        self.hit
    }

    fn counts(&self) -> Counts {
        let counts = self.shadow.counts();
        Counts {
            requests: 0,
            tokens: 0,
            chunk_accesses: counts.looked_up,
            l1_hits: counts.l1_hits,
            l2_hits: counts.l2_reads,
            l2_reads: counts.l2_reads,
            no_space: counts.no_space,
            l2_writes: counts.l2_writes,
            l1_evictions: counts.l1_evictions,
            l2_evictions: self.shadow.l2().map_or(0, |l2| l2.evicted),
        }
    }
}
