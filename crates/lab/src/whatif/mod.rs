//! Estimates in the running server what other sizes of L1 and other policies would have done with its
//! requests.
//!
//! There is one [`Shadow`] cache for each pair of fixed policies at each of several sizes of L1. All process
//! a sample of the chunks that the server looks up: those whose hash is at most a threshold, so that either
//! every use of a chunk is seen or none. On such a sample, an L1 behaves like one that is smaller by the
//! sampling rate. After C. Waldspurger, N. Park, A. Garthwaite and I. Ahmad, "Efficient MRC construction with
//! SHARDS" (FAST 2015), and C. Waldspurger, T. Saemundsson, I. Ahmad and N. Park, "Cache modeling and
//! optimization using miniature simulations" (ATC 2017).
//!
//! - **Rate.** 1 if L1 holds at most [`SAMPLE_CHUNKS`] chunks, otherwise the largest power of 1/2 at which it
//!   holds at most that many sampled chunks: 1 in 1,024 for a million chunks. The rate is halved if the work
//!   exceeds [`STEPS_PER_SECOND`]. A change of the rate restarts the estimates, because the state of a policy
//!   cannot be converted to another rate.
//! - **Estimates.** Misses (computed chunks, reads from L2) are counted in the sample and scaled up.
//!   Requests, tokens and chunks are counted without sampling, so a request without sampled chunks counts
//!   too. As hits are totals minus misses, a prefix common to all prompts causes no error: it is never
//!   missed, so it does not matter whether its chunks are in the sample.
//! - **Adaptive.** The prefetch policy `adaptive` follows `default` or `retain`, whichever reads less, so the
//!   better of the two at each size is [reported](Report) for it. What its learned decisions save beyond that
//!   is not estimated.
//! - **Simplifications.** Requests are processed one at a time, all chunks have one size, L2 keeps every
//!   chunk that the sample [remembers](KEPT_MAX), and every computed chunk is stored.
//!
//! Pure and deterministic. Cost: one comparison for a chunk outside the sample, and 0.1 to 0.3 µs per shadow
//! for a sampled one (`cargo run --release -p larder-lab --example whatif_error`), less than 1 % of a
//! processor. Memory: 75 bytes and up to 20 per shadow for each of [`KEYS_MAX`] chunks, 32 for each of
//! [`KEPT_MAX`]: 30 MB with 30 shadows.

pub mod shadow;

use larder_types::object::ChunkHash;

pub use self::shadow::{Policies, SecondTier, Shadow, ShadowCounts};
use larder_policy::PrefetchKind;
use larder_policy::eviction::name_digest;
use larder_policy::eviction::{EvictionKind, digest};
use larder_policy::key_table::{KeySlot, KeyTable};
use larder_types::ids::ChunkId;
use larder_types::time::Time;

/// Most sampled chunks that an L1 of the server's own size holds.
pub const SAMPLE_CHUNKS: u64 = 1024;
/// Most sampled chunks that are tracked, and can be in the L1 of a shadow; the least recently used are
/// dropped.
pub const KEYS_MAX: usize = 1 << 15;
/// Most further sampled chunks that count as kept in L2; the least recently used are forgotten.
pub const KEPT_MAX: u64 = 1 << 18;
/// Most chunks skipped in a row because they are in the L1 of a shadow, when one is to be dropped.
const CHANCES: u32 = 256;
/// Most sampled chunks of one prompt that are processed, from its start.
const PROMPT_KEYS_MAX: usize = KEYS_MAX / 4;
/// Average limit of chunks processed per second, counted once per shadow; above it the rate is halved.
pub const STEPS_PER_SECOND: u64 = 20_000;
/// Most unused chunks of that limit that accumulate for bursts: those of a minute.
const STEPS_AHEAD_MAX: u64 = 60 * STEPS_PER_SECOND;
/// The lowest sampling rate is a half to the power of this.
const SHIFT_MAX: u32 = 32;
/// Simulated sizes of L1, as multiples of the server's own.
pub const FACTORS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];
/// Simulated eviction policies.
const EVICTIONS: [EvictionKind; 3] = [EvictionKind::Lru, EvictionKind::S3Fifo, EvictionKind::Arc];
/// Simulated prefetch policies; only the first without an L2.
const PREFETCHES: [PrefetchKind; 2] = [PrefetchKind::Default, PrefetchKind::Retain];

/// A sampled chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Digest of its model, cache salt and hash.
    digest: u64,
}

