//! Every route is described in `docs/openapi.json`, and answers have what LMCache's tools read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Client, Directory, TestServer, config, fill, key, open_pool, with_files};
use bytes::Bytes;
use larder_server::app::log_control::LogControl;
use larder_server::config::{LogLevel, Secret, l2};
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::{Value, json};

const API: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));

/// Every member of LMCache's `/status`, with the type of its value.
const STATUS_SHAPE: &str = include_str!("status_shape.txt");

async fn json(server: &TestServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, text) = server.http(method, path, "", &body).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{method} {path}: {e}: {text}")))
}

#[test]
fn openapi_describes_exactly_the_served_routes() {
    let api: Value = serde_json::from_str(API).expect("JSON");
    let methods = |(path, item): (&String, &Value)| {
        let item = item.as_object().expect("methods").clone();
        item.keys().map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    let described: BTreeSet<_> = api["paths"].as_object().unwrap().iter().flat_map(methods).collect();
    let served: BTreeSet<_> = larder_server::http::routes()
        .into_iter()
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .collect();
    let missing: Vec<_> = served.difference(&described).collect();
    let unknown: Vec<_> = described.difference(&served).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not described: {missing:?}; not served: {unknown:?}");
}

#[tokio::test]
async fn serves_openapi_and_version() {
    let server = TestServer::start(config()).await;
    assert_eq!(json(&server, "GET", "/openapi.json", Value::Null).await.1["openapi"], "3.1.0");
    server.stop().await;
}

/// A server with files, on which worker 7 has stored two chunks.
async fn server_with_traffic(directory: &Directory) -> (TestServer, Client) {
    let server = TestServer::start(with_files(directory)).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    let stored = key("m", 1, 2, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(stored.clone(), InstanceId(7))).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    fill(&pool, &slots, 1);
    let commit = ops::CommitStore { key: stored, instance_id: InstanceId(7), data: Bytes::new() };
    assert!(c.call(commit).await);
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 2);
    (server, c)
}

#[tokio::test]
async fn status_has_every_member_of_lmcache() {
    let directory = Directory::new();
    let (server, _c) = server_with_traffic(&directory).await;
    let (_, status) = json(&server, "GET", "/status", Value::Null).await;
    for line in STATUS_SHAPE.lines() {
        let (pointer, types) = line.split_once(' ').expect("a pointer and a type");
        let found = status.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "float",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "list",
            Value::Object(_) => "object",
        };
        assert_eq!(found, types, "{pointer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn status_lists_lookups_that_wait_for_l2() {
    let mut config = config();
    // Its L2 never answers.
    let adapter = r#"{"type":"fault_inject","hang_rate":1,"hang_seconds":600,
        "inner":{"type":"mock","max_size_gb":0.001,"mock_bandwidth_gb":1}}"#;
    config.l2.adapters = vec![l2::parse_adapter(1, adapter).expect("a valid adapter")];
    config.shutdown_timeout = Duration::ZERO;
    let mut server = TestServer::start(config).await;
    server.expect_log("not done in time");
    let mut c = server.client().await;
    c.register(7, "m").await;
    let (_, before) = json(&server, "GET", "/status", Value::Null).await;
    assert_eq!((&before["prefetch_job_ids"], &before["pending_request_ids"]), (&json!([]), &json!([])));
    let lookup = ops::Lookup { key: key("m", 9, 4, "waits", None), tp_size: 1 };
    c.call(lookup).await;
    let (_, during) = json(&server, "GET", "/status", Value::Null).await;
    assert_eq!(during["pending_request_ids"], json!(["waits"]));
    let ids = during["prefetch_job_ids"].as_array().unwrap();
    assert_eq!((ids.len(), &during["active_prefetch_jobs"]), (1, &json!(1)));
    assert!(ids[0].as_u64() >= before["next_prefetch_job_id"].as_u64(), "{during}");
    assert!(ids[0].as_u64() < during["next_prefetch_job_id"].as_u64(), "{during}");
    server.stop().await;
}

#[tokio::test]
async fn background_tasks_are_shown_as_periodic_threads() {
    let server = TestServer::start(config()).await;
    server.until("all run", |state| state.tasks.all().all(|task| task.is_running())).await;
    let (_, all) = json(&server, "GET", "/periodic-threads", Value::Null).await;
    assert_eq!(all["summary"]["running_count"], 3, "{all}");
    assert_eq!(all["summary"]["by_level"]["critical"], json!({"total": 1, "running": 1, "active": 1}));
    let (_, critical) =
        json(&server, "GET", "/periodic-threads?level=critical&running_only=true", Value::Null).await;
    assert_eq!(critical["threads"].as_array().map(Vec::len), Some(1), "{critical}");
    let (_, one) = json(&server, "GET", "/periodic-threads/timekeeper", Value::Null).await;
    assert_eq!((&one["name"], &one["is_running"]), (&json!("timekeeper"), &json!(true)));
    let healthy = json!({"healthy": true, "unhealthy_count": 0, "unhealthy_threads": []});
    assert_eq!(json(&server, "GET", "/periodic-threads-health", Value::Null).await.1, healthy);
    for (path, code, why) in [
        ("/periodic-threads?level=x", 400, "Invalid level: x. Valid values: critical, high, medium, low"),
        ("/periodic-threads/nope", 404, "Thread not found: nope"),
    ] {
        let refusal = json!({"detail": why, "error": why});
        assert_eq!(json(&server, "GET", path, Value::Null).await, (code, refusal));
    }
    let status = json(&server, "GET", "/status", Value::Null).await.1;
    assert_eq!(status["periodic_threads"]["active_count"], 3);
    server.stop().await;
}

