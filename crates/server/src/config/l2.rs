//! The second tier: its adapters and the policies between the tiers.

/// One adapter: the backend, and the settings common to all backends.
pub use larder_l2::config::AdapterConfig as L2AdapterConfig;
pub use larder_l2::config::parse_adapter;
/// What goes to L2, and whether it stays in L1.
pub use larder_policy::OffloadKind as OffloadPolicy;
/// What happens in L1 to what was fetched from L2.
pub use larder_policy::PrefetchKind as PrefetchPolicy;

/// Everything below L1.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Config {
    /// The adapters in the order given; the position is the adapter's index.
    pub adapters: Vec<L2AdapterConfig>,
    /// What goes to L2, and whether it stays in L1.
    pub store_policy: OffloadPolicy,
    /// What happens in L1 to what was fetched from L2.
    pub prefetch_policy: PrefetchPolicy,
    /// Maximum number of lookups that load from L2 at the same time. At least 1.
    pub prefetch_jobs_max: usize,
}

impl Default for L2Config {
    fn default() -> Self {
        Self {
            adapters: Vec::new(),
            store_policy: OffloadPolicy::Default,
            prefetch_policy: PrefetchPolicy::Default,
            prefetch_jobs_max: 8,
        }
    }
}
