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
    /// Objects removed by a clear.
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
}
