//! What the operator meant: the server's configuration, validated, with every default filled in.
//!
//! The command line turns what was *typed* (flags, environment, file) into these types and hands over
//! nothing else. Whoever holds a [`Config`] need not check it again. Each field carries its unit in its
//! name or in its type: sizes are bytes, times are [`Duration`]s.
//!
//! - [`l1`]: the arena, its leases and its eviction.
//! - [`l2`]: the adapters of the second tier, parsed from their JSON.
//! - [`frontend`]: everything an operator's tools see: HTTP, metrics, logs, the coordinator.
//! - [`otlp`]: where metrics and traces are pushed to.
//! - [`secret`]: values that must never be printed.
//! - [`suggest`]: guesses what a misspelt name was meant to be.
//!
//! `GET /config` shows the whole of it: [`Config::to_reference_json`].

pub mod frontend;
pub mod l1;
pub mod l2;
pub mod otlp;
mod reference;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use frontend::{
    CoordinatorConfig, HttpConfig, LogFormat, LogLevel, LoggingConfig, LookupHashLogConfig, MetricsConfig,
};
pub use l1::{EvictionConfig, EvictionPolicy, L1Config};
pub use l2::{L2AdapterConfig, L2Config, OffloadPolicy, PrefetchPolicy};
pub use larder_l2::spec::secret::{self, Secret};
pub use larder_l2::spec::{GIB, SIZE_GIB_MAX, SpecError, bytes_from_gib, suggest};
pub use otlp::OtlpConfig;

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// The whole configuration of one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who this server is, to a coordinator and in the metrics. A random UUID unless given.
    pub instance_id: String,
    /// Where and how requests arrive.
    pub rpc: RpcConfig,
    /// Tokens per chunk, the unit of hashing. At least 1.
    pub chunk_tokens: u32,
    /// The engine's block id that stands for "no KV data here".
    pub null_block_id: i64,
    /// How tokens become chunk hashes.
    pub hash_algorithm: HashAlgorithm,
    /// Whether each sliding-window size gets an object group of its own (hybrid models).
    pub separate_object_groups: bool,
    /// The first tier: host memory.
    pub l1: L1Config,
    /// What leaves L1 when room is needed.
    pub eviction: EvictionConfig,
    /// What a cache salt without a quota of its own may hold in each tier that enforces quotas; `None`:
    /// no limit.
    pub quota_default_bytes: Option<u64>,
    /// The second tier.
    pub l2: L2Config,
    /// When silent workers and idle sessions are given up.
    pub liveness: LivenessConfig,
    /// Store and eviction records kept for KV-event subscribers; 0 turns the channel off.
    pub kv_event_log_records: usize,
    /// The admin API.
    pub http: HttpConfig,
    /// What is counted, and where it can be scraped.
    pub metrics: MetricsConfig,
    /// Where metrics and traces are pushed to, besides; `None`: nowhere.
    pub otlp: Option<OtlpConfig>,
    /// What is logged, and how.
    pub logging: LoggingConfig,
    /// One JSON line for each lookup, written to files; `None` when off.
    pub lookup_hash_log: Option<LookupHashLogConfig>,
    /// Where what has to outlast the server is kept; `None`: nothing is.
    pub state_dir: Option<PathBuf>,
    /// Where what is asked is recorded, for `larder simulate`; `None` when it is not.
    pub record: Option<PathBuf>,
    /// Whether other sizes and policies are tried on a sample of what is asked (`GET /cache/whatif`).
    pub whatif: bool,
    /// The fleet coordinator this server reports to.
    pub coordinator: CoordinatorConfig,
    /// How long a shutdown may take to finish what was accepted.
    pub shutdown_timeout: Duration,
    /// The server ends once nobody has been connected for this long; `None`: it stays.
    pub exit_when_idle: Option<Duration>,
}

impl Config {
    /// The tiers in which quotas of cache salts have an effect: `l1`, and `l2` if some adapter enforces them.
    pub fn quota_tiers(&self) -> Vec<&'static str> {
        let in_l1 = self.eviction.policy == EvictionPolicy::IsolatedLru;
        let in_l2 = self.l2.adapters.iter().any(L2AdapterConfig::enforces_quotas);
        [("l1", in_l1), ("l2", in_l2)]
            .into_iter()
            .filter(|(_, enforces)| *enforces)
            .map(|(tier, _)| tier)
            .collect()
    }
}

impl Default for Config {
    /// What the bare command means, except for [`L1Config::bytes`]: the command line sizes L1 to the machine.
    fn default() -> Self {
        Self {
            instance_id: random_instance_id(),
            rpc: RpcConfig::default(),
            chunk_tokens: 256,
            null_block_id: 0,
            hash_algorithm: HashAlgorithm::Blake3,
            separate_object_groups: false,
            l1: L1Config::default(),
            eviction: EvictionConfig::default(),
            quota_default_bytes: None,
            l2: L2Config::default(),
            liveness: LivenessConfig::default(),
            kv_event_log_records: 32_768,
            http: HttpConfig::default(),
            metrics: MetricsConfig::default(),
            otlp: None,
            logging: LoggingConfig::default(),
            lookup_hash_log: None,
            state_dir: None,
            record: None,
            whatif: true,
            coordinator: CoordinatorConfig::default(),
            shutdown_timeout: Duration::from_secs(10),
            exit_when_idle: None,
        }
    }
}

