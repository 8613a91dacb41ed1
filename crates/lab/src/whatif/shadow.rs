//! What L1 would hold under a fixed pair of policies: their own order over chunks, and no memory.
//!
//! With requests one after the other, a lookup, its loads, the store and the end of a request come down to
//! a short list of calls on the eviction policy. A shadow makes the same calls in the same order as
//! [`Core`](larder_core::Core) with one worker does, on the server's own eviction policies, and keeps what L1
//! knows of a chunk in a few flags instead of an index, an allocator and leases. Which chunks there are,
//! and which leave, is therefore the same; only that they are found by number and not by name makes it quick.
//!
//! That counts and chunks are equal to the core's is tested by the simulator (`crates/sim/tests/simulate`) for
//! each pair that is [served](Policies::fixed) here. A policy that gets a new hook from the core is not served
//! before these calls know it.
//!
//! Chunks are numbered by whoever asks, from 0 without gaps: memory follows the largest number, 8 bytes
//! besides what the eviction policy takes. All chunks are of one size.

use larder_types::object::ChunkHash;

use larder_policy::PrefetchKind;
use larder_policy::eviction::{ChunkMeta, EvictDecision, EvictionKind, EvictionPolicy, RemovalCause};
use larder_policy::quota::{QuotaUsage, TenantId};
use larder_types::ids::ChunkId;

/// Chunks lacking in L1 that are asked of L2 at first, and twice as many each time, as the core does.
const FIRST_WINDOW: usize = 32;

/// What decides what is in L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Whether what was loaded from L2 stays.
    pub prefetch: PrefetchKind,
    /// Which chunk leaves when space is needed.
    pub eviction: EvictionKind,
}

impl Policies {
    /// Whether they are of those that a shadow can follow: they decide alike whatever was asked before.
    pub const fn fixed(self) -> bool {
        matches!(self.prefetch, PrefetchKind::Default | PrefetchKind::Retain)
            && matches!(
                self.eviction,
                EvictionKind::Lru | EvictionKind::Arc | EvictionKind::S3Fifo | EvictionKind::Noop
            )
    }
}

/// An L2 that answers at once, by the numbers of chunks.
pub trait SecondTier {
    /// Whether it has a chunk. Asking is using it.
    fn find(&mut self, chunk: ChunkId) -> bool;

    /// Takes a chunk.
    fn put(&mut self, chunk: ChunkId);
}

/// What happened, in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Looked up.
    pub looked_up: u64,
    /// Of hits, and in L1.
    pub l1_hits: u64,
    /// Of hits, and loaded from L2.
    pub l2_reads: u64,
    /// In L2 and of a hit, had there been room in L1 to load them.
    pub no_space: u64,
    /// Handed to L2.
    pub l2_writes: u64,
    /// Evicted from L1.
    pub l1_evictions: u64,
}

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

/// See the [module](self).
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
    /// Of the running lookup: which chunks are in L1, as far as was looked. Kept for its memory.
    in_l1: Vec<bool>,
    asked: Vec<usize>,
    stored: Vec<ChunkId>,
}

