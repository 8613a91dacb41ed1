//! What the core holds at a moment, for metrics and status.

use larder_types::Time;

use crate::index::Usage;

/// What is held now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// The memory tier.
    pub l1: Usage,
    /// Registered workers.
    pub workers: u64,
    /// Open request sessions.
    pub sessions: u64,
    /// What they take in bytes, about.
    pub session_bytes: u64,
    /// Sessions with pins of a lookup.
    pub lookup_leases: u64,
    /// Stores prepared and not committed.
    pub stores: u64,
    /// Retrieves prepared and not committed.
    pub retrieves: u64,
    /// Leases of peers.
    pub peer_leases: u64,
    /// Keys in them, found or not.
    pub peer_keys: u64,
    /// Unlinked or pinned objects that a vanished or stalled worker may still be accessing.
    pub quarantined_objects: u64,
    /// Bytes that one may still be writing to.
    pub quarantined_bytes: u64,
    /// Lookups and prefetch requests that use L2.
    pub prefetch_jobs: u64,
    /// Those that wait for their turn.
    pub prefetch_waiting: u64,
    /// Keys that are to be stored to L2 and are not yet.
    pub write_back_pending: u64,
    /// Since when the oldest pins of lookups, retrieves and peers are held.
    pub oldest_read_pin: Option<Time>,
    /// Since when the oldest slots that workers write are reserved.
    pub oldest_write_reservation: Option<Time>,
}

/// What one adapter does and has to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterGauges {
    /// Objects that it loads, or may still be writing.
    pub loading_objects: u64,
    /// Their bytes.
    pub loading_bytes: u64,
    /// Batches that it stores.
    pub storing_tasks: u64,
    /// Objects that it stores, or may still be reading.
    pub storing_objects: u64,
    /// Their bytes.
    pub storing_bytes: u64,
    /// Keys that wait for it.
    pub queued_keys: u64,
}
