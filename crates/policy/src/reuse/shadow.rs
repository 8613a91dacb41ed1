//! A shadow cache: what L1 would have done under another pair of policies, with keys only.
//!
//! A shadow sees every request as one step: chunks that it has are pinned, missing ones are added one after the other,
//! and in the end chunks that were loaded from L2 stay or are removed, and everything is used, the last chunk first. The
//! core does the same with requests that do not overlap. All chunks count as one size, and L2 has all that was ever
//! asked for.
//!
//! Cost: O(1) for each chunk of a request, amortised. Memory: 9 to 17 bytes for each key.

use super::Key;
use super::age_histogram::AgeHistogram;
use super::order::WorthOrder;
use super::reuse_class::ReuseClass;
use crate::key_table::{KeySlot, KeyTable};
use crate::lru::{LruLinks, LruList};
use crate::segmented::SegmentedVec;

/// Which chunk is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionOrder {
    /// The least recently used.
    Recency,
    /// The one with the lowest predicted worth.
    Worth,
}

impl EvictionOrder {
    /// The name in status reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recency => "recency",
            Self::Worth => "worth",
        }
    }
}

impl RetentionRule {
    /// The name in status reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Always => "always",
            Self::Judged => "judged",
        }
    }
}

/// Which chunks that are loaded from L2 stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionRule {
    /// None.
    Never,
    /// All.
    Always,
    /// Those that are predicted to be used at least as soon as what they push out.
    Judged,
}

/// A pair of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// The eviction order.
    pub rank: EvictionOrder,
    /// The retention rule.
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

/// Weight of one eviction in the moving average of how long an unused chunk stays in an LRU.
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
    resident: SegmentedVec<bool>,
    used: usize,
    /// Chunks that were asked for, could have been in L1 and were not; discounted.
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

/// Whether a loaded chunk is predicted to pay better in an LRU, where it stays for `horizon` ticks if it is not used,
/// than what is evicted from an LRU at that age would have.
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
        Self { expert, order, resident: SegmentedVec::default(), used: 0, loss: 0.0 }
    }

    /// How long an unused chunk stays, in ticks; 0 in an order by worth.
    pub(super) fn horizon(&self) -> f64 {
        match &self.order {
            Residents::Recency { horizon, .. } => *horizon,
            Residents::Worth(_) => 0.0,
        }
    }

    fn is_resident(&self, slot: KeySlot) -> bool {
        self.resident.get(slot as usize).copied().unwrap_or(false)
    }

    /// Simulates a request. Returns how many of its chunks were not in the cache and could have been.
    pub(super) fn on_request(&mut self, request: &Request<'_>) -> usize {
        let Request { chain, known, l2, .. } = *request;
        if let Residents::Worth(order) = &mut self.order {
            order.update(request.now, request.ages);
        }
        let found = if l2 { known } else { chain.iter().take_while(|s| self.is_resident(**s)).count() };
        let (hit, rest) = chain.split_at(found);
        let reads = self.pin(hit, request);
        let there = found - reads.len();
        self.pin(rest, request);
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
                self.insert(slot, request);
            }
        }
        known - there
    }

    /// Pins a part of a prompt: chunks that are in the cache are removed from the order, the others are added as far
    /// as there is space. Returns the added chunks, and `None` for each that found no space.
    fn pin(&mut self, part: &[KeySlot], request: &Request<'_>) -> Vec<Option<KeySlot>> {
        let (there, missing): (Vec<KeySlot>, Vec<KeySlot>) = part.iter().partition(|s| self.is_resident(**s));
        there.iter().for_each(|s| self.remove_from_order(*s));
        let mut full = false;
        let added = missing.into_iter().map(|slot| {
            while !full && self.used >= request.capacity {
                full = !self.evict(request);
            }
            if full {
                return None;
            }
            self.resident.grow_to_hold(slot as usize, false);
            self.resident[slot as usize] = true;
            self.used += 1;
            Some(slot)
        });
        added.collect()
    }

    /// Evicts the next victim that the request does not pin. Returns whether there was one.
    fn evict(&mut self, request: &Request<'_>) -> bool {
        let victim = match &mut self.order {
            Residents::Recency { list, horizon, .. } => list.coldest().inspect(|victim| {
                let used = request.ages.tick_of(request.keys.get(*victim).cohort);
                *horizon += HORIZON_WEIGHT * (f64::from(request.now.wrapping_sub(used)) - *horizon);
            }),
            Residents::Worth(order) => order.worst(),
        };
        let Some(victim) = victim else { return false };
        self.remove_from_order(victim);
        self.drop_resident(victim);
        true
    }

    fn drop_resident(&mut self, slot: KeySlot) {
        self.resident[slot as usize] = false;
        self.used -= 1;
    }

    /// Removes a chunk from the order, if it is in it.
    fn remove_from_order(&mut self, slot: KeySlot) {
        match &mut self.order {
            Residents::Recency { links, list, .. } if links.contains(slot) => links.remove(list, slot),
            Residents::Worth(order) if order.contains(slot) => order.remove(slot),
            _ => {}
        }
    }

    fn insert(&mut self, slot: KeySlot, request: &Request<'_>) {
        match &mut self.order {
            Residents::Recency { links, list, .. } => links.push(list, slot),
            Residents::Worth(order) => {
                order.insert(slot, request.keys.get(slot).class, request.now);
            }
        }
    }

    /// A key was removed.
    pub(super) fn remove(&mut self, slot: KeySlot) {
        if self.is_resident(slot) {
            self.remove_from_order(slot);
            self.drop_resident(slot);
        }
    }
}