impl<T: SecondTier> Shadow<T> {
    /// An empty L1 of `capacity` chunks before an L2, if there is to be one.
    ///
    /// # Panics
    /// If the policies are not [fixed](Policies::fixed).
    pub fn new(policies: Policies, capacity: u64, l2: Option<T>) -> Self {
        assert!(policies.fixed(), "a shadow does not learn: {policies:?}");
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

    /// Changes the size of L1. What is too much leaves when room is needed next.
    pub fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// What happened since the start.
    pub fn counts(&self) -> ShadowCounts {
        self.counts
    }

    /// The second tier.
    pub fn l2(&self) -> Option<&T> {
        self.l2.as_ref()
    }

    /// The second tier, to change it.
    pub fn l2_mut(&mut self) -> Option<&mut T> {
        self.l2.as_mut()
    }

    /// Whether a chunk is in L1.
    pub fn holds(&self, chunk: ChunkId) -> bool {
        self.state(chunk).there
    }

    /// A prompt of these chunks is looked up. Returns how many leading ones are its hit; they are held until
    /// its [end](Self::end). `hashes` are the names of all chunks that were ever asked for, by number.
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

    /// Of a prompt of these chunks those from `start` on that are not there are stored.
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

    /// A request ends whose hit these chunks were.
    pub fn end(&mut self, hashes: &[ChunkHash], hit: &[ChunkId]) {
        hit.iter().rev().for_each(|chunk| self.release(hashes, *chunk));
        self.touch(hashes, hit);
    }

    /// A chunk is gone, and its number is another one's from now on. No request may hold it.
    pub fn forget(&mut self, hashes: &[ChunkHash], chunk: ChunkId) {
        let State { there, held, .. } = self.state(chunk);
        debug_assert!(!held, "somebody holds {chunk:?}");
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

    /// A chunk that is in the order is held from now on.
    fn hold(&mut self, chunk: ChunkId) {
        self.state_mut(chunk).held = true;
        self.evictable -= 1;
        self.order.remove(chunk);
    }

    /// Nobody holds a chunk any more.
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

    /// A chunk that is not in the order leaves L1.
    fn remove(&mut self, hashes: &[ChunkHash], chunk: ChunkId, how: RemovalCause) {
        self.state_mut(chunk).there = false;
        self.used -= 1;
        self.order.on_removed(chunk, &about(hashes, chunk), how);
    }

    /// Marks leading chunks as used, the last one first.
    fn touch(&mut self, hashes: &[ChunkHash], chunks: &[ChunkId]) {
        for chunk in chunks.iter().rev() {
            let State { there, held, .. } = self.state(*chunk);
            if there && !held {
                self.order.on_access(*chunk, &about(hashes, *chunk));
            }
        }
    }

    /// Takes memory for a chunk that is not there, held by whoever fills it. Whether there was any.
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

    /// Evicts the coldest chunk that may go. Whether there was one.
    fn evict(&mut self, hashes: &[ChunkHash]) -> bool {
        if self.evictable == 0 {
            return false;
        }
        // The policies served here learn nothing of reuse.
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

    /// What L1 alone serves: all of a prompt, or all there is when there is no L2.
    fn take_from_l1(&mut self, hit: &[ChunkId]) {
        hit.iter().for_each(|chunk| self.order.on_hit(*chunk));
        hit.iter().for_each(|chunk| self.hold(*chunk));
        self.counts.l1_hits += hit.len() as u64;
    }

    /// Looks for what L1 lacks in L2, a window of chunks at a time, until nobody has a chunk. What L1 has
    /// on the way is held. Returns the longest prefix that both together have.
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
            let l2 = self.l2.as_mut().expect("only a lookup with L2 looks there");
            let mut gap = None;
            for place in &self.asked {
                // All are asked for at once, so those behind a gap are used too.
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

    /// Gets memory for what of the hit is in L2; shortens the hit if there is not enough.
    fn load(&mut self, hashes: &[ChunkHash], chain: &[ChunkId], hit: usize) -> usize {
        self.let_go(hashes, chain, hit);
        let temporary = !self.retains;
        let lacks_room =
            (0..hit).find(|place| !self.in_l1[*place] && !self.reserve(hashes, chain[*place], temporary));
        let Some(reached) = lacks_room else { return hit };
        self.counts.no_space += self.in_l1[reached..].iter().filter(|there| !**there).count() as u64;
        self.let_go(hashes, chain, reached);
        reached
    }

    /// Gives back what of L1 was held behind the hit.
    fn let_go(&mut self, hashes: &[ChunkHash], chain: &[ChunkId], hit: usize) {
        for place in (hit..self.in_l1.len()).rev() {
            if self.in_l1[place] {
                self.release(hashes, chain[place]);
            }
        }
        self.in_l1.truncate(hit);
    }
}

/// What a policy may want to know of a chunk: that of the only model and salt.
fn about(hashes: &[ChunkHash], chunk: ChunkId) -> ChunkMeta<'_> {
    ChunkMeta { hash: &hashes[chunk.0 as usize], name_digest: 0, tenant: TenantId::default(), reuse: None }
}
