//! The reuse predictor: what the adaptive policies learn from past requests.
//!
//! One predictor in the core sees every request: which chunks it asks for, and when. So it knows of each chunk how often
//! and at what age it was used again, in the cache or not, and from that what keeping a chunk of its class is worth.
//! Chunks of a prompt are used together: those that a request adds to a prompt are expected to be used again as those
//! before them were.
//!
//! | class | chunks |
//! |---|---|
//! | first | of a prompt of which nothing is known, by how many they are |
//! | common beginning | new, behind chunks that many prompts begin with; by how many they are |
//! | continued | new, behind chunks of few prompts; by the reuse interval of those, and by whether they are few (a turn of a conversation) or many |
//! | used again | by how often (2, 3 to 4, 5 to 8, more) and by the reuse interval: the mean time between uses |
//!
//! Learned policies are good on average and bad at times. So each pair of an eviction order and a retention rule, an
//! [`Expert`], is simulated: a shadow cache counts what would have been read from L2 (or missed, without L2) under it.
//! The one that lost least over the last 64 turnovers of L1 is the [active policy](ReusePredictor::active_policy). The
//! fixed policies are among the experts, so the loss against the best of them is bounded: by what the active one may
//! lose before it is replaced (1 % more, and a 64th of L1), and one turnover of L1 for each change. After N. Megiddo
//! and D. Modha's idea of letting ghosts decide (ARC, FAST 2003) and of M. Herbster and M. Warmuth, "Tracking the best
//! expert" (1998).
//!
//! Time is counted in ticks: tenths of a second plus requests. So a user's pause is recognised at any load, and without
//! a clock there is still an order of events. Everything is deterministic: the same requests at the same times give the
//! same answers.
//!
//! Cost for a chunk of a request: one look-up and a few list operations for each expert, about half a microsecond where
//! none of a million keys is in the processor's cache; for a decision one look-up. Memory for a million keys: 55 MB
//! with one expert, 130 MB with four. There are 16 keys for each chunk that L1 can hold, within limits.

mod admission;
mod age_histogram;
mod order;
mod reuse_class;
mod shadow;
#[cfg(test)]
mod tests;

use larder_types::object::ObjectKey;
use smallvec::SmallVec;

use self::admission::AdmissionFilter;
use self::age_histogram::AgeHistogram;
pub use self::order::WorthOrder;
use self::reuse_class::{ReuseClass, ReuseInterval};
pub use self::shadow::{EvictionOrder, Expert, RetentionRule};
use self::shadow::{Request, Shadow, judged};
use crate::eviction::name_digest;
use crate::eviction::{EvictionKind, digest};
use crate::key_table::KeyTable;
use crate::{OffloadKind, PrefetchKind};
use larder_types::time::Time;

/// Length of a tick, in milliseconds.
const TICK_MS: u64 = 100;
/// Length of a tick, in seconds. Requests count as ticks too, so real ages are a little shorter.
pub const TICK_SECONDS: f64 = TICK_MS as f64 / 1000.0;
/// KeyTable that are remembered for each chunk that L1 can hold.
const KEYS_PER_CHUNK: usize = 16;
/// Keys in total, at least and at most.
const KEYS_MIN: usize = 1 << 16;
const KEYS_MAX: usize = 1 << 20;
/// Experts are compared over about this many turnovers of L1.
const WINDOW_TURNS: f64 = 64.0;
/// The active expert is replaced if it lost this fraction more than the best one, and besides this fraction of L1's
/// capacity, as the new one begins with the L1 of the old one.
const MARGIN: f64 = 0.01;
const MARGIN_OF_CAPACITY: f64 = 1.0 / 64.0;

/// State of a chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Key {
    /// The request that used it last.
    cohort: u64,
    class: ReuseClass,
    /// Requests that used it, saturating.
    uses: u8,
    /// Mean time between its uses.
    interval: ReuseInterval,
}

/// See the [module](self).
#[derive(Debug)]
pub struct ReusePredictor {
    ages: AgeHistogram,
    keys: KeyTable<Key>,
    shadows: Vec<Shadow>,
    active: usize,
    changes: u64,
    filter: AdmissionFilter,
    l2: bool,
    now: u32,
    requests: u64,
}

