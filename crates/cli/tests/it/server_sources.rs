//! Flag over environment over file over default, and the effective configuration that tells which.

use crate::command::Place;

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
fn the_strongest_source_wins_flag_by_flag() {
    for (file, text) in [("larder.toml", TOML), ("larder.yaml", YAML)] {
        let place = Place::new().file(file, text);
        let ran = place.check(
            &["--config", file, "--chunk-size", "512"],
            &[
                ("LMCACHE_SERVER_CHUNK_SIZE", "64"),
                ("LMCACHE_SERVER_HTTP_PORT", "8002"),
                ("LMCACHE_SERVER_SHM_NAME", ""),
                ("LMCACHE_SERVER_SHM_FALLBACK", "yes"),
            ],
        );
        assert_eq!((ran.status, ran.lines()), (Some(0), vec![]));
        assert_eq!(ran.effective("chunk-size"), ("512", "command line"));
        assert_eq!(ran.effective("http-port"), ("8002", "LMCACHE_SERVER_HTTP_PORT"));
        assert_eq!(ran.effective("shm-name"), ("\"\"", "LMCACHE_SERVER_SHM_NAME"));
        assert_eq!(ran.effective("shm-fallback"), ("true", "LMCACHE_SERVER_SHM_FALLBACK"));
        assert_eq!(ran.effective("log-level"), ("\"warn\"", file));
        assert_eq!(ran.effective("access-log"), ("true", file));
        assert_eq!(ran.effective("listen"), ("[\"ipc:///tmp/a.sock\"]", file));
        assert_eq!(ran.effective("port"), ("5555", "default"));
    }
}

#[test]
fn the_references_own_variables_come_after_ours() {
    let place = Place::new();
    let theirs = [
        ("LMCACHE_LOG_LEVEL", "WARNING"),
        ("LMCACHE_COORDINATOR_ADVERTISE_IP", "10.0.0.5"),
        ("LMCACHE_COORDINATOR_EVENT_REPORTING", "1"),
        ("LMCACHE_TRACK_USAGE", "false"),
        ("LMCACHE_SERVER_URL", "tcp://elsewhere:5555"),
    ];
    let ran = place.check(&[], &theirs);
    assert_eq!((ran.status, ran.lines()), (Some(0), vec![]));
    assert_eq!(ran.effective("log-level"), ("\"warn\"", "LMCACHE_LOG_LEVEL"));
    assert_eq!(ran.effective("coordinator-advertise-ip").1, "LMCACHE_COORDINATOR_ADVERTISE_IP");
    assert_eq!(ran.effective("coordinator-event-reporting").0, "true");
    let both = [&theirs[..], &[("LMCACHE_SERVER_LOG_LEVEL", "debug")]].concat();
    assert_eq!(place.check(&[], &both).effective("log-level"), ("\"debug\"", "LMCACHE_SERVER_LOG_LEVEL"));
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let place = Place::new().file("larder.toml", TOML);
    let ran = place.check(&[], &[("LMCACHE_SERVER_CONFIG", "larder.toml")]);
    assert_eq!(ran.effective("chunk-size"), ("128", "larder.toml"));
}

#[test]
fn mistakes_name_the_source_that_made_them() {
    let place = Place::new()
        .file("bad.toml", "port = 70000\nchunk-sise = 1\nl1-use-hugepages = \"perhaps\"\n")
        .file("broken.toml", "port = = 1\n")
        .file("broken.yaml", "port: [\n");
    let ran = place.check(&["--config=bad.toml"], &[("LMCACHE_SERVER_EVICTION_RATIO", "7")]);
    assert_eq!(
        ran.stderr,
        "\
error: chunk-sise (from bad.toml): no such setting, did you mean 'chunk-size'?
error: --port 70000 (from bad.toml): must be a whole number from 1 to 65535
error: --l1-use-hugepages perhaps (from bad.toml): must be true or false
error: --eviction-ratio 7 (from LMCACHE_SERVER_EVICTION_RATIO): must be a number above 0 and up to 1
"
    );
    for file in ["broken.toml", "broken.yaml"] {
        let ran = place.check(&["--config", file], &[]);
        assert_eq!((ran.status, ran.lines().len()), (Some(2), 1), "{ran:#?}");
        assert!(ran.stderr.starts_with(&format!("error: --config {file}: is not valid ")), "{ran:#?}");
    }
}

#[test]
fn what_is_printed_can_be_read_back() {
    let place = Place::new();
    let first =
        place.check(&["--chunk-size=512", "--listen=tcp://h:1", "--shutdown-timeout=2.5"], &[]).stdout;
    let place = place.file("again.toml", &first);
    let second = place.larder(&["server", "--check-config", "--config=again.toml"], &[]);
    assert_eq!((second.status, second.lines()), (Some(0), vec![]));
    let values = |text: &str| {
        let lines = text.lines().map(|line| line.split(" # ").next().unwrap_or("").trim_end().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>()
    };
    assert_eq!(values(&second.stdout), values(&first));
}

#[test]
fn secrets_are_not_printed() {
    let place = Place::new().file("token", "hunter2\n");
    let ran =
        place.check(&["--http-auth-token-file=token", "--coordinator-url=http://me:hunter2@c:9300"], &[]);
    assert_eq!(ran.status, Some(0));
    assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{ran:#?}");
    assert_eq!(ran.effective("coordinator-url").0, "\"http://***@c:9300\"");
    let ran = place.check(&["--coordinator-url=me:hunter2@c"], &[]);
    assert_eq!(
        ran.stderr,
        "error: --coordinator-url ***@c: must begin with http://; TLS is left to a proxy on this node\n"
    );
}

/// The whole of it, for a fully chosen configuration: what changes here, changes for people who read or diff it.
#[test]
fn the_effective_configuration_looks_like_this() {
    let ran = Place::new().check(
        &["--instance-id=node-a", "--max-workers=4", "--l1-size-gb=0.03125", "--http-port=8081"],
        &[("LMCACHE_SERVER_LOG_FORMAT", "json")],
    );
    assert_eq!(ran.stdout, include_str!("effective.txt"));
}
