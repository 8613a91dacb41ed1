//! Every flag of `larder server`, one row each.
//!
//! A row says what the flag is called, what it takes, what it is when nobody says, and what it means. The first
//! word of a row is its fate: `served`, `ignored` (checked, then a warning), `inert` (taken in silence), `refused`,
//! or `old_name`. `yes` and `no` say the same of single values. The names are the reference's, so that a working
//! command line keeps working; `.ours()` marks what the reference does not have.
//!
//! `.ignored_for_now()` marks what is understood and checked, but not served by this version. Whoever serves it
//! deletes that mark, and nothing else.
//!
//! Parsing, the environment, the configuration file, `--help`, `--check-config` and `docs/configuration.md` all
//! follow from this table.

use super::flags::Default::{Auto, Is, Unset};
use super::flags::Kind::{
    Choice as OneOf, Endpoints, Name, Number, Objects, Pair, Path, Switch, Text, Whole, Words,
};
use super::flags::Span::{Above0, From0, Off0OrFrom};
use super::flags::{Choice, Default, Flag, Group, Judgement, Kind};

const PORT: Kind = Whole(1, 65_535);
const COUNT: Kind = Whole(1, 1 << 31);
const COUNT_OR_0: Kind = Whole(0, 1 << 31);
const THREADS: Kind = Whole(1, 4096);
const BYTES: Kind = Whole(1, 1 << 50);
const WHOLE_SECONDS: Kind = Whole(1, 1_000_000_000);
const SECONDS: Kind = Number(Above0(1e9));
const SECONDS_OR_0: Kind = Number(From0(1e9));
const SHARE: Kind = Number(Above0(1.0));
const GIB: Kind = Number(Above0(larder_server::config::SIZE_GIB_MAX));

