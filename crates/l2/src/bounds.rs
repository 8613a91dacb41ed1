//! How much an adapter may hold, and what leaves it.

use std::sync::Arc;

/// Limits of one adapter. Room is made on demand: before an object is written, as many leave as it
/// needs, those that nobody used for longest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most bytes in all; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// Whether objects leave for new ones; otherwise what does not fit is refused.
    pub evicts: bool,
    /// Besides that, free some in advance.
    pub trim: Option<Marks>,
    /// Each cache salt keeps to a limit of its own, and makes room among its own objects.
    pub quotas: Option<SaltLimits>,
}

/// A high and a low mark, as the reference's watermark and ratio mean them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Once more than this is used,
    pub above_bytes: u64,
    /// objects leave until no more than this is.
    pub down_to_bytes: u64,
}

/// Limits of cache salts. They are changed with [`Adapter::limit_salt`](crate::Adapter::limit_salt).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaltLimits {
    /// What a salt without a limit of its own may hold; `None`: no limit.
    pub default_limit_bytes: Option<u64>,
    /// Salts with a limit of their own, in bytes, from the start: nothing leaves because its limit has
    /// not been heard of yet.
    pub limits: Vec<(Arc<str>, u64)>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { capacity_bytes: None, evicts: true, trim: None, quotas: None }
    }
}

impl Bounds {
    /// At most so many bytes; 0: no limit.
    pub fn capacity(bytes: u64) -> Self {
        Self { capacity_bytes: Some(bytes).filter(|bytes| *bytes > 0), ..Self::default() }
    }

    /// Whether anything is limited.
    pub const fn limits_anything(&self) -> bool {
        self.capacity_bytes.is_some() || self.quotas.is_some()
    }
}
