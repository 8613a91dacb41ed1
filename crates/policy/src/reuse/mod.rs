//! What the adaptive policies learn, and from what.
//!
//! One model, in the core, told of every request: which chunks it asks for, and when. From that it knows
//! for each chunk how often and at what age it was used again, wherever it was by then, and so
//! what keeping a chunk of that class is worth. Chunks of a prompt share their future: those that a
//! request adds to a prompt are taken to come back as what they continue did.
//!
//! | class | is |
//! |---|---|
//! | first | chunks of a prompt of which nothing is known, by how many they are |
//! | begun alike | the same behind what many prompts begin with |
//! | continued | new chunks behind what few prompts have, by the pace at which that was used, and by whether they are few, as a turn of a conversation, or many |
//! | used again | by how often (2, 3 to 4, 5 to 8, more), and by the pace: the mean pause between uses |
//!
//! Learned policies are good on average and bad at times, so none of them rules by right. For each pair
//! of an eviction order and a retention rule, an [`Expert`], a shadow of L1 says what would have been read
//! from L2 (without one: missed) had it ruled. The one that lost least over the last 64 fillings of L1 is
//! the [leader](ReusePredictor::leader), and what it says is done. The fixed policies are among the experts, so what
//! the mix loses to the best of them is bounded: by what a leader may lose before it is replaced (1 % more,
//! and a 64th of L1), and one filling of L1 for each change of leaders. After N. Megiddo and D. Modha's
//! idea of letting ghosts decide (ARC, FAST 2003) and of M. Herbster and M. Warmuth, "Tracking the best
//! expert" (1998).
//!
//! Time runs in ticks: tenths of a second plus requests. So what comes back after a pause of its user is
//! recognised whatever the load, and without a clock there is still an order of events. Everything is
//! deterministic: same requests at the same times, same answers.
//!
//! Cost for a chunk of a request: one look-up and a few list operations for each expert, about half a
//! microsecond where none of a million keys is in the processor's cache; for a decision one look-up.
//! Memory for a million keys: 55 MB under one expert, 130 MB under four. There are as many keys as
//! 16 times what L1 can hold, within limits.

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

/// Length of a tick in milliseconds.
const TICK_MS: u64 = 100;
/// The same in seconds. Requests count as ticks, too, so ages are a little shorter than they say.
pub const TICK_SECONDS: f64 = TICK_MS as f64 / 1000.0;
/// KeyTable that are remembered for each chunk that L1 can hold.
const KEYS_PER_CHUNK: usize = 16;
/// The same in all, at least and at most.
const KEYS_MIN: usize = 1 << 16;
const KEYS_MAX: usize = 1 << 20;
/// Experts are compared by what they lost while about so many times L1's chunks were asked for.
const WINDOW_TURNS: f64 = 64.0;
/// A leader may have lost this part more than the best expert, and besides, as a new leader begins with the
/// L1 of another one, this part of what L1 can hold.
const MARGIN: f64 = 0.01;
const MARGIN_OF_CAPACITY: f64 = 1.0 / 64.0;

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Key {
    /// The request that used it last.
    cohort: u64,
    class: ReuseClass,
    /// Requests that used it, as far as they matter.
    uses: u8,
    /// How fast it was used again.
    pace: ReuseInterval,
}

/// See the [module](self).
#[derive(Debug)]
pub struct ReusePredictor {
    ages: AgeHistogram,
    keys: KeyTable<Key>,
    shadows: Vec<Shadow>,
    leader: usize,
    changes: u64,
    gate: AdmissionFilter,
    l2: bool,
    now: u32,
    requests: u64,
}

/// What has been learned, for status reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Requests learned from.
    pub requests: u64,
    /// KeyTable remembered.
    pub keys: u64,
    /// Who rules.
    pub active: Expert,
    /// How often that changed.
    pub changes: u64,
    /// What each expert lost lately: chunks that it would have read from L2, or missed without one.
    pub losses: Vec<(Expert, f64)>,
    /// The part of the chunks asked for that had been known and was nowhere any more.
    pub loss_ratio: f64,
    /// From what chance on of being asked for again a chunk that leaves L1 goes to L2, under a store policy
    /// that waits.
    pub store_threshold: f64,
    /// How many chunks there lately were of each age (0, then powers of two, in ticks), and how many of
    /// them were used again before they got older.
    pub ages: Vec<(f64, f64)>,
}

