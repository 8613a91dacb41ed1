//! The dashboard, and the overview that it shows.

use std::collections::BTreeMap;

use bytes::Bytes;
use larder_server::config::{EvictionPolicy, Secret};
use larder_server::overview::Overview;
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::{Value, json};

use crate::support::{CHUNK, Directory, TestServer, config, fill, key, open_pool, with_files};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";

/// An HTTP answer.
struct Answer {
    status: String,
    headers: BTreeMap<String, String>,
    body: String,
}

async fn ask(server: &TestServer, method: &str, path: &str, headers: &str) -> Answer {
    let (head, body) = server.exchange(method, path, headers, "").await;
    let mut lines = head.lines();
    let status = lines.next().expect("a status line").split(' ').nth(1).expect("a status").to_owned();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    Answer { status, headers: lines.filter_map(header).collect(), body }
}

/// Whether the page may load only its own files.
fn loads_own_files_only(answer: &Answer) -> bool {
    let policy = &answer.headers["content-security-policy"];
    policy.starts_with("default-src 'none'; ")
        && !policy.contains("unsafe")
        && !policy.contains('*')
        && !policy.contains("http")
        && answer.headers["x-content-type-options"] == "nosniff"
        && answer.headers["x-frame-options"] == "DENY"
        && answer.headers["cache-control"] == "no-cache"
}

async fn overview(server: &TestServer) -> Overview {
    let (status, text) = server.get("/overview").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("an overview")
}

#[tokio::test]
async fn root_serves_html_to_browsers_and_json_to_tools() {
    let server = TestServer::start(config()).await;
    let json = json!({"status": "ok", "service": "LMCache HTTP API"});
    for accept in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
        let answer = ask(&server, "GET", "/", accept).await;
        assert_eq!((&*answer.status, &*answer.headers["content-type"]), ("200", "application/json"));
        assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), json, "{accept}");
        assert_eq!(answer.headers["vary"], "Accept", "caches must keep both");
    }
    let answer = ask(&server, "GET", "/", BROWSER).await;
    assert_eq!((&*answer.status, &*answer.headers["content-type"]), ("200", "text/html; charset=utf-8"));
    assert_eq!(answer.headers["vary"], "Accept");
    assert!(answer.body.starts_with("<!doctype html>"), "{}", answer.body);
    assert!(loads_own_files_only(&answer), "{:?}", answer.headers);
    let head = ask(&server, "HEAD", "/", BROWSER).await;
    assert_eq!((&*head.status, &*head.body, &head.headers["etag"]), ("200", "", &answer.headers["etag"]));
    server.stop().await;
}

#[tokio::test]
async fn unchanged_file_is_answered_with_304() {
    let server = TestServer::start(config()).await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let first = ask(&server, "GET", path, BROWSER).await;
        assert_eq!((&*first.status, &*first.headers["content-type"]), ("200", content_type), "{path}");
        assert!(loads_own_files_only(&first), "{path}: {:?}", first.headers);
        let tag = &first.headers["etag"];
        let again = ask(&server, "GET", path, &format!("{BROWSER}If-None-Match: {tag}\r\n")).await;
        assert_eq!((&*again.status, &*again.body), ("304", ""), "{path}");
        assert_eq!(&again.headers["etag"], tag);
        let changed = ask(&server, "GET", path, &format!("{BROWSER}If-None-Match: \"other\"\r\n")).await;
        assert_eq!((changed.status, changed.body), ("200".to_owned(), first.body), "{path}");
    }
    for path in ["/page/", "/page/nothing.js", "/page/../http.rs", "/page/%2e%2e%2fhttp.rs"] {
        assert_eq!(ask(&server, "GET", path, BROWSER).await.status, "404", "{path}");
    }
    assert_eq!(ask(&server, "POST", "/page/app.js", BROWSER).await.status, "405");
    server.stop().await;
}

#[tokio::test]
async fn page_needs_no_token() {
    let mut config = config();
    config.http.auth_token = Some(Secret::new("s3cret"));
    let server = TestServer::start(config).await;
    for path in ["/", "/page/app.js", "/overview"] {
        let answer = ask(&server, "GET", path, BROWSER).await;
        assert_eq!(answer.status, "200", "{path}");
        assert!(!answer.body.contains("s3cret"));
    }
    server.stop().await;
}

