//! What happened since the start, as plain numbers.

/// Counts of the memory tier. Bytes are rounded up to the arena's alignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L1Counters {
    /// Objects that became readable.
    pub admitted_objects: u64,
    /// Their bytes.
    pub admitted_bytes: u64,
    /// Chunks that left to make room.
    pub evicted_chunks: u64,
    /// Their objects.
    pub evicted_objects: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Objects evicted that waited to go to L2: they are nowhere any more.
    pub evicted_waiting_objects: u64,
    /// Objects removed by a clear or one by one.
    pub cleared_objects: u64,
    /// Objects that found no memory.
    pub refused_objects: u64,
}

/// Counts of requests. An object is one chunk for one rank and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lookups that looked.
    pub lookups: u64,
    /// Lookups of models that no worker serves.
    pub lookups_unregistered: u64,
    /// Chunks asked for.
    pub lookup_requested_chunks: u64,
    /// Leading chunks found.
    pub lookup_hit_chunks: u64,
    /// Objects found for them.
    pub lookup_hit_objects: u64,
    /// Stores that were given slots.
    pub stores_prepared: u64,
    /// Stores whose slots were published.
    pub stores_committed: u64,
    /// Stores that ended without being published: worker gone, expired, cleared.
    pub stores_abandoned: u64,
    /// Objects that workers stored.
    pub stored_objects: u64,
    /// Their exact bytes.
    pub stored_bytes: u64,
    /// Retrieves that were given slots.
    pub retrieves_prepared: u64,
    /// Retrieves that found something missing.
    pub retrieves_failed: u64,
    /// Retrieves that the worker finished.
    pub retrieves_committed: u64,
    /// Objects that workers retrieved.
    pub retrieved_objects: u64,
    /// Their exact bytes.
    pub retrieved_bytes: u64,
    /// Retrieves whose worker vanished or took longer than the read TTL.
    pub retrieves_abandoned: u64,
    /// Lookup leases that ran out before they were used.
    pub leases_expired: u64,
    /// Workers dropped because they had gone silent.
    pub workers_reaped: u64,
    /// Sessions that ended by their time limit.
    pub sessions_expired: u64,
    /// Lookups and loads that went on to L2, and what left for it.
    pub l2: L2Counters,
}

/// Counts of everything between L1 and L2, over all adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L2Counters {
    /// Lookups and warm-ups that L1 alone could not answer.
    pub jobs: u64,
    /// Those that ended before their answer, because nobody wanted it any more.
    pub jobs_cancelled: u64,
    /// Those that were answered at their deadline, with what was there.
    pub jobs_overdue: u64,
    /// Leading chunks that L2 added to hits.
    pub hit_chunks: u64,
    /// Objects of hits that were loaded.
    pub hit_objects: u64,
    /// Loads that were shared with one that was under way.
    pub loads_shared: u64,
    /// Found in L2, but L1 had no room.
    pub no_room_objects: u64,
    /// Found in L2, but somebody else was writing the object to L1.
    pub contended_objects: u64,
    /// Found in L2, but the load failed.
    pub missing_objects: u64,
    /// Found in L2, but not there at the deadline.
    pub late_objects: u64,
    /// Objects that were to go with their readers and were kept after all.
    pub promoted_objects: u64,
    /// Objects that left L1 because L2 has them (`skip_l1`).
    pub left_l1_objects: u64,
    /// Objects whose way to L2 was put off until they leave L1.
    pub deferred_objects: u64,
    /// Answers of policies that broke their rules: panics, wrong lengths, unknown adapters.
    pub policy_faults: u64,
}

/// Counts of one adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterCounters {
    /// Questions what it has.
    pub lookups: u64,
    /// Objects asked for.
    pub lookup_objects: u64,
    /// Batches handed out to be loaded.
    pub load_requests: u64,
    /// Objects in them.
    pub load_objects: u64,
    /// Objects loaded.
    pub loaded_objects: u64,
    /// Their exact bytes.
    pub loaded_bytes: u64,
    /// Objects whose load failed or was never answered.
    pub load_failed_objects: u64,
    /// Batches handed out to be stored.
    pub store_requests: u64,
    /// Objects in them.
    pub store_objects: u64,
    /// Objects stored.
    pub stored_objects: u64,
    /// Objects tried again.
    pub store_retried_objects: u64,
    /// Objects given up after the last attempt.
    pub store_failed_objects: u64,
    /// Objects dropped because the queue was full.
    pub store_dropped_objects: u64,
    /// Objects that had left L1 before their turn.
    pub store_gone_objects: u64,
}