#[rustfmt::skip]
pub(crate) static TABLE: &[Group] = &[
    Group { heading: "Request server", flags: &[
        served("instance-id", Name, Auto("a random UUID"),
            "Who this server is, to a coordinator and in metrics."),
        served("transport", OneOf(&[yes("zmq"), no("grpc", "this server speaks zmq only; leave the flag out")]), Is("zmq"),
            "How requests travel."),
        served("host", Name, Is("localhost"),
            "Host name or address to take requests on; 0.0.0.0 for every interface."),
        served("port", PORT, Is("5555"),
            "TCP port to take requests on."),
        served("listen", Endpoints, Unset,
            "A further endpoint to take requests on, tcp://HOST:PORT or ipc:///PATH. May be repeated.").ours(),
        served("chunk-size", COUNT, Is("256"),
            "Tokens in a chunk, the unit of hashing and of storage. A multiple of the engine's block size; \
             a power of two is wise."),
        served("null-block-id", Whole(i64::MIN, i64::MAX), Is("0"),
            "The engine's block id that stands for absent KV data.")
            .ignored_for_now("it matters only when the server copies, which this version does not do"),
        served("max-workers", THREADS, Auto("one for each core"),
            "Threads in each worker pool."),
        served("max-gpu-workers", THREADS, Auto("--max-workers"),
            "Threads that copy between devices and the arena."),
        served("max-cpu-workers", THREADS, Auto("--max-workers"),
            "Threads for all other requests."),
        ignored("grpc-server-workers", COUNT, Is("32"),
            "there is no gRPC transport in this server"),
        served("hash-algorithm", OneOf(&[
            yes("blake3"),
            yes("sha256_cbor"),
            no("builtin", "it needs the Python interpreter's own hash function; use blake3 or sha256_cbor"),
        ]), Is("blake3"),
            "How tokens become chunk hashes. Must be the engine's, where the engine is told."),
        served("engine-type", OneOf(&[
            yes("default"),
            no("blend", "reuse of text that is not a prefix is not part of this server; use default"),
        ]), Is("default"),
            "What counts as reusable: the longest known prefix."),
        served("supported-transfer-mode", OneOf(&[no("lmcache_driven", "this version does not copy by itself; use auto or engine_driven"), yes("engine_driven"), yes("auto")]), Is("auto"),
            "Who may copy KV data: the server (lmcache_driven), the engine (engine_driven), or whom each worker asks \
             for (auto)."),
        served("shm-name", Text, Auto("larder_<port>"),
            "Name of the shared memory that engines copy through, /dev/shm/lmcache_l1_pool_<name>. Empty turns it off, \
             and all bytes travel through the request socket."),
        served("shm-fallback", Switch, Is("off"),
            "Go on without shared memory, with a warning, where /dev/shm is too small for L1.").ours(),
        ignored("isolated-ipc", Pair, Is("off"),
            "it concerns CUDA, which this server does not use yet"),
        served("separate-object-groups", Pair, Is("off"),
            "Give each sliding-window size an object group of its own (hybrid models).")
            .ignored_for_now("it matters only when the server copies, which this version does not do"),
        served("worker-reap-timeout-seconds", Number(Off0OrFrom(30.0, 1e9)), Is("120"),
            "Drop a worker that used to ping and has been silent this long; 0 never. At least three times the engine's \
             heartbeat interval."),
        served("worker-registration-grace-seconds", SECONDS, Is("3600"),
            "Drop a worker that registered and never pinged, after this long. Not below the reap timeout."),
        served("session-ttl-seconds", SECONDS, Is("600"),
            "End a request session nobody used for this long. Above the longest time a request queues in the engine."),
        served("kv-event-log-size", COUNT_OR_0, Is("32768"),
            "Store and eviction records kept for KV-event subscribers, once there are any; 0 turns event streams off."),
        served("shutdown-timeout", SECONDS_OR_0, Is("10"),
            "Seconds a stop may take, from the signal on, to finish what was accepted.").ours(),
        served("state-dir", Path, Unset,
            "Directory for what has to outlast a restart: the quotas set over /quota. Made if it is not there; one \
             server at a time uses it. Without it quotas end with the server.").ours(),
        served("exit-when-idle-seconds", SECONDS, Unset,
            "End once no engine has been connected for this long: for a server that an engine started for itself.").ours(),
        ignored("enable", Words, Unset,
            "the experimental transfer modules are not part of this server"),
        ignored("enable-segmented-prefix", Switch, Is("off"),
            "it belongs to the blend engine, which is not part of this server"),
        ignored("enable-dedup-content", Switch, Is("off"),
            "it belongs to the blend engine, which is not part of this server"),
        ignored("enable-blend-reorder", Switch, Is("off"),
            "it belongs to the blend engine, which is not part of this server"),
        ignored("runtime-plugin-locations", Words, Unset,
            "this server starts no plugin processes; start them beside it"),
        ignored("runtime-plugin-config", Text, Is("{}"),
            "this server starts no plugin processes; start them beside it"),
        refused("server-module", Objects,
            "it names Python code, which a native server cannot load; leave it out"),
        ignored("run-script-api-enabled", Pair, Is("off"),
            "/run_script would run a caller's Python code and does not exist here"),
        ignored("script-allowed-imports", Words, Unset,
            "/run_script would run a caller's Python code and does not exist here"),
    ]},
    Group { heading: "Peer to peer", flags: &[
        refused("p2p-advertise-url", Text,
            "servers do not fetch from each other here; let them share an L2 adapter instead"),
        refused("p2p-listen-url", Text,
            "servers do not fetch from each other here; let them share an L2 adapter instead"),
        ignored("p2p-lookup-timeout", SECONDS, Is("30"),
            "servers do not fetch from each other here"),
        ignored("p2p-load-timeout", SECONDS, Is("30"),
            "servers do not fetch from each other here"),
        ignored("p2p-transfer-engine", Text, Is("nixl"),
            "servers do not fetch from each other here"),
    ]},
    Group { heading: "L1: host memory", flags: &[
        served("l1-size-gb", GIB, Auto("half of the free memory, or of /dev/shm where that is smaller; 1 to 20"),
            "Size of L1 in GiB."),
        ignored("l1-use-lazy", Pair, Is("on"),
            "memory is always committed as it is first used"),
        ignored("l1-init-size-gb", COUNT_OR_0, Is("20"),
            "memory is always committed as it is first used"),
        served("l1-align-bytes", BYTES, Is("4096"),
            "Alignment of objects in L1. A power of two."),
        served("l1-use-hugepages", Pair, Is("off"),
            "Take L1 from the kernel's reserve of 2 MiB pages (vm.nr_hugepages). Not together with shared memory.")
            .ignored_for_now("memory is committed in 2 MiB pages wherever the kernel makes them, without a reserve"),
        refused("l1-devdax-path", Path,
            "L1 lives in host memory only; use --l1-size-gb"),
        served("l1-manager", Objects, Unset,
            "L1 as a JSON object, instead of --l1-size-gb: type (DRAM), tag, size_gb, align_bytes, shm_name, \
             use_hugepages, read_ttl_seconds, write_ttl_seconds, eviction. One pool."),
        refused("gds-l1-path", Path,
            "L1 lives in host memory only; use --l1-size-gb, and an L2 adapter for the disk"),
        refused("gds-l1-use-direct-io", Pair,
            "L1 lives in host memory only; leave it out"),
        refused("gds-l1-backend", Text,
            "L1 lives in host memory only; leave it out"),
        served("l1-write-ttl-seconds", WHOLE_SECONDS, Is("600"),
            "A write reservation ends this long after it was made."),
        served("l1-read-ttl-seconds", WHOLE_SECONDS, Is("300"),
            "A read lease ends this long after it was taken."),
    ]},
    Group { heading: "Eviction", flags: &[
        served("eviction-policy", OneOf(&[
            yes("LRU"),
            yes("ARC"),
            yes("S3FIFO"),
            yes("IsolatedLRU"),
            yes("adaptive"),
            yes("noop"),
        ]), Is("LRU"),
            "What leaves L1 first when room is needed: what was not used for longest (LRU), with a balance between \
             recency and frequency (ARC), what nobody asks for again soon (S3FIFO), or as LRU with a quota for each \
             cache salt (IsolatedLRU, see /quota), or what is least worth keeping as learned from the requests (adaptive). \
             noop: nothing leaves."),
        served("eviction-trigger-watermark", SHARE, Is("0.8"),
            "Share of L1 above which eviction starts."),
        served("eviction-ratio", SHARE, Is("0.2"),
            "Share of L1 to release once eviction has started."),
        served("quota-default-gb", Number(From0(larder_server::config::SIZE_GIB_MAX)), Unset,
            "What a cache salt without a quota of its own may hold in GiB, in L1 and in each L2 adapter whose eviction \
             policy is IsolatedLRU. Without it there is no such limit; 0 admits only salts that have a quota, as \
             LMCache does.").ours(),
    ]},
    Group { heading: "L2: storage behind L1", flags: &[
        served("l2-adapter", Objects, Unset,
            "An adapter as a JSON object with a type (fs, fs_native, mock, fault_inject) and its fields, or @FILE that \
             holds one. May be repeated; the order is the adapters' index."),
        served("l2-store-policy", OneOf(&[yes("default"), yes("skip_l1"), yes("gated")]), Is("default"),
            "What goes to L2: everything (default), everything and then it leaves L1 (skip_l1), or what is about to \
             leave L1 and likely to be asked for again (gated)."),
        served("l2-prefetch-policy", OneOf(&[yes("default"), yes("retain"), yes("adaptive")]), Is("default"),
            "What was fetched from L2 leaves L1 with its last reader (default), stays until eviction (retain), or what \
             has lately been better (adaptive)."),
        served("l2-prefetch-max-in-flight", COUNT, Is("8"),
            "Lookups that may be loading from L2 at one time."),
        ignored("periodic-notifier-interval-ms", COUNT, Is("5"),
            "nothing polls in this server"),
    ]},
    Group { heading: "HTTP", flags: &[
        served("http-host", Name, Is("127.0.0.1"),
            "Host name or address of the admin API; 0.0.0.0 where probes come from outside."),
        served("http-port", PORT, Is("8080"),
            "TCP port of the admin API."),
        served("http-auth-token-file", Path, Unset,
            "File whose text is the bearer token that changing calls must carry.").ours(),
        served("access-log", Switch, Is("off"),
            "Log each HTTP request.").ours(),
        served("enable-debug-endpoints", Switch, Is("off"),
            "Serve the endpoints that show or change the insides of the process: /env, /loglevel, /threads.").ours(),
    ]},
    Group { heading: "Metrics and logs", flags: &[
        served("disable-observability", Switch, Is("off"),
            "Observe nothing: no metrics, no reports to a coordinator."),
        served("disable-metrics", Switch, Is("off"),
            "Keep no counters."),
        old_name("disable-prometheus", Switch, "disable-metrics"),
        served("disable-logging", Switch, Is("off"),
            "Leave requests out of the log.")
            .ignored_for_now("this version logs no requests above debug level"),
        ignored("disable-grpc-metrics", Switch, Is("off"),
            "there is no gRPC transport in this server"),
        served("log-level", OneOf(&[yes("trace"), yes("debug"), yes("info"), yes("warn"), yes("error")]), Is("info"),
            "The least severe level that is logged.").ours().or_variable("LMCACHE_LOG_LEVEL"),
        served("log-format", OneOf(&[yes("text"), yes("json")]), Is("text"),
            "How a log line looks.").ours(),
        served("prometheus-port", PORT, Unset,
            "A port of its own for /metrics, on --http-host, beside the one of the admin API."),
        served("metrics-sample-rate", SHARE, Is("0.01"),
            "Share of chunks whose life is followed in histograms."),
        served("metrics-instance-label", Switch, Is("off"),
            "Put the instance id on every series, as service_instance_id.").ours(),
        served("enable-tracing", Switch, Is("off"),
            "Push traces of requests to --otlp-endpoint."),
        served("otlp-endpoint", Text, Unset,
            "Push metrics every 10 s to an OpenTelemetry collector, http://HOST:PORT, over gRPC. /metrics is served as \
             well. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS are respected."),
        ignored("event-bus-queue-size", COUNT, Is("10000"),
            "there is no event queue that could overflow"),
        served("lookup-hash-log-dir", Path, Unset,
            "Directory for files lookup_hashes_*.jsonl that keep the hashes of every lookup, one JSON line each. Made if it \
             is not there; read by `larder simulate`."),
        served("lookup-hash-log-rotation-interval", WHOLE_SECONDS, Is("21600"),
            "Start another of these files after this many seconds."),
        served("lookup-hash-log-rotation-max-size", BYTES, Is("104857600"),
            "Start another of these files at this many bytes."),
        served("lookup-hash-log-max-files", COUNT, Is("100"),
            "Keep this many of these files, those of earlier runs included; the oldest goes."),
        served("record", Path, Unset,
            "Write each lookup, store and end to this file, for `larder simulate`. Grows it if it is there.").ours(),
        served("disable-whatif", Switch, Is("off"),
            "Do not try other sizes of L1 and other policies on a sample of what is asked (GET /cache/whatif).").ours(),
        ignored("enable-gc-monitor", Switch, Is("off"),
            "it watches Python's garbage collector"),
        ignored("gc-monitor-min-pause-ms", SECONDS_OR_0, Is("1.0"),
            "it watches Python's garbage collector"),
        ignored("gc-monitor-top-objects", COUNT_OR_0, Is("0"),
            "it watches Python's garbage collector"),
        served("enable-extra-logging", Switch, Is("off"),
            "Sum up throughput and memory use in a log line from time to time.")
            .ignored_for_now("this version writes no such lines"),
        served("extra-logging-interval", SECONDS, Is("10"),
            "Seconds between these lines."),
        ignored("trace-level", OneOf(&[yes("storage"), yes("events")]), Unset,
            "this version records no trace files"),
        ignored("trace-output", Path, Unset,
            "this version records no trace files"),
    ]},
    Group { heading: "Coordinator", flags: &[
        served("coordinator-url", Text, Unset,
            "Base address of the fleet's coordinator, http://HOST:PORT.").or_variable("LMCACHE_COORDINATOR_URL"),
        served("coordinator-advertise-ip", Text, Auto("the outbound address"),
            "Address at which the coordinator reaches this server.").or_variable("LMCACHE_COORDINATOR_ADVERTISE_IP"),
        served("coordinator-heartbeat-interval", SECONDS, Is("5"),
            "Seconds between heartbeats.").or_variable("LMCACHE_COORDINATOR_HEARTBEAT_INTERVAL"),
        served("coordinator-event-reporting", Switch, Is("off"),
            "Report stores, accesses and deletions.").or_variable("LMCACHE_COORDINATOR_EVENT_REPORTING"),
        old_name("coordinator-l2-event-reporting", Switch, "coordinator-event-reporting"),
        served("coordinator-event-flush-interval", SECONDS, Is("1"),
            "Seconds between two batches of reports.").or_variable("LMCACHE_COORDINATOR_EVENT_FLUSH_INTERVAL"),
        old_name("coordinator-l2-event-flush-interval", SECONDS, "coordinator-event-flush-interval"),
        served("coordinator-event-transport", OneOf(&[
            yes("http"),
            no("kafka", "reports travel by http only; use http"),
        ]), Is("http"),
            "How reports travel."),
        ignored("coordinator-kafka-bootstrap-servers", Text, Unset,
            "reports travel by http only"),
        ignored("coordinator-kafka-topic", Text, Is("lmcache-cache-events"),
            "reports travel by http only"),
        ignored("coordinator-kafka-delivery-timeout", SECONDS, Is("300"),
            "reports travel by http only"),
        ignored("coordinator-blend-timeout", SECONDS, Is("1.0"),
            "it belongs to the blend engine, which is not part of this server"),
        ignored("coordinator-blend-match-concurrency", COUNT, Is("8"),
            "it belongs to the blend engine, which is not part of this server"),
    ]},
    Group { heading: "Command", flags: &[
        served("config", Path, Unset,
            "Read flags from a .toml or .yaml file: the same names, without the dashes. The command line and the \
             environment win over it.").ours(),
        action("check-config",
            "Check everything, print the effective configuration and where each value comes from, and end."),
        action("print-flag-reference",
            "Print this table as a page of documentation, and end."),
        action("help",
            "Print this, and end. Also -h."),
        inert("format", OneOf(&[yes("terminal"), yes("json")]), Is("terminal"),
            "Accepted for the reference's sake; the server prints no results."),
        inert("output", Path, Unset,
            "Accepted for the reference's sake; the server prints no results."),
        inert("quiet", Switch, Is("off"),
            "Accepted for the reference's sake, also as -q; the server prints no results."),
    ]},
];

