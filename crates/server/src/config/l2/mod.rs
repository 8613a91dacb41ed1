//! The second tier: its adapters and the policies between the tiers.

mod parse;

use std::path::PathBuf;

use super::l1::DEFAULT_TAG;
use super::{EvictionConfig, named_choice};
pub use parse::parse_adapter;

/// Everything below L1.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Config {
    /// The adapters, in the order in which they were given; the position is the adapter's index.
    pub adapters: Vec<L2AdapterConfig>,
    /// What goes to L2, and whether it stays in L1.
    pub store_policy: StorePolicy,
    /// What happens in L1 to what was fetched from L2.
    pub prefetch_policy: PrefetchPolicy,
    /// Lookups that may be loading from L2 at one time. At least 1.
    pub prefetch_max_in_flight: usize,
}

impl Default for L2Config {
    fn default() -> Self {
        Self {
            adapters: Vec::new(),
            store_policy: StorePolicy::Default,
            prefetch_policy: PrefetchPolicy::Default,
            prefetch_max_in_flight: 8,
        }
    }
}

named_choice! {
    /// What goes to L2, and whether it stays in L1.
    StorePolicy {
        /// Everything goes to every adapter, and stays in L1.
        Default = "default",
        /// Everything goes to every adapter, and leaves L1 once it is there.
        SkipL1 = "skip_l1",
        /// Everything goes to every adapter at its second use, or at once if that would be too late.
        Gated = "gated",
    }
}

named_choice! {
    /// What happens in L1 to what was fetched from L2.
    PrefetchPolicy {
        /// It leaves L1 with its last reader.
        Default = "default",
        /// It stays in L1 until eviction takes it.
        Retain = "retain",
        /// Whichever of the two is better, or a choice for each chunk by what was learned.
        Adaptive = "adaptive",
    }
}

/// One adapter: the backend, and what is common to all.
#[derive(Clone, Debug, PartialEq)]
pub struct L2AdapterConfig {
    /// The L1 pool this adapter stores from and loads into.
    pub affinity_tag: String,
    /// Whether the whole fleet sees this backend.
    pub shared: bool,
    /// What leaves the backend when it is full; `None`: nothing does.
    pub eviction: Option<EvictionConfig>,
    /// Whether data is kept at shutdown and found again at start.
    pub persist: bool,
    /// How bytes are transformed on their way; `None`: they are not.
    pub serde: Option<SerdeConfig>,
    /// The backend.
    pub backend: L2Backend,
}

/// A backend and its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum L2Backend {
    /// One file for each object.
    Fs(FsConfig),
    /// The same files, with a worker pool and a capacity.
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
}

/// Files, with a worker pool and a capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsNativeConfig {
    /// The files.
    pub fs: FsConfig,
    /// Concurrent file operations. At least 1.
    pub num_workers: usize,
    /// Bytes the directory may hold; 0: no limit.
    pub max_capacity_bytes: u64,
}

/// Memory with a simulated bandwidth.
#[derive(Clone, Debug, PartialEq)]
pub struct MockConfig {
    /// Bytes it may hold. More than 0.
    pub max_size_bytes: u64,
    /// Bytes it moves in a second. More than 0.
    pub bandwidth_bytes_per_second: u64,
}

/// Another adapter whose loads fail on purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultInjectConfig {
    /// The adapter that does the work.
    pub inner: Box<L2AdapterConfig>,
    /// Share of keys whose loads fail, in [0, 1].
    pub rate: f64,
    /// Chooses which keys these are.
    pub seed: i64,
    /// Positions in a load that always fail.
    pub gap_indices: Vec<usize>,
    /// For each ratio `r` the position `round((1 - r) x (n - 1))` of a load of `n` fails, in [0, 1].
    pub gap_tail_ratios: Vec<f64>,
}

/// How bytes are transformed on their way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerdeConfig {
    /// Each element cast to one byte.
    Fp8 {
        /// The element type, such as `float8_e4m3fn`.
        dtype: String,
        /// Concurrent transformations. At least 1.
        max_workers: usize,
    },
    /// AES-GCM with a key derived for each cache salt.
    AesGcm {
        /// Length of the derived keys, 128 or 256.
        aes_bits: u16,
        /// The file that holds the master key, all of its bytes.
        master_key_path: PathBuf,
        /// Concurrent transformations. At least 1.
        max_workers: usize,
    },
}
