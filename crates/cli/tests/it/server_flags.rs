//! Every flag of LMCache's server accepts its documented value and is served, ignored or refused as documented.

use crate::binary::{TestDir, check};

enum Expected {
    /// The effective configuration has this value.
    Is(&'static str),
    /// One warning that it is an old name.
    Deprecated,
    /// One warning that it has no effect.
    Ignored,
    /// One error.
    Refused,
    /// No message.
    Silent,
}
use Expected::{Deprecated, Ignored, Is, Refused, Silent};

/// In a build without OpenTelemetry the flag is refused.
const fn with_otel(expected: Expected) -> Expected {
    if cfg!(feature = "otel") { expected } else { Refused }
}

const FLAGS: &[(&[&str], Expected)] = &[
    // Request server
    (&["--instance-id", "node-a"], Is("\"node-a\"")),
    (&["--transport", "zmq"], Is("\"zmq\"")),
    (&["--transport", "grpc"], Is("\"grpc\"")),
    (&["--transport", "auto"], Is("\"auto\"")),
    (&["--host", "0.0.0.0"], Is("\"0.0.0.0\"")),
    (&["--host", "::1"], Is("\"::1\"")),
    (&["--port", "7777"], Is("7777")),
    (&["--chunk-size", "512"], Is("512")),
    (&["--null-block-id", "-1"], Is("-1")),
    (&["--max-workers", "4"], Is("4")),
    (&["--max-gpu-workers", "3"], Is("3")),
    (&["--max-cpu-workers", "2"], Is("2")),
    (&["--grpc-server-workers", "32"], Silent),
    (&["--hash-algorithm", "blake3"], Is("\"blake3\"")),
    (&["--hash-algorithm", "sha256_cbor"], Is("\"sha256_cbor\"")),
    (&["--hash-algorithm", "builtin"], Refused),
    (&["--engine-type", "default"], Is("\"default\"")),
    (&["--engine-type", "blend"], Refused),
    (&["--supported-transfer-mode", "lmcache_driven"], Refused),
    (&["--supported-transfer-mode", "engine_driven"], Is("\"engine_driven\"")),
    (&["--supported-transfer-mode", "auto"], Is("\"auto\"")),
    (&["--shm-name", "pool0"], Is("\"pool0\"")),
    (&["--shm-name", ""], Is("\"\"")),
    (&["--isolated-ipc"], Ignored),
    (&["--no-isolated-ipc"], Silent),
    (&["--separate-object-groups"], Ignored),
    (&["--no-separate-object-groups"], Is("false")),
    (&["--worker-reap-timeout-seconds", "30"], Is("30")),
    (&["--worker-reap-timeout-seconds", "0"], Is("0")),
    (&["--session-ttl-seconds", "1.5"], Is("1.5")),
    (&["--worker-registration-grace-seconds", "120"], Is("120")),
    (&["--kv-event-log-size", "0"], Is("0")),
    (&["--enable"], Silent),
    (&["--enable", "transfer_query"], Ignored),
    (&["--enable-segmented-prefix"], Ignored),
    (&["--enable-dedup-content"], Ignored),
    (&["--enable-blend-reorder"], Ignored),
    (&["--runtime-plugin-locations", "a.py", "b.py"], Ignored),
    (&["--runtime-plugin-config", "{\"a\": 1}"], Ignored),
    (&["--server-module", "{\"module_path\":\"m\"}"], Refused),
    (&["--run-script-api-enabled"], Ignored),
    (&["--no-run-script-api-enabled"], Silent),
    (&["--script-allowed-imports", "numpy", "pandas"], Ignored),
    // Peer to peer
    (&["--p2p-advertise-url", "10.0.0.1:7000"], Refused),
    (&["--p2p-advertise-url", ""], Silent),
    (&["--p2p-listen-url", "10.0.0.1:7000"], Refused),
    (&["--p2p-lookup-timeout", "30"], Ignored),
    (&["--p2p-load-timeout", "30"], Ignored),
    (&["--p2p-transfer-engine", "nixl"], Ignored),
    // L1
    (&["--l1-size-gb", "0.0625"], Is("0.0625")),
    (&["--l1-use-lazy"], Silent),
    (&["--no-l1-use-lazy"], Ignored),
    (&["--l1-init-size-gb", "20"], Ignored),
    (&["--l1-align-bytes", "8192"], Is("8192")),
    (&["--no-l1-use-hugepages"], Is("false")),
    (&["--l1-devdax-path", "/dev/dax0.0"], Refused),
    (
        &["--l1-manager", "{\"type\":\"DRAM\",\"tag\":\"_default\",\"size_gb\":0.03125}"],
        Is("[\"{\\\"size_gb\\\":0.03125,\\\"tag\\\":\\\"_default\\\",\\\"type\\\":\\\"DRAM\\\"}\"]"),
    ),
    (&["--l1-manager", "{\"type\":\"GDS\",\"tag\":\"g\",\"size_gb\":1,\"path\":\"/x\"}"], Refused),
    (&["--gds-l1-path", "/nvme"], Refused),
    (&["--gds-l1-use-direct-io"], Refused),
    (&["--no-gds-l1-use-direct-io"], Refused),
    (&["--gds-l1-backend", "auto"], Refused),
    (&["--l1-write-ttl-seconds", "60"], Is("60")),
    (&["--l1-read-ttl-seconds", "30"], Is("30")),
    // Eviction
    (&["--eviction-policy", "LRU"], Is("\"LRU\"")),
    (&["--eviction-policy", "noop"], Is("\"noop\"")),
    (&["--eviction-policy", "ARC"], Is("\"ARC\"")),
    (&["--eviction-policy", "IsolatedLRU"], Is("\"IsolatedLRU\"")),
    (&["--eviction-policy", "S3FIFO"], Is("\"S3FIFO\"")),
    (&["--eviction-policy", "adaptive"], Is("\"adaptive\"")),
    (&["--eviction-trigger-watermark", "0.80"], Is("0.8")),
    (&["--eviction-trigger-watermark", "1"], Is("1")),
    (&["--eviction-ratio", "0.20"], Is("0.2")),
    // L2
    (
        &["--l2-adapter", "{\"type\":\"fs\",\"base_path\":\"/data\"}"],
        Is(r#"["{\"base_path\":\"/data\",\"type\":\"fs\"}"]"#),
    ),
    (&["--l2-adapter", "@l2.json"], Is("[\"@l2.json\"]")),
    (&["--l2-store-policy", "default"], Is("\"default\"")),
    (&["--l2-store-policy", "skip_l1"], Is("\"skip_l1\"")),
    (&["--l2-store-policy", "gated"], Is("\"gated\"")),
    (&["--l2-prefetch-policy", "default"], Is("\"default\"")),
    (&["--l2-prefetch-policy", "retain"], Is("\"retain\"")),
    (&["--l2-prefetch-policy", "adaptive"], Is("\"adaptive\"")),
    (&["--l2-prefetch-max-in-flight", "16"], Is("16")),
    (&["--periodic-notifier-interval-ms", "5"], Ignored),
    // HTTP
    (&["--http-host", "0.0.0.0"], Is("\"0.0.0.0\"")),
    (&["--http-port", "8081"], Is("8081")),
    // Observability
    (&["--disable-observability"], Is("true")),
    (&["--disable-metrics"], Is("true")),
    (&["--disable-prometheus"], Silent),
    (&["--disable-logging"], Ignored),
    (&["--disable-grpc-metrics"], Ignored),
    // Needs a collector.
    (&["--enable-tracing"], Refused),
    (&["--enable-tracing", "--otlp-endpoint", "http://localhost:4317"], with_otel(Is("true"))),
    (&["--otlp-endpoint", "http://localhost:4317"], with_otel(Is("\"http://localhost:4317\""))),
    (&["--event-bus-queue-size", "10000"], Ignored),
    (&["--prometheus-port", "9090"], Is("9090")),
    (&["--metrics-sample-rate", "1"], Is("1")),
    (&["--lookup-hash-log-dir", "/logs"], Is("\"/logs\"")),
    (&["--lookup-hash-log-rotation-interval", "60"], Is("60")),
    (&["--lookup-hash-log-rotation-max-size", "1000"], Is("1000")),
    (&["--lookup-hash-log-max-files", "5"], Is("5")),
    (&["--enable-gc-monitor"], Ignored),
    (&["--gc-monitor-min-pause-ms", "1.0"], Ignored),
    (&["--gc-monitor-top-objects", "0"], Ignored),
    (&["--enable-extra-logging"], Ignored),
    (&["--extra-logging-interval", "0.5"], Is("0.5")),
    (&["--trace-level", "storage"], Ignored),
    (&["--trace-level", "events"], Ignored),
    (&["--trace-output", "/trace.lct"], Ignored),
    // Coordinator
    (&["--coordinator-url", "http://coordinator:9300"], Is("\"http://coordinator:9300\"")),
    (&["--coordinator-advertise-ip", "10.0.0.5"], Is("\"10.0.0.5\"")),
    (&["--coordinator-heartbeat-interval", "2.5"], Is("2.5")),
    (&["--coordinator-event-reporting"], Is("true")),
    (&["--coordinator-l2-event-reporting"], Deprecated),
    (&["--coordinator-event-flush-interval", "0.5"], Is("0.5")),
    (&["--coordinator-l2-event-flush-interval", "0.5"], Deprecated),
    (&["--coordinator-event-transport", "http"], Is("\"http\"")),
    (&["--coordinator-event-transport", "kafka"], Refused),
    (&["--coordinator-kafka-bootstrap-servers", "k:9092"], Ignored),
    (&["--coordinator-kafka-topic", "t"], Ignored),
    (&["--coordinator-kafka-delivery-timeout", "300.0"], Ignored),
    (&["--coordinator-blend-timeout", "1.0"], Ignored),
    (&["--coordinator-blend-match-concurrency", "8"], Ignored),
    // `lmcache server` has these as well
    (&["--format", "json"], Silent),
    (&["--output", "out.json"], Silent),
    (&["--quiet"], Silent),
    (&["-q"], Silent),
    // Only in larder
    (&["--listen", "ipc:///tmp/lmcache.sock"], Is("[\"ipc:///tmp/lmcache.sock\"]")),
    (&["--shm-fallback"], Is("true")),
    (&["--shutdown-timeout", "2.5"], Is("2.5")),
    (&["--exit-when-idle-seconds", "60"], Is("60")),
    (&["--access-log"], Is("true")),
    (&["--enable-debug-endpoints"], Is("true")),
    (&["--log-level", "debug"], Is("\"debug\"")),
    (&["--log-format", "json"], Is("\"json\"")),
    (&["--metrics-instance-label"], Is("true")),
    (&["--state-dir", "/var/lib/larder"], Is("\"/var/lib/larder\"")),
];

#[test]
fn each_flag_is_served_ignored_or_refused_as_documented() {
    let dir = TestDir::new().file("l2.json", r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1}"#);
    for (args, expected) in FLAGS {
        let run = dir.check(args, &[]);
        let name = args[0].trim_start_matches('-');
        let name = name.strip_prefix("no-").unwrap_or(name);
        match expected {
            Is(value) => {
                assert_eq!((run.status, run.lines()), (Some(0), vec![]), "{args:?}");
                assert_eq!(run.effective(name), (*value, "command line"), "{args:?}");
            }
            Silent => assert_eq!((run.status, run.lines()), (Some(0), vec![]), "{args:?}"),
            Deprecated => {
                assert_eq!((run.status, run.lines().len()), (Some(0), 1), "{args:?} {run:#?}");
                let begin = format!("warning: {}: is the old name of --", args[0]);
                assert!(run.stderr.starts_with(&begin), "{run:#?}");
            }
            Ignored => {
                assert_eq!((run.status, run.lines().len()), (Some(0), 1), "{args:?} {run:#?}");
                let begin = format!("warning: {}", args[0]);
                assert!(run.stderr.starts_with(&begin) && run.stderr.contains("no effect"), "{run:#?}");
            }
            Refused => {
                assert_eq!((run.status, run.lines().len()), (Some(2), 1), "{args:?} {run:#?}");
                assert!(run.stderr.starts_with(&format!("error: {}", args[0])), "{run:#?}");
                assert_eq!(run.stdout, "");
            }
        }
    }
}

/// Every flag that `lmcache server --help` lists is in the table above.
#[test]
fn no_flag_of_lmcache_is_missing() {
    let reference = "instance-id transport host port chunk-size null-block-id max-workers max-gpu-workers \
        max-cpu-workers grpc-server-workers hash-algorithm engine-type supported-transfer-mode isolated-ipc \
        runtime-plugin-locations runtime-plugin-config shm-name script-allowed-imports run-script-api-enabled \
        separate-object-groups worker-reap-timeout-seconds session-ttl-seconds worker-registration-grace-seconds \
        enable-segmented-prefix enable-dedup-content enable-blend-reorder enable kv-event-log-size server-module \
        p2p-advertise-url p2p-listen-url p2p-lookup-timeout p2p-load-timeout p2p-transfer-engine l1-manager l1-size-gb \
        l1-use-lazy l1-init-size-gb l1-align-bytes l1-devdax-path gds-l1-path gds-l1-use-direct-io gds-l1-backend \
        l1-write-ttl-seconds l1-read-ttl-seconds eviction-policy eviction-trigger-watermark eviction-ratio \
        l2-store-policy l2-prefetch-policy l2-prefetch-max-in-flight periodic-notifier-interval-ms l2-adapter http-host \
        http-port disable-observability disable-metrics disable-grpc-metrics disable-logging enable-tracing \
        otlp-endpoint event-bus-queue-size prometheus-port metrics-sample-rate lookup-hash-log-dir \
        lookup-hash-log-rotation-interval lookup-hash-log-rotation-max-size lookup-hash-log-max-files \
        enable-gc-monitor gc-monitor-min-pause-ms gc-monitor-top-objects enable-extra-logging extra-logging-interval \
        trace-level trace-output coordinator-url coordinator-advertise-ip coordinator-heartbeat-interval \
        coordinator-event-reporting coordinator-event-flush-interval coordinator-event-transport \
        coordinator-kafka-bootstrap-servers coordinator-kafka-topic coordinator-kafka-delivery-timeout \
        coordinator-blend-timeout coordinator-blend-match-concurrency format output quiet";
    for name in reference.split_whitespace() {
        let flag = format!("--{name}");
        assert!(FLAGS.iter().any(|(args, _)| args[0] == flag), "{flag}");
    }
}

#[test]
fn aliases_set_the_current_flags() {
    let run = check(&["--disable-prometheus", "--coordinator-l2-event-flush-interval", "3"]);
    assert_eq!(run.effective("disable-metrics"), ("true", "command line"));
    assert_eq!(run.effective("coordinator-event-flush-interval"), ("3", "command line"));
}

/// As in LMCache 0.5.6, whatever the order.
#[test]
fn current_name_of_a_flag_wins_over_the_old_one() {
    let (new, old) = ("--coordinator-event-flush-interval", "--coordinator-l2-event-flush-interval");
    for args in [[new, "2", old, "0.5"], [old, "0.5", new, "2"]] {
        let run = check(&args);
        assert_eq!(run.effective("coordinator-event-flush-interval"), ("2", "command line"), "{args:?}");
        let warning = format!("warning: {old}: has no effect beside {new}, of which it is the old name");
        assert_eq!(run.lines(), [warning], "{args:?}");
    }
    let run = check(&[old, "1", old, "3", "--disable-prometheus", "--disable-metrics"]);
    assert_eq!(run.effective("coordinator-event-flush-interval").0, "3", "the last one");
    assert_eq!(run.lines().len(), 2, "{run:#?}");
    let variables = [
        ("LMCACHE_SERVER_COORDINATOR_L2_EVENT_FLUSH_INTERVAL", "0.5"),
        ("LMCACHE_COORDINATOR_EVENT_FLUSH_INTERVAL", "2"),
    ];
    let run = TestDir::new().check(&[], &variables);
    assert_eq!(run.effective("coordinator-event-flush-interval").0, "2", "{run:#?}");
    assert!(run.stderr.contains("has no effect beside"), "{run:#?}");
}

#[test]
fn abbreviations_are_resolved_as_in_lmcache() {
    let run = check(&["--l1-size=0.0625", "--evic=noop", "--shm=x", "--ch", "128"]);
    assert_eq!((run.status, run.lines().len()), (Some(2), 1), "{run:#?}");
    assert!(run.stderr.contains("--evic: ambiguous, it could be --eviction-policy, "), "{run:#?}");
    let run = check(&["--l1-size=0.0625", "--eviction-p=noop", "--shm=x", "--chunk", "128"]);
    assert_eq!(run.effective("l1-size-gb").0, "0.0625");
    assert_eq!(run.effective("eviction-policy").0, "\"noop\"");
    assert_eq!(run.effective("shm-name").0, "\"x\"");
    assert_eq!(run.effective("chunk-size").0, "128");
}

#[test]
fn accepts_the_command_line_of_the_lmcache_operator() {
    let args = "--host 0.0.0.0 --port 5556 --l1-size-gb 0.05 --chunk-size 256 --max-workers 1 --hash-algorithm blake3 \
        --eviction-policy LRU --eviction-trigger-watermark 0.80 --eviction-ratio 0.20 --prometheus-port 9090 \
        --disable-prometheus";
    let run = check(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!((run.status, run.lines()), (Some(0), vec![]));
}

#[test]
fn computes_values_that_are_not_given() {
    let run = TestDir::new().larder(&["server", "--check-config", "--shm-fallback", "--port=6001"], &[]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert_eq!(run.effective("l1-size-gb").1, "from free memory");
    assert_eq!(run.effective("eviction-policy"), ("\"LRU\"", "default"));
    assert_eq!(run.effective("supported-transfer-mode"), ("\"auto\"", "default"));
    assert_eq!(run.effective("instance-id").1, "random");
}

#[test]
fn help_and_version_go_to_stdout() {
    let dir = TestDir::new();
    for args in [&["server", "--help"][..], &["server", "-h"], &["--help"], &["--version"]] {
        let run = dir.larder(args, &[]);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(!run.stdout.is_empty());
    }
    let help = dir.larder(&["server", "--help", "--port", "nonsense"], &[]).stdout;
    for heading in
        ["Request server:", "L1: host memory:", "Eviction:", "HTTP:", "Metrics and logs:", "Coordinator:"]
    {
        assert!(help.contains(heading), "{heading}");
    }
}