const fn served(name: &'static str, kind: Kind, default: Default, help: &'static str) -> Flag {
    Flag::new(name, kind, default, Judgement::Served, help)
}

const fn ignored(name: &'static str, kind: Kind, default: Default, why: &'static str) -> Flag {
    Flag::new(name, kind, default, Judgement::Ignored, why)
}

const fn inert(name: &'static str, kind: Kind, default: Default, help: &'static str) -> Flag {
    Flag::new(name, kind, default, Judgement::Inert, help).typed_only()
}

const fn refused(name: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag::new(name, kind, Unset, Judgement::Refused, why)
}

const fn old_name(name: &'static str, kind: Kind, new: &'static str) -> Flag {
    Flag::new(name, kind, Unset, Judgement::OldNameOf(new), "an old name")
}

const fn action(name: &'static str, help: &'static str) -> Flag {
    Flag::new(name, Switch, Is("off"), Judgement::Action, help).ours().typed_only()
}

/// A value that may be chosen.
const fn yes(name: &'static str) -> Choice {
    Choice(name, None)
}

/// A value that is known, and refused for this reason.
const fn no(name: &'static str, why: &'static str) -> Choice {
    Choice(name, Some(why))
}

/// Every flag, in the order of the table.
pub(crate) fn flags() -> impl Iterator<Item = &'static Flag> {
    TABLE.iter().flat_map(|group| group.flags)
}

/// The flag of that very name.
pub(crate) fn find(name: &str) -> Option<&'static Flag> {
    flags().find(|flag| flag.name == name)
}

/// The flag that carries the value: the flag itself, or the one whose old name it is.
pub(crate) fn current(flag: &'static Flag) -> &'static Flag {
    match flag.judgement {
        Judgement::OldNameOf(new) => find(new).unwrap_or(flag),
        _ => flag,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_old_names_lead_somewhere() {
        let mut seen = HashSet::new();
        for flag in flags() {
            assert!(seen.insert(flag.name), "{} twice", flag.name);
            if let Judgement::OldNameOf(new) = flag.judgement {
                assert!(find(new).is_some(), "{new}");
            }
        }
    }
}
