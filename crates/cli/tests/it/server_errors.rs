//! Every error is one line that names the flag, all are printed together, and the exit status is 2.

use crate::binary::{Finished, TestDir, check};

fn assert_one_line(run: &Finished, beginning: &str, inside: &str) {
    assert_eq!((run.status, run.lines().len(), run.stdout.as_str()), (Some(2), 1, ""), "{run:#?}");
    assert!(run.stderr.starts_with(&format!("error: {beginning}")), "{beginning}: {run:#?}");
    assert!(run.stderr.contains(inside), "{inside}: {run:#?}");
}

/// The error for an invalid address; for any in a build without OpenTelemetry.
const OTLP_ERROR: &str =
    if cfg!(feature = "otel") { "must be http://HOST:PORT" } else { "built without OpenTelemetry" };

#[test]
fn invalid_value_is_one_line_that_names_the_flag() {
    let dir = TestDir::new().file("empty", "\n").file("two", "a b");
    let long = format!("ipc:///{}", "x".repeat(200));
    let cases: &[(&[&str], &str)] = &[
        (&["--port", "70000"], "must be a whole number from 1 to 65535"),
        (&["--port", "0"], "must be a whole number from 1 to 65535"),
        (&["--port", "http"], "must be a whole number from 1 to 65535"),
        (&["--http-port", "-1"], "must be a whole number from 1 to 65535"),
        (&["--http-port", "5555"], "is the port of requests"),
        (&["--prometheus-port", "5555"], "is the port of requests"),
        (&["--host", "tcp://0.0.0.0"], "leave out the scheme, --host 0.0.0.0"),
        (&["--host", "a:5555"], "must be a host alone, the port goes to --port"),
        (&["--host", ""], "must not be empty"),
        (&["--http-host", "a b"], "must be a host name or an address"),
        (&["--listen", "0.0.0.0:5555"], "must be tcp://HOST:PORT or ipc:///PATH"),
        (&["--listen", &long], "at most 107 bytes"),
        (&["--chunk-size", "0"], "must be a whole number from 1"),
        (&["--chunk-size", "2.5"], "must be a whole number from 1"),
        (&["--max-workers", "0"], "must be a whole number from 1"),
        (&["--hash-algorithm", "builtin"], "use blake3 or sha256_cbor"),
        (&["--hash-algorithm", "blake2"], "did you mean 'blake3'?"),
        (&["--hash-algorithm", "sha256_cbor_64bit"], "must be one of {blake3,sha256_cbor}"),
        (&["--supported-transfer-mode", "both"], "must be one of {engine_driven,auto}"),
        (&["--shm-name", "a/b"], "letters, digits"),
        (&["--worker-reap-timeout-seconds", "10"], "must be 0 (off) or a number from 30"),
        (&["--worker-registration-grace-seconds", "60"], "must not be below --worker-reap-timeout-seconds"),
        (&["--session-ttl-seconds", "0"], "must be a number above 0"),
        (&["--kv-event-log-size", "-1"], "must be a whole number from 0"),
        (&["--shutdown-timeout", "-1"], "must be a number from 0"),
        (&["--l1-size-gb", "0"], "must be a number above 0"),
        (&["--l1-size-gb", "1e9"], "must be a number above 0 and up to 1048576"),
        (&["--l1-size-gb", "0.000001"], "size_gb must provide at least align_bytes bytes"),
        (&["--l1-align-bytes", "3000"], "align_bytes must be a power of two"),
        (&["--l1-read-ttl-seconds", "0"], "must be a whole number from 1"),
        (&["--eviction-policy", "lru"], "did you mean 'LRU'?"),
        (&["--eviction-policy", "S3-FIFO"], "did you mean 'S3FIFO'?"),
        (&["--quota-default-gb", "-1"], "must be a number from 0"),
        (&["--eviction-trigger-watermark", "7"], "must be a number above 0 and up to 1"),
        (&["--eviction-ratio", "-1"], "must be a number above 0 and up to 1"),
        (&["--l2-prefetch-policy", "retian"], "did you mean 'retain'?"),
        (&["--l2-prefetch-max-in-flight", "0"], "must be a whole number from 1"),
        (&["--metrics-sample-rate", "0"], "must be a number above 0 and up to 1"),
        (&["--lookup-hash-log-dir", "logs", "--disable-observability"], "needs observability"),
        (&["--enable-tracing"], "give --otlp-endpoint http://HOST:PORT"),
        (&["--otlp-endpoint", "http://collector:http"], OTLP_ERROR),
        (&["--otlp-endpoint", "grpc://collector:4317"], OTLP_ERROR),
        (&["--coordinator-url", "coordinator:9300"], "must begin with http://"),
        (&["--coordinator-url", "https://coordinator:9300"], "for TLS use a proxy"),
        (&["--coordinator-heartbeat-interval", "0"], "must be a number above 0"),
        (&["--http-auth-token-file", "missing"], "cannot be read"),
        (&["--http-auth-token-file", "empty"], "must hold the token"),
        (&["--http-auth-token-file", "two"], "one token and nothing else"),
        (&["--http-auth-reads"], "needs a token, give --http-auth-token-file"),
        (&["--http-allowed-hosts", "http://x"], "must be a host name, without scheme and port"),
        (&["--http-uds", LONG_PATH], "the path of a socket has at most 107 bytes"),
        (&["--config", "missing.toml"], "cannot be read"),
        (&["--config", "config.ini"], "cannot be read"),
        (&["--config", "empty"], "must end in .toml, .yaml or .yml"),
        (&["--grpc-server-workers", "0"], "must be a whole number from 1"),
        (&["--chunk-sise", "5"], "did you mean '--chunk-size'?"),
        (&["--port"], "needs a value, --port N"),
        (&["--isolated-ipc=yes"], "takes no value"),
    ];
    for (args, inside) in cases {
        assert_one_line(&dir.check(args, &[]), args[0], inside);
    }
}