/// What was learned, for status reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Requests seen.
    pub requests: u64,
    /// KeyTable remembered.
    pub keys: u64,
    /// The expert that is followed.
    pub active: Expert,
    /// How often it changed.
    pub changes: u64,
    /// Recent loss of each expert: chunks that it would have read from L2, or missed without one.
    pub losses: Vec<(Expert, f64)>,
    /// The fraction of chunks asked for that were known and in neither tier.
    pub loss_ratio: f64,
    /// Chance of reuse from which on a chunk that is evicted from L1 is written to L2, under a store policy that
    /// defers.
    pub store_threshold: f64,
    /// Recent chunks of each age (0, then powers of two, in ticks), and how many of them were used again before they
    /// got older.
    pub ages: Vec<(f64, f64)>,
}

impl ReusePredictor {
    /// The predictor for the policies of a server; `None` if no policy learns.
    pub fn for_policies(
        eviction: EvictionKind,
        prefetch: PrefetchKind,
        store: OffloadKind,
        l2: bool,
    ) -> Option<Self> {
        if !(eviction.learns() || l2 && (prefetch.learns() || store.learns())) {
            return None;
        }
        let keeps = if l2 { prefetch.create().retention_rules() } else { &[RetentionRule::Always] };
        let fixed = keeps.iter().map(|keep| Expert { rank: EvictionOrder::Recency, keep: *keep });
        // The order by worth evicts early what should not have stayed.
        let learned = Expert { rank: EvictionOrder::Worth, keep: keeps[0] };
        Some(Self::new(fixed.chain(eviction.learns().then_some(learned)), l2))
    }

    /// A predictor that has seen nothing. The first expert is active until another one is better.
    ///
    /// # Panics
    /// Without experts.
    pub fn new(experts: impl IntoIterator<Item = Expert>, l2: bool) -> Self {
        let shadows: Vec<Shadow> = experts.into_iter().map(Shadow::new).collect();
        assert!(!shadows.is_empty(), "there is at least one expert");
        Self {
            ages: AgeHistogram::default(),
            keys: KeyTable::default(),
            shadows,
            active: 0,
            changes: 0,
            filter: AdmissionFilter::default(),
            l2,
            now: 0,
            requests: 0,
        }
    }

    /// A request asks for the chunks with these digests, from the start of its prompt. L1 can hold `capacity` chunks.
    /// Returns how many leading chunks were asked for before.
    pub fn on_request(&mut self, now: Time, capacity: usize, digests: impl IntoIterator<Item = u64>) -> u32 {
        self.requests += 1;
        self.now = (now.as_millis() / TICK_MS).wrapping_add(self.requests) as u32;
        let keys_max = (capacity.saturating_mul(KEYS_PER_CHUNK)).clamp(KEYS_MIN, KEYS_MAX);
        let (mut chain, mut known) = (Vec::new(), 0);
        let mut left: SmallVec<[(ReuseClass, u32); 4]> = SmallVec::new();
        let cohort = self.ages.requests();
        self.ages.advance(self.now);
        // Uses and reuse interval of the chunks before.
        let mut before = None;
        for digest in digests.into_iter().take(keys_max / 2) {
            let (slot, is_known) = self.keys.touch(digest);
            let key = self.keys.get_mut(slot);
            if is_known && key.cohort == cohort {
                continue;
            }
            if is_known {
                let ticks = self.now.wrapping_sub(self.ages.tick_of(key.cohort));
                self.ages.used_again(key.class, key.cohort, ticks);
                key.interval = key.interval.then(key.uses, ticks);
                key.uses = key.uses.saturating_add(1);
                before = Some((key.uses, key.interval));
                known += usize::from(known == chain.len());
            } else {
                key.uses = 1;
            }
            key.cohort = cohort;
            chain.push(slot);
        }
        let new = chain.len() - known;
        for slot in &chain {
            let key = self.keys.get_mut(*slot);
            key.class = match key.uses {
                1 => ReuseClass::new(before, new),
                uses => ReuseClass::used_again(uses, key.interval),
            };
            match left.iter_mut().find(|(class, _)| *class == key.class) {
                Some((_, n)) => *n += 1,
                None => left.push((key.class, 1)),
            }
        }
        self.ages.add_cohort(self.now, left);
        while self.keys.len() > keys_max as u64 {
            let Some(slot) = self.keys.oldest() else { break };
            self.keys.remove(slot);
            self.shadows.iter_mut().for_each(|shadow| shadow.remove(slot));
        }
        let Self { keys, ages, l2, now, .. } = self;
        let (l2, now) = (*l2, *now);
        let request = Request { chain: &chain, known, l2, capacity, now, keys, ages };
        let fade = (1.0 - chain.len() as f64 / (WINDOW_TURNS * capacity as f64 + 1.0)).max(0.5);
        for shadow in &mut self.shadows {
            shadow.loss = shadow.loss * fade + shadow.on_request(&request) as f64;
        }
        self.choose(capacity);
        known as u32
    }

