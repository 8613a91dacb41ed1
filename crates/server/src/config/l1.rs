//! The first tier: the arena in host memory, its leases, and what leaves it under pressure.

use std::time::Duration;

use super::{GIB, named_choice};

/// The tag of the only pool, unless `--l1-manager` names it otherwise.
pub const DEFAULT_TAG: &str = "_default";

/// The arena and the life of the leases on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L1Config {
    /// The pool's name; an L2 adapter's affinity tag refers to it.
    pub tag: String,
    /// Size of the arena. At least [`L1Config::align_bytes`].
    pub bytes: u64,
    /// Alignment of every slot. A power of two.
    pub align_bytes: u64,
    /// Names the shared-memory file, see [`L1Config::shm_path`]. `None`: no shared memory, bytes travel through
    /// the request socket.
    pub shm_name: Option<String>,
    /// Whether to go on without shared memory where `/dev/shm` has no room, rather than refuse to start.
    pub shm_fallback: bool,
    /// Whether the arena takes 2 MiB pages from the kernel's reserve. Never together with shared memory.
    pub hugepages: bool,
    /// A read lease ends this long after it was taken.
    pub read_ttl: Duration,
    /// A write reservation ends this long after it was made.
    pub write_ttl: Duration,
}

impl L1Config {
    /// The shared-memory file workers open: they know the name only, so the rest is fixed by the protocol.
    pub fn shm_path(&self) -> Option<String> {
        self.shm_name.as_deref().map(shm_path)
    }
}

/// The file behind the shared-memory name `name`.
pub fn shm_path(name: &str) -> String {
    format!("/dev/shm/lmcache_l1_pool_{name}")
}

impl Default for L1Config {
    fn default() -> Self {
        Self {
            tag: DEFAULT_TAG.to_owned(),
            bytes: GIB,
            align_bytes: 4096,
            shm_name: Some(default_shm_name(5555)),
            shm_fallback: false,
            hugepages: false,
            read_ttl: Duration::from_secs(300),
            write_ttl: Duration::from_secs(600),
        }
    }
}

/// The shared-memory name of a server that was given none. It depends on the port alone, so a restarted server
/// finds and reclaims what its predecessor left behind.
pub fn default_shm_name(port: u16) -> String {
    format!("larder_{port}")
}

/// What leaves a tier, when, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvictionConfig {
    /// The order in which objects leave.
    pub policy: EvictionPolicy,
    /// Share of the capacity above which eviction starts, in (0, 1].
    pub trigger_watermark: f64,
    /// Share to release once it has started, in (0, 1].
    pub ratio: f64,
}

impl Default for EvictionConfig {
    fn default() -> Self {
        Self { policy: EvictionPolicy::Lru, trigger_watermark: 0.8, ratio: 0.2 }
    }
}

named_choice! {
    /// The order in which objects leave a tier.
    EvictionPolicy {
        /// Least recently used first.
        Lru = "LRU",
        /// Adaptive between recency and frequency.
        Arc = "ARC",
        /// Least recently used first, for each cache salt by itself and against its quota.
        IsolatedLru = "IsolatedLRU",
        /// Nothing leaves.
        Noop = "noop",
    }
}
