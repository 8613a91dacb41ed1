//! What other sizes of L1 and other policies would have done with the requests so far, while they come.
//!
//! Each pair of fixed policies at each of several sizes has a [`Shadow`] of L1. They are asked for a sample
//! of the chunks that the server is asked for: those whose hash is below a threshold, so that of a chunk
//! either every use is seen or none. Seen through such a sample, an L1 of a size behaves as one smaller by
//! the rate does. After C. Waldspurger, N. Park, A. Garthwaite and I. Ahmad, "Efficient MRC construction
//! with SHARDS" (FAST 2015), and C. Waldspurger, T. Saemundsson, I. Ahmad and N. Park, "Cache modeling and
//! optimization using miniature simulations" (ATC 2017).
//!
//! - **Rate.** Every chunk, where L1 has room for no more than [`SAMPLE_CHUNKS`]; otherwise the largest power of
//!   a half at which it has room for no more than that of the sample: of a million chunks it is 1 in 1,024. It
//!   is half as much where the work would be more than [`STEPS_PER_SECOND`]. When the rate changes
//!   everything starts over, as policies remember too much of what they saw to be moved.
//! - **Estimates.** What is counted is misses (computed chunks, reads from L2), each for as many as the sample
//!   stands for, and what was asked for in all is counted without sampling. So a prompt that everybody
//!   begins with, which would tip the scales by being in the sample or not, weighs nothing: it is
//!   never missed. A request of which nothing is in the sample counts with what it asked for.
//! - **Adaptive.** The prefetch policy `adaptive` follows whichever of `default` and `retain` reads less, so
//!   the better of the two at a size is [reported](Report) for it. What learned decisions save
//!   beyond that is not foretold.
//! - **What is left out.** Requests are taken one after the other and chunks to be of one size; an L2 keeps
//!   what it got for as long as the sample [remembers](KEPT_MAX) it; everything computed is stored.
//!
//! Pure and deterministic. Cost: a comparison for a chunk outside the sample; for one in it 0.1 to
//! 0.3 µs for each shadow (`cargo run --release --example whatif_error` in `crates/sim`), so less than 1 % of a
//! processor. Memory: for each of
//! [`KEYS_MAX`] chunks 75 bytes and up to 20 for each shadow, for each of [`KEPT_MAX`] 32: 30 MB with 30 shadows.

pub mod shadow;

use larder_types::object::ChunkHash;

pub use self::shadow::{Policies, SecondTier, Shadow, ShadowCounts};
use larder_policy::PrefetchKind;
use larder_policy::eviction::name_digest;
use larder_policy::eviction::{EvictionKind, digest};
use larder_policy::key_table::{KeySlot, KeyTable};
use larder_types::ids::ChunkId;
use larder_types::time::Time;

/// Chunks of the sample that an L1 of the server's own size has room for, at most.
pub const SAMPLE_CHUNKS: u64 = 1024;
/// Chunks of the sample that any shadow may have in L1; those used longest ago are not, if there are more.
pub const KEYS_MAX: usize = 1 << 15;
/// Further chunks of the sample that L2 is taken to keep; those used longest ago are forgotten.
pub const KEPT_MAX: u64 = 1 << 18;
/// So many chunks that are in some shadow's L1 may in turn be passed over to find one that is not.
const CHANCES: u32 = 256;
/// Of one prompt so many chunks are looked at, from its start.
const PROMPT_KEYS_MAX: usize = KEYS_MAX / 4;
/// Chunks for shadows to look at in a second, on average; where there are more, the rate is halved.
pub const STEPS_PER_SECOND: u64 = 20_000;
/// The same in all that may be ahead of that average.
const STEPS_AHEAD_MAX: u64 = 60 * STEPS_PER_SECOND;
/// No sample is thinner than a half to the power of this.
const SHIFT_MAX: u32 = 32;
/// Sizes of L1 that are tried, as multiples of its own.
pub const FACTORS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];
/// Eviction policies that are tried.
const EVICTIONS: [EvictionKind; 3] = [EvictionKind::Lru, EvictionKind::S3Fifo, EvictionKind::Arc];
/// What is tried of what stays of what came from L2; the first where there is no L2.
const PREFETCHES: [PrefetchKind; 2] = [PrefetchKind::Default, PrefetchKind::Retain];

