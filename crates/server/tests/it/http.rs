//! The HTTP API over a real socket.

use crate::support::{Client, Directory, TestServer, config, fill, key, open_pool, with_files};
use bytes::Bytes;
use larder_server::config::Secret;
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::{Value, json};

const W: InstanceId = InstanceId(7);

/// A server on which worker 7 has stored four chunks of prompt 1.
async fn server_with_four_chunks(config: larder_server::config::Config) -> (TestServer, Client) {
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    let key = key("m", 1, 4, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(key.clone(), W)).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    fill(&pool, &slots, 10);
    let commit = ops::CommitStore { key, instance_id: W, data: Bytes::new() };
    assert!(c.call(commit).await);
    (server, c)
}

async fn json(server: &TestServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, text) = server.http(method, path, "Content-Type: application/json\r\n", &body).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}")))
}

#[tokio::test]
async fn status_reports_objects_and_workers() {
    let (server, mut c) = server_with_four_chunks(config()).await;
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 4);
    let (code, status) = json(&server, "GET", "/status", Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!((&status["is_healthy"], &status["engine_type"]), (&json!(true), &json!("MPCacheServer")));
    let l1 = &status["storage_manager"]["l1_manager"];
    assert_eq!((&l1["total_object_count"], &l1["read_locked_count"]), (&json!(4), &json!(4)), "{l1}");
    assert_eq!(status["storage_manager"]["eviction_controller"]["eviction_policy"], "LRU");
    // `bench engine` and the SDK read this of a worker, although it copies itself.
    let worker = &status["cache_context_meta"]["7"];
    assert_eq!((&worker["model_name"], &worker["world_size"]), (&json!("m"), &json!(1)));
    assert_eq!(worker["kv_cache_layout"]["cache_size_per_token"], json!(768 / 16));
    let group = &worker["kv_cache_layout"]["kernel_groups"][0];
    assert_eq!((&group["dtype"], &group["tokens_per_block"]), (&json!("torch.float16"), &json!(4)));
    assert_eq!(status["hit_stats"]["hit_rate"], json!(1.0));
    assert_eq!(json(&server, "GET", "/api/status", Value::Null).await.0, 200);
    let (_, workers) = json(&server, "GET", "/workers", Value::Null).await;
    assert_eq!(workers["workers"][0]["instance_id"], 7);
    server.stop().await;
}

#[tokio::test]
async fn poisoned_core_fails_the_probes() {
    let server = TestServer::start(config()).await;
    let probes = ["/livez", "/healthcheck", "/readyz"];
    for path in probes {
        assert_eq!(json(&server, "GET", path, Value::Null).await.0, 200, "{path}");
    }
    let state = server.state.clone();
    let found = std::thread::spawn(move || {
        state.core().with(|_, _| panic!("a failed assertion in the core, for a test"));
    });
    assert!(found.join().is_err());
    for path in probes {
        let (code, answer) = json(&server, "GET", path, Value::Null).await;
        assert_eq!(code, 503, "{path}: {answer}");
        assert!(answer.to_string().contains("restart the server"), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn clear_empties_l1() {
    let (server, _c) = server_with_four_chunks(config()).await;
    let (code, answer) = json(&server, "POST", "/cache/clear", json!({"tier": "l2"})).await;
    assert_eq!((code, &answer["error"]), (400, &answer["detail"]), "{answer}");
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.resident_objects), 4);
    let (code, answer) = json(&server, "POST", "/cache/clear", Value::Null).await;
    assert_eq!((code, &answer["status"], &answer["cleared"]), (200, &json!("ok"), &json!({"tier": "l1"})));
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.resident_objects), 0);
    server.stop().await;
}

