//! Eviction settings of one tier.

use super::EvictionKind;

/// Which policy evicts from a tier, when it starts and how much it evicts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvictionConfig {
    /// The order in which objects are evicted.
    pub policy: EvictionKind,
    /// Fraction of the capacity above which eviction in advance starts, in (0, 1].
    pub trigger_watermark: f64,
    /// Fraction of the capacity to free once it has started, in (0, 1].
    pub ratio: f64,
    /// Whether to evict at the watermark although there is space. Space is always freed on demand, so
    /// this is on only if the operator set one of the two fields above.
    pub background_trim: bool,
}

impl Default for EvictionConfig {
    fn default() -> Self {
        Self { policy: EvictionKind::Lru, trigger_watermark: 0.8, ratio: 0.2, background_trim: false }
    }
}
