//! `/quota`: answers, the token for changes, and enforcement in both tiers.

use crate::support::{CHUNK, Client, Directory, TestServer, config, fill, key, open_pool, with_files};
use larder_server::config::{Config, EvictionConfig, EvictionPolicy, Secret};
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::{Value, json};

const W: InstanceId = InstanceId(7);
/// Size of an object in L1, and of its file.
const SLOT: u64 = 4096;
const FILE: u64 = 768;

async fn call(server: &TestServer, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, text) = server.http(method, path, "", body).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("JSON, not {text}")))
}

fn limit(bytes: u64) -> String {
    json!({"limit_gb": bytes as f64 / (1u64 << 30) as f64}).to_string()
}

fn bytes(gib: &Value) -> u64 {
    (gib.as_f64().expect("a number") * (1u64 << 30) as f64).round() as u64
}

fn isolated() -> EvictionConfig {
    EvictionConfig { policy: EvictionPolicy::IsolatedLru, ..EvictionConfig::default() }
}

/// An answer with more members, and without a tier that enforces quotas.
fn with(mut answer: Value, more: &[(&str, Value)]) -> Value {
    answer["enforced_in"] = json!([]);
    more.iter().for_each(|(name, value)| answer[name] = value.clone());
    answer
}

/// Stores chunks of a prompt with a salt. Returns how many got slots.
async fn store(c: &mut Client, pool: &std::fs::File, salt: &str, seed: u32, chunks: usize) -> usize {
    let mut key = key("m", seed, chunks, "s", Some(0));
    key.cache_salt = salt.into();
    let plan = c.call(ops::PrepareStore::new(key.clone(), W)).await;
    let StorePlan::Slots { slots, .. } = plan else { return 0 };
    if slots.is_empty() {
        return 0;
    }
    fill(pool, &slots, 1);
    let data = Default::default();
    assert!(c.call(ops::CommitStore { key, instance_id: W, data }).await);
    slots.len()
}

