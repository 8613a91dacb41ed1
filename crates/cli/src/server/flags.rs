//! The table of all flags of `larder server`, one row each.
//!
//! A row is `NAME: Type = served(name, kind, default, help);`. It defines the constant through which the server reads
//! the flag, see [`Settings::get`](super::settings::Settings::get); rows that the server does not read are named `_`.
//! The other constructors are `ignored` (checked, then a warning), `accepted` (no effect and no warning), `refused` and
//! `alias`; `ok` and `refuse` are for single values. The names are LMCache's, so that an existing command line keeps
//! working; `.larder_only()` marks flags that LMCache does not have. `.no_effect_yet()` marks flags that this version
//! checks without honouring them: remove the mark when a flag is implemented.
//!
//! The command line, the environment, the configuration file, `--help`, `--check-config`, shell completions and
//! `docs/configuration.md` all follow from this table.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use larder_server::config::{
    EvictionPolicy, HashAlgorithm, LogFormat, LogLevel, OffloadPolicy, PrefetchPolicy, SIZE_GIB_MAX,
    TransferMode, Transport,
};

use super::flag::Default::{Auto, Is, Unset};
use super::flag::Kind::{
    Endpoints, Integer, JsonObjects, Name, Number, OneOf, Pair, Path, Switch, Text, Words,
};
use super::flag::Range::{Above0, From0, Off0OrFrom};
use super::flag::{Choice, Default, Flag, FlagSpec, Group, Kind, Support};

const TCP_PORT: Kind = Integer(1, 65_535);
const COUNT: Kind = Integer(1, 1 << 31);
const COUNT_OR_0: Kind = Integer(0, 1 << 31);
const THREADS: Kind = Integer(1, 4096);
const BYTES: Kind = Integer(1, 1 << 50);
const WHOLE_SECONDS: Kind = Integer(1, 1_000_000_000);
const SECONDS: Kind = Number(Above0(1e9));
const SECONDS_OR_0: Kind = Number(From0(1e9));
const FRACTION: Kind = Number(Above0(1.0));
const GIB: Kind = Number(Above0(SIZE_GIB_MAX));

/// Defines [`TABLE`], and a constant for each row that has a name.
macro_rules! flags {
    ($($heading:literal { $($name:tt: $type:ty = $spec:expr;)+ })+) => {
        $($(pub(crate) const $name: Flag<$type> = Flag { spec: &$spec, value: PhantomData };)+)+

        /// All flags, grouped.
        pub(crate) static TABLE: &[Group] = &[$(Group { heading: $heading, flags: &[$($spec),+] }),+];
    };
}

