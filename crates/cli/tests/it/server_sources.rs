//! Precedence of command line, environment, file and default, and the origins in the effective configuration.

use crate::binary::TestDir;

const TOML: &str = r#"
chunk-size = 128
http_port = 8001
log-level = "warn"
access-log = true
listen = ["ipc:///tmp/a.sock"]
"#;

const YAML: &str = "
chunk-size: 128
http_port: 8001
log-level: warn
access-log: true
listen:
  - ipc:///tmp/a.sock
";

#[test]
fn precedence_is_decided_for_each_flag() {
    for (file, text) in [("larder.toml", TOML), ("larder.yaml", YAML)] {
        let dir = TestDir::new().file(file, text);
        let run = dir.check(
            &["--config", file, "--chunk-size", "512"],
            &[
                ("LMCACHE_SERVER_CHUNK_SIZE", "64"),
                ("LMCACHE_SERVER_HTTP_PORT", "8002"),
                ("LMCACHE_SERVER_SHM_NAME", ""),
                ("LMCACHE_SERVER_SHM_FALLBACK", "yes"),
            ],
        );
        assert_eq!((run.status, run.lines()), (Some(0), vec![]));
        assert_eq!(run.effective("chunk-size"), ("512", "command line"));
        assert_eq!(run.effective("http-port"), ("8002", "LMCACHE_SERVER_HTTP_PORT"));
        assert_eq!(run.effective("shm-name"), ("\"\"", "LMCACHE_SERVER_SHM_NAME"));
        assert_eq!(run.effective("shm-fallback"), ("true", "LMCACHE_SERVER_SHM_FALLBACK"));
        assert_eq!(run.effective("log-level"), ("\"warn\"", file));
        assert_eq!(run.effective("access-log"), ("true", file));
        assert_eq!(run.effective("listen"), ("[\"ipc:///tmp/a.sock\"]", file));
        assert_eq!(run.effective("port"), ("5555", "default"));
    }
}

#[test]
fn variables_of_lmcache_have_lower_precedence() {
    let dir = TestDir::new();
    let lmcache = [
        ("LMCACHE_LOG_LEVEL", "WARNING"),
        ("LMCACHE_COORDINATOR_ADVERTISE_IP", "10.0.0.5"),
        ("LMCACHE_COORDINATOR_EVENT_REPORTING", "1"),
        ("LMCACHE_TRACK_USAGE", "false"),
        ("LMCACHE_SERVER_URL", "tcp://elsewhere:5555"),
    ];
    let run = dir.check(&[], &lmcache);
    assert_eq!((run.status, run.lines()), (Some(0), vec![]));
    assert_eq!(run.effective("log-level"), ("\"warn\"", "LMCACHE_LOG_LEVEL"));
    assert_eq!(run.effective("coordinator-advertise-ip").1, "LMCACHE_COORDINATOR_ADVERTISE_IP");
    assert_eq!(run.effective("coordinator-event-reporting").0, "true");
    let both = [&lmcache[..], &[("LMCACHE_SERVER_LOG_LEVEL", "debug")]].concat();
    assert_eq!(dir.check(&[], &both).effective("log-level"), ("\"debug\"", "LMCACHE_SERVER_LOG_LEVEL"));
}

#[test]
fn environment_can_name_the_file() {
    let dir = TestDir::new().file("larder.toml", TOML);
    let run = dir.check(&[], &[("LMCACHE_SERVER_CONFIG", "larder.toml")]);
    assert_eq!(run.effective("chunk-size"), ("128", "larder.toml"));
}

#[test]
fn errors_name_the_origin_of_the_value() {
    let dir = TestDir::new()
        .file("bad.toml", "port = 70000\nchunk-sise = 1\nl1-use-hugepages = \"perhaps\"\n")
        .file("broken.toml", "port = = 1\n")
        .file("broken.yaml", "port: [\n");
    let run = dir.check(&["--config=bad.toml"], &[("LMCACHE_SERVER_EVICTION_RATIO", "7")]);
    assert_eq!(
        run.stderr,
        "\
error: chunk-sise (from bad.toml): no such setting, did you mean 'chunk-size'?
error: --port 70000 (from bad.toml): must be a whole number from 1 to 65535
error: --l1-use-hugepages perhaps (from bad.toml): must be true or false
error: --eviction-ratio 7 (from LMCACHE_SERVER_EVICTION_RATIO): must be a number above 0 and up to 1
"
    );
    for file in ["broken.toml", "broken.yaml"] {
        let run = dir.check(&["--config", file], &[]);
        assert_eq!((run.status, run.lines().len()), (Some(2), 1), "{run:#?}");
        assert!(run.stderr.starts_with(&format!("error: --config {file}: is not valid ")), "{run:#?}");
    }
}

#[test]
fn effective_configuration_can_be_read_back() {
    let dir = TestDir::new();
    let first = dir.check(&["--chunk-size=512", "--listen=tcp://h:1", "--shutdown-timeout=2.5"], &[]).stdout;
    let dir = dir.file("again.toml", &first);
    let second = dir.larder(&["server", "--check-config", "--config=again.toml"], &[]);
    assert_eq!((second.status, second.lines()), (Some(0), vec![]));
    let values = |text: &str| {
        let lines = text.lines().map(|line| line.split(" # ").next().unwrap_or("").trim_end().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>()
    };
    assert_eq!(values(&second.stdout), values(&first));
}

#[test]
fn secrets_are_not_printed() {
    let dir = TestDir::new().file("token", "hunter2\n");
    let run = dir.check(&["--http-auth-token-file=token", "--coordinator-url=http://me:hunter2@c:9300"], &[]);
    assert_eq!(run.status, Some(0));
    assert!(!run.stdout.contains("hunter2") && !run.stderr.contains("hunter2"), "{run:#?}");
    assert_eq!(run.effective("coordinator-url").0, "\"http://***@c:9300\"");
    let run = dir.check(&["--coordinator-url=me:hunter2@c"], &[]);
    assert_eq!(
        run.stderr,
        "error: --coordinator-url ***@c: must begin with http://; for TLS use a proxy on this node\n"
    );
}

/// Operators read and compare this output; keep its format.
#[test]
fn effective_configuration_matches_the_golden_file() {
    let run = TestDir::new().check(
        &["--instance-id=node-a", "--max-workers=4", "--l1-size-gb=0.03125", "--http-port=8081"],
        &[("LMCACHE_SERVER_LOG_FORMAT", "json")],
    );
    assert_eq!(run.stdout, include_str!("effective.txt"));
}