/// The sampled part of a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// Time of the lookup or store.
    pub at: Time,
    /// Capacity of L1 in chunks, as far as is known.
    pub l1_chunks: u64,
    /// The threshold that it was sampled with.
    pub threshold: u64,
    /// Its sampled chunks, in the order of the prompt.
    pub sampled: &'a [Sampled],
}

/// Counts of all requests, without sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Tokens of their prompts, including those of partial last chunks.
    pub tokens: u64,
    /// Whole chunks of their prompts.
    pub chunks: u64,
}

impl Totals {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
        self.chunks += other.chunks;
    }
}

/// Estimate for one pair of policies at one size of L1, in chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The policies.
    pub policies: Policies,
    /// Size of L1, as a multiple of the server's own.
    pub factor: f64,
    /// Looked-up chunks found in neither tier.
    pub computed: u64,
    /// Chunks loaded from L2.
    pub l2_reads: u64,
    /// Chunks written to L2.
    pub l2_writes: u64,
}

/// Estimates since the last restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Time of the last restart of the estimates.
    pub since: Time,
    /// Counts of all requests since then.
    pub totals: Totals,
    /// Fraction of all chunks that is in the sample.
    pub rate: f64,
    /// Sampled chunks that are tracked.
    pub keys: u64,
    /// Capacity of L1 in chunks; 0 before the first request.
    pub l1_chunks: u64,
    /// Estimates by policies, then by size.
    pub rows: Vec<Row>,
}

impl Report {
    /// Fraction of all tokens served from the cache if `missed` chunks were computed.
    pub fn token_hit_rate(&self, missed: u64, chunk_tokens: u64) -> f64 {
        let found = self.totals.chunks.saturating_sub(missed).saturating_mul(chunk_tokens);
        if self.totals.tokens == 0 { 0.0 } else { found as f64 / self.totals.tokens as f64 }
    }
}

/// Selects the sampled chunks of a prompt.
pub fn sample<'a>(
    threshold: u64,
    (model, salt): (&'a str, &'a str),
    chain: &'a [ChunkHash],
) -> impl Iterator<Item = Sampled> + 'a {
    // Computed only if needed, as the digest is expensive and most prompts have few sampled chunks.
    let mut seed = None;
    chain.iter().filter(move |hash| spot(hash) <= threshold).map(move |hash| {
        let seed = *seed.get_or_insert_with(|| name_digest(model, salt));
        Sampled { digest: digest(seed, hash.as_bytes()) }
    })
}

/// Maps a hash to the range of thresholds: its first 8 bytes.
fn spot(hash: &ChunkHash) -> u64 {
    let bytes = hash.as_bytes();
    let mut first = [0; 8];
    let n = bytes.len().min(8);
    first[..n].copy_from_slice(&bytes[..n]);
    u64::from_le_bytes(first)
}

/// An L2 that keeps every chunk until it is removed by [`set`](Self::set).
#[derive(Debug, Default)]
struct Kept(Vec<bool>);

impl Kept {
    fn set(&mut self, chunk: ChunkId, there: bool) {
        let at = chunk.0 as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, false);
        }
        self.0[at] = there;
    }
}

impl SecondTier for Kept {
    fn find(&mut self, chunk: ChunkId) -> bool {
        self.0.get(chunk.0 as usize).copied().unwrap_or(false)
    }

    fn put(&mut self, chunk: ChunkId) {
        self.set(chunk, true);
    }
}

/// The shadow of a pair of policies at one size.
#[derive(Debug)]
struct Tried {
    policies: Policies,
    factor: f64,
    shadow: Shadow<Kept>,
}

impl Tried {
    fn new(policies: Policies, factor: f64, l2: bool) -> Self {
        Self { policies, factor, shadow: Shadow::new(policies, 0, l2.then(Kept::default)) }
    }

    fn resize(&mut self, l1_chunks: u64, shift: u32) {
        let chunks = l1_chunks as f64 * self.factor / f64::from(shift).exp2();
        self.shadow.resize((chunks.round() as u64).max(1));
    }

    /// The counts, scaled from the sample to all chunks.
    fn row(&self, shift: u32) -> Row {
        let counts = self.shadow.counts();
        let computed = counts.looked_up - counts.l1_hits - counts.l2_reads;
        Row {
            policies: self.policies,
            factor: self.factor,
            computed: computed << shift,
            l2_reads: counts.l2_reads << shift,
            l2_writes: counts.l2_writes << shift,
        }
    }
}

