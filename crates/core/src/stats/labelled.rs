//! What happened to whom: counts by cache salt and by model, for as many of them as are told apart.
//!
//! Salts and models are named by clients, so there is a bound: the first [`NAMES_MAX`] of each have counts
//! of their own, all that come later share one. Counts outlive what they counted; they are never reset.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::counters;

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
    pub fn get_or_insert(&mut self, name: &Arc<str>) -> &mut T {
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

counters! {
    /// Counts of objects of one cache salt.
    pub struct SaltCounters {
        /// Objects that workers read from L1
        read => "lmcache_mp_l1_read_chunks_total" ["l1_tag"],
        /// Objects committed to L1
        written => "lmcache_mp_l1_write_chunks_total" ["l1_tag"],
        /// Objects evicted from L1, or removed after their last read
        evicted => "lmcache_mp_l1_evicted_chunks_total" ["l1_tag"],
        /// Objects looked up in L2, once for each adapter
        l2_asked => "lmcache_mp_l2_prefetch_lookup_objects_chunks_total",
        /// Objects in load batches sent to L2
        l2_to_load => "lmcache_mp_l2_prefetch_load_submitted_objects_chunks_total",
        /// Objects loaded from L2
        l2_loaded => "lmcache_mp_l2_prefetch_load_completed_chunks_total",
        /// Objects in store batches sent to L2, each attempt
        l2_to_store => "lmcache_mp_l2_store_submitted_objects_chunks_total",
        /// Objects stored in L2
        l2_stored => "lmcache_mp_l2_store_completed_objects_chunks_total",
        /// Objects that L2 adapters evicted
        l2_evicted => "lmcache_mp_l2_evicted_objects_chunks_total",
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_too_late_shares_one_count() {
        let mut counts = Labelled::<u64>::default();
        for i in 0..NAMES_MAX + 10 {
            *counts.get_or_insert(&format!("salt{i}").into()) += 1;
        }
        *counts.get_or_insert(&"salt0".into()) += 1;
        assert_eq!((counts.named().count(), *counts.others()), (NAMES_MAX, 10));
        assert_eq!(counts.named().map(|(_, n)| n).sum::<u64>(), NAMES_MAX as u64 + 1);
    }
}
