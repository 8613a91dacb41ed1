//! The server's configuration: validated, with every default filled in.
//!
//! The command line builds a [`Config`] from flags, environment and file; the server does not check it again. Sizes
//! are in bytes unless the name says otherwise, times are [`Duration`]s.
//!
//! - [`l1`]: the arena, its leases and its eviction.
//! - [`l2`]: the adapters of the second tier.
//! - [`frontend`]: HTTP, metrics, logs, the coordinator.
//! - [`otlp`]: the OpenTelemetry collector.
//! - [`secret`]: values that must never be printed.
//! - [`suggest`]: suggestions for misspelt names.
//!
//! `GET /config` shows the whole of it: [`Config::to_reference_json`].

pub mod frontend;
pub mod l1;
pub mod l2;
pub mod otlp;
mod reference;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use frontend::{
    CoordinatorConfig, HttpConfig, LogFormat, LogLevel, LoggingConfig, LookupHashLogConfig, MetricsConfig,
};
pub use l1::{EvictionConfig, EvictionPolicy, L1Config};
pub use l2::{L2AdapterConfig, L2Config, OffloadPolicy, PrefetchPolicy};
pub use larder_l2::spec::path;
pub use larder_l2::spec::secret::{self, Secret};
pub use larder_l2::spec::{GIB, SIZE_GIB_MAX, SpecError, bytes_from_gib, suggest};
pub use otlp::OtlpConfig;

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// The whole configuration of one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of this server for a coordinator and in metrics. A random UUID unless given.
    pub instance_id: String,
    /// Endpoints and threads for requests.
    pub rpc: RpcConfig,
    /// Tokens per chunk, the unit of hashing. At least 1.
    pub chunk_tokens: u32,
    /// The engine's block id that stands for absent KV data.
    pub null_block_id: i64,
    /// Hash function of chunks.
    pub hash_algorithm: HashAlgorithm,
    /// Whether each sliding-window size has its own object group (hybrid models).
    pub separate_object_groups: bool,
    /// The first tier: host memory.
    pub l1: L1Config,
    /// Eviction from L1.
    pub eviction: EvictionConfig,
    /// Limit for each cache salt without its own quota, in each tier that enforces quotas; `None`: no
    /// limit.
    pub quota_default_bytes: Option<u64>,
    /// The second tier.
    pub l2: L2Config,
    /// Timeouts of silent workers and idle sessions.
    pub liveness: LivenessConfig,
    /// Store and eviction records kept for KV-event subscribers; 0: no event streams.
    pub kv_event_log_records: usize,
    /// The admin API.
    pub http: HttpConfig,
    /// Metrics.
    pub metrics: MetricsConfig,
    /// The OpenTelemetry collector that metrics and traces are pushed to, if any.
    pub otlp: Option<OtlpConfig>,
    /// Logging.
    pub logging: LoggingConfig,
    /// Log files with the hashes of each lookup; `None`: off.
    pub lookup_hash_log: Option<LookupHashLogConfig>,
    /// Directory for state that survives a restart; `None`: none is kept.
    pub state_dir: Option<PathBuf>,
    /// File in which requests are recorded for `larder simulate`; `None`: off.
    pub record: Option<PathBuf>,
    /// Whether other L1 sizes and policies are evaluated on a sample of the requests (`GET /cache/whatif`).
    pub whatif: bool,
    /// The coordinator of the fleet.
    pub coordinator: CoordinatorConfig,
    /// Time within which a shutdown finishes accepted requests.
    pub shutdown_timeout: Duration,
    /// The server stops when nothing has been connected for this long; `None`: never.
    pub exit_when_idle: Option<Duration>,
}