/// A chunk of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// A digest of its name.
    digest: u64,
}

/// A part of a prompt that the shadows are told of.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// When it came.
    pub at: Time,
    /// How many chunks L1 has room for, as far as is known.
    pub l1_chunks: u64,
    /// The threshold by which it was sampled.
    pub threshold: u64,
    /// Its chunks that are in the sample, from the start.
    pub sampled: &'a [Sampled],
}

/// What was asked for, without sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Their tokens, those that fill no chunk included.
    pub tokens: u64,
    /// Their whole chunks.
    pub chunks: u64,
}

impl Totals {
    /// Adds what another one counted.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
        self.chunks += other.chunks;
    }
}

/// What one pair of policies would have done at one size of L1, in chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The policies.
    pub policies: Policies,
    /// The size, as a multiple of L1's own.
    pub factor: f64,
    /// Of what was looked up, found nowhere.
    pub computed: u64,
    /// Loaded from L2.
    pub l2_reads: u64,
    /// Handed to L2.
    pub l2_writes: u64,
}

/// What is known by now.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Since when that was counted.
    pub since: Time,
    /// What was asked for since then.
    pub totals: Totals,
    /// The part of all chunks that is in the sample.
    pub rate: f64,
    /// Chunks of the sample that are remembered.
    pub keys: u64,
    /// How many chunks L1 has room for; 0 as long as nobody asked.
    pub l1_chunks: u64,
    /// By policies, then by size.
    pub rows: Vec<Row>,
}

impl Report {
    /// The part of all tokens that needed no computing, if so many chunks were missed.
    pub fn token_hit_rate(&self, missed: u64, chunk_tokens: u64) -> f64 {
        let found = self.totals.chunks.saturating_sub(missed).saturating_mul(chunk_tokens);
        if self.totals.tokens == 0 { 0.0 } else { found as f64 / self.totals.tokens as f64 }
    }
}

/// The chunks of a prompt that are in the sample.
pub fn sample<'a>(
    threshold: u64,
    (model, salt): (&'a str, &'a str),
    chain: &'a [ChunkHash],
) -> impl Iterator<Item = Sampled> + 'a {
    // The digest is dear and seldom needed.
    let mut seed = None;
    chain.iter().filter(move |hash| spot(hash) <= threshold).map(move |hash| {
        let seed = *seed.get_or_insert_with(|| name_digest(model, salt));
        Sampled { digest: digest(seed, hash.as_bytes()) }
    })
}

/// Where a hash lies: its first bytes are as good as any.
fn spot(hash: &ChunkHash) -> u64 {
    let bytes = hash.as_bytes();
    let mut first = [0; 8];
    let n = bytes.len().min(8);
    first[..n].copy_from_slice(&bytes[..n]);
    u64::from_le_bytes(first)
}

/// An L2 that keeps what it got until it is told otherwise.
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

/// A pair of policies at a size.
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

    /// What was counted, for as many chunks as the sample stands for.
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

/// See the [module](self).
#[derive(Debug)]
pub struct WhatIf {
    tried: Vec<Tried>,
    sample_chunks: u64,
    /// What shadows may have in L1, and the prompt that used it last.
    keys: KeyTable<u64>,
    /// What eviction policies know chunks by, by their numbers.
    hashes: Vec<ChunkHash>,
    /// What else is in L2.
    kept: KeyTable<()>,
    /// The rate is a half to the power of this.
    shift: u32,
    /// The same, at least, for the work that it is.
    shift_min: u32,
    l1_chunks: u64,
    totals: Totals,
    since: Time,
    prompts: u64,
    /// Steps that may be made without falling behind, and when that was reckoned.
    allowance: u64,
    reckoned: Time,
    chain: Vec<ChunkId>,
}