    /// Replaces the active expert if it lost too much.
    fn choose(&mut self, capacity: usize) {
        let losses = self.shadows.iter().map(|shadow| shadow.loss).enumerate();
        let best = losses.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are experts");
        let active = self.shadows[self.active].loss;
        if active > best.1 * (1.0 + MARGIN) + capacity as f64 * MARGIN_OF_CAPACITY {
            self.active = best.0;
            self.changes += 1;
        }
    }

    /// The expert that is followed.
    pub fn active_policy(&self) -> Expert {
        self.shadows[self.active].expert
    }

    /// Whether the active expert retains a chunk that is loaded from L2.
    pub fn retains(&self, digest: u64) -> bool {
        let shadow = &self.shadows[self.active];
        match shadow.expert.keep {
            RetentionRule::Never => false,
            RetentionRule::Always => true,
            RetentionRule::Judged => judged(self.class(digest), shadow.horizon(), &self.ages),
        }
    }

    /// A request that asked for `asked` chunks, the first `known` of them not for the first time, found `hit` in L1
    /// or L2.
    pub fn on_answer(&mut self, asked: u32, known: u32, hit: u32) {
        self.filter.on_answer(known.saturating_sub(hit), asked);
    }

    /// Whether enough was learned for [`worth_storing`](Self::worth_storing).
    pub fn filters_writes(&self) -> bool {
        self.filter.is_open()
    }

    /// Whether a chunk that is close to eviction from L1 should be written to L2.
    pub fn worth_storing(&self, digest: u64) -> bool {
        self.reuse_chance(digest).is_none_or(|chance| !self.filter.drops(chance))
    }

    /// A chunk was evicted from L1 and is not in L2.
    pub fn on_drop(&mut self, digest: u64) {
        if let Some(chance) = self.reuse_chance(digest) {
            self.filter.on_drop(chance);
        }
    }

    /// The chance that a known chunk is asked for again.
    fn reuse_chance(&self, digest: u64) -> Option<f64> {
        let key = self.keys.get(self.keys.find(digest)?);
        let ticks = self.now.wrapping_sub(self.ages.tick_of(key.cohort));
        Some(self.ages.again(key.class, ticks))
    }

    /// Inserts a chunk that was used just now into an order.
    pub fn insert_into(&self, order: &mut WorthOrder, n: u32, digest: u64) {
        order.insert(n, self.class(digest), self.now);
    }

    /// Updates ages and ranks of an order.
    pub fn prepare(&self, order: &mut WorthOrder) {
        order.update(self.now, &self.ages);
    }

    /// The class of a chunk.
    fn class(&self, digest: u64) -> ReuseClass {
        self.keys.find(digest).map_or(ReuseClass::default(), |slot| self.keys.get(slot).class)
    }

    /// What was learned.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            requests: self.requests,
            keys: self.keys.len(),
            active: self.active_policy(),
            changes: self.changes,
            losses: self.shadows.iter().map(|shadow| (shadow.expert, shadow.loss)).collect(),
            loss_ratio: self.filter.loss(),
            store_threshold: self.filter.threshold,
            ages: self.ages.totals().into_iter().map(|(events, exposed)| (exposed, events)).collect(),
        }
    }
}

/// The digest of an object's chunk, for [`ReusePredictor::on_request`].
pub fn object_digest(key: &ObjectKey) -> u64 {
    digest(name_digest(&key.model_name, &key.cache_salt), key.chunk_hash.as_bytes())
}
