//! A shadow cache: which chunks L1 would hold under a fixed pair of policies, without their data.
//!
//! With one request at a time, a lookup, its loads, the store and the end of the request are a short list of
//! calls on the eviction policy. A shadow makes the same calls in the same order as
//! [`Core`](larder_core::Core) with one worker, on the server's own eviction policies, so it holds and evicts
//! the same chunks. It is faster because it finds chunks by number and keeps a few flags for each, instead of
//! an index, an allocator and leases.
//!
//! `crates/lab/tests/simulate` checks that counts and chunks equal the core's for each
//! [fixed](Policies::fixed) pair. If the core starts to call another hook of a policy, that call must be
//! added here.
//!
//! The caller numbers chunks from 0 without gaps: memory is 8 bytes up to the largest number, and what the
//! eviction policy takes. All chunks have one size.

use larder_types::object::ChunkHash;

use larder_policy::PrefetchKind;
use larder_policy::eviction::{ChunkMeta, EvictDecision, EvictionKind, EvictionPolicy, RemovalCause};
use larder_policy::quota::{QuotaUsage, TenantId};
use larder_types::ids::ChunkId;

/// Size of the first batch of chunks looked up in L2; doubles with each batch, as in the core.
const FIRST_WINDOW: usize = 32;

/// The policies that determine what is in L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Whether chunks loaded from L2 stay in L1.
    pub prefetch: PrefetchKind,
    /// Which chunk is evicted when space is needed.
    pub eviction: EvictionKind,
}

impl Policies {
    /// Whether a shadow supports both: policies that do not learn from the history of requests.
    pub const fn fixed(self) -> bool {
        matches!(self.prefetch, PrefetchKind::Default | PrefetchKind::Retain)
            && matches!(
                self.eviction,
                EvictionKind::Lru | EvictionKind::Arc | EvictionKind::S3Fifo | EvictionKind::Noop
            )
    }
}

/// An L2 that answers without delay, with chunks identified by number.
pub trait SecondTier {
    /// Whether it has a chunk; if so, marks it as used.
    fn find(&mut self, chunk: ChunkId) -> bool;

    /// Stores a chunk.
    fn put(&mut self, chunk: ChunkId);
}

/// Counts of chunks since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Chunks looked up.
    pub looked_up: u64,
    /// Chunks of hits that were in L1.
    pub l1_hits: u64,
    /// Chunks of hits that were loaded from L2.
    pub l2_reads: u64,
    /// Chunks found in L2 that were not part of a hit because L1 had no space to load them.
    pub no_space: u64,
    /// Chunks written to L2.
    pub l2_writes: u64,
    /// Chunks evicted from L1.
    pub l1_evictions: u64,
}

/// State of a chunk in L1.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// It is in L1, readable or being filled.
    there: bool,
    /// It is pinned, and so not in the eviction order.
    held: bool,
    /// It is removed when its pin ends.
    temporary: bool,
    /// The last operation during which it must not be evicted.
    protected_by: u32,
}

/// A shadow cache; see the [module](self).
#[derive(Debug)]
pub struct Shadow<T> {
    retains: bool,
    order: Box<dyn EvictionPolicy>,
    ledger: QuotaUsage,
    l2: Option<T>,
    chunks: Vec<State>,
    capacity: u64,
    /// Chunks in L1.
    used: u64,
    /// Chunks in the eviction order.
    evictable: u64,
    operation: u32,
    counts: ShadowCounts,
    /// Whether each chunk probed by the current lookup is in L1. A field only to reuse the allocation.
    in_l1: Vec<bool>,
    asked: Vec<usize>,
    stored: Vec<ChunkId>,
}