#[tokio::test]
async fn overview_counts_requests() {
    let directory = Directory::new();
    let mut config = with_files(&directory);
    config.eviction.policy = EvictionPolicy::Adaptive;
    let server = TestServer::start(config).await;
    let before = overview(&server).await;
    assert_eq!((before.lookups.count, before.workers.len(), before.operations.len()), (0, 0, 0));
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    let stored = key("m", 1, 4, "store", Some(0));
    let prepare = ops::PrepareStore::new(stored.clone(), InstanceId(7));
    let plan = c.call(prepare).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    assert_eq!(overview(&server).await.stores.active, 1);
    fill(&pool, &slots, 10);
    let commit = ops::CommitStore { key: stored, instance_id: InstanceId(7), data: Bytes::new() };
    assert!(c.call(commit).await);
    assert_eq!(c.hit(&key("m", 1, 4, "found", None)).await, 4);
    assert_eq!(c.hit(&key("m", 2, 4, "missed", None)).await, 0);
    server
        .until("write-back ends", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    let seen = overview(&server).await;
    let four_chunks = 4 * CHUNK as u64;
    assert_eq!((seen.lookups.requested_tokens, seen.lookups.hit_l1_tokens), (2 * four_chunks, four_chunks));
    assert_eq!((seen.stores.count, seen.stores.bytes, seen.stores.active), (1, 4 * 768, 0));
    assert_eq!((seen.l1.objects, seen.l1.held_objects), (4, 4));
    let [adapter] = &seen.l2.adapters[..] else { panic!("{:?}", seen.l2) };
    assert_eq!((&*adapter.type_name, &*adapter.reads, &*adapter.writes), ("fs", "closed", "closed"));
    assert_eq!(adapter.base_path.as_deref(), directory.0.to_str());
    assert_eq!((adapter.stores.objects, adapter.stores.bytes, adapter.objects), (4, 4 * 768, 4));
    assert!(adapter.stores.batches > 0 && adapter.stores.seconds > 0.0, "{adapter:?}");
    assert_eq!((&*seen.workers[0].instance_id, &*seen.workers[0].model_name), ("7", "m"));
    let lookups = seen.operations.iter().find(|operation| operation.name == "lookup").expect("lookups");
    assert_eq!((lookups.buckets.iter().sum::<u64>(), lookups.failed), (2, 0));
    assert_eq!(lookups.buckets.len(), seen.bucket_bounds_seconds.len() + 1);
    assert_eq!(seen.policies.eviction, "adaptive");
    let learned = seen.policies.learned.expect("an adaptive policy learns");
    assert!(learned.experts.iter().any(|expert| expert.name == learned.leader), "{learned:?}");
    assert!(seen.problems.is_empty() && seen.uptime_seconds >= before.uptime_seconds);
    // The same as elsewhere.
    let status: Value = serde_json::from_str(&server.get("/status").await.1).unwrap();
    assert_eq!(status["hit_stats"]["total_retrieved_tokens"], seen.lookups.hit_l1_tokens);
    assert_eq!(status["storage_manager"]["l1_manager"]["memory_used_bytes"], seen.l1.used_bytes);
    // What L2 adds is counted once.
    assert_eq!(server.http("POST", "/cache/clear", "", "{\"force\": true}").await.0, 200);
    assert_eq!(c.hit(&key("m", 1, 4, "loaded", None)).await, 4);
    let seen = overview(&server).await;
    assert_eq!((seen.lookups.hit_l1_tokens, seen.lookups.hit_l2_tokens), (four_chunks, four_chunks));
    let status: Value = serde_json::from_str(&server.get("/status").await.1).unwrap();
    assert_eq!(status["hit_stats"]["total_retrieved_tokens"], 2 * four_chunks);
    server.stop().await;
}

#[tokio::test]
async fn overview_reports_problems_of_l2() {
    let directory = Directory::new();
    let mut server = TestServer::start(with_files(&directory)).await;
    server.expect_log("stores of the L2 backend fail");
    server.expect_log("store in L2 failed: create directory");
    std::fs::remove_dir_all(&directory.0).unwrap();
    std::fs::write(&directory.0, "in the way").unwrap();
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    let stored = key("m", 1, 4, "store", Some(0));
    let prepare = ops::PrepareStore::new(stored.clone(), InstanceId(7));
    let plan = c.call(prepare).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    fill(&pool, &slots, 10);
    let commit = ops::CommitStore { key: stored, instance_id: InstanceId(7), data: Bytes::new() };
    assert!(c.call(commit).await);
    server.until("a store fails", |state| !state.l2.problems().is_empty()).await;
    let seen = overview(&server).await;
    assert!(seen.problems[0].starts_with("L2 adapter #1 (fs): writes "), "{:?}", seen.problems);
    assert_ne!(seen.l2.adapters[0].writes, "closed");
    std::fs::remove_file(&directory.0).unwrap();
    server.stop().await;
}