impl ReusePredictor {
    /// For the policies of a server, if one of them learns.
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
        // An order by worth finds out for itself what should not have stayed.
        let learned = Expert { rank: EvictionOrder::Worth, keep: keeps[0] };
        Some(Self::new(fixed.chain(eviction.learns().then_some(learned)), l2))
    }

    /// Knows nothing yet. The first expert rules until another one is better.
    ///
    /// # Panics
    /// Without experts.
    pub fn new(experts: impl IntoIterator<Item = Expert>, l2: bool) -> Self {
        let shadows: Vec<Shadow> = experts.into_iter().map(Shadow::new).collect();
        assert!(!shadows.is_empty(), "somebody has to rule");
        Self {
            ages: AgeHistogram::default(),
            keys: KeyTable::default(),
            shadows,
            leader: 0,
            changes: 0,
            gate: AdmissionFilter::default(),
            l2,
            now: 0,
            requests: 0,
        }
    }

    /// A request asks for the chunks of these digests, from the start of its prompt. L1 can hold
    /// `capacity` chunks. Returns how many leading chunks had been asked for before.
    pub fn on_request(&mut self, now: Time, capacity: usize, digests: impl IntoIterator<Item = u64>) -> u32 {
        self.requests += 1;
        self.now = (now.as_millis() / TICK_MS).wrapping_add(self.requests) as u32;
        let keys_max = (capacity.saturating_mul(KEYS_PER_CHUNK)).clamp(KEYS_MIN, KEYS_MAX);
        let (mut chain, mut known) = (Vec::new(), 0);
        let mut left: SmallVec<[(ReuseClass, u32); 4]> = SmallVec::new();
        let cohort = self.ages.requests();
        self.ages.advance(self.now);
        // What comes before: how often it was used, and at what pace.
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
                key.pace = key.pace.then(key.uses, ticks);
                key.uses = key.uses.saturating_add(1);
                before = Some((key.uses, key.pace));
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
                uses => ReuseClass::used_again(uses, key.pace),
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
            self.shadows.iter_mut().for_each(|shadow| shadow.forget(slot));
        }
        let Self { keys, ages, l2, now, .. } = self;
        let (l2, now) = (*l2, *now);
        let request = Request { chain: &chain, known, l2, capacity, now, keys, ages };
        let fade = (1.0 - chain.len() as f64 / (WINDOW_TURNS * capacity as f64 + 1.0)).max(0.5);
        for shadow in &mut self.shadows {
            shadow.loss = shadow.loss * fade + shadow.request(&request) as f64;
        }
        self.choose(capacity);
        known as u32
    }

    /// Replaces a leader that has lost too much.
    fn choose(&mut self, capacity: usize) {
        let losses = self.shadows.iter().map(|shadow| shadow.loss).enumerate();
        let best = losses.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are experts");
        let leader = self.shadows[self.leader].loss;
        if leader > best.1 * (1.0 + MARGIN) + capacity as f64 * MARGIN_OF_CAPACITY {
            self.leader = best.0;
            self.changes += 1;
        }
    }

    /// Who rules.
    pub fn active_policy(&self) -> Expert {
        self.shadows[self.leader].expert
    }

    /// Whether the leader would let a chunk stay that was read from L2.
    pub fn retains(&self, digest: u64) -> bool {
        let shadow = &self.shadows[self.leader];
        match shadow.expert.keep {
            RetentionRule::Never => false,
            RetentionRule::Always => true,
            RetentionRule::Judged => judged(self.class(digest), shadow.horizon(), &self.ages),
        }
    }

    /// A request that asked for `asked` chunks, the first `known` of them not for the first time, found
    /// `hit` in L1 or L2.
    pub fn on_answer(&mut self, asked: u32, known: u32, hit: u32) {
        self.gate.answered(known.saturating_sub(hit), asked);
    }

    /// Whether enough has been learned to say what is [worth storing](Self::worth_storing).
    pub fn filters_writes(&self) -> bool {
        self.gate.is_open()
    }

    /// Whether a chunk that is about to leave L1 should be in L2 by then.
    pub fn worth_storing(&self, digest: u64) -> bool {
        self.reuse_chance(digest).is_none_or(|chance| !self.gate.lets_go(chance))
    }

    /// A chunk left L1 and is nowhere any more.
    pub fn on_drop(&mut self, digest: u64) {
        if let Some(chance) = self.reuse_chance(digest) {
            self.gate.let_go(chance);
        }
    }

    /// The chance that a chunk is asked for again, if it is known.
    fn reuse_chance(&self, digest: u64) -> Option<f64> {
        let key = self.keys.get(self.keys.find(digest)?);
        let ticks = self.now.wrapping_sub(self.ages.tick_of(key.cohort));
        Some(self.ages.again(key.class, ticks))
    }

    /// Puts a chunk that was used just now into an order that it is not in.
    pub fn insert_into(&self, order: &mut WorthOrder, n: u32, digest: u64) {
        order.push(n, self.class(digest), self.now);
    }

    /// Brings an order up to date.
    pub fn prepare(&self, order: &mut WorthOrder) {
        order.settle(self.now, &self.ages);
    }

    /// The class of a chunk.
    fn class(&self, digest: u64) -> ReuseClass {
        self.keys.find(digest).map_or(ReuseClass::default(), |slot| self.keys.get(slot).class)
    }

    /// What has been learned.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            requests: self.requests,
            keys: self.keys.len(),
            active: self.active_policy(),
            changes: self.changes,
            losses: self.shadows.iter().map(|shadow| (shadow.expert, shadow.loss)).collect(),
            loss_ratio: self.gate.loss(),
            store_threshold: self.gate.threshold,
            ages: self.ages.totals().into_iter().map(|(events, exposed)| (exposed, events)).collect(),
        }
    }
}

/// The digest of an object's chunk, as [`ReusePredictor::request`] wants it.
pub fn object_digest(key: &ObjectKey) -> u64 {
    digest(name_digest(&key.model_name, &key.cache_salt), key.chunk_hash.as_bytes())
}