flags! {
    "Request server" {
        INSTANCE_ID: Option<String> = served("instance-id", Name, Auto("a random UUID"),
            "Name of this server for a coordinator and in metrics.");
        TRANSPORT: Transport = served("transport", OneOf(&[ok("zmq"), ok("grpc"), ok("auto")]), Is("auto"),
            "What clients may speak at the request endpoints: ZMQ, gRPC, or both on the same port, by how a connection \
             begins (auto).");
        HOST: String = served("host", Name, Is("localhost"),
            "Host name or address to take requests on; a name at all of its addresses, 0.0.0.0 (or *) for every IPv4 \
             interface, :: for every interface.");
        PORT: u16 = served("port", TCP_PORT, Is("5555"),
            "TCP port to take requests on.");
        LISTEN: Vec<String> = served("listen", Endpoints, Unset,
            "A further endpoint to take requests on, tcp://HOST:PORT or ipc:///PATH. May be repeated.").larder_only();
        CHUNK_SIZE: u32 = served("chunk-size", COUNT, Is("256"),
            "Tokens in a chunk, the unit of hashing and of storage. Must be a multiple of the engine's block size; \
             use a power of two.");
        NULL_BLOCK_ID: i64 = served("null-block-id", Integer(i64::MIN, i64::MAX), Is("0"),
            "The engine's block id that stands for absent KV data: engines with several groups of layers leave out chunks \
             without any other.");
        MAX_WORKERS: Option<usize> = served("max-workers", THREADS, Auto("one for each core"),
            "Threads in each worker pool.");
        MAX_GPU_WORKERS: Option<usize> = served("max-gpu-workers", THREADS, Auto("--max-workers"),
            "Threads that copy between devices and the arena.");
        MAX_CPU_WORKERS: Option<usize> = served("max-cpu-workers", THREADS, Auto("--max-workers"),
            "Threads for all other requests.");
        _: () = FlagSpec::new("grpc-server-workers", COUNT, Is("32"), Support::Accepted,
            "Requests over gRPC are served by the same threads as others.");
        GRPC_MAX_MESSAGE_MB: usize = served("grpc-max-message-mb", Integer(1, 4095), Is("1024"),
            "MiB of one message over gRPC, at most. Chunks of engines without shared memory travel in messages.").larder_only();
        HASH_ALGORITHM: HashAlgorithm = served("hash-algorithm", OneOf(&[
            ok("blake3"),
            ok("sha256_cbor"),
            refuse("builtin", "it needs the Python interpreter's own hash function; use blake3 or sha256_cbor"),
        ]), Is("blake3"),
            "Hash function of chunks. Must be the engine's, if that is configured.");
        _: () = served("engine-type", OneOf(&[
            ok("default"),
            refuse("blend", "reuse of text that is not a prefix is not part of this server; use default"),
        ]), Is("default"),
            "What can be reused: the longest known prefix.");
        SUPPORTED_TRANSFER_MODE: TransferMode = served("supported-transfer-mode", OneOf(&[
            refuse("lmcache_driven", "this version does not copy by itself; use auto or engine_driven"),
            ok("engine_driven"),
            ok("auto"),
        ]), Is("auto"),
            "What may copy KV data: the server (lmcache_driven), the engine (engine_driven), or either, as each worker \
             requests (auto).");
        SHM_NAME: Option<String> = served("shm-name", Text, Auto("larder_<port>"),
            "Name of the shared memory that engines copy through, /dev/shm/lmcache_l1_pool_<name>. Empty: no shared \
             memory, all bytes travel through the request socket.");
        SHM_FALLBACK: bool = served("shm-fallback", Switch, Is("off"),
            "If /dev/shm is too small for L1, warn and run without shared memory.").larder_only();
        _: () = ignored("isolated-ipc", Pair, Is("off"),
            "it concerns CUDA, which this server does not use yet");
        SEPARATE_OBJECT_GROUPS: bool = served("separate-object-groups", Pair, Is("off"),
            "Put each sliding-window size into its own object group (hybrid models).")
            .no_effect_yet("it matters only when the server copies, which this version does not do");
        WORKER_REAP_TIMEOUT_SECONDS: Duration = served("worker-reap-timeout-seconds", Number(Off0OrFrom(30.0, 1e9)), Is("120"),
            "Drop a worker that has pinged before and is silent this long; 0: never. At least three times the engine's \
             heartbeat interval.");
        WORKER_REGISTRATION_GRACE_SECONDS: Duration = served("worker-registration-grace-seconds", SECONDS, Is("3600"),
            "Drop a worker that registered and has not pinged within this time. At least the reap timeout.");
        WORKER_DISCONNECT_GRACE_SECONDS: Duration = served("worker-disconnect-grace-seconds", Number(Off0OrFrom(30.0, 1e9)), Is("30"),
            "Drop a worker this long after its connection was closed, unless it makes a request over another one; 0: only \
             when it is silent. At most the reap timeout.");
        LATE_WRITE_TIMEOUT_SECONDS: Duration = served("late-write-timeout-seconds", SECONDS, Is("3600"),
            "Reuse the memory of a store that has expired after this time, even if its worker's process cannot be proven \
             gone (another machine, container or user).").larder_only();
        SESSION_TTL_SECONDS: Duration = served("session-ttl-seconds", SECONDS, Is("600"),
            "End a request session that is unused this long. Above the longest time a request queues in the engine.");
        KV_EVENT_LOG_SIZE: usize = served("kv-event-log-size", COUNT_OR_0, Is("32768"),
            "Store and eviction records kept for KV-event subscribers, once there are any; 0: no event streams.");
        SHUTDOWN_TIMEOUT: Duration = served("shutdown-timeout", SECONDS_OR_0, Is("10"),
            "Seconds from the stop signal within which accepted requests are finished.").larder_only();
        STATE_DIR: Option<PathBuf> = served("state-dir", Path, Unset,
            "Directory for state that survives a restart: the quotas set over /quota. Created if missing; used by one \
             server at a time. Without it quotas end with the server.").larder_only();
        EXIT_WHEN_IDLE_SECONDS: Option<Duration> = served("exit-when-idle-seconds", SECONDS, Unset,
            "Stop when no engine has been connected for this long: for a server that an engine starts for itself.").larder_only();
        _: () = ignored("enable", Words, Unset,
            "the experimental transfer modules are not part of this server");
        _: () = ignored("enable-segmented-prefix", Switch, Is("off"),
            "it belongs to the blend engine, which is not part of this server");
        _: () = ignored("enable-dedup-content", Switch, Is("off"),
            "it belongs to the blend engine, which is not part of this server");
        _: () = ignored("enable-blend-reorder", Switch, Is("off"),
            "it belongs to the blend engine, which is not part of this server");
        _: () = ignored("runtime-plugin-locations", Words, Unset,
            "this server starts no plugin processes; start them beside it");
        _: () = ignored("runtime-plugin-config", Text, Is("{}"),
            "this server starts no plugin processes; start them beside it");
        _: () = refused("server-module", JsonObjects,
            "it names Python code, which a native server cannot load; leave it out");
        _: () = ignored("run-script-api-enabled", Pair, Is("off"),
            "/run_script would run a caller's Python code and does not exist here");
        _: () = ignored("script-allowed-imports", Words, Unset,
            "/run_script would run a caller's Python code and does not exist here");
    }
    "Peer to peer" {
        _: () = refused("p2p-advertise-url", Text,
            "servers do not fetch from each other here; give them a shared L2 adapter instead");
        _: () = refused("p2p-listen-url", Text,
            "servers do not fetch from each other here; give them a shared L2 adapter instead");
        _: () = ignored("p2p-lookup-timeout", SECONDS, Is("30"),
            "servers do not fetch from each other here");
        _: () = ignored("p2p-load-timeout", SECONDS, Is("30"),
            "servers do not fetch from each other here");
        _: () = ignored("p2p-transfer-engine", Text, Is("nixl"),
            "servers do not fetch from each other here");
    }
    "L1: host memory" {
        L1_SIZE_GB: Option<f64> = served("l1-size-gb", GIB, Auto("half of the free memory, or of /dev/shm where that is smaller; 1 to 20"),
            "Size of L1 in GiB.");
        _: () = ignored("l1-use-lazy", Pair, Is("on"),
            "memory is always committed as it is first used");
        _: () = ignored("l1-init-size-gb", COUNT_OR_0, Is("20"),
            "memory is always committed as it is first used");
        L1_ALIGN_BYTES: u64 = served("l1-align-bytes", BYTES, Is("4096"),
            "Alignment of objects in L1. A power of two.");
        L1_USE_HUGEPAGES: bool = served("l1-use-hugepages", Pair, Is("off"),
            "Take L1 from the kernel's reserve of 2 MiB pages (vm.nr_hugepages). Not together with shared memory.")
            .no_effect_yet("memory is committed in 2 MiB pages wherever the kernel makes them, without a reserve");
        _: () = refused("l1-devdax-path", Path,
            "L1 is in host memory only; use --l1-size-gb");
        L1_MANAGER: Vec<String> = served("l1-manager", JsonObjects, Unset,
            "L1 as a JSON object, instead of --l1-size-gb: type (DRAM), tag, size_gb, align_bytes, shm_name, \
             use_hugepages, read_ttl_seconds, write_ttl_seconds, eviction. One pool.");
        _: () = refused("gds-l1-path", Path,
            "L1 is in host memory only; use --l1-size-gb, and an L2 adapter for the disk");
        _: () = refused("gds-l1-use-direct-io", Pair,
            "L1 is in host memory only; leave it out");
        _: () = refused("gds-l1-backend", Text,
            "L1 is in host memory only; leave it out");
        L1_WRITE_TTL_SECONDS: Duration = served("l1-write-ttl-seconds", WHOLE_SECONDS, Is("600"),
            "A write reservation expires after this time.");
        L1_READ_TTL_SECONDS: Duration = served("l1-read-ttl-seconds", WHOLE_SECONDS, Is("300"),
            "A read lease expires after this time.");
        L1_CLIENT_SHARE: f64 = served("l1-client-share", FRACTION, Is("0.5"),
            "Fraction of L1 that one connection may keep from eviction, by its uncommitted slots and its \
             pins; a single request may exceed it.").larder_only();
    }
    "Eviction" {
        EVICTION_POLICY: EvictionPolicy = served("eviction-policy", OneOf(&[
            ok("LRU"),
            ok("ARC"),
            ok("S3FIFO"),
            ok("IsolatedLRU"),
            ok("adaptive"),
            ok("noop"),
        ]), Is("LRU"),
            "What L1 evicts first when it is full: the least recently used chunks (LRU), a balance of least recently and \
             least frequently used (ARC), chunks that are not requested again soon (S3FIFO), as LRU with a quota for each \
             cache salt (IsolatedLRU, see /quota), or the least valuable chunks as learned from the requests (adaptive). \
             noop: nothing.");
        EVICTION_TRIGGER_WATERMARK: f64 = served("eviction-trigger-watermark", FRACTION, Is("0.8"),
            "Fraction of L1 in use above which eviction starts.");
        EVICTION_RATIO: f64 = served("eviction-ratio", FRACTION, Is("0.2"),
            "Fraction of L1 to evict once eviction has started.");
        QUOTA_DEFAULT_GB: Option<f64> = served("quota-default-gb", Number(From0(SIZE_GIB_MAX)), Unset,
            "Limit in GiB for each cache salt without its own quota, in L1 and in each L2 adapter whose eviction policy \
             is IsolatedLRU. Without it there is no such limit; 0 admits only salts that have a quota, as LMCache \
             does.").larder_only();
    }
    "L2: storage behind L1" {
        L2_ADAPTER: Vec<String> = served("l2-adapter", JsonObjects, Unset,
            "An adapter as a JSON object with a type (fs, fs_native, mock, fault_inject) and its fields, or @FILE that \
             holds one. May be repeated; the order is the adapters' index.");
        L2_STORE_POLICY: OffloadPolicy = served("l2-store-policy", OneOf(&[ok("default"), ok("skip_l1"), ok("gated")]), Is("default"),
            "What is written to L2: everything (default), everything, and then it is removed from L1 (skip_l1), or what \
             is about to be evicted from L1 and likely to be requested again (gated).");
        L2_PREFETCH_POLICY: PrefetchPolicy = served("l2-prefetch-policy", OneOf(&[ok("default"), ok("retain"), ok("adaptive")]), Is("default"),
            "What happens in L1 to objects loaded from L2: removed after the last reader (default), kept until eviction \
             (retain), or whichever has lately been better (adaptive).");
        L2_PREFETCH_MAX_IN_FLIGHT: usize = served("l2-prefetch-max-in-flight", COUNT, Is("8"),
            "Lookups that may load from L2 at the same time.");
        _: () = ignored("periodic-notifier-interval-ms", COUNT, Is("5"),
            "nothing polls in this server");
    }
    "HTTP" {
        HTTP_HOST: String = served("http-host", Name, Is("127.0.0.1"),
            "Host name or address of the admin API; 0.0.0.0 if probes come from outside.");
        HTTP_PORT: u16 = served("http-port", TCP_PORT, Is("8080"),
            "TCP port of the admin API.");
        HTTP_AUTH_TOKEN_FILE: Option<PathBuf> = served("http-auth-token-file", Path, Unset,
            "File with the bearer token that calls which change something must carry. Make it readable by this user only.").larder_only();
        HTTP_AUTH_READS: bool = served("http-auth-reads", Switch, Is("off"),
            "Calls that only read need the token as well, /metrics included; probes (/healthcheck, /livez, /readyz) do not.").larder_only();
        HTTP_ALLOWED_HOSTS: Vec<String> = served("http-allowed-hosts", Words, Unset,
            "Names by which clients address the admin API, besides IP addresses, localhost and --http-host: those of an \
             ingress or a service. .NAME stands for all names that end so, * for all. Requests under other names are \
             refused, as are always requests under unknown names while it listens on loopback.").larder_only();
        HTTP_UDS: Option<PathBuf> = served("http-uds", Path, Unset,
            "Serve the admin API on this Unix socket, too, to this server's user and root only, who need no token. For \
             `larder ctl --url unix:PATH` and `larder top --url unix:PATH`.").larder_only();
        ACCESS_LOG: bool = served("access-log", Switch, Is("off"),
            "Log each HTTP request.").larder_only();
        ENABLE_DEBUG_ENDPOINTS: bool = served("enable-debug-endpoints", Switch, Is("off"),
            "Serve the endpoints that show or change the process itself: /env, /loglevel, /threads.").larder_only();
    }
    "Metrics and logs" {
        DISABLE_OBSERVABILITY: bool = served("disable-observability", Switch, Is("off"),
            "Collect nothing: no metrics, no reports to a coordinator.");
        DISABLE_METRICS: bool = served("disable-metrics", Switch, Is("off"),
            "Collect no metrics.");
        _: () = alias("disable-prometheus", Switch, "disable-metrics");
        DISABLE_LOGGING: bool = served("disable-logging", Switch, Is("off"),
            "Do not log requests.")
            .no_effect_yet("this version logs no requests above debug level");
        _: () = ignored("disable-grpc-metrics", Switch, Is("off"),
            "gRPC has no metrics of its own in this server");
        LOG_LEVEL: LogLevel = served("log-level", OneOf(&[ok("trace"), ok("debug"), ok("info"), ok("warn"), ok("error")]), Is("info"),
            "The least severe level that is logged.").larder_only().or_variable("LMCACHE_LOG_LEVEL");
        LOG_FORMAT: LogFormat = served("log-format", OneOf(&[ok("text"), ok("json")]), Is("text"),
            "Format of log lines.").larder_only();
        PROMETHEUS_PORT: Option<u16> = served("prometheus-port", TCP_PORT, Unset,
            "A second port for /metrics, on --http-host, beside the admin API's.");
        METRICS_SAMPLE_RATE: f64 = served("metrics-sample-rate", FRACTION, Is("0.01"),
            "Fraction of chunks whose residency is measured in histograms.");
        METRICS_INSTANCE_LABEL: bool = served("metrics-instance-label", Switch, Is("off"),
            "Put the instance id on every series, as service_instance_id.").larder_only();
        ENABLE_TRACING: bool = served("enable-tracing", Switch, Is("off"),
            "Push traces of requests to --otlp-endpoint.");
        OTLP_ENDPOINT: Option<String> = served("otlp-endpoint", Text, Unset,
            "Push metrics every 10 s to an OpenTelemetry collector, http://HOST:PORT, over gRPC. /metrics is served as \
             well. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS are respected.");
        _: () = ignored("event-bus-queue-size", COUNT, Is("10000"),
            "there is no event queue that could overflow");
        LOOKUP_HASH_LOG_DIR: Option<PathBuf> = served("lookup-hash-log-dir", Path, Unset,
            "Directory for files lookup_hashes_*.jsonl with the hashes of every lookup, one JSON line each. Created if \
             missing; read by `larder simulate`.");
        LOOKUP_HASH_LOG_ROTATION_INTERVAL: Duration = served("lookup-hash-log-rotation-interval", WHOLE_SECONDS, Is("21600"),
            "Start the next of these files after this many seconds.");
        LOOKUP_HASH_LOG_ROTATION_MAX_SIZE: u64 = served("lookup-hash-log-rotation-max-size", BYTES, Is("104857600"),
            "Start the next of these files at this many bytes.");
        LOOKUP_HASH_LOG_MAX_FILES: usize = served("lookup-hash-log-max-files", COUNT, Is("100"),
            "Keep this many of these files, including those of earlier runs; the oldest is deleted.");
        RECORD: Option<PathBuf> = served("record", Path, Unset,
            "Record each lookup, store and end of a request in this file, for `larder simulate`. Appends to an existing \
             file.").larder_only();
        DISABLE_WHATIF: bool = served("disable-whatif", Switch, Is("off"),
            "Do not evaluate other L1 sizes and policies on a sample of the requests (GET /cache/whatif).").larder_only();
        _: () = ignored("enable-gc-monitor", Switch, Is("off"),
            "it watches Python's garbage collector");
        _: () = ignored("gc-monitor-min-pause-ms", SECONDS_OR_0, Is("1.0"),
            "it watches Python's garbage collector");
        _: () = ignored("gc-monitor-top-objects", COUNT_OR_0, Is("0"),
            "it watches Python's garbage collector");
        ENABLE_EXTRA_LOGGING: bool = served("enable-extra-logging", Switch, Is("off"),
            "Log a summary of throughput and memory use from time to time.")
            .no_effect_yet("this version writes no such lines");
        EXTRA_LOGGING_INTERVAL: Duration = served("extra-logging-interval", SECONDS, Is("10"),
            "Seconds between these lines.");
        _: () = ignored("trace-level", OneOf(&[ok("storage"), ok("events")]), Unset,
            "this version records no trace files");
        _: () = ignored("trace-output", Path, Unset,
            "this version records no trace files");
    }
    "Coordinator" {
        COORDINATOR_URL: Option<String> = served("coordinator-url", Text, Unset,
            "Base address of the fleet's coordinator, http://HOST:PORT.").or_variable("LMCACHE_COORDINATOR_URL");
        COORDINATOR_ADVERTISE_IP: Option<String> = served("coordinator-advertise-ip", Text, Auto("the outbound address"),
            "Address at which the coordinator reaches this server.").or_variable("LMCACHE_COORDINATOR_ADVERTISE_IP");
        COORDINATOR_HEARTBEAT_INTERVAL: Duration = served("coordinator-heartbeat-interval", SECONDS, Is("5"),
            "Seconds between heartbeats.").or_variable("LMCACHE_COORDINATOR_HEARTBEAT_INTERVAL");
        COORDINATOR_EVENT_REPORTING: bool = served("coordinator-event-reporting", Switch, Is("off"),
            "Report stores, accesses and deletions.").or_variable("LMCACHE_COORDINATOR_EVENT_REPORTING");
        _: () = alias("coordinator-l2-event-reporting", Switch, "coordinator-event-reporting").deprecated();
        COORDINATOR_EVENT_FLUSH_INTERVAL: Duration = served("coordinator-event-flush-interval", SECONDS, Is("1"),
            "Seconds between two batches of reports.").or_variable("LMCACHE_COORDINATOR_EVENT_FLUSH_INTERVAL");
        _: () = alias("coordinator-l2-event-flush-interval", SECONDS, "coordinator-event-flush-interval").deprecated();
        _: () = served("coordinator-event-transport", OneOf(&[
            ok("http"),
            refuse("kafka", "reports travel by http only; use http"),
        ]), Is("http"),
            "Transport of reports.");
        _: () = ignored("coordinator-kafka-bootstrap-servers", Text, Unset,
            "reports travel by http only");
        _: () = ignored("coordinator-kafka-topic", Text, Is("lmcache-cache-events"),
            "reports travel by http only");
        _: () = ignored("coordinator-kafka-delivery-timeout", SECONDS, Is("300"),
            "reports travel by http only");
        _: () = ignored("coordinator-blend-timeout", SECONDS, Is("1.0"),
            "it belongs to the blend engine, which is not part of this server");
        _: () = ignored("coordinator-blend-match-concurrency", COUNT, Is("8"),
            "it belongs to the blend engine, which is not part of this server");
    }
    "Command" {
        CONFIG: Option<PathBuf> = served("config", Path, Unset,
            "Read flags from a .toml or .yaml file: the same names, without the dashes. The command line and the \
             environment have precedence.").larder_only();
        CHECK_CONFIG: bool = action("check-config",
            "Check all settings, print the effective configuration with the origin of each value, and exit.");
        PRINT_FLAG_REFERENCE: bool = action("print-flag-reference",
            "Print this table as a page of documentation, and exit.");
        HELP: bool = action("help",
            "Print this help, and exit. Also -h.");
        _: () = accepted("format", OneOf(&[ok("terminal"), ok("json")]), Is("terminal"),
            "Accepted for compatibility with LMCache; the server prints no results.");
        _: () = accepted("output", Path, Unset,
            "Accepted for compatibility with LMCache; the server prints no results.");
        _: () = accepted("quiet", Switch, Is("off"),
            "Accepted for compatibility with LMCache, also as -q; the server prints no results.");
    }
}

