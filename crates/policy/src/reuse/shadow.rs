//! What L1 would have done under another pair of policies: a cache of key slots, no memory behind it.
//!
//! A shadow sees every request as one step: what it finds is held, what is missing takes room one chunk
//! after the other, and in the end what was read from L2 stays or goes and everything is used, the last
//! chunk first. That is what the core does with requests that do not overlap. All chunks are taken to be
//! of one size and L2 to have all that was ever asked for.
//!
//! Cost: O(1) for each chunk of a request, amortised. Memory: 9 to 17 bytes for each key.

use super::Key;
use super::age_histogram::AgeHistogram;
use super::order::WorthOrder;
use super::reuse_class::ReuseClass;
use crate::key_table::{KeySlot, KeyTable};
use crate::lru::{LruLinks, LruList};

/// Which chunk leaves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionOrder {
    /// The least recently used.
    Recency,
    /// The least worth, as learned.
    Worth,
}

impl EvictionOrder {
    /// A word for status reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recency => "recency",
            Self::Worth => "worth",
        }
    }
}

impl RetentionRule {
    /// A word for status reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Always => "always",
            Self::Judged => "judged",
        }
    }
}

/// What stays of what was read from L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionRule {
    /// Nothing.
    Never,
    /// Everything.
    Always,
    /// What is expected to pay at least as well as what it pushes out.
    Judged,
}

/// A pair of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// The eviction.
    pub rank: EvictionOrder,
    /// The retention.
    pub keep: RetentionRule,
}

impl std::fmt::Display for Expert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rank = match self.rank {
            EvictionOrder::Recency => "LRU",
            EvictionOrder::Worth => "worth",
        };
        let keep = match self.keep {
            RetentionRule::Never => "default",
            RetentionRule::Always => "retain",
            RetentionRule::Judged => "judged",
        };
        write!(f, "{rank}+{keep}")
    }
}

/// How long a chunk that nobody uses stays in an LRU: a moving average over evictions.
const HORIZON_WEIGHT: f64 = 0.02;

#[derive(Debug)]
enum Residents {
    Recency { links: LruLinks, list: LruList, horizon: f64 },
    Worth(Box<WorthOrder>),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Shadow {
    pub(super) expert: Expert,
    order: Residents,
    resident: Vec<bool>,
    used: usize,
    /// Chunks that were asked for and could have been in L1 but were not, discounted.
    pub(super) loss: f64,
}

/// One request as shadows see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// The chunks, from the start of the prompt, each once.
    pub(super) chain: &'a [KeySlot],
    /// How many leading ones were asked for before.
    pub(super) known: usize,
    /// Whether there is an L2.
    pub(super) l2: bool,
    /// Chunks that L1 can hold.
    pub(super) capacity: usize,
    pub(super) now: u32,
    pub(super) keys: &'a KeyTable<Key>,
    pub(super) ages: &'a AgeHistogram,
}

/// Whether a chunk that was read is expected to pay better in an LRU, where it stays for `horizon` ticks
/// if nobody uses it, than what leaves an LRU at that age would have.
pub(super) fn judged(class: ReuseClass, horizon: f64, ages: &AgeHistogram) -> bool {
    ages.density(class, horizon.max(1.0)) >= ages.common_rate(horizon.max(1.0) as u32)
}

impl Shadow {
    pub(super) fn new(expert: Expert) -> Self {
        let order = match expert.rank {
            EvictionOrder::Recency => {
                Residents::Recency { links: LruLinks::default(), list: LruList::default(), horizon: 0.0 }
            }
            EvictionOrder::Worth => Residents::Worth(Box::default()),
        };
        Self { expert, order, resident: Vec::new(), used: 0, loss: 0.0 }
    }

    /// How long a chunk that nobody uses stays, where that is all that matters.
    pub(super) fn horizon(&self) -> f64 {
        match &self.order {
            Residents::Recency { horizon, .. } => *horizon,
            Residents::Worth(_) => 0.0,
        }
    }

    fn is_resident(&self, slot: KeySlot) -> bool {
        self.resident.get(slot as usize).copied().unwrap_or(false)
    }

    /// Lives through a request. Returns how many chunks of it were not there and could have been.
    pub(super) fn request(&mut self, request: &Request<'_>) -> usize {
        let Request { chain, known, l2, .. } = *request;
        if let Residents::Worth(order) = &mut self.order {
            order.settle(request.now, request.ages);
        }
        let found = if l2 { known } else { chain.iter().take_while(|s| self.is_resident(**s)).count() };
        let (hit, rest) = chain.split_at(found);
        let reads = self.bring(hit, request);
        let there = found - reads.len();
        self.bring(rest, request);
        for slot in reads.into_iter().flatten() {
            let class = request.keys.get(slot).class;
            let stays = match self.expert.keep {
                RetentionRule::Never => false,
                RetentionRule::Always => true,
                RetentionRule::Judged => judged(class, self.horizon(), request.ages),
            };
            if !stays {
                self.drop_resident(slot);
            }
        }
        for &slot in chain.iter().rev() {
            if self.is_resident(slot) {
                self.enter(slot, request);
            }
        }
        known - there
    }

    /// Holds a part of a prompt: what is there leaves the order, what is not takes room, as far as there
    /// is any. Returns what was not there, `None` for what is not there now.
    fn bring(&mut self, part: &[KeySlot], request: &Request<'_>) -> Vec<Option<KeySlot>> {
        let (there, missing): (Vec<KeySlot>, Vec<KeySlot>) = part.iter().partition(|s| self.is_resident(**s));
        there.iter().for_each(|s| self.leave(*s));
        let mut full = false;
        let bring = missing.into_iter().map(|slot| {
            while !full && self.used >= request.capacity {
                full = !self.evict(request);
            }
            if full {
                return None;
            }
            if self.resident.len() <= slot as usize {
                self.resident.resize(slot as usize + 1, false);
            }
            self.resident[slot as usize] = true;
            self.used += 1;
            Some(slot)
        });
        bring.collect()
    }

    /// Evicts the next victim, if there is one that the running request does not hold.
    fn evict(&mut self, request: &Request<'_>) -> bool {
        let victim = match &mut self.order {
            Residents::Recency { list, horizon, .. } => list.coldest().inspect(|victim| {
                let used = request.ages.tick_of(request.keys.get(*victim).cohort);
                *horizon += HORIZON_WEIGHT * (f64::from(request.now.wrapping_sub(used)) - *horizon);
            }),
            Residents::Worth(order) => order.worst(),
        };
        let Some(victim) = victim else { return false };
        self.leave(victim);
        self.drop_resident(victim);
        true
    }

    fn drop_resident(&mut self, slot: KeySlot) {
        self.resident[slot as usize] = false;
        self.used -= 1;
    }

    /// Takes a chunk out of the order, if it is in it.
    fn leave(&mut self, slot: KeySlot) {
        match &mut self.order {
            Residents::Recency { links, list, .. } if links.contains(slot) => links.remove(list, slot),
            Residents::Worth(order) if order.has(slot) => order.unlink(slot),
            _ => {}
        }
    }

    fn enter(&mut self, slot: KeySlot, request: &Request<'_>) {
        match &mut self.order {
            Residents::Recency { links, list, .. } => links.push(list, slot),
            Residents::Worth(order) => {
                order.push(slot, request.keys.get(slot).class, request.now);
            }
        }
    }

    /// A key is forgotten.
    pub(super) fn forget(&mut self, slot: KeySlot) {
        if self.is_resident(slot) {
            self.leave(slot);
            self.drop_resident(slot);
        }
    }
}