#[tokio::test]
async fn quotas_are_set_read_listed_and_removed() {
    let server = TestServer::start(config()).await;
    let answer = |answer: Value| with(answer, &[("enforced", json!(false)), ("persisted", json!(false))]);
    assert_eq!(
        call(&server, "GET", "/quota", "").await,
        (200, answer(json!({"users": {}, "default_limit_gb": null})))
    );
    let set = answer(json!({"cache_salt": "alice", "limit_gb": 2.0, "status": "ok"}));
    assert_eq!(call(&server, "PUT", "/quota/alice", r#"{"limit_gb":2}"#).await, (200, set));
    let (_, default) = call(&server, "PUT", "/quota/_default", r#"{"limit_gb":"0.5"}"#).await;
    assert_eq!((&default["cache_salt"], &default["limit_gb"]), (&json!("_default"), &json!(0.5)));
    let alice = json!({"cache_salt": "alice", "limit_gb": 2.0, "current_usage_gb": 0.0, "limited": true,
        "exists": true});
    let alice = answer(alice);
    assert_eq!(call(&server, "GET", "/quota/alice", "").await, (200, alice));
    let bob = json!({"cache_salt": "b ob", "limit_gb": 0.0, "current_usage_gb": 0.0, "limited": false,
        "exists": false});
    let bob = answer(bob);
    assert_eq!(call(&server, "GET", "/quota/b%20ob", "").await, (200, bob));
    let users = json!({"_default": {"limit_gb": 0.5, "current_usage_gb": 0.0},
        "alice": {"limit_gb": 2.0, "current_usage_gb": 0.0}});
    assert_eq!(call(&server, "GET", "/quota", "").await.1["users"], users);
    for status in ["removed", "not_found"] {
        let removed = answer(json!({"cache_salt": "alice", "status": status}));
        assert_eq!(call(&server, "DELETE", "/quota/alice", "").await, (200, removed));
    }
    server.stop().await;
}

#[tokio::test]
async fn limit_in_force_is_shown() {
    let config = Config { quota_default_bytes: Some(SLOT), eviction: isolated(), ..config() };
    let server = TestServer::start(config).await;
    let seen = async || {
        let (_, answer) = call(&server, "GET", "/quota/alice", "").await;
        (bytes(&answer["limit_gb"]), answer["limited"] == true, answer["exists"] == true)
    };
    assert_eq!(seen().await, (SLOT, true, false), "the default");
    assert_eq!(bytes(&call(&server, "GET", "/quota", "").await.1["default_limit_gb"]), SLOT);
    call(&server, "PUT", "/quota/alice", &limit(2 * SLOT)).await;
    assert_eq!(seen().await, (2 * SLOT, true, true));
    call(&server, "DELETE", "/quota/alice", "").await;
    assert_eq!(seen().await, (SLOT, true, false), "the default again");
    server.stop().await;
}

#[tokio::test]
async fn invalid_quota_is_rejected() {
    let server = TestServer::start(config()).await;
    let cases = [
        ("/quota/a", "{", "invalid JSON body"),
        ("/quota/a", "[]", "body must be {'limit_gb': <float>}"),
        ("/quota/a", r#"{"limit":1}"#, "body must be {'limit_gb': <float>}"),
        ("/quota/a", r#"{"limit_gb":[]}"#, "limit_gb must be numeric"),
        ("/quota/a", r#"{"limit_gb":"two"}"#, "limit_gb must be numeric"),
        ("/quota/a", r#"{"limit_gb":"inf"}"#, "limit_gb must be finite"),
        ("/quota/a", r#"{"limit_gb":-1}"#, "limit_gb must be non-negative"),
        ("/quota/a%40b", r#"{"limit_gb":1}"#, "cache_salt must not contain {'@'}"),
        ("/quota/a%2Fb", r#"{"limit_gb":1}"#, "cache_salt must not contain {'/'}"),
    ];
    for (path, body, reason) in cases {
        let (status, answer) = call(&server, "PUT", path, body).await;
        assert_eq!((status, answer), (400, json!({"detail": reason, "error": reason})), "{path} {body}");
    }
    assert_eq!(call(&server, "POST", "/quota/a", "").await.0, 405);
    assert_eq!(call(&server, "GET", "/quota", "").await.1["users"], json!({}), "nothing was set");
    server.stop().await;
}

#[tokio::test]
async fn changing_a_quota_needs_the_token() {
    let mut config = config();
    config.http.auth_token = Some(Secret::new("sesame"));
    let server = TestServer::start(config).await;
    let body = r#"{"limit_gb":1}"#;
    for header in ["", "Authorization: Bearer open\r\n", "Authorization: Basic sesame\r\n"] {
        let (status, text) = server.http("PUT", "/quota/a", header, body).await;
        assert_eq!(status, 401, "{header}");
        assert!(text.contains("--http-auth-token-file") && !text.contains("sesame"), "{text}");
        assert_eq!(server.http("DELETE", "/quota/a", header, "").await.0, 401);
    }
    assert_eq!(call(&server, "GET", "/quota/a", "").await.1["exists"], false, "reading needs no token");
    let (status, _) = server.http("PUT", "/quota/a", "Authorization: Bearer sesame\r\n", body).await;
    assert_eq!(status, 200);
    assert_eq!(call(&server, "GET", "/quota/a", "").await.1["exists"], true);
    server.stop().await;
}

#[tokio::test]
async fn quota_is_enforced_in_l1() {
    let mut config = config();
    config.eviction = isolated();
    config.quota_default_bytes = Some(0);
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    assert_eq!(store(&mut c, &pool, "b", 1, 2).await, 0, "only salts with a quota may store");
    for salt in ["a", "b"] {
        let (_, answer) = call(&server, "PUT", &format!("/quota/{salt}"), &limit(4 * SLOT)).await;
        assert_eq!((&answer["enforced"], &answer["enforced_in"]), (&json!(true), &json!(["l1"])));
        assert_eq!(store(&mut c, &pool, salt, 1, 4).await, 4);
    }
    assert_eq!(store(&mut c, &pool, "a", 2, 4).await, 4, "replaces its own objects");
    let usage = |answer: Value| bytes(&answer["current_usage_gb"]);
    for salt in ["a", "b"] {
        let (_, answer) = call(&server, "GET", &format!("/quota/{salt}"), "").await;
        assert_eq!(usage(answer), 4 * SLOT, "{salt}");
    }
    call(&server, "PUT", "/quota/a", &limit(SLOT)).await;
    assert_eq!(usage(call(&server, "GET", "/quota/a", "").await.1), SLOT, "at once");
    call(&server, "DELETE", "/quota/a", "").await;
    assert_eq!(usage(call(&server, "GET", "/quota/a", "").await.1), 0);
    assert_eq!(usage(call(&server, "GET", "/quota/b", "").await.1), 4 * SLOT);
    server.stop().await;
}

#[tokio::test]
async fn quota_is_enforced_in_l2() {
    let directory = Directory::new();
    let mut config = with_files(&directory);
    config.l2.adapters[0].eviction = Some(isolated());
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    call(&server, "PUT", "/quota/a", &limit(3 * FILE)).await;
    let held = || {
        let files = std::fs::read_dir(&directory.0).unwrap().map(|file| file.unwrap().file_name());
        let names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
        let of = |salt: &str| names.iter().filter(|name| name.ends_with(&format!("@{salt}.data"))).count();
        (of("a"), of("b"))
    };
    for salt in ["a", "b"] {
        assert_eq!(store(&mut c, &pool, salt, 1, 5).await, 5);
    }
    server
        .until("everything stored", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    assert_eq!(held(), (3, 5));
    let (_, answer) = call(&server, "PUT", "/quota/b", &limit(FILE)).await;
    assert_eq!((&answer["enforced"], &answer["enforced_in"]), (&json!(true), &json!(["l2"])));
    assert_eq!(held(), (3, 1), "its objects have left when the answer comes");
    let (_, answer) = call(&server, "GET", "/quota", "").await;
    assert_eq!(bytes(&answer["users"]["a"]["current_usage_gb"]), 3 * FILE);
    assert_eq!(
        server.state.core().read(|core, _| core.gauges().l1.resident_objects),
        10,
        "L1 has another policy"
    );
    let (_, scrape) = server.get("/metrics").await;
    for (salt, evicted) in [("a", 2), ("b", 4)] {
        let line = format!("lmcache_mp_l2_evicted_objects_chunks_total{{cache_salt=\"{salt}\"}} {evicted}");
        assert!(scrape.lines().any(|found| found == line), "{line}");
    }
    assert_eq!(CHUNK, 16, "the sizes above are those of its chunks");
    server.stop().await;
}

#[tokio::test]
async fn quotas_outlast_the_server_in_both_tiers() {
    let (directory, state_dir) = (Directory::new(), Directory::new());
    let config = || {
        let mut config = with_files(&directory);
        config.eviction = isolated();
        config.l2.adapters[0].eviction = Some(isolated());
        config.quota_default_bytes = Some(0);
        config.state_dir = Some(state_dir.0.clone());
        config
    };
    let server = TestServer::start(config()).await;
    let (_, answer) = call(&server, "PUT", "/quota/a", &limit(4 * SLOT)).await;
    assert_eq!((&answer["persisted"], &answer["enforced_in"]), (&json!(true), &json!(["l1", "l2"])));
    for salt in ["b", "_default"] {
        assert_eq!(call(&server, "PUT", &format!("/quota/{salt}"), &limit(SLOT)).await.0, 200);
    }
    assert_eq!(call(&server, "DELETE", "/quota/b", "").await.1["status"], "removed");
    server.stop().await;

    let server = TestServer::start(config()).await;
    let (_, answer) = call(&server, "GET", "/quota", "").await;
    let limits: Vec<_> = answer["users"].as_object().unwrap().iter().collect();
    let limits: Vec<_> =
        limits.iter().map(|(salt, user)| (salt.as_str(), bytes(&user["limit_gb"]))).collect();
    assert_eq!(limits, [("_default", SLOT), ("a", 4 * SLOT)]);
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    assert_eq!(store(&mut c, &pool, "a", 1, 4).await, 4, "it has a quota in L1");
    assert_eq!(store(&mut c, &pool, "b", 1, 1).await, 0, "and b has none any more");
    server
        .until("everything stored", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    assert_eq!(directory.objects(), 4, "it has a quota in L2");
    server.stop().await;
}

#[tokio::test]
async fn a_quota_that_cannot_be_kept_is_not_changed() {
    let state_dir = Directory::new();
    let mut config = config();
    config.state_dir = Some(state_dir.0.clone());
    let mut server = TestServer::start(config).await;
    server.expect_log("quota not changed");
    assert_eq!(call(&server, "PUT", "/quota/a", &limit(SLOT)).await.0, 200);
    // The new file cannot be made where a directory has its name.
    std::fs::create_dir(state_dir.0.join("quotas.json.new")).unwrap();
    let (status, answer) = call(&server, "PUT", "/quota/a", &limit(2 * SLOT)).await;
    assert_eq!((status, &answer["detail"]), (503, &answer["error"]));
    assert!(answer["error"].as_str().unwrap().contains("nothing was changed"), "{answer}");
    assert_eq!(bytes(&call(&server, "GET", "/quota/a", "").await.1["limit_gb"]), SLOT);
    std::fs::remove_dir(state_dir.0.join("quotas.json.new")).unwrap();
    assert_eq!(call(&server, "DELETE", "/quota/a", "").await.1["status"], "removed");
    server.stop().await;
}