#[tokio::test]
async fn changing_calls_need_the_token() {
    let mut config = config();
    config.http.auth_token = Some(Secret::new("s3cret"));
    let (server, _c) = server_with_four_chunks(config).await;
    for headers in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic s3cret\r\n"] {
        for (method, path) in [
            ("POST", "/cache/clear"),
            ("POST", "/clear-cache"),
            ("DELETE", "/cache/objects"),
            ("POST", "/cache/prefetches"),
        ] {
            assert_eq!(server.http(method, path, headers, "").await.0, 401, "{method} {path} {headers}");
        }
    }
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.resident_objects), 4);
    assert_eq!(server.get("/status").await.0, 200);
    let (code, _) = server.http("POST", "/cache/clear", "Authorization: Bearer s3cret\r\n", "").await;
    assert_eq!((code, server.state.core().read(|core, _| core.gauges().l1.resident_objects)), (200, 0));
    server.stop().await;
}

#[tokio::test]
async fn objects_of_both_tiers_are_listed_and_deleted() {
    let directory = Directory::new();
    let (server, mut c) = server_with_four_chunks(with_files(&directory)).await;
    server
        .until("write-back ends", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    // Page by page, over both tiers.
    let (mut path, mut seen) = ("/cache/objects?tier=all&page_size=3".to_owned(), Vec::new());
    loop {
        let (code, page) = json(&server, "GET", &path, Value::Null).await;
        assert_eq!(code, 200, "{page}");
        let entries = page["entries"].as_array().unwrap().clone();
        assert!(entries.len() <= 3 && entries.iter().all(|e| e["size_bytes"] == 768), "{page}");
        seen.extend(entries.iter().map(|e| (page["adapter"].clone(), e["key"].clone())));
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/cache/objects?tier=all&page_size=3&page_token={token}");
    }
    let of =
        |tier: &str| seen.iter().filter(|(t, _)| t == tier).map(|(_, key)| key.clone()).collect::<Vec<_>>();
    let (l1, l2) = (of("l1"), of("fs"));
    assert_eq!((l1.len(), l2.len()), (4, 4));
    assert!(l1.iter().all(|key| l2.contains(key)), "the same objects in both");
    // Pinned objects are skipped; force deletes them.
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 4);
    let (code, answer) = json(&server, "DELETE", "/cache/objects", json!({"keys": l1, "tier": "l1"})).await;
    assert_eq!((code, answer), (200, json!({"deleted": 0, "skipped": 4, "ok": true})));
    let all = json!({"keys": l1, "tier": "all", "force": true});
    let (code, answer) = json(&server, "DELETE", "/cache/objects", all).await;
    let keys_not_copies = json!({"deleted": 4, "skipped": 0, "ok": true});
    assert_eq!((code, answer), (200, keys_not_copies));
    c.call(ops::EndSession { request_id: "r".into() }).await;
    assert_eq!(c.hit(&key("m", 1, 4, "again", None)).await, 0);
    assert_eq!(directory.objects(), 0, "all files are deleted");
    server.stop().await;
}

/// As in LMCache: without `adapter` the first one is listed, so a caller that pages sees each object once.
#[tokio::test]
async fn one_adapter_is_listed_and_keys_are_deleted_in_all() {
    let (first, second) = (Directory::new(), Directory::new());
    let mut config = with_files(&first);
    config.l2.adapters.extend(with_files(&second).l2.adapters);
    let (server, mut c) = server_with_four_chunks(config).await;
    server
        .until("write-back ends", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    let mut keys = Vec::new();
    for wanted in ["", "&adapter=fs", "&adapter=0", "&adapter=1"] {
        let mut path = format!("/cache/objects?page_size=3{wanted}");
        keys.clear();
        loop {
            let (_, page) = json(&server, "GET", &path, Value::Null).await;
            keys.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].clone()));
            let Some(token) = page["next_page_token"].as_str() else { break };
            path = format!("/cache/objects?page_size=3{wanted}&page_token={token}");
        }
        assert_eq!(keys.len(), 4, "{wanted}");
    }
    assert_eq!(json(&server, "GET", "/cache/objects?adapter=2", Value::Null).await.0, 404);
    // A pinned object is skipped although its copies in L2 go.
    assert_eq!(c.hit(&key("m", 1, 2, "r", None)).await, 2);
    let all = json!({"keys": keys, "tier": "all"});
    let (_, answer) = json(&server, "DELETE", "/cache/objects", all).await;
    assert_eq!(answer, json!({"deleted": 2, "skipped": 2, "ok": true}));
    assert_eq!((first.objects(), second.objects()), (0, 0));
    let (_, answer) = json(&server, "DELETE", "/cache/objects", json!({"keys": keys})).await;
    assert_eq!(answer, json!({"deleted": 0, "skipped": 0, "ok": true}));
    server.stop().await;
}

