//! What happened since the start, as plain numbers that only grow.
//!
//! A counter is declared once, by `counters!`: its field, its meaning and, if it is exposed, its name and labels on
//! `/metrics`. The server walks the `EXPOSED` list of each struct, so a new counter needs no other code than its
//! increment.

/// A counter of `C` that `/metrics` exposes.
#[derive(Debug)]
pub struct Exposed<C> {
    /// Name on `/metrics`.
    pub name: &'static str,
    /// Names of its fixed labels. The server knows their values.
    pub labels: &'static [&'static str],
    /// HELP text.
    pub help: &'static str,
    /// Reads the count.
    pub read: fn(&C) -> u64,
}

/// Declares a struct of counters. The doc comment of a counter is one line, which is its HELP text too. Parts that are
/// structs of counters themselves follow a semicolon.
#[macro_export]
macro_rules! counters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $(#[doc = $help:literal] $field:ident $(=> $metric:literal $([$($label:literal),*])?)?,)*
        $(; $(#[doc = $part_doc:literal] $part:ident: $part_type:ty,)*)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $name {
            $(#[doc = $help] $vis $field: u64,)*
            $($(#[doc = $part_doc] $vis $part: $part_type,)*)?
        }

        impl $name {
            /// The counters that `/metrics` exposes.
            $vis const EXPOSED: &[$crate::stats::Exposed<Self>] = &[$($($crate::stats::Exposed {
                name: $metric,
                labels: &[$($($label),*)?],
                help: $help.trim_ascii(),
                read: |counters| counters.$field,
            },)?)*];
        }
    };
}

counters! {
    /// Counts of the memory tier. Bytes are rounded up to the arena's alignment.
    pub struct L1Counters {
        /// Objects that became readable
        admitted_objects,
        /// Bytes of objects that became readable
        admitted_bytes,
        /// Chunks evicted from L1
        evicted_chunks,
        /// Objects evicted from L1
        evicted_objects,
        /// Bytes evicted from L1
        evicted_bytes => "lmcache_mp_l1_evicted_bytes_total" ["l1_tag"],
        /// Objects with a deferred store to L2 that were evicted before it
        evicted_waiting_objects => "lmcache_mp_l2_unstored_chunks_total",
        /// Objects removed from L1 on request
        cleared_objects => "lmcache_mp_l1_cleared_chunks_total" ["l1_tag"],
        /// Objects that L1 had no free memory for
        refused_objects,
        /// Checks whether L1 has to evict, one for each new object and each step of a background trim
        eviction_checks => "lmcache_mp_l1_eviction_loop_ticks_total",
        /// Checks after which L1 evicted something
        eviction_rounds => "lmcache_mp_l1_eviction_loop_triggered_total",
    }
}

counters! {
    /// Counts of requests. An object is one chunk for one rank and group.
    pub struct Counters {
        /// Lookups of registered models
        lookups,
        /// Lookups of models without a registered worker
        lookups_unregistered,
        /// Lookups that found nothing because workers of the model have different layouts and it was not known which asked
        lookups_ambiguous => "lmcache_mp_lookups_ambiguous_total",
        /// Chunks looked up
        lookup_requested_chunks,
        /// Leading chunks found
        lookup_hit_chunks,
        /// Objects of leading chunks found
        lookup_hit_objects,
        /// Stores that got slots
        stores_prepared => "lmcache_mp_num_submitted_stores_total" ["device"],
        /// Stores committed
        stores_committed,
        /// Stores that ended without a commit: worker gone, timeout, L1 cleared
        stores_abandoned => "lmcache_mp_stores_abandoned_total",
        /// Objects that workers stored
        stored_objects,
        /// Exact bytes that workers stored
        stored_bytes,
        /// Retrieves that got slots
        retrieves_prepared => "lmcache_mp_num_submitted_retrieves_total" ["device"],
        /// Retrieves refused because an object was missing
        retrieves_failed => "lmcache_mp_retrieves_failed_total",
        /// Retrieves committed
        retrieves_committed,
        /// Objects that workers retrieved
        retrieved_objects,
        /// Exact bytes that workers retrieved
        retrieved_bytes,
        /// Retrieves that ended without a commit: worker gone, timeout
        retrieves_abandoned => "lmcache_mp_retrieves_abandoned_total",
        /// Lookup leases that expired before they were used
        leases_expired => "lmcache_mp_leases_expired_total",
        /// Workers removed because they were silent for too long
        workers_reaped => "lmcache_mp_workers_reaped_total",
        /// Sessions that ended by their time limit, or to keep the limits of all
        sessions_expired => "lmcache_mp_sessions_expired_total",
        /// Stores that got fewer slots because their client holds its share of L1
        stores_over_share,
        /// Lookups that found less because their client holds its share of L1
        lookups_over_share,
        /// Lookups of peers refused because their client has too many leases
        peer_lookups_refused,
        ;
        /// Lookups, loads and stores that involve L2.
        l2: L2Counters,
    }
}

counters! {
    /// Counts of everything between L1 and L2, over all adapters.
    pub struct L2Counters {
        /// Lookups and prefetch requests that L1 alone could not answer
        jobs,
        /// Prefetch jobs cancelled before their answer
        jobs_cancelled,
        /// Lookups answered at their deadline with what was loaded by then
        jobs_overdue => "lmcache_mp_timeouts_total" ["exception_type"],
        /// Leading chunks that L2 added to hits
        hit_chunks,
        /// Objects of hits that were loaded from L2
        hit_objects,
        /// Loads from L2 that several lookups shared
        loads_shared => "lmcache_mp_l2_loads_shared_total",
        /// Objects found in L2 that L1 had no free memory for
        no_room_objects,
        /// Objects found in L2 that a worker was storing to L1 at the same time
        contended_objects,
        /// Objects found in L2 that failed to load
        missing_objects,
        /// Objects found in L2 that were not loaded at the lookup's deadline
        late_objects,
        /// Objects loaded from L2 for one request that stayed in L1 after all
        promoted_objects => "lmcache_mp_l2_retained_chunks_total",
        /// Objects removed from L1 because L2 has them (`skip_l1`)
        left_l1_objects,
        /// Objects whose store to L2 was deferred until they are about to be evicted from L1
        deferred_objects => "lmcache_mp_l2_deferred_chunks_total",
        /// Policy calls that panicked or returned an invalid answer
        policy_faults => "lmcache_mp_policy_faults_total",
    }
}

counters! {
    /// Counts of one adapter. What has the label `l2_name` is exposed by adapter type, the rest over all adapters.
    pub struct AdapterCounters {
        /// Lookup requests sent to L2
        lookups => "lmcache_mp_l2_prefetch_lookup_requests_total",
        /// Objects looked up
        lookup_objects,
        /// Load batches sent to L2
        load_requests => "lmcache_mp_l2_prefetch_load_submitted_requests_total",
        /// Objects in load batches
        load_objects,
        /// Objects loaded
        loaded_objects,
        /// Exact bytes loaded from L2
        loaded_bytes => "lmcache_mp_l2_loaded_bytes_total" ["l2_name"],
        /// Objects whose load failed or was not answered
        load_failed_objects,
        /// Store batches sent to L2
        store_requests => "lmcache_mp_l2_store_submitted_requests_total",
        /// Objects in store batches
        store_objects,
        /// Objects stored
        stored_objects,
        /// Objects retried
        store_retried_objects,
        /// Objects not stored after the last attempt
        store_failed_objects => "lmcache_mp_l2_store_given_up_chunks_total" ["l2_name"],
        /// Objects not stored because the adapter's queue was full
        store_dropped_objects => "lmcache_mp_l2_store_dropped_chunks_total" ["l2_name"],
        /// Objects that left L1 before they were stored
        store_gone_objects,
    }
}