/// Longer than the address of a socket.
const LONG_PATH: &str = "/run/larder/0123456789012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789";

#[test]
fn token_file_must_not_be_writable_by_others() {
    let dir = TestDir::new().file("token", "s3cret\n");
    let run = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(dir.path("token"), permissions).expect("its owner may");
        dir.check(&["--http-auth-token-file", "token"], &[])
    };
    for mode in [0o400, 0o600, 0o640] {
        assert_eq!((run(mode).status, run(mode).lines()), (Some(0), vec![]), "{mode:o}");
    }
    let readable = run(0o644);
    assert_eq!((readable.status, readable.lines().len()), (Some(0), 1), "{readable:#?}");
    assert!(readable.stderr.contains("every user may read the token (mode 644)"), "{readable:#?}");
    for mode in [0o620, 0o602, 0o666] {
        assert_one_line(&run(mode), "--http-auth-token-file", "other users may change it");
    }
    std::fs::write(dir.path("token"), "x".repeat(5000)).expect("its owner may");
    assert_one_line(&run(0o600), "--http-auth-token-file", "it has more than 4096 bytes");
}

#[test]
fn numbers_must_be_finite() {
    let flags = [
        "--l1-size-gb",
        "--eviction-ratio",
        "--eviction-trigger-watermark",
        "--session-ttl-seconds",
        "--worker-reap-timeout-seconds",
        "--worker-registration-grace-seconds",
        "--shutdown-timeout",
        "--exit-when-idle-seconds",
        "--metrics-sample-rate",
        "--extra-logging-interval",
        "--coordinator-heartbeat-interval",
        "--coordinator-event-flush-interval",
        "--p2p-lookup-timeout",
        "--gc-monitor-min-pause-ms",
    ];
    let dir = TestDir::new();
    for flag in flags {
        for value in ["nan", "inf", "-inf", "-0.5", "1e400", "many"] {
            assert_one_line(&dir.check(&[flag, value], &[]), &format!("{flag} {value}: "), "must be");
        }
    }
}

