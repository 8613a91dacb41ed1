//! How much an adapter may hold and what it evicts to stay within that.

use std::sync::Arc;

/// Limits of one adapter. Space is freed on demand: before an object is written, the least recently used
/// objects are evicted until it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityLimits {
    /// Maximum bytes in total; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// Whether objects are evicted for new ones; otherwise an object that does not fit is refused.
    pub evicts: bool,
    /// Also evict in advance, between these watermarks.
    pub trim: Option<Watermarks>,
    /// Each cache salt has a limit of its own and evicts its own objects to stay within it.
    pub quotas: Option<TenantLimits>,
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

impl Default for CapacityLimits {
    fn default() -> Self {
        Self { capacity_bytes: None, evicts: true, trim: None, quotas: None }
    }
}

impl CapacityLimits {
    /// At most this many bytes; 0: no limit.
    pub fn capacity(bytes: u64) -> Self {
        Self { capacity_bytes: Some(bytes).filter(|bytes| *bytes > 0), ..Self::default() }
    }

    /// Whether anything is limited.
    pub const fn limits_anything(&self) -> bool {
        self.capacity_bytes.is_some() || self.quotas.is_some()
    }
}