impl<T: SecondTier> Shadow<T> {
    /// An empty L1 of `capacity` chunks, with an optional L2.
    ///
    /// # Panics
    /// If the policies are not [fixed](Policies::fixed).
    pub fn new(policies: Policies, capacity: u64, l2: Option<T>) -> Self {
        assert!(policies.fixed(), "policies are not fixed: {policies:?}");
        Self {
            retains: policies.prefetch == PrefetchKind::Retain,
            order: policies.eviction.create(),
            ledger: QuotaUsage::default(),
            l2,
            chunks: Vec::new(),
            capacity,
            used: 0,
            evictable: 0,
            operation: 0,
            counts: ShadowCounts::default(),
            in_l1: Vec::new(),
            asked: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// Changes the size of L1 in chunks. Excess chunks are evicted when space is needed next.
    pub fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// Counts since the start.
    pub fn counts(&self) -> ShadowCounts {
        self.counts
    }

    /// The second tier.
    pub fn l2(&self) -> Option<&T> {
        self.l2.as_ref()
    }

    /// The second tier, mutable.
    pub fn l2_mut(&mut self) -> Option<&mut T> {
        self.l2.as_mut()
    }

    /// Whether a chunk is in L1.
    pub fn holds(&self, chunk: ChunkId) -> bool {
        self.state(chunk).there
    }

    /// Looks up a prompt. Returns its hit in chunks, which are pinned until its [end](Self::end). `hashes`
    /// has the hash of each chunk, by number.
    pub fn lookup(&mut self, hashes: &[ChunkHash], chain: &[ChunkId]) -> usize {
        self.counts.looked_up += chain.len() as u64;
        let resident = chain.iter().take_while(|chunk| self.state(**chunk).there).count();
        if resident == chain.len() || self.l2.is_none() {
            self.take_from_l1(&chain[..resident]);
            return resident;
        }
        let found = self.look(chain);
        self.operation = self.operation.wrapping_add(1);
        let hit = self.load(hashes, chain, found);
        for (chunk, in_l1) in chain[..hit].iter().zip(&self.in_l1) {
            if *in_l1 {
                self.order.on_hit(*chunk);
                self.counts.l1_hits += 1;
            } else {
                self.counts.l2_reads += 1;
            }
        }
        hit
    }

    /// Stores those chunks of a prompt from `start` on that are not in L1.
    pub fn store(&mut self, hashes: &[ChunkHash], chain: &[ChunkId], start: usize) {
        self.operation = self.operation.wrapping_add(1);
        for chunk in chain.iter().rev() {
            let operation = self.operation;
            let state = self.state_mut(*chunk);
            state.protected_by = operation;
            if state.there && !state.held {
                self.order.on_access(*chunk, &about(hashes, *chunk));
            }
        }
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        for chunk in &chain[start..] {
            if !self.state(*chunk).there {
                if !self.reserve(hashes, *chunk, false) {
                    break;
                }
                stored.push(*chunk);
            }
        }
        if !stored.is_empty() {
            stored.iter().rev().for_each(|chunk| self.release(hashes, *chunk));
            self.touch(hashes, chain);
            if let Some(l2) = &mut self.l2 {
                stored.iter().for_each(|chunk| l2.put(*chunk));
                self.counts.l2_writes += stored.len() as u64;
            }
        }
        self.stored = stored;
    }

    /// Ends a request with the chunks of its hit.
    pub fn end(&mut self, hashes: &[ChunkHash], hit: &[ChunkId]) {
        hit.iter().rev().for_each(|chunk| self.release(hashes, *chunk));
        self.touch(hashes, hit);
    }

    /// Removes a chunk, so that its number can be used for another. It must not be pinned.
    pub fn forget(&mut self, hashes: &[ChunkHash], chunk: ChunkId) {
        let State { there, held, .. } = self.state(chunk);
        debug_assert!(!held, "{chunk:?} is pinned");
        if there {
            self.order.remove(chunk);
            self.evictable -= 1;
            self.remove(hashes, chunk, RemovalCause::Removed);
        }
    }

    fn state(&self, chunk: ChunkId) -> State {
        self.chunks.get(chunk.0 as usize).copied().unwrap_or_default()
    }

    fn state_mut(&mut self, chunk: ChunkId) -> &mut State {
        let at = chunk.0 as usize;
        if self.chunks.len() <= at {
            self.chunks.resize(at + 1, State::default());
        }
        &mut self.chunks[at]
    }

    /// Pins a chunk that is in the eviction order.
    fn hold(&mut self, chunk: ChunkId) {
        self.state_mut(chunk).held = true;
        self.evictable -= 1;
        self.order.remove(chunk);
    }

    /// Unpins a chunk; removes it if it is temporary.
    fn release(&mut self, hashes: &[ChunkHash], chunk: ChunkId) {
        let state = self.state_mut(chunk);
        state.held = false;
        if state.temporary {
            self.remove(hashes, chunk, RemovalCause::Removed);
        } else {
            self.evictable += 1;
            self.order.insert(chunk, &about(hashes, chunk));
        }
    }

    /// Removes a chunk that is not in the eviction order.
    fn remove(&mut self, hashes: &[ChunkHash], chunk: ChunkId, how: RemovalCause) {
        self.state_mut(chunk).there = false;
        self.used -= 1;
        self.order.on_removed(chunk, &about(hashes, chunk), how);
    }

    /// Marks chunks as used, the last one first.
    fn touch(&mut self, hashes: &[ChunkHash], chunks: &[ChunkId]) {
        for chunk in chunks.iter().rev() {
            let State { there, held, .. } = self.state(*chunk);
            if there && !held {
                self.order.on_access(*chunk, &about(hashes, *chunk));
            }
        }
    }

    /// Reserves space for a chunk that is not in L1, and pins it. Returns false if there is no space.
    fn reserve(&mut self, hashes: &[ChunkHash], chunk: ChunkId, temporary: bool) -> bool {
        while self.used >= self.capacity {
            if !self.evict(hashes) {
                return false;
            }
        }
        self.used += 1;
        let protected_by = self.operation;
        *self.state_mut(chunk) = State { there: true, held: true, temporary, protected_by };
        true
    }

    /// Evicts the first chunk in eviction order that is not protected. Returns false if there is none.
    fn evict(&mut self, hashes: &[ChunkHash]) -> bool {
        if self.evictable == 0 {
            return false;
        }
        // Fixed policies do not use reuse predictions.
        self.order.prepare(None);
        let (chunks, operation) = (&self.chunks, self.operation);
        let mut victim = None;
        self.order.visit_victims(&self.ledger, &mut |chunk| {
            if chunks[chunk.0 as usize].protected_by == operation {
                return EvictDecision::Skip;
            }
            victim = Some(chunk);
            EvictDecision::Done
        });
        let Some(victim) = victim else { return false };
        self.order.remove(victim);
        self.evictable -= 1;
        self.remove(hashes, victim, RemovalCause::Evicted);
        self.counts.l1_evictions += 1;
        true
    }

    /// Serves a hit from L1 alone: the whole prompt is in L1, or there is no L2.
    fn take_from_l1(&mut self, hit: &[ChunkId]) {
        hit.iter().for_each(|chunk| self.order.on_hit(*chunk));
        hit.iter().for_each(|chunk| self.hold(*chunk));
        self.counts.l1_hits += hit.len() as u64;
    }

    /// Looks up missing chunks in L2 in batches until one is found in neither tier, and pins those in L1.
    /// Returns the length of the longest prefix in both tiers together.
    fn look(&mut self, chain: &[ChunkId]) -> usize {
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
            let l2 = self.l2.as_mut().expect("the lookup has an L2");
            let mut gap = None;
            for place in &self.asked {
                // A batch is one request to L2, so the chunks after a gap are marked as used too.
                if !l2.find(chain[*place]) {
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

    /// Reserves space for the chunks of the hit that are in L2. Returns the hit, shorter if space is lacking.
    fn load(&mut self, hashes: &[ChunkHash], chain: &[ChunkId], hit: usize) -> usize {
        self.let_go(hashes, chain, hit);
        let temporary = !self.retains;
        let no_space_at =
            (0..hit).find(|place| !self.in_l1[*place] && !self.reserve(hashes, chain[*place], temporary));
        let Some(reached) = no_space_at else { return hit };
        self.counts.no_space += self.in_l1[reached..].iter().filter(|there| !**there).count() as u64;
        self.let_go(hashes, chain, reached);
        reached
    }

    /// Unpins the chunks after the hit.
    fn let_go(&mut self, hashes: &[ChunkHash], chain: &[ChunkId], hit: usize) {
        for place in (hit..self.in_l1.len()).rev() {
            if self.in_l1[place] {
                self.release(hashes, chain[place]);
            }
        }
        self.in_l1.truncate(hit);
    }
}

/// Metadata of a chunk for policies, for a single model and salt.
fn about(hashes: &[ChunkHash], chunk: ChunkId) -> ChunkMeta<'_> {
    ChunkMeta { hash: &hashes[chunk.0 as usize], name_digest: 0, tenant: TenantId::default(), reuse: None }
}