/// The live what-if; see the [module](self).
#[derive(Debug)]
pub struct WhatIf {
    tried: Vec<Tried>,
    sample_chunks: u64,
    /// Chunks that can be in the L1 of a shadow, and the last prompt that used each.
    keys: KeyTable<u64>,
    /// Hashes for eviction policies, by chunk number.
    hashes: Vec<ChunkHash>,
    /// Chunks in L2 that were dropped from `keys`.
    kept: KeyTable<()>,
    /// The sampling rate is a half to the power of this.
    shift: u32,
    /// Lower limit of `shift`, because of [`STEPS_PER_SECOND`].
    shift_min: u32,
    l1_chunks: u64,
    totals: Totals,
    since: Time,
    prompts: u64,
    /// Steps left of [`STEPS_PER_SECOND`] at `reckoned`.
    allowance: u64,
    reckoned: Time,
    chain: Vec<ChunkId>,
}

impl WhatIf {
    /// Estimates without requests. With an L2, several prefetch policies are simulated. An L1 of the server's
    /// own size holds at most `sample_chunks` sampled chunks, usually [`SAMPLE_CHUNKS`].
    pub fn new(l2: bool, sample_chunks: u64) -> Self {
        let prefetches = if l2 { &PREFETCHES[..] } else { &PREFETCHES[..1] };
        let policies = prefetches
            .iter()
            .flat_map(|prefetch| EVICTIONS.map(|eviction| Policies { prefetch: *prefetch, eviction }));
        Self {
            tried: policies.flat_map(|p| FACTORS.map(|factor| Tried::new(p, factor, l2))).collect(),
            sample_chunks: sample_chunks.max(1),
            keys: KeyTable::default(),
            hashes: Vec::new(),
            kept: KeyTable::default(),
            shift: 0,
            shift_min: 0,
            l1_chunks: 0,
            totals: Totals::default(),
            since: Time::ZERO,
            prompts: 0,
            allowance: STEPS_AHEAD_MAX,
            reckoned: Time::ZERO,
            chain: Vec::new(),
        }
    }

    /// The current threshold for [`sample`].
    pub fn threshold(&self) -> u64 {
        u64::MAX >> self.shift
    }

    /// Adds requests to the totals.
    pub fn count(&mut self, asked: Totals) {
        self.totals.add(asked);
    }

    /// Processes the lookup of a prompt. Its totals must be [counted](Self::count) as well.
    pub fn looked_up(&mut self, prompt: &Prompt<'_>) {
        self.begin(prompt);
        let (hashes, chain) = (&self.hashes[..], &self.chain[..]);
        if chain.is_empty() {
            return;
        }
        for Tried { shadow, .. } in &mut self.tried {
            let hit = shadow.lookup(hashes, chain);
            if hit < chain.len() {
                shadow.store(hashes, chain, hit);
            }
            shadow.end(hashes, &chain[..hit]);
        }
    }

    /// Processes a store of a prompt from its sampled chunk `start` on. Does nothing unless it has chunks
    /// that were not looked up.
    pub fn stored(&mut self, prompt: &Prompt<'_>, start: usize) {
        let known = |sampled: &Sampled| self.keys.find(sampled.digest).is_some();
        if prompt.sampled.iter().skip(start).all(known) {
            return;
        }
        self.begin(prompt);
        let start = start.min(self.chain.len());
        for Tried { shadow, .. } in &mut self.tried {
            shadow.store(&self.hashes, &self.chain, start);
        }
    }

    /// The estimates since the last restart.
    pub fn report(&self) -> Report {
        let mut rows: Vec<Row> = self.tried.iter().map(|tried| tried.row(self.shift)).collect();
        rows.extend(adaptive(&rows));
        Report {
            since: self.since,
            totals: self.totals,
            rate: f64::from(self.shift).exp2().recip(),
            keys: self.keys.len() + self.kept.len(),
            l1_chunks: self.l1_chunks,
            rows,
        }
    }

    /// Numbers the chunks of a prompt, into `chain`.
    fn begin(&mut self, prompt: &Prompt<'_>) {
        self.fit(prompt);
        self.work(prompt);
        self.make_room();
        self.prompts += 1;
        self.chain.clear();
        // Chunks that were sampled at another rate are not in the current sample.
        let sampled = if prompt.threshold == self.threshold() { prompt.sampled } else { &[] };
        for Sampled { digest } in sampled.iter().take(PROMPT_KEYS_MAX) {
            let (slot, known) = self.keys.touch(*digest);
            // As hashes are chained, a prompt cannot contain one twice: it is cut before a repeated one.
            if std::mem::replace(self.keys.get_mut(slot), self.prompts) == self.prompts {
                break;
            }
            if !known {
                self.number(slot, *digest);
            }
            self.chain.push(ChunkId(slot));
        }
    }

