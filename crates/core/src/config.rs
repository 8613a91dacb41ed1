//! Configuration of the core.

use std::time::Duration;

use larder_policy::eviction::EvictionKind;
use larder_policy::{AdapterDesc, OffloadKind, PrefetchKind};

/// Sizes, limits and times. Callers validate them.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Size of the arena in bytes.
    pub capacity_bytes: u64,
    /// Alignment of objects in the arena in bytes, a power of two.
    pub align_bytes: u64,
    /// Which chunk is evicted when space is needed.
    pub eviction: EvictionKind,
    /// Background trimming; `None`: eviction on demand only.
    pub trim: Option<Trim>,
    /// How long the pins of a lookup wait for their readers, and how long a retrieve may take.
    pub read_ttl: Duration,
    /// How long a store may take.
    pub write_ttl: Duration,
    /// Maximal age of a session.
    pub session_ttl: Duration,
    /// Maximal number of sessions; one more ends the oldest.
    pub sessions_max: usize,
    /// What all sessions may take in bytes; more end the oldest ones.
    pub sessions_bytes_max: usize,
    /// Part of L1 that one client may keep from eviction, from 0 to 1. With 1 there is no limit.
    pub client_share: f64,
    /// Maximal number of registered workers; further ones are refused.
    pub workers_max: usize,
    /// Maximal number of workers that one connection may have registered.
    pub workers_per_connection_max: usize,
    /// Groups of layers of all workers, those besides the first group of each.
    pub worker_groups_max: usize,
    /// Bytes that the names of the workers' models may have in all.
    pub worker_name_bytes_max: usize,
    /// Maximal number of peer leases; one more ends the oldest. One client may have a quarter of them.
    pub peer_leases_max: usize,
    /// Maximal number of keys in all peer leases, or of one lookup, if that has more; more end the oldest leases. One
    /// client may have half of them.
    pub peer_keys_max: usize,
    /// A worker that has pinged and is then silent for this long is dropped. `None`: never.
    pub worker_reap_timeout: Option<Duration>,
    /// The same for a worker that never pinged.
    pub worker_registration_grace: Duration,
    /// A worker whose last connection is closed for this long is dropped. `None`: only for its silence.
    pub worker_disconnect_grace: Option<Duration>,
    /// How long memory is not reused that a worker may still write to after its store has expired, unless the worker
    /// ends the store, or its process is known to be gone.
    pub quarantine: Duration,
    /// The adapters of L2, in the order in which they are preferred for loads.
    pub adapters: Vec<AdapterDesc>,
    /// Where loads come from, and whether they are retained in L1.
    pub prefetch_policy: PrefetchKind,
    /// What is stored to which adapter.
    pub store_policy: OffloadKind,
    /// A lookup is answered within this time, with what is there by then.
    pub load_deadline: Duration,
    /// Lookups that may use L2 at once; further ones wait without holding anything.
    pub prefetch_jobs_max: usize,
    /// Bytes that may be loaded from one adapter at once; or one object, if that is larger.
    pub prefetch_bytes_max: u64,
    /// Batches that may be stored to one adapter at once.
    pub write_back_tasks_max: usize,
    /// Objects in one batch. With [`write_back_tasks_max`](Self::write_back_tasks_max) it bounds the objects under
    /// I/O per adapter.
    pub write_back_objects_max: usize,
    /// Bytes that may be stored to one adapter at once; or one object, if that is larger.
    pub write_back_bytes_max: u64,
    /// Keys that may be queued for one adapter; of more, the oldest are dropped.
    pub write_back_queue_max: usize,
    /// How often a failed store is retried.
    pub write_back_retries: u32,
    /// Part of all chunks that [residency statistics](crate::stats::residency) sample, from 0 to 1.
    pub residency_sample: f64,
}

/// Background trimming, as LMCache's watermark flags define it: when a store leaves more than `above` of the
/// capacity used, chunks are evicted until `release` of the capacity is freed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trim {
    /// Fraction of the capacity above which to trim.
    pub above: f64,
    /// Fraction of the capacity to free.
    pub release: f64,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 0,
            align_bytes: 4096,
            eviction: EvictionKind::Lru,
            trim: None,
            read_ttl: Duration::from_secs(300),
            write_ttl: Duration::from_secs(600),
            session_ttl: Duration::from_secs(600),
            sessions_max: 1 << 16,
            sessions_bytes_max: 128 << 20,
            client_share: 1.0,
            workers_max: 1 << 12,
            workers_per_connection_max: 1 << 8,
            worker_groups_max: 1 << 14,
            worker_name_bytes_max: 256 << 10,
            peer_leases_max: 1 << 12,
            peer_keys_max: 1 << 18,
            worker_reap_timeout: Some(Duration::from_secs(120)),
            worker_registration_grace: Duration::from_secs(3600),
            worker_disconnect_grace: Some(Duration::from_secs(30)),
            quarantine: Duration::from_secs(3600),
            adapters: Vec::new(),
            prefetch_policy: PrefetchKind::default(),
            store_policy: OffloadKind::default(),
            load_deadline: Duration::from_secs(30),
            prefetch_jobs_max: 8,
            prefetch_bytes_max: 4 << 30,
            write_back_tasks_max: 4,
            write_back_objects_max: 64,
            write_back_bytes_max: 1 << 30,
            write_back_queue_max: 1 << 16,
            write_back_retries: 2,
            residency_sample: 0.0,
        }
    }
}
