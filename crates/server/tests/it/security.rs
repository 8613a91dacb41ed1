//! Who may call the HTTP API, and who may read what the server keeps: over real sockets and in real directories.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use larder_server::config::{Config, LookupHashLogConfig, Secret};
use larder_server::{Server, error_chain};
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::support::{Directory, TestServer, config, fill, key, open_pool};

const FORM: &str = "Content-Type: text/plain\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// A server on which worker 7 has stored four chunks.
async fn server_with_four_chunks(config: Config) -> TestServer {
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    let key = key("m", 1, 4, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(key.clone(), InstanceId(7))).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    fill(&pool, &slots, 10);
    assert!(c.call(ops::CommitStore { key, instance_id: InstanceId(7), data: Bytes::new() }).await);
    server
}

fn objects(server: &TestServer) -> u64 {
    server.state.core().read(|core, _| core.gauges().l1.resident_objects)
}

/// Every route, with a value in place of each variable segment.
fn all_routes() -> impl Iterator<Item = (&'static str, String)> {
    larder_server::http::routes().into_iter().map(|(method, path)| {
        let segments: Vec<_> =
            path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        (method, segments.join("/"))
    })
}

#[tokio::test]
async fn other_sites_are_refused_on_every_route() {
    let mut server = server_with_four_chunks(config()).await;
    server.expect_log("HTTP request refused");
    let rebound = "Host: evil.example:8080\r\nOrigin: http://evil.example:8080\r\n";
    let cross = "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n";
    for (method, path) in
        all_routes().chain([("GET", "/nothing".to_owned()), ("OPTIONS", "/cache/clear".to_owned())])
    {
        for headers in [rebound, cross] {
            for encoding in [FORM, JSON] {
                let headers = format!("{headers}{encoding}");
                let (status, body) = server.http(method, &path, &headers, r#"{"force": true}"#).await;
                assert_eq!(status, 403, "{method} {path} {headers}: {body}");
                let answer: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(answer["error"], answer["detail"]);
            }
        }
    }
    assert_eq!(objects(&server), 4);
    // The name is in the target instead.
    assert_eq!(server.http("GET", "http://evil.example/overview", "", "").await.0, 403);
    let (_, metrics) = server.get("/metrics").await;
    let counted =
        metrics.lines().find_map(|line| line.strip_prefix("lmcache_mp_http_foreign_requests_total "));
    assert!(counted.is_some_and(|count| count.parse::<f64>().unwrap() > 100.0), "{counted:?}");
    server.stop().await;
}

#[tokio::test]
async fn tools_and_the_own_page_are_served() {
    let port = |server: &TestServer| server.http.port();
    let server = server_with_four_chunks(config()).await;
    for host in ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST", "[::1]:PORT", "10.1.2.3:8080"] {
        let host = format!("Host: {}\r\n", host.replace("PORT", &port(&server).to_string()));
        for probe in [
            "User-Agent: curl/8.5.0\r\nAccept: */*\r\n",
            "User-Agent: kube-probe/1.31\r\n",
            "User-Agent: Prometheus/3.1\r\n",
        ] {
            for path in ["/overview", "/metrics", "/readyz"] {
                assert_eq!(
                    server.http("GET", path, &format!("{host}{probe}"), "").await.0,
                    200,
                    "{host} {path}"
                );
            }
        }
    }
    let own = format!(
        "Host: localhost:{0}\r\nOrigin: http://localhost:{0}\r\nSec-Fetch-Site: same-origin\r\n{JSON}",
        port(&server)
    );
    assert_eq!(server.http("POST", "/cache/clear", &own, "").await.0, 200);
    assert_eq!(objects(&server), 0);
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n";
    assert_eq!(server.http("GET", "/", link, "").await.0, 200, "a link to the page");
    assert_eq!(server.http("GET", "/status", link, "").await.0, 403);
    // `curl -d` sends a form's encoding.
    let curl = "User-Agent: curl/8.5.0\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(server.http("POST", "/cache/clear", curl, r#"{"force": true}"#).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn names_are_those_that_the_server_was_given() {
    let mut config = config();
    config.http.allowed_hosts = vec!["larder.example".to_owned(), ".svc".to_owned()];
    config.coordinator.advertise_ip = Some("node-7.example".to_owned());
    let mut server = TestServer::start(config).await;
    server.expect_log("HTTP request refused");
    for (host, status) in [
        ("larder.example", 200),
        ("Larder.Example:8080", 200),
        ("larder.models.svc:8080", 200),
        ("node-7.example:8080", 200),
        ("other.example", 403),
    ] {
        assert_eq!(
            server.http("GET", "/overview", &format!("Host: {host}\r\n"), "").await.0,
            status,
            "{host}"
        );
    }
    // A proxy that keeps its own Host.
    let proxied = "Origin: https://larder.example\r\nSec-Fetch-Site: same-origin\r\n";
    assert_eq!(server.http("POST", "/cache/clear", proxied, "").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn reads_need_the_token_where_asked_and_probes_do_not() {
    let mut config = config();
    config.http.auth_token = Some(Secret::new("s3cret"));
    config.http.auth_reads = true;
    config.http.debug_endpoints = true;
    let server = TestServer::start(config).await;
    let probes = ["/healthcheck", "/api/healthcheck", "/livez", "/readyz"];
    for (method, path) in all_routes() {
        for header in ["", "Authorization: Bearer s3cre\r\n", "Authorization: Bearer s3cret1\r\n"] {
            let (status, body) = server.http(method, &path, header, "").await;
            assert_eq!(status == 401, !probes.contains(&path.as_str()), "{method} {path}: {status} {body}");
        }
    }
    for path in ["/", "/status", "/metrics", "/overview"] {
        assert_eq!(server.http("GET", path, "Authorization: Bearer s3cret\r\n", "").await.0, 200, "{path}");
    }
    server.stop().await;
}

/// One call over a Unix socket.
async fn over_socket(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn unix_socket_serves_its_owner_without_a_token() {
    let directory = Directory::new();
    let path = directory.0.join("run/admin.sock");
    let with_socket = || {
        let mut config = config();
        config.http.uds = Some(path.clone());
        config.http.auth_token = Some(Secret::new("s3cret"));
        config.http.auth_reads = true;
        config
    };
    let server = server_with_four_chunks(with_socket()).await;
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(&directory.0.join("run"))), (0o600, 0o700));
    let status = over_socket(&path, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
    let cleared =
        over_socket(&path, "POST /cache/clear HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(cleared.starts_with("HTTP/1.1 200 "), "{cleared}");
    assert_eq!(objects(&server), 0);
    let taken = error_chain(&Server::bind(with_socket()).await.unwrap_err());
    assert!(taken.starts_with("--http-uds: ") && taken.contains("in use"), "{taken}");
    server.stop().await;
    assert!(!path.exists(), "the socket is removed at the end");
    std::fs::write(&path, "a file").unwrap();
    let in_the_way = error_chain(&Server::bind(with_socket()).await.unwrap_err());
    assert!(in_the_way.contains("not a socket"), "{in_the_way}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

/// Modes of a directory and of all files in it.
fn modes(directory: &Path) -> Vec<u32> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
    let mut modes: Vec<u32> = files.map(|file| mode(&file)).collect();
    assert!(!modes.is_empty(), "{}", directory.display());
    modes.push(mode(directory));
    modes
}

fn keeping_all(directory: &Directory) -> Config {
    let mut config = config();
    config.state_dir = Some(directory.0.join("state"));
    config.record = Some(directory.0.join("record"));
    config.lookup_hash_log = Some(LookupHashLogConfig {
        dir: directory.0.join("lookups"),
        rotation_interval: Duration::from_secs(3600),
        rotation_max_bytes: 1 << 20,
        max_files: 2,
    });
    config
}

#[tokio::test]
async fn what_is_kept_is_readable_by_its_owner_only() {
    let directory = Directory::new();
    let server = server_with_four_chunks(keeping_all(&directory)).await;
    let mut c = server.client().await;
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 4);
    assert_eq!(server.http("PUT", "/quota/alice", "", r#"{"limit_gb": 1}"#).await.0, 200);
    server.stop().await;
    for part in ["state", "lookups"] {
        let modes = modes(&directory.0.join(part));
        assert!(modes.iter().all(|mode| mode & 0o077 == 0), "{part}: {modes:?}");
    }
    let record = std::fs::metadata(directory.0.join("record")).unwrap();
    assert_eq!(record.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn links_in_directories_of_the_server_are_not_followed() {
    for name in ["state/lock", "state/quotas.json", "state/quotas.json.new", "record"] {
        let directory = Directory::new();
        let victim = directory.0.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::fs::create_dir(directory.0.join("state")).unwrap();
        symlink(&victim, directory.0.join(name)).unwrap();
        match Server::bind(keeping_all(&directory)).await {
            Ok(server) => drop(server),
            Err(error) => {
                let error = error_chain(&error);
                assert!(error.contains("is a symbolic link"), "{name}: {error}");
            }
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "{name}");
    }
}