    /// Sets up the number of a chunk that is in no L1: its hash, and whether L2 has it.
    fn number(&mut self, slot: KeySlot, digest: u64) {
        let (at, chunk) = (slot as usize, ChunkId(slot));
        let name = ChunkHash::new(&digest.to_le_bytes()).expect("eight bytes are a hash");
        if self.hashes.len() <= at {
            self.hashes.resize(at + 1, name);
        }
        self.hashes[at] = name;
        let kept = self.kept.remove_key(digest);
        self.tried.iter_mut().filter_map(|tried| tried.shadow.l2_mut()).for_each(|l2| l2.set(chunk, kept));
    }

    /// Drops the least recently used chunks until there are enough free numbers for any prompt. Prefers
    /// chunks that are in no shadow's L1, within [`CHANCES`].
    fn make_room(&mut self) {
        let mut chances = 0;
        while self.keys.len() > (KEYS_MAX - PROMPT_KEYS_MAX) as u64 {
            let Some(oldest) = self.keys.oldest() else { break };
            if chances < CHANCES && self.tried.iter().any(|tried| tried.shadow.holds(ChunkId(oldest))) {
                self.keys.move_to_newest(oldest);
                chances += 1;
                continue;
            }
            chances = 0;
            let digest = self.keys.remove(oldest);
            self.tried.iter_mut().for_each(|tried| tried.shadow.forget(&self.hashes, ChunkId(oldest)));
            self.kept.touch(digest);
        }
        while self.kept.len() > KEPT_MAX {
            self.kept.remove_oldest();
        }
    }

    /// Adapts the shadows and the sampling rate to the size of L1.
    fn fit(&mut self, prompt: &Prompt<'_>) {
        if prompt.l1_chunks == self.l1_chunks {
            return;
        }
        let right = shift_for(prompt.l1_chunks, self.sample_chunks).max(self.shift_min);
        // A rate within a factor of two of the right one is kept, because a change restarts the estimates.
        if self.l1_chunks == 0 || right.abs_diff(self.shift) > 1 {
            self.start_over(prompt.at, right);
        }
        self.l1_chunks = prompt.l1_chunks;
        self.tried.iter_mut().for_each(|tried| tried.resize(self.l1_chunks, self.shift));
    }

    /// Halves the sampling rate if the work exceeds [`STEPS_PER_SECOND`].
    fn work(&mut self, prompt: &Prompt<'_>) {
        let passed = prompt.at.since(self.reckoned).as_millis() as u64;
        self.reckoned = self.reckoned.max(prompt.at);
        let earned = (passed.saturating_mul(STEPS_PER_SECOND) / 1000).saturating_add(self.allowance);
        self.allowance = earned.min(STEPS_AHEAD_MAX);
        let steps = (prompt.sampled.len() * self.tried.len()) as u64;
        match self.allowance.checked_sub(steps) {
            Some(left) => self.allowance = left,
            None => {
                self.shift_min = (self.shift + 1).min(SHIFT_MAX);
                self.l1_chunks = 0;
                self.fit(prompt);
            }
        }
    }

    /// Restarts the estimates at another rate. Keeps only `shift_min`.
    fn start_over(&mut self, now: Time, shift: u32) {
        let l2 = self.tried.iter().any(|tried| tried.shadow.l2().is_some());
        let new = Self::new(l2, self.sample_chunks);
        *self = Self { shift, shift_min: self.shift_min, since: now, reckoned: now, ..new };
    }
}

/// Rows for `adaptive`: the better of `default` and `retain` for each eviction policy and size.
fn adaptive(rows: &[Row]) -> Vec<Row> {
    let [default, retain] = PREFETCHES.map(|p| rows.iter().filter(move |row| row.policies.prefetch == p));
    let better = |(default, retain): (&Row, &Row)| {
        let cost = |row: &Row| (row.computed.saturating_add(row.l2_reads), row.l2_reads);
        let better = if cost(default) < cost(retain) { default } else { retain };
        Row { policies: Policies { prefetch: PrefetchKind::Adaptive, ..better.policies }, ..*better }
    };
    default.zip(retain).map(better).collect()
}

/// Smallest shift at which an L1 of `l1_chunks` holds at most `sample_chunks` sampled chunks.
fn shift_for(l1_chunks: u64, sample_chunks: u64) -> u32 {
    let times = l1_chunks.div_ceil(sample_chunks).max(1);
    times.checked_next_power_of_two().map_or(SHIFT_MAX, u64::trailing_zeros).min(SHIFT_MAX)
}

#[cfg(test)]
mod tests;
