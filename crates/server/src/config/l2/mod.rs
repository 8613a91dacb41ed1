//! The second tier: its adapters and the policies between the tiers.

mod parse;

use std::path::PathBuf;
use std::time::Duration;

use super::l1::DEFAULT_TAG;
use super::{EvictionConfig, EvictionPolicy};

/// What goes to L2, and whether it stays in L1.
pub use larder_policy::OffloadKind as OffloadPolicy;
/// What happens in L1 to what was fetched from L2.
pub use larder_policy::PrefetchKind as PrefetchPolicy;
pub use parse::parse_adapter;

/// Everything below L1.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Config {
    /// The adapters, in the order in which they were given; the position is the adapter's index.
    pub adapters: Vec<L2AdapterConfig>,
    /// What goes to L2, and whether it stays in L1.
    pub store_policy: OffloadPolicy,
    /// What happens in L1 to what was fetched from L2.
    pub prefetch_policy: PrefetchPolicy,
    /// Lookups that may be loading from L2 at one time. At least 1.
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

/// One adapter: the backend, and what is common to all.
#[derive(Clone, Debug, PartialEq)]
pub struct L2AdapterConfig {
    /// The L1 pool this adapter stores from and loads into.
    pub affinity_tag: String,
    /// Whether the whole fleet sees this backend.
    pub shared: bool,
    /// What leaves the backend when it is full; `None`: whoever was not used for longest.
    pub eviction: Option<EvictionConfig>,
    /// Whether data is to be kept at shutdown and found again at start. Files are, whatever it says.
    pub persist: bool,
    /// Whether a checksum of each object is kept beside the data, and checked when it is loaded.
    pub checksum: bool,
    /// The backend.
    pub backend: L2Backend,
}

impl L2AdapterConfig {
    /// Whether a cache salt can have a quota here.
    pub fn enforces_quotas(&self) -> bool {
        match &self.backend {
            L2Backend::Fs(_) | L2Backend::FsNative(_) => {
                self.eviction.is_some_and(|eviction| eviction.policy == EvictionPolicy::IsolatedLru)
            }
            L2Backend::Mock(_) => false,
            L2Backend::FaultInject(faulty) => faulty.inner.enforces_quotas(),
        }
    }

    /// What was asked for and is not done, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.backend {
            L2Backend::Fs(fs) | L2Backend::FsNative(FsNativeConfig { fs, .. }) => {
                if !self.persist {
                    lines.push(
                        "persist_enabled false is set aside: files stay, as LMCache leaves them".into(),
                    );
                }
                if let Some(eviction) = &self.eviction {
                    lines.extend(fs.eviction_warnings(eviction.policy));
                }
            }
            L2Backend::Mock(_) if self.eviction.is_some() => {
                lines.push("eviction is set aside: a 'mock' makes room at max_size_gb as LRU does".into());
            }
            L2Backend::Mock(_) => {}
            L2Backend::FaultInject(faulty) => {
                if self.eviction.is_some() || !self.persist {
                    lines
                        .push("eviction and persist_enabled are set aside here: they go into 'inner'".into());
                }
                lines.extend(faulty.inner.warnings().into_iter().map(|line| format!("inner: {line}")));
            }
        }
        lines
    }
}

impl FsConfig {
    fn eviction_warnings(&self, policy: EvictionPolicy) -> Vec<String> {
        let mut lines = Vec::new();
        let by_salt = policy == EvictionPolicy::IsolatedLru;
        if self.max_capacity_bytes == 0 && !by_salt {
            lines.push("eviction limits nothing without max_capacity_gb".into());
        }
        if matches!(policy, EvictionPolicy::Arc | EvictionPolicy::S3Fifo | EvictionPolicy::Adaptive) {
            lines.push(format!("eviction_policy {policy} is for L1; objects in files leave as with LRU"));
        }
        lines
    }
}

/// A backend and its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum L2Backend {
    /// One file for each object.
    Fs(FsConfig),
    /// The same files, with a worker pool, and padded where the page cache is bypassed.
    FsNative(FsNativeConfig),
    /// Memory with a simulated bandwidth, for tests.
    Mock(MockConfig),
    /// Another adapter whose loads fail on purpose, for tests.
    FaultInject(FaultInjectConfig),
}

impl L2Backend {
    /// The `type` by which the adapter's JSON names this backend.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Fs(_) => "fs",
            Self::FsNative(_) => "fs_native",
            Self::Mock(_) => "mock",
            Self::FaultInject(_) => "fault_inject",
        }
    }

    /// Where its files are; `None` if it has none.
    pub fn files(&self) -> Option<&FsConfig> {
        match self {
            Self::Fs(fs) => Some(fs),
            Self::FsNative(native) => Some(&native.fs),
            Self::Mock(_) => None,
            Self::FaultInject(fault) => fault.inner.backend.files(),
        }
    }
}

/// One file for each object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The directory of the files. Created when missing.
    pub base_path: PathBuf,
    /// Where unfinished files live, relative to [`FsConfig::base_path`]; `None`: beside the finished ones.
    pub relative_tmp_dir: Option<PathBuf>,
    /// Size of a first small read, before the rest is read; `None`: one read for all.
    pub read_ahead_bytes: Option<u64>,
    /// Whether to bypass the page cache where sizes allow it.
    pub use_odirect: bool,
    /// Bytes the directory may hold; 0: no limit.
    pub max_capacity_bytes: u64,
}

/// Files, with a worker pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsNativeConfig {
    /// The files.
    pub fs: FsConfig,
    /// Concurrent file operations. At least 1.
    pub num_workers: usize,
}

/// Memory with a simulated bandwidth.
#[derive(Clone, Debug, PartialEq)]
pub struct MockConfig {
    /// Bytes it may hold. More than 0.
    pub max_size_bytes: u64,
    /// Bytes it moves in a second. More than 0.
    pub bandwidth_bytes_per_second: u64,
}

/// Another adapter whose loads fail on purpose, as the reference's do, or that misbehaves in more ways.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultInjectConfig {
    /// The adapter that does the work.
    pub inner: Box<L2AdapterConfig>,
    /// What goes wrong next to the backend, below the checksums.
    pub beneath: BackendFaults,
    /// Share of keys whose loads fail, in [0, 1].
    pub rate: f64,
    /// Chooses which keys these are.
    pub seed: i64,
    /// Positions in a load that always fail.
    pub gap_indices: Vec<usize>,
    /// For each ratio `r` the position `round((1 - r) x (n - 1))` of a load of `n` fails, in [0, 1].
    pub gap_tail_ratios: Vec<f64>,
}

/// What a backend does wrong on purpose. Rates are shares of operations on one key, in [0, 1].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendFaults {
    /// Any operation fails at once.
    pub error_rate: f64,
    /// Any operation answers nothing for [`BackendFaults::hang`], then fails.
    pub hang_rate: f64,
    /// How long a hang lasts.
    pub hang: Duration,
    /// A load finds fewer bytes than there should be.
    pub short_read_rate: f64,
    /// A load succeeds with one wrong bit.
    pub bit_flip_rate: f64,
    /// A store succeeds, and only half of the bytes are there.
    pub torn_write_rate: f64,
}