#[test]
fn each_error_in_json_is_one_line() {
    let dir = TestDir::new().file("bad.json", r#"{"type":"fs"}"#);
    let cases = [
        ("--l2-adapter", "{", "Invalid JSON for --l2-adapter #1: "),
        ("--l2-adapter", "[]", "--l2-adapter #1: expected a JSON object, got list"),
        ("--l2-adapter", "{}", "--l2-adapter #1: missing 'type' field"),
        ("--l2-adapter", r#"{"type":"zzz"}"#, "--l2-adapter #1: unknown adapter type 'zzz'. Known: "),
        (
            "--l2-adapter",
            r#"{"type":"resp"}"#,
            "--l2-adapter #1: this server has no 'resp' adapter; use 'fs'",
        ),
        (
            "--l2-adapter",
            r#"{"type":"fs","base_path":"/d","use_odirct":true}"#,
            "--l2-adapter #1 ('fs'): unknown field 'use_odirct', did you mean 'use_odirect'?",
        ),
        (
            "--l2-adapter",
            r#"{"type":"fs","base_path":"/d","affinity_tag":"zz"}"#,
            "--l2-adapter #1: Unknown L1 affinity_tag: 'zz'",
        ),
        ("--l2-adapter", "@missing.json", "--l2-adapter #1 @missing.json: cannot be read"),
        ("--l2-adapter", "@bad.json", "--l2-adapter #1 ('fs'): base_path must be a non-empty string"),
        ("--l1-manager", r#"{"type":"RAM"}"#, "--l1-manager requires type DRAM, DEVDAX or GDS"),
        (
            "--l1-manager",
            r#"{"type":"DRAM","tag":"_default","size_gb":0.03125,"size":1}"#,
            "--l1-manager: Unknown L1 fields: ['size']",
        ),
        (
            "--l2-adapter",
            r#"{"type":"fs","base_path":"/d","serde":{"type":"fp8"}}"#,
            "--l2-adapter #1 ('fs'): serde is not part of this server",
        ),
        (
            "--l1-manager",
            r#"{"type":"DRAM","tag":"_default","size_gb":0.03125,"align_bytes":3}"#,
            "--l1-manager: align_bytes must be a power of two",
        ),
    ];
    for (flag, json, line) in cases {
        assert_one_line(&dir.check(&[flag, json], &[]), line, "");
    }
}

#[test]
fn accepts_one_pool_from_flags_or_json() {
    let pool = r#"{"type":"DRAM","tag":"_default","size_gb":0.03125}"#;
    assert_one_line(
        &check(&["--l1-manager", pool, "--l1-size-gb", "1"]),
        "--l1-manager: Use either --l1-manager or legacy L1 flags",
        "",
    );
    assert_one_line(
        &check(&["--l1-manager", pool, "--l1-manager", pool]),
        "--l1-manager: given 2 times",
        "one pool",
    );
}

#[test]
fn prints_all_errors_together() {
    let run = TestDir::new().larder(
        &[
            "server",
            "--port=70000",
            "--chunk-size=0",
            "--l1-size-gb=0",
            "--eviction-ratio=-1",
            "--eviction-trigger-watermark=7",
            "--hash-algorithm=builtin",
            "--l2-adapter={\"type\":\"fs\",\"base_pth\":\"/d\"}",
            "--chunk-sise=4",
            "--isolated-ipc",
        ],
        &[("LMCACHE_SERVER_HTTP_PORT", "x")],
    );
    assert_eq!((run.status, run.stdout.as_str()), (Some(2), ""), "{run:#?}");
    let expected = "\
error: --chunk-sise: no such flag, did you mean '--chunk-size'?
error: --port 70000: must be a whole number from 1 to 65535
error: --chunk-size 0: must be a whole number from 1 to 2147483648
error: --hash-algorithm builtin: it needs the Python interpreter's own hash function; use blake3 or sha256_cbor
error: --l1-size-gb 0: must be a number above 0 and up to 1048576
error: --eviction-trigger-watermark 7: must be a number above 0 and up to 1
error: --eviction-ratio -1: must be a number above 0 and up to 1
error: --http-port x (from LMCACHE_SERVER_HTTP_PORT): must be a whole number from 1 to 65535
error: --l2-adapter #1 ('fs'): base_path must be a non-empty string, got nothing
error: --l2-adapter #1 ('fs'): unknown field 'base_pth', did you mean 'base_path'?
";
    assert_eq!(run.stderr, expected);
}

#[test]
fn size_above_dev_shm_is_an_error_with_remedies() {
    assert_one_line(
        &check(&["--l1-size-gb", "1048576"]),
        "--l1-size-gb 1048576: /dev/shm has ",
        "--shm-size=",
    );
    let run = check(&["--l1-size-gb", "1048576", "--shm-fallback"]);
    assert_eq!((run.status, run.effective("shm-name")), (Some(0), ("\"\"", "shm-fallback")));
    assert_eq!(run.lines().len(), 1);
}

#[test]
fn closed_pipe_is_not_an_error() {
    let script = format!(
        "'{}' server --help | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_larder")
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
}