#[tokio::test]
async fn debug_endpoints_need_flag_and_token() {
    let server = TestServer::start(config()).await;
    for (method, path) in [("GET", "/env"), ("GET", "/threads"), ("GET", "/loglevel"), ("PUT", "/loglevel")] {
        let (code, answer) = json(&server, method, path, Value::Null).await;
        assert_eq!(code, 404, "{method} {path}");
        assert!(answer["error"].as_str().unwrap().contains("--enable-debug-endpoints"), "{answer}");
    }
    server.stop().await;
    let mut config = config();
    config.http.debug_endpoints = true;
    config.http.auth_token = Some(Secret::new("sesame"));
    let server = TestServer::start(config).await;
    let set = Arc::new(Mutex::new(Vec::new()));
    let control = LogControl::new(LogLevel::Info, {
        let set = set.clone();
        move |level| {
            set.lock().unwrap().push(level);
            Ok(())
        }
    });
    assert!(server.state.log.set(Arc::new(control)).is_ok());
    let token = "Authorization: Bearer sesame\r\n";
    assert_eq!(server.get("/env").await.0, 401, "the token is needed");
    let (code, text) = server.http("GET", "/env", token, "").await;
    assert!(code == 200 && serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    // The first thread of a process has its id.
    let first = format!("/threads?thread_id={}", std::process::id());
    let (_, threads) = server.http("GET", &first, token, "").await;
    assert!(threads.starts_with("Thread ") && threads.ends_with("threads: 1\n"), "{threads}");
    for (method, path, body, expected) in [
        ("GET", "/loglevel?logger_name=root", "", (200, "root: INFO")),
        ("GET", "/loglevel?logger_name=x&level=DEBUG", "", (200, "Set x level to DEBUG")),
        ("GET", "/loglevel?level=bogus", "", (400, "Invalid log level: bogus")),
        ("PUT", "/loglevel", r#"{"level":"warn"}"#, (200, r#"{"level":"warn","status":"ok"}"#)),
        ("GET", "/loglevel?logger_name=x", "", (200, "x: WARNING")),
    ] {
        let (code, text) = server.http(method, path, token, body).await;
        assert_eq!((code, text.as_str()), expected, "{method} {path}");
    }
    assert_eq!(server.http("PUT", "/loglevel", token, r#"{"level":"loud"}"#).await.0, 400);
    assert_eq!(*set.lock().unwrap(), [LogLevel::Debug, LogLevel::Warn]);
    server.stop().await;
}

#[tokio::test]
async fn unsupported_features_are_answered_as_by_lmcache() {
    let server = TestServer::start(config()).await;
    let blocks =
        |blocks: Value, size: i64| json!({"block_ids": blocks, "chunk_size": size, "instance_id": 7});
    for (method, path, body, code, why) in [
        (
            "GET",
            "/reconfigure/dax/l1/status",
            Value::Null,
            409,
            "L1 is not Device-DAX backed (--l1-devdax-path not set)",
        ),
        ("POST", "/reconfigure/fs/l2/grow", json!({"size": 1}), 404, "fs adapter not found"),
        ("POST", "/cache/checksums", blocks(json!([]), 1), 400, "block_ids is required"),
        ("POST", "/cache/checksums", blocks(json!([1]), 0), 400, "chunk_size must be positive"),
        (
            "POST",
            "/cache/checksums",
            blocks(json!([1]), 1),
            404,
            "instance_id 7 not registered for copies by the server",
        ),
        ("GET", "/meta", Value::Null, 404, "Not Found"),
        ("DELETE", "/livez", Value::Null, 405, "Method Not Allowed"),
        ("GET", "/quota/%ff", Value::Null, 400, "Invalid URL: Invalid UTF-8 in `salt`"),
    ] {
        let refusal = json!({"detail": why, "error": why});
        assert_eq!(json(&server, method, path, body).await, (code, refusal), "{method} {path}");
    }
    let none = json!({"enabled": false, "backend": "fs", "num_adapters": 0, "adapters": []});
    assert_eq!(json(&server, "GET", "/reconfigure/fs/l2/status", Value::Null).await, (200, none));
    let large = "x".repeat((16 << 20) + 1);
    let (code, text) = server.http("POST", "/cache/clear", "", &large).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &answer["detail"]), (413, &answer["error"]), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn cache_stats_count_recent_requests() {
    let directory = Directory::new();
    let (server, _c) = server_with_traffic(&directory).await;
    server
        .until("write-back ends", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    let (_, stats) = json(&server, "GET", "/cache/stats", Value::Null).await;
    for span in ["1m", "5m", "15m"] {
        let span = &stats[span];
        assert_eq!((&span["requested_tokens"], &span["hit_tokens"]), (&json!(64), &json!(32)), "{span}");
        assert_eq!((&span["stored_bytes"], &span["l2_stored_bytes"]), (&json!(1536), &json!(1536)));
        assert_eq!(span["latency_seconds"]["l1_store"]["count"], 1);
    }
    server.stop().await;
}