impl Config {
    /// The tiers that enforce quotas: `l1`, and `l2` if any adapter does.
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
    /// The configuration without any flag, except for [`L1Config::bytes`], which the command line computes.
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

/// Endpoints and threads for requests, and the supported transfers.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcConfig {
    /// Host name or address of the main request endpoint.
    pub host: String,
    /// TCP port of the main request endpoint.
    pub port: u16,
    /// Further endpoints, `tcp://host:port` or `ipc:///path`.
    pub listen: Vec<String>,
    /// What clients may speak at the endpoints.
    pub transport: Transport,
    /// Bytes of one message over gRPC, at most.
    pub grpc_message_bytes_max: usize,
    /// Threads that serve requests.
    pub worker_threads: WorkerThreads,
    /// Whether the server or the engine may copy the bytes.
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
            transport: Transport::Auto,
            grpc_message_bytes_max: 1 << 30,
            worker_threads: WorkerThreads::default(),
            transfer_mode: TransferMode::Auto,
        }
    }
}

/// Sizes of the thread pools, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerThreads {
    /// Threads of a pool without its own number.
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

/// Declares an enum with names, as in the flag, the file and `GET /config`.
macro_rules! named_choice {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The value with this name.
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
    /// What clients may speak.
    Transport {
        /// ZMTP only.
        Zmq = "zmq",
        /// gRPC only.
        Grpc = "grpc",
        /// Both, by the first byte of a connection.
        Auto = "auto",
    }
}

named_choice! {
    /// What copies the bytes between the engine's blocks and the arena.
    TransferMode {
        /// The server copies, with access to the engine's memory.
        LmcacheDriven = "lmcache_driven",
        /// The engine copies, with access to the arena.
        EngineDriven = "engine_driven",
        /// Either, as each worker requests.
        Auto = "auto",
    }
}

impl TransferMode {
    /// Whether workers may copy.
    pub const fn serves_engine_driven(self) -> bool {
        matches!(self, Self::EngineDriven | Self::Auto)
    }

    /// Whether workers may request that the server copies.
    pub const fn serves_lmcache_driven(self) -> bool {
        matches!(self, Self::LmcacheDriven | Self::Auto)
    }
}

named_choice! {
    /// Hash function of a chunk: its tokens and all before them.
    HashAlgorithm {
        /// BLAKE3, 32 bytes.
        Blake3 = "blake3",
        /// SHA-256 over the CBOR encoding, 32 bytes.
        Sha256Cbor = "sha256_cbor",
    }
}

/// Timeouts of silent workers and idle sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// A worker that has pinged before and is silent this long is unregistered; `None`: never.
    pub worker_reap_timeout: Option<Duration>,
    /// A worker that has not pinged within this time after its registration is unregistered.
    pub worker_registration_grace: Duration,
    /// A worker whose connection is closed this long is unregistered; `None`: only for its silence.
    pub worker_disconnect_grace: Option<Duration>,
    /// Memory that a lost or late worker may still write to stays out of use this long, unless its process is known to
    /// be gone.
    pub late_write_timeout: Duration,
    /// A request session that is unused this long is ended.
    pub session_ttl: Duration,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            worker_reap_timeout: Some(Duration::from_secs(120)),
            worker_registration_grace: Duration::from_secs(3600),
            worker_disconnect_grace: Some(Duration::from_secs(30)),
            late_write_timeout: Duration::from_secs(3600),
            session_ttl: Duration::from_secs(600),
        }
    }
}

/// A random version-4 UUID, as text.
pub fn random_instance_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_endpoint_is_first_and_ipv6_hosts_have_brackets() {
        let rpc = RpcConfig {
            host: "::1".to_owned(),
            listen: vec!["ipc:///tmp/x.sock".to_owned()],
            ..RpcConfig::default()
        };
        assert_eq!(rpc.endpoints().collect::<Vec<_>>(), ["tcp://[::1]:5555", "ipc:///tmp/x.sock"]);
    }

    #[test]
    fn names_are_parsed_back() {
        for mode in TransferMode::ALL {
            assert_eq!(TransferMode::from_name(mode.name()), Some(*mode));
        }
        assert_eq!(EvictionPolicy::from_name("IsolatedLRU"), Some(EvictionPolicy::IsolatedLru));
        assert_eq!(HashAlgorithm::from_name("builtin"), None);
    }
}