/// Where requests arrive, who serves them, and which ways of moving bytes they may use.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcConfig {
    /// Host name or address of the main request endpoint.
    pub host: String,
    /// TCP port of the main request endpoint.
    pub port: u16,
    /// Further endpoints, `tcp://host:port` or `ipc:///path`.
    pub listen: Vec<String>,
    /// Threads that serve requests.
    pub worker_threads: WorkerThreads,
    /// Which side of the connection may move the bytes.
    pub transfer_mode: TransferMode,
}

impl RpcConfig {
    /// Every endpoint to bind, the main one first.
    pub fn endpoints(&self) -> impl Iterator<Item = String> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        std::iter::once(format!("tcp://{host}:{}", self.port)).chain(self.listen.iter().cloned())
    }
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 5555,
            listen: Vec::new(),
            worker_threads: WorkerThreads::default(),
            transfer_mode: TransferMode::Auto,
        }
    }
}

/// Sizes of the thread pools. Each is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerThreads {
    /// Threads unless a pool says otherwise.
    pub base: usize,
    /// Threads that copy between a device and the arena.
    pub gpu: usize,
    /// Threads for everything else.
    pub cpu: usize,
}

impl WorkerThreads {
    /// The same number of threads in each pool.
    pub const fn all(threads: usize) -> Self {
        Self { base: threads, gpu: threads, cpu: threads }
    }
}

impl Default for WorkerThreads {
    /// One thread for each core this process may use.
    fn default() -> Self {
        Self::all(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

/// Declares a choice of named values: the names as the flag, the file and `GET /config` spell them.
macro_rules! named_choice {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// Every value, in the order in which they are offered.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value's name, as it is typed.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The value of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
use named_choice;

named_choice! {
    /// Who moves the bytes between the engine's blocks and the arena.
    TransferMode {
        /// The server copies, reaching into the engine's memory.
        LmcacheDriven = "lmcache_driven",
        /// The engine copies, reaching into the arena.
        EngineDriven = "engine_driven",
        /// Both, as each worker asks.
        Auto = "auto",
    }
}

impl TransferMode {
    /// Whether workers may copy by themselves.
    pub const fn serves_engine_driven(self) -> bool {
        matches!(self, Self::EngineDriven | Self::Auto)
    }

    /// Whether workers may ask the server to copy.
    pub const fn serves_lmcache_driven(self) -> bool {
        matches!(self, Self::LmcacheDriven | Self::Auto)
    }
}

named_choice! {
    /// How the tokens of a chunk, and all before it, become its hash.
    HashAlgorithm {
        /// BLAKE3, 32 bytes.
        Blake3 = "blake3",
        /// SHA-256 over the CBOR encoding, 32 bytes.
        Sha256Cbor = "sha256_cbor",
    }
}

/// When silence means that somebody is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// A worker that has pinged before and stays silent this long loses its registration; `None` never.
    pub worker_reap_timeout: Option<Duration>,
    /// A worker that registered and never pinged loses its registration after this long.
    pub worker_registration_grace: Duration,
    /// A request session nobody used for this long is ended.
    pub session_ttl: Duration,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            worker_reap_timeout: Some(Duration::from_secs(120)),
            worker_registration_grace: Duration::from_secs(3600),
            session_ttl: Duration::from_secs(600),
        }
    }
}

/// A random version-4 UUID, as text.
///
/// It tells servers apart and guards nothing, so the standard library's per-process hash keys are random enough.
pub fn random_instance_id() -> String {
    let word = || RandomState::new().hash_one(std::process::id());
    let bits = (u128::from(word()) << 64) | u128::from(word());
    let bits = (bits & !(0xf << 76)) | (0x4 << 76); // version 4
    let bits = (bits & !(0x3 << 62)) | (0x2 << 62); // variant 1
    Uuid(bits).to_string()
}

/// 128 bits, printed in the five groups of a UUID.
struct Uuid(u128);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        f.write_str(&groups.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_ids_are_version_4_uuids_and_differ() {
        let (one, other) = (random_instance_id(), random_instance_id());
        assert_ne!(one, other);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4', "{one}");
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }

    #[test]
    fn the_main_endpoint_comes_first_and_ipv6_hosts_get_brackets() {
        let rpc = RpcConfig {
            host: "::1".to_owned(),
            listen: vec!["ipc:///tmp/x.sock".to_owned()],
            ..RpcConfig::default()
        };
        assert_eq!(rpc.endpoints().collect::<Vec<_>>(), ["tcp://[::1]:5555", "ipc:///tmp/x.sock"]);
    }

    #[test]
    fn names_of_choices_read_back() {
        for mode in TransferMode::ALL {
            assert_eq!(TransferMode::from_name(mode.name()), Some(*mode));
        }
        assert_eq!(EvictionPolicy::from_name("IsolatedLRU"), Some(EvictionPolicy::IsolatedLru));
        assert_eq!(HashAlgorithm::from_name("builtin"), None);
    }
}
