//! How much an adapter may hold and what it evicts to stay within that.

mod tracker;

use std::sync::Arc;

use larder_policy::eviction::{EvictionConfig, EvictionKind};

pub(crate) use self::tracker::{CapacityTracker, Reserve};

/// Limits of one adapter. Space is freed on demand: before an object is written, others are evicted until
/// it fits.
#[derive(Clone, Debug, PartialEq)]
pub struct CapacityLimits {
    /// Maximum bytes in total; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// What is evicted first. With `noop` an object that does not fit is refused. With `IsolatedLRU` each cache
    /// salt has a limit of its own and evicts its own objects to stay within it.
    pub policy: EvictionKind,
    /// Also evict in advance.
    pub trim: Option<Trim>,
    /// The limits of cache salts under `IsolatedLRU`.
    pub tenants: TenantLimits,
    /// Other servers write to the backend too: only what this process stored is counted and evicted.
    pub own_objects_only: bool,
}

/// Eviction in advance, as LMCache does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trim {
    /// It starts once this fraction of the capacity is used; with quotas, of a cache salt's limit.
    pub trigger: f64,
    /// This fraction of the objects is evicted, the oldest ones.
    pub ratio: f64,
}

impl Trim {
    /// How many of `objects` are evicted: the fraction rounded down, but at least one, and not all unless the fraction
    /// is 1.
    fn evicted(self, objects: u64) -> u64 {
        let fraction = (objects as f64 * self.ratio) as u64;
        let kept = u64::from(self.ratio < 1.0);
        fraction.max(1).min(objects.saturating_sub(kept))
    }
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
            own_objects_only: false,
        }
    }

    /// The limits that an `eviction` block means. A capacity holds with or without one.
    pub fn new(capacity_bytes: u64, eviction: Option<&EvictionConfig>, tenants: &TenantLimits) -> Self {
        let limits = Self::capacity(capacity_bytes);
        let Some(eviction) = eviction else { return limits };
        let EvictionConfig { policy, trigger_watermark: trigger, ratio, background_trim } = *eviction;
        let policy = match policy {
            EvictionKind::Noop | EvictionKind::IsolatedLru => policy,
            // ARC and the others need to know which uses are of a new request, which adapters do not know.
            EvictionKind::Lru | EvictionKind::Arc | EvictionKind::S3Fifo | EvictionKind::Adaptive => {
                EvictionKind::Lru
            }
        };
        let limits_something = capacity_bytes > 0 || policy == EvictionKind::IsolatedLru;
        let trims = background_trim && policy != EvictionKind::Noop && limits_something;
        let trim = trims.then_some(Trim { trigger, ratio });
        Self { policy, trim, tenants: tenants.clone(), ..limits }
    }

    /// Whether anything is limited.
    pub fn is_bounded(&self) -> bool {
        self.capacity_bytes.is_some() || self.policy == EvictionKind::IsolatedLru
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_the_fraction_of_objects_but_never_all_by_rounding() {
        let evicted = |ratio, objects| Trim { trigger: 0.9, ratio }.evicted(objects);
        assert_eq!((evicted(0.5, 12), evicted(0.5, 7), evicted(0.2, 4)), (6, 3, 1));
        assert_eq!((evicted(0.5, 2), evicted(0.99, 2), evicted(0.5, 1), evicted(0.5, 0)), (1, 1, 0, 0));
        assert_eq!(evicted(1.0, 5), 5);
    }
}