impl WhatIf {
    /// Nothing was asked for yet. With an L2, what stays of what came from there is varied, too. An L1 of the
    /// server's own size is to have room for `sample_chunks` of the sample, at most; usually
    /// [`SAMPLE_CHUNKS`].
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

    /// Which chunks are to be [sampled](sample) from now on.
    pub fn threshold(&self) -> u64 {
        u64::MAX >> self.shift
    }

    /// So much was asked for.
    pub fn count(&mut self, asked: Totals) {
        self.totals.add(asked);
    }

    /// A prompt was looked up; what it asked for in all is [counted](Self::count) besides.
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

    /// An engine has stored a prompt from its sampled chunk number `start` on. Matters only if it is longer than
    /// what was looked up.
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

    /// What is known by now.
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

    /// Numbers the chunks of a prompt and makes them known.
    fn begin(&mut self, prompt: &Prompt<'_>) {
        self.fit(prompt);
        self.work(prompt);
        self.make_room();
        self.prompts += 1;
        self.chain.clear();
        // What was sampled before the rate changed is part of no sample.
        let sampled = if prompt.threshold == self.threshold() { prompt.sampled } else { &[] };
        for Sampled { digest } in sampled.iter().take(PROMPT_KEYS_MAX) {
            let (slot, known) = self.keys.touch(*digest);
            // A name stands for all before it, so one that comes twice makes no sense: the prompt ends there.
            if std::mem::replace(self.keys.get_mut(slot), self.prompts) == self.prompts {
                break;
            }
            if !known {
                self.number(slot, *digest);
            }
            self.chain.push(ChunkId(slot));
        }
    }

    /// Gives a chunk that no shadow has in L1 its number.
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

    /// Sees to it that the chunks of any prompt can get numbers: of those that are in no shadow's L1, if
    /// such are found soon.
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

    /// Follows the size of L1.
    fn fit(&mut self, prompt: &Prompt<'_>) {
        if prompt.l1_chunks == self.l1_chunks {
            return;
        }
        let right = shift_for(prompt.l1_chunks, self.sample_chunks).max(self.shift_min);
        // Twice as many or half as many as is right is right enough to go on.
        if self.l1_chunks == 0 || right.abs_diff(self.shift) > 1 {
            self.start_over(prompt.at, right);
        }
        self.l1_chunks = prompt.l1_chunks;
        self.tried.iter_mut().for_each(|tried| tried.resize(self.l1_chunks, self.shift));
    }

    /// Sees to it that the work stays within its bound.
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

    /// Forgets everything but how much work there is.
    fn start_over(&mut self, now: Time, shift: u32) {
        let l2 = self.tried.iter().any(|tried| tried.shadow.l2().is_some());
        let new = Self::new(l2, self.sample_chunks);
        *self = Self { shift, shift_min: self.shift_min, since: now, reckoned: now, ..new };
    }
}

/// For each eviction policy and size what `adaptive` does as well as.
fn adaptive(rows: &[Row]) -> Vec<Row> {
    let [default, retain] = PREFETCHES.map(|p| rows.iter().filter(move |row| row.policies.prefetch == p));
    let better = |(default, retain): (&Row, &Row)| {
        let cost = |row: &Row| (row.computed.saturating_add(row.l2_reads), row.l2_reads);
        let better = if cost(default) < cost(retain) { default } else { retain };
        Row { policies: Policies { prefetch: PrefetchKind::Adaptive, ..better.policies }, ..*better }
    };
    default.zip(retain).map(better).collect()
}

/// The shift at which an L1 with room for so many chunks has room for few enough of the sample.
fn shift_for(l1_chunks: u64, sample_chunks: u64) -> u32 {
    let times = l1_chunks.div_ceil(sample_chunks).max(1);
    times.checked_next_power_of_two().map_or(SHIFT_MAX, u64::trailing_zeros).min(SHIFT_MAX)
}

#[cfg(test)]
mod tests;
