//! What happened to whom: counts by cache salt and by model, for as many of them as are told apart.
//!
//! Salts and models are named by clients, so there is a bound: the first [`NAMES_MAX`] of each have counts
//! of their own, all that come later share one. Counts outlive what they counted; they are never reset.

use std::sync::Arc;

use hashbrown::HashMap;

/// Salts, and models, that are told apart.
pub const NAMES_MAX: usize = 256;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Labelled<T> {
    named: HashMap<Arc<str>, T>,
    others: T,
}

impl<T: Default> Labelled<T> {
    /// The counts of `name`, or those that all others share.
    pub fn of(&mut self, name: &Arc<str>) -> &mut T {
        if !self.named.contains_key(name) {
            if self.named.len() >= NAMES_MAX {
                return &mut self.others;
            }
            self.named.insert(name.clone(), T::default());
        }
        self.named.get_mut(name).expect("it was just seen or made")
    }

    /// Each name that has counts of its own, in no order.
    pub fn named(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.named.iter()
    }

    /// What those without counts of their own share.
    pub fn others(&self) -> &T {
        &self.others
    }
}

/// Objects of one cache salt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaltCounters {
    /// Read by workers.
    pub read: u64,
    /// Became readable in L1.
    pub written: u64,
    /// Evicted from L1, or gone from it with their last reader.
    pub evicted: u64,
    /// L2 was asked for, once for each adapter.
    pub l2_asked: u64,
    /// L2 was to load.
    pub l2_to_load: u64,
    /// L2 loaded.
    pub l2_loaded: u64,
    /// L2 was to store, each attempt.
    pub l2_to_store: u64,
    /// L2 stored.
    pub l2_stored: u64,
    /// L2 removed by itself, to make room.
    pub l2_evicted: u64,
}

/// Objects of one model with which something went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCounters {
    /// Wanted to be stored: L1 had no room.
    pub store_no_room: u64,
    /// Found in L2: L1 had no room.
    pub load_no_room: u64,
    /// Found in L2: somebody else was writing the object to L1.
    pub load_contended: u64,
    /// Found in L2: the load failed.
    pub load_missing: u64,
    /// Found in L2: not there at the deadline.
    pub load_late: u64,
    /// Were to be retrieved: no longer held or no longer there.
    pub retrieve_missing: u64,
    /// Were to go to L2: gone from L1 before their turn.
    pub write_back_gone: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct LabelledCounters {
    /// By cache salt.
    pub salts: Labelled<SaltCounters>,
    /// By model.
    pub models: Labelled<ModelCounters>,
    /// How often L1 looked whether something has to be evicted: for each object, and when trimming.
    pub eviction_checks: u64,
    /// How often something was.
    pub eviction_rounds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_too_late_shares_one_count() {
        let mut counts = Labelled::<u64>::default();
        for i in 0..NAMES_MAX + 10 {
            *counts.of(&format!("salt{i}").into()) += 1;
        }
        *counts.of(&"salt0".into()) += 1;
        assert_eq!((counts.named().count(), *counts.others()), (NAMES_MAX, 10));
        assert_eq!(counts.named().map(|(_, n)| n).sum::<u64>(), NAMES_MAX as u64 + 1);
    }
}
