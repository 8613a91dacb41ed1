//! Counters per cache salt and per model.
//!
//! Clients choose the names of both, so there is a bound: the first [`NAMES_MAX`] of each have counts of their
//! own, as long as the names have [`NAME_BYTES_MAX`] bytes in all; all later ones are counted together. Counts are never reset.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::counters;

/// Salts, and models, with counts of their own.
pub const NAMES_MAX: usize = 256;

/// Bytes of the names of salts, and of models, with counts of their own: a scrape repeats each in dozens of series.
pub const NAME_BYTES_MAX: usize = 16 << 10;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Labelled<T> {
    named: HashMap<Arc<str>, T>,
    /// Bytes of all names.
    name_bytes: usize,
    others: T,
}

impl<T: Default> Labelled<T> {
    /// The counts of `name`, or those of all others together.
    pub fn get_or_insert(&mut self, name: &Arc<str>) -> &mut T {
        if !self.named.contains_key(name) {
            if self.named.len() >= NAMES_MAX || self.name_bytes + name.len() > NAME_BYTES_MAX {
                return &mut self.others;
            }
            self.name_bytes += name.len();
            self.named.insert(name.clone(), T::default());
        }
        self.named.get_mut(name).expect("it was just seen or made")
    }

    /// Each name that has counts of its own, in no order.
    pub fn named(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.named.iter()
    }

    /// The counts of all names without counts of their own, together.
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

/// Objects of one model that could not be stored, loaded or retrieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCounters {
    /// Not stored: no space in L1.
    pub store_no_room: u64,
    /// Found in L2, not loaded: no space in L1.
    pub load_no_room: u64,
    /// Found in L2, not loaded: another writer held the reservation in L1.
    pub load_contended: u64,
    /// Found in L2, not loaded: the load failed.
    pub load_missing: u64,
    /// Found in L2, not loaded by the deadline.
    pub load_late: u64,
    /// Not retrieved: not pinned any more, or removed.
    pub retrieve_missing: u64,
    /// Not written back: removed from L1 before their turn.
    pub write_back_gone: u64,
}

/// Counters by cache salt and by model.
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

    #[test]
    fn long_names_share_one_count_beyond_their_bytes() {
        let mut counts = Labelled::<u64>::default();
        for i in 0..100 {
            *counts.get_or_insert(&format!("{i:01000}").into()) += 1;
        }
        assert_eq!((counts.named().count(), *counts.others()), (16, 84));
    }
}
