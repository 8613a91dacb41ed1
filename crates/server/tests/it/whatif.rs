//! What other sizes and policies would do with what a real server is asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::Bytes;
use larder_server::config::{Config, EvictionPolicy, PrefetchPolicy};
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::Value;

use crate::support::{CHUNK, Client, Directory, TestServer, config, key, with_files};

const W: InstanceId = InstanceId(7);

async fn report(server: &TestServer) -> Value {
    let (status, text) = server.get("/cache/whatif").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Looks up, computes and stores a prompt, as an engine does. Returns the hit in chunks.
async fn ask(c: &mut Client, seed: u32, chunks: usize, name: &str) -> i64 {
    let hit = c.hit(&key("m", seed, chunks, name, None)).await;
    let key = key("m", seed, chunks, name, Some(0));
    let plan = c.call(ops::PrepareStore::new(key.clone(), W)).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    if !slots.is_empty() {
        let commit = ops::CommitStore { key, instance_id: W, data: Bytes::new() };
        assert!(c.call(commit).await);
    }
    c.call(ops::EndSession { request_id: name.into() }).await;
    hit
}

/// A server with room for eight chunks, asked for three prompts of four, twice each. Returns its hits.
async fn asked_for_twelve(server: &TestServer) -> i64 {
    let mut c = server.client().await;
    c.register(7, "m").await;
    let mut hits = 0;
    for n in 0..6 {
        hits += ask(&mut c, n % 3, 4, &format!("r{n}")).await;
        let quiet = |state: &larder_server::app::state::State| {
            state.core().read(|core, _| core.write_back_pending()) == 0
        };
        server.until("the tiers are quiet", quiet).await;
    }
    hits
}

fn with_room_for_eight(mut config: Config) -> Config {
    config.l1.bytes = 8 * config.l1.align_bytes;
    config
}

fn estimate<'a>(report: &'a Value, prefetch: Value, eviction: &str, factor: f64) -> &'a Value {
    let wanted = |e: &&Value| {
        e["prefetch_policy"] == prefetch && e["eviction_policy"] == eviction && e["l1_factor"] == factor
    };
    report["estimates"].as_array().unwrap().iter().find(wanted).unwrap_or_else(|| panic!("{report}"))
}

#[tokio::test]
async fn a_larger_l1_would_have_served_what_this_one_computed_again() {
    let server = TestServer::start(with_room_for_eight(config())).await;
    assert_eq!(asked_for_twelve(&server).await, 0, "by the time a prompt comes back it is gone");
    let report = report(&server).await;
    for (name, value) in [("requests", 6), ("chunks", 24), ("tokens", 24 * CHUNK as u64), ("dropped", 0)] {
        assert_eq!(report[name], value, "{name} in {report}");
    }
    for (name, value) in
        [("l1_bytes", 8 * 4096), ("l1_chunks", 8), ("chunk_bytes", 4096), ("sampled_keys", 12)]
    {
        assert_eq!(report[name], value, "{name} in {report}");
    }
    assert_eq!(
        (&report["sampling_rate"], &report["configured"]["eviction_policy"]),
        (&1.0.into(), &"LRU".into())
    );
    for (factor, rate) in [(0.5, 0.0), (1.0, 0.0), (2.0, 0.5), (8.0, 0.5)] {
        let estimate = estimate(&report, Value::Null, "LRU", factor);
        assert_eq!(estimate["token_hit_rate"], rate, "{estimate}");
        assert_eq!((&estimate["l2_read_bytes"], &estimate["l2_write_bytes"]), (&0.into(), &0.into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn reads_from_l2_are_shown_and_equal_the_metrics() {
    let directory = Directory::new();
    let mut config = with_room_for_eight(with_files(&directory));
    config.l2.prefetch_policy = PrefetchPolicy::Retain;
    config.eviction.policy = EvictionPolicy::Lru;
    let server = TestServer::start(config).await;
    assert_eq!(asked_for_twelve(&server).await, 12);
    let report = report(&server).await;
    assert_eq!(report["configured"]["prefetch_policy"], "retain");
    for (factor, chunks) in [(0.5, 12), (1.0, 12), (2.0, 0), (4.0, 0)] {
        let estimate = estimate(&report, "retain".into(), "LRU", factor);
        assert_eq!(
            (&estimate["token_hit_rate"], &estimate["l2_read_bytes"]),
            (&0.5.into(), &(chunks * 4096).into())
        );
        assert_eq!(
            (&estimate["l2_write_chunks"], &estimate["l2_write_bytes"]),
            (&12.into(), &(12 * 4096).into())
        );
        let l1_rate = (12 - chunks) as f64 / 24.0;
        assert_eq!(estimate["l1_token_hit_rate"], l1_rate, "{estimate}");
    }
    let (_, metrics) = server.get("/metrics").await;
    let labels = "{prefetch_policy=\"retain\",eviction_policy=\"LRU\",l1_factor=\"1\"}";
    for line in [
        format!("lmcache_mp_whatif_requested_tokens_total {}", 24 * CHUNK),
        format!("lmcache_mp_whatif_computed_tokens_total{labels} {}", 12 * CHUNK),
        format!("lmcache_mp_whatif_l2_read_bytes_total{labels} {}", 12 * 4096),
        "lmcache_mp_whatif_sampling_rate 1".to_owned(),
        "lmcache_mp_whatif_sampled_keys 12".to_owned(),
    ] {
        assert!(metrics.lines().any(|is| is == line), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let server = TestServer::start(Config { whatif: false, ..config() }).await;
    let (status, text) = server.get("/cache/whatif").await;
    assert_eq!(status, 404);
    assert!(text.contains("--disable-whatif"), "{text}");
    assert!(!server.get("/metrics").await.1.contains("whatif"));
    server.stop().await;
}
