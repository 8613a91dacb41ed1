//! What operators see of an L2 that fails.

use std::fs;

use bytes::Bytes;
use larder_l2::adapters::BackendConfig;
use larder_policy::eviction::EvictionConfig;
use larder_server::config::Config;
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::Value;

use crate::support::{Client, Directory, TestServer, key, with_files};

const W: InstanceId = InstanceId(7);

/// Stores a prompt of two chunks, and waits until L2 has answered.
async fn store(server: &TestServer, c: &mut Client, seed: u32) {
    let key = key("m", seed, 2, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(key.clone(), W)).await;
    assert!(matches!(plan, StorePlan::Slots { .. }), "{plan:?}");
    assert!(c.call(ops::CommitStore { key, instance_id: W, data: Bytes::new() }).await);
    let pending = |core: &larder_core::Core, _| core.gauges().write_back_pending;
    server.until("L2 has answered", |state| state.core().read(pending) == 0).await;
}

async fn readyz(server: &TestServer) -> (u16, String) {
    server.get("/readyz").await
}

#[tokio::test]
async fn unusable_directory_is_shown_with_reason_and_remedy_until_it_works_again() {
    let directory = Directory::new();
    let mut server = TestServer::start(with_files(&directory)).await;
    server.expect_log("store in L2 failed: create directory");
    server.expect_log("of the L2 backend fail repeatedly");
    let mut c = server.client().await;
    c.register(7, "m").await;
    store(&server, &mut c, 1).await;
    assert_eq!(readyz(&server).await.0, 200);
    // A file in its place.
    fs::remove_dir_all(&directory.0).unwrap();
    fs::write(&directory.0, b"").unwrap();
    store(&server, &mut c, 2).await;
    let (status, text) = readyz(&server).await;
    let path = directory.0.display().to_string();
    assert_eq!(status, 503, "{text}");
    for part in ["L2 adapter #1 (fs)", &path, "check that the directory exists"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (_, metrics) = server.get("/metrics").await;
    let line = "lmcache_mp_l2_failures_total{l2_name=\"fs\",adapter_index=\"0\",call=\"store\",reason=\"unavailable\"}";
    assert!(metrics.contains(line), "{line}");
    let (_, status) = server.get("/status").await;
    assert!(status.contains(&format!("create directory {path}")), "{status}");
    fs::remove_file(&directory.0).unwrap();
    server.until("it recovers by itself", |state| state.l2.problems().is_empty()).await;
    assert_eq!(readyz(&server).await.0, 200);
    store(&server, &mut c, 3).await;
    assert_eq!(directory.objects(), 2);
    server.stop().await;
}

#[tokio::test]
async fn removed_directory_is_an_empty_l2() {
    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    store(&server, &mut c, 1).await;
    fs::remove_dir_all(&directory.0).unwrap();
    assert_eq!(c.hit(&key("m", 5, 2, "r", None)).await, 0);
    let (_, metrics) = server.get("/metrics").await;
    assert!(metrics.contains("lmcache_mp_l2_objects{l2_name=\"fs\"} 0"), "{metrics}");
    assert_eq!(readyz(&server).await.0, 200);
    store(&server, &mut c, 2).await;
    assert_eq!(directory.objects(), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_replaced_does_not_make_the_server_unready() {
    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    store(&server, &mut c, 1).await;
    let files = fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "data")).collect();
    assert_eq!(names.len(), 2);
    c.call(ops::Clear { force: true }).await;
    for path in &names {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("x")).unwrap();
    }
    let mut server = server;
    server.expect_log("store in L2 failed: replace");
    for _ in 0..5 {
        store(&server, &mut c, 1).await;
        c.call(ops::Clear { force: true }).await;
    }
    assert_eq!(readyz(&server).await.0, 200);
    let (_, metrics) = server.get("/metrics").await;
    let line = "call=\"store\",reason=\"unreadable\"} 10";
    assert!(metrics.contains(line), "each object is tried once for each store: {metrics}");
    server.stop().await;
}

#[tokio::test]
async fn status_lists_the_adapters_that_evict() {
    let directory = Directory::new();
    let start = async |capacity: u64, eviction| {
        let mut config: Config = with_files(&directory);
        config.l2.adapters[0].eviction = eviction;
        let BackendConfig::Fs(fs) = &mut config.l2.adapters[0].backend else { panic!("files") };
        fs.max_capacity_bytes = capacity;
        TestServer::start(config).await
    };
    let eviction = EvictionConfig { trigger_watermark: 0.75, ratio: 0.5, ..EvictionConfig::default() };
    let listed = async |server: &TestServer| -> Value {
        let status: Value = serde_json::from_str(&server.get("/status").await.1).unwrap();
        status["storage_manager"]["l2_eviction_controller"]["adapters"].clone()
    };
    for (capacity, eviction) in [(0, Some(eviction)), (1 << 20, None)] {
        let server = start(capacity, eviction).await;
        assert_eq!(listed(&server).await, serde_json::json!([]));
        server.stop().await;
    }
    let server = start(4 * 768, Some(eviction)).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    store(&server, &mut c, 1).await;
    let expected = serde_json::json!([{
        "eviction_policy": "LRU", "trigger_watermark": 0.75, "eviction_ratio": 0.5, "current_usage": 0.5,
        "total_bytes_used": 2 * 768, "total_capacity_bytes": 4 * 768, "num_cache_salt_buckets": 1,
    }]);
    assert_eq!(listed(&server).await, expected);
    server.stop().await;
}
