//! How much an adapter may hold and what it evicts to stay within that.

mod tracker;

use std::sync::Arc;

use larder_policy::eviction::{EvictionConfig, EvictionKind};

pub(crate) use self::tracker::{CapacityTracker, Reserve};

/// Limits of one adapter. Space is freed on demand: before an object is written, others are evicted until
/// it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityLimits {
    /// Maximum bytes in total; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// What is evicted first. With `noop` an object that does not fit is refused. With `IsolatedLRU` each cache
    /// salt has a limit of its own and evicts its own objects to stay within it.
    pub policy: EvictionKind,
    /// Also evict in advance, between these watermarks.
    pub trim: Option<Watermarks>,
    /// The limits of cache salts under `IsolatedLRU`.
    pub tenants: TenantLimits,
}

/// Watermarks of eviction in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Eviction starts once more than this is used,
    pub high_bytes: u64,
    /// and continues until no more than this is used.
    pub low_bytes: u64,
}

/// Limits of cache salts at start. [`Adapter::set_quota`](crate::Adapter::set_quota) changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Maximum bytes of a salt without a limit of its own; `None`: no limit.
    pub default_limit_bytes: Option<u64>,
    /// Limits of single salts, in bytes. Known from the start, so that nothing is evicted because of a limit
    /// that was not set yet.
    pub limits: Vec<(Arc<str>, u64)>,
}

impl CapacityLimits {
    /// At most this many bytes; 0: no limit. Evicts the least recently used objects.
    pub fn capacity(bytes: u64) -> Self {
        Self {
            capacity_bytes: Some(bytes).filter(|bytes| *bytes > 0),
            policy: EvictionKind::Lru,
            trim: None,
            tenants: TenantLimits::default(),
        }
    }

    /// The limits that an `eviction` block means. A capacity holds with or without one.
    pub fn new(capacity_bytes: u64, eviction: Option<&EvictionConfig>, tenants: &TenantLimits) -> Self {
        let limits = Self::capacity(capacity_bytes);
        let Some(eviction) = eviction else { return limits };
        let EvictionConfig { policy, trigger_watermark: above, ratio, background_trim } = *eviction;
        let policy = match policy {
            EvictionKind::Noop | EvictionKind::IsolatedLru => policy,
            // ARC and the others need to know which uses are of a new request, which adapters do not know.
            EvictionKind::Lru | EvictionKind::Arc | EvictionKind::S3Fifo | EvictionKind::Adaptive => {
                EvictionKind::Lru
            }
        };
        let fraction = |fraction: f64| (capacity_bytes as f64 * fraction.max(0.0)) as u64;
        let watermarks = Watermarks { high_bytes: fraction(above), low_bytes: fraction(above - ratio) };
        let trims = background_trim && policy != EvictionKind::Noop && capacity_bytes > 0;
        Self { policy, trim: trims.then_some(watermarks), tenants: tenants.clone(), ..limits }
    }

    /// Whether anything is limited.
    pub fn is_bounded(&self) -> bool {
        self.capacity_bytes.is_some() || self.policy == EvictionKind::IsolatedLru
    }
}
