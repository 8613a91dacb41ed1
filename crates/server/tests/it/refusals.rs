//! Error answers of the HTTP API. Those of quotas are in `quotas.rs`, those of checksums in `api.rs`.
//!
//! LMCache answers a listing of L1 with 400 and one of `fs` with 503; here both work (`http.rs`).

use serde_json::{Value, json};

use crate::support::{Directory, TestServer, config, with_files};
use larder_server::config::l2;

/// Method, path and body of a call, and the expected status and part of the sentence.
type Row = (&'static str, &'static str, Value, u16, &'static str);

async fn check(server: &TestServer, rows: &[Row]) {
    for (method, path, body, code, why) in rows {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = server.http(method, path, "", &body).await;
        let what = format!("{method} {path} {:.80}", body);
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{what}: {e}: {text}"));
        assert_eq!(status, *code, "{what}: {answer}");
        if status == 422 {
            // As in LMCache: one entry for each field.
            assert!(answer["detail"][0]["loc"].is_array(), "{what}: {answer}");
            assert!(answer["detail"][0].to_string().contains(why), "{what}: {answer}");
        } else {
            assert_eq!(answer["detail"], answer["error"], "{what}: same sentence under both names");
            let reason = answer["detail"].as_str().unwrap_or_else(|| panic!("{what}: {answer}"));
            assert!(reason.contains(why), "{what}: {reason}");
        }
    }
}

fn key() -> Value {
    json!({"chunk_hash_hex": "2a01", "model_name": "m", "kv_rank": 16_777_472})
}

/// A body with one key, of which one field is replaced.
fn with_key(name: &str, value: Value) -> Value {
    let mut key = key();
    key[name] = value;
    json!({"keys": [key], "tier": "l1"})
}

#[tokio::test]
async fn invalid_listings_and_deletions_are_rejected() {
    let objects = "/cache/objects";
    let many = json!({"keys": vec![key(); 10_001]});
    let mut no_rank = key();
    no_rank.as_object_mut().expect("an object").remove("kv_rank");
    let always: &[Row] = &[
        ("GET", "/cache/objects?tier=l3", Value::Null, 422, "tier"),
        ("GET", "/cache/objects?tier=l1&page_size=0", Value::Null, 422, "page_size"),
        ("GET", "/cache/objects?tier=l1&page_size=5001", Value::Null, 422, "page_size"),
        ("GET", "/cache/objects?tier=l1&page_token=x", Value::Null, 400, "page_token"),
        ("DELETE", objects, with_key("chunk_hash_hex", json!("zz")), 400, "keys[0]: "),
        ("DELETE", objects, with_key("chunk_hash_hex", json!("zz")), 400, "hexadecimal"),
        (
            "DELETE",
            objects,
            with_key("cache_salt", json!("a/b")),
            400,
            "keys[0]: cache_salt must not contain",
        ),
        ("DELETE", objects, many, 400, "too many keys in a single request (limit=10000, got=10001)"),
        ("DELETE", objects, json!({"tier": "l1"}), 422, "keys"),
        ("DELETE", objects, json!({"keys": [no_rank], "tier": "l1"}), 422, "kv_rank"),
    ];
    let server = TestServer::start(config()).await;
    check(&server, always).await;
    let rows: &[Row] = &[
        ("GET", objects, Value::Null, 503, "no L2 adapters configured"),
        ("DELETE", objects, json!({"keys": [key()]}), 503, "no L2 adapters configured"),
    ];
    check(&server, rows).await;
    server.stop().await;

    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    check(&server, always).await;
    let unknown = json!({"keys": [key()], "adapter": "nope"});
    let rows: &[Row] = &[
        ("GET", "/cache/objects?adapter=nope", Value::Null, 404, "no L2 adapter with type_name='nope'"),
        ("DELETE", objects, unknown, 404, "no L2 adapter with type_name='nope'"),
    ];
    check(&server, rows).await;
    server.stop().await;
}

#[tokio::test]
async fn deletion_that_l2_fails_is_reported_in_the_answer() {
    let mut config = config();
    let adapter = r#"{"type":"fault_inject","error_rate":1,
        "inner":{"type":"mock","max_size_gb":0.001,"mock_bandwidth_gb":1}}"#;
    config.l2.adapters = vec![l2::parse_adapter(1, adapter).expect("a valid adapter")];
    let mut server = TestServer::start(config).await;
    server.expect_log("delete in L2 failed: injected fault");
    let body = json!({"keys": [key()]}).to_string();
    let (status, text) = server.http("DELETE", "/cache/objects", "", &body).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &answer["ok"], &answer["deleted"]), (200, &json!(false), &json!(0)), "{answer}");
    assert!(answer["error"].as_str().is_some_and(|why| !why.is_empty()), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn invalid_prefetch_requests_are_rejected() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    let path = "/cache/prefetches";
    let ask = |name: &str, value: Value| {
        let mut body = json!({"model_name": "m", "world_size": 1, "token_ids": [1, 2, 3]});
        body[name] = value;
        body
    };
    let unknown = "/cache/prefetches/00000000000000000000000000000bad";
    let rows: &[Row] = &[
        (
            "POST",
            path,
            ask("model_name", json!("nope")),
            503,
            "no layout registered for model_name='nope' world_size=1; ",
        ),
        (
            "POST",
            path,
            ask("world_size", json!(2)),
            503,
            "no layout registered for model_name='m' world_size=2; ",
        ),
        (
            "POST",
            path,
            ask("source_tier", json!("l1")),
            400,
            "unsupported prefetch direction 'l1'->'l1'; only 'l2'->'l1'",
        ),
        (
            "POST",
            path,
            ask("target_tier", json!("l2")),
            400,
            "unsupported prefetch direction 'l2'->'l2'; only 'l2'->'l1'",
        ),
        (
            "POST",
            path,
            ask("token_ids", json!(vec![1; 1_000_001])),
            400,
            "too many token_ids in a single request (limit=1000000, got=1000001)",
        ),
        ("POST", path, ask("cache_salt", json!("a@b")), 400, "cache_salt must not contain"),
        ("POST", path, json!({"world_size": 1, "token_ids": []}), 422, "model_name"),
        ("GET", unknown, Value::Null, 404, "unknown prefetch request_id='00000000000000000000000000000bad'"),
    ];
    check(&server, rows).await;
    // A prompt shorter than a chunk is valid and needs no work.
    let (status, text) = server.http("POST", path, "", &ask("cache_salt", json!("")).to_string()).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &answer["chunks"], &answer["status"]), (202, &json!(0), &json!("noop")), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn invalid_clear_requests_are_rejected() {
    let server = TestServer::start(config()).await;
    let rows: &[Row] = &[
        ("POST", "/cache/clear", json!({"tier": "l2"}), 400, "tier 'l2' not supported; only 'l1'"),
        ("POST", "/cache/clear", json!({"tier": "all"}), 400, "tier 'all' not supported; only 'l1'"),
    ];
    check(&server, rows).await;
    server.stop().await;
}