const fn served(name: &'static str, kind: Kind, default: Default, help: &'static str) -> FlagSpec {
    FlagSpec::new(name, kind, default, Support::Served, help)
}

const fn ignored(name: &'static str, kind: Kind, default: Default, reason: &'static str) -> FlagSpec {
    FlagSpec::new(name, kind, default, Support::Ignored, reason)
}

const fn accepted(name: &'static str, kind: Kind, default: Default, help: &'static str) -> FlagSpec {
    FlagSpec::new(name, kind, default, Support::Accepted, help).command_line_only()
}

const fn refused(name: &'static str, kind: Kind, reason: &'static str) -> FlagSpec {
    FlagSpec::new(name, kind, Unset, Support::Refused, reason)
}

const fn alias(name: &'static str, kind: Kind, of: &'static str) -> FlagSpec {
    FlagSpec::new(name, kind, Unset, Support::AliasOf(of), "an old name")
}

const fn action(name: &'static str, help: &'static str) -> FlagSpec {
    FlagSpec::new(name, Switch, Is("off"), Support::Action, help).larder_only().command_line_only()
}

/// A value that may be chosen.
const fn ok(name: &'static str) -> Choice {
    Choice(name, None)
}

/// A known value that is refused for this reason.
const fn refuse(name: &'static str, reason: &'static str) -> Choice {
    Choice(name, Some(reason))
}

/// Every flag, in the order of the table.
pub(crate) fn flags() -> impl Iterator<Item = &'static FlagSpec> {
    TABLE.iter().flat_map(|group| group.flags)
}

/// The flag with this exact name.
pub(crate) fn find(name: &str) -> Option<&'static FlagSpec> {
    flags().find(|flag| flag.name == name)
}

/// The flag that holds the value: the flag itself, or the one of which it is an alias.
pub(crate) fn resolve_alias(flag: &'static FlagSpec) -> &'static FlagSpec {
    match flag.support {
        Support::AliasOf(name) => find(name).unwrap_or(flag),
        _ => flag,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_aliases_exist() {
        let mut seen = HashSet::new();
        for flag in flags() {
            assert!(seen.insert(flag.name), "{} twice", flag.name);
            if let Support::AliasOf(name) = flag.support {
                assert!(find(name).is_some(), "{name}");
            }
        }
    }
}