#[tokio::test]
async fn prefetch_loads_a_prompt_and_gives_its_result_once() {
    let directory = Directory::new();
    let (server, mut c) = server_with_four_chunks(with_files(&directory)).await;
    server
        .until("write-back ends", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    assert_eq!(json(&server, "POST", "/cache/clear", Value::Null).await.0, 200);
    let tokens: Vec<u32> = (0..64).map(|t| 100_000 + t).collect();
    let ask = json!({"model_name": "m", "world_size": 1, "token_ids": tokens});
    let (code, begun) = json(&server, "POST", "/cache/prefetches", ask).await;
    assert_eq!((code, &begun["chunks"], &begun["status"]), (202, &json!(4), &json!("submitted")), "{begun}");
    server
        .until("the chunks are loaded", |state| {
            state.core().read(|core, _| core.gauges().l1.resident_objects) == 4
        })
        .await;
    server
        .until("the job has ended", |state| state.core().read(|core, _| core.gauges().prefetch_jobs) == 0)
        .await;
    let path = format!("/cache/prefetches/{}", begun["request_id"].as_str().unwrap());
    let (code, done) = json(&server, "GET", &path, Value::Null).await;
    assert_eq!((code, &done["status"]), (200, &json!("completed")));
    assert_eq!((&done["found_keys"], &done["total_keys"]), (&json!(4), &json!(4)));
    assert_eq!(json(&server, "GET", &path, Value::Null).await.0, 404, "a result is given once");
    // They stay in L1 and are not pinned.
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.held_objects), 0);
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 4);
    for (body, code) in [
        (json!({"model_name": "nope", "world_size": 1, "token_ids": [1]}), 503),
        (json!({"model_name": "m", "world_size": 1, "token_ids": [-1]}), 400),
        (json!({"model_name": "m", "world_size": 1, "token_ids": [], "target_tier": "l2"}), 400),
        (json!({"model_name": "m", "world_size": 1, "token_ids": [], "cache_salt": "a/b"}), 400),
        (json!({"world_size": 1}), 422),
    ] {
        assert_eq!(json(&server, "POST", "/cache/prefetches", body.clone()).await.0, code, "{body}");
    }
    let unknown = format!("/cache/prefetches/{:032x}", u64::MAX);
    assert_eq!(json(&server, "GET", &unknown, Value::Null).await.0, 404);
    assert_eq!(json(&server, "GET", "/cache/prefetches/none", Value::Null).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn failed_calls_have_a_status_and_a_sentence() {
    let (server, _c) = server_with_four_chunks(config()).await;
    for (method, path, code) in [
        ("GET", "/cache/objects", 503),
        ("GET", "/cache/objects?tier=l3", 422),
        ("GET", "/cache/objects?tier=l1&page_size=0", 422),
        ("GET", "/cache/objects?tier=l1&page_token=x", 400),
        ("GET", "/cache/objects?tier=all&adapter=nope", 404),
        ("POST", "/status", 405),
        ("GET", "/env", 404),
        ("POST", "/run_script", 404),
    ] {
        let (status, answer) = json(&server, method, path, Value::Null).await;
        assert_eq!(status, code, "{method} {path}: {answer}");
        assert!(!answer["detail"].is_null(), "{answer}");
    }
    assert_eq!(server.http("POST", "/metrics/reset", "", "").await, (200, "ok".to_owned()));
    assert_eq!(json(&server, "GET", "/config/adapters", Value::Null).await.1, json!({"adapters": []}));
    server.stop().await;
}
