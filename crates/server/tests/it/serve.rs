//! The whole server over real sockets, driven by our own client.

use crate::support::{
    CHUNK, Client, Directory, TestServer, config, fill, holds, key, open_pool, registration, with_files,
};
use bytes::Bytes;
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::cb_protocol_handshake::Handshake;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;
use larder_wire::ops::register_engine_driven::Pool;
use larder_wire::ops::store::Copied;
use larder_wire::pickle::{PickleWriter, read_tensors};
use larder_wire::request::Request;
use larder_wire::response::ResultFrame;

const W: InstanceId = InstanceId(7);

/// Stores `chunks` chunks through the pool, filled from `byte` up.
async fn store(c: &mut Client, pool: &std::fs::File, seed: u32, chunks: usize, byte: u8) {
    let key = key("m", seed, chunks, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(key.clone(), W)).await;
    let StorePlan::Slots { slots, chunk_indices, .. } = plan else { panic!("{plan:?}") };
    assert_eq!(chunk_indices, (0..chunks as u64).collect::<Vec<_>>());
    fill(pool, &slots, byte);
    let commit = ops::CommitStore { key, instance_id: W, data: Bytes::new() };
    assert!(c.call(commit).await);
}

#[tokio::test]
async fn what_was_stored_is_found_and_read_back() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    store(&mut c, &pool, 1, 4, 10).await;
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 4);
    assert_eq!(c.hit(&key("m", 2, 4, "other", None)).await, 0);
    let worker = key("m", 1, 4, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: worker.clone(), instance_id: W }).await;
    let RetrievePlan::Slots(slots) = plan else { panic!("{plan:?}") };
    assert!(holds(&pool, &slots, 10));
    assert!(c.call(ops::CommitRetrieve { key: worker, instance_id: W }).await);
    c.call(ops::EndSession { request_id: "r".into() }).await;
    let gauges = server.state.core().read(|core, _| core.gauges());
    assert_eq!((gauges.lookup_leases, gauges.retrieves, gauges.stores), (0, 0, 0));
    assert_eq!(gauges.l1.resident_objects, 4);
    let name = server.state.arena.name().unwrap().to_owned();
    server.stop().await;
    assert!(!std::path::Path::new(&format!("/dev/shm/{name}")).exists(), "the segment is gone");
}

#[tokio::test]
async fn a_server_that_is_to_leave_with_its_engines_leaves() {
    let mut config = config();
    config.exit_when_idle = Some(std::time::Duration::from_millis(1));
    let server = TestServer::start(config).await;
    let name = server.state.arena.name().unwrap().to_owned();
    server.ended().await;
    assert!(!std::path::Path::new(&format!("/dev/shm/{name}")).exists(), "the segment is gone");
}

#[tokio::test]
async fn without_a_common_memory_chunks_travel_as_pickles() {
    let mut config = config();
    config.l1.shm_name = None;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    assert_eq!(c.register(7, "m").await, Pool::default());
    let k = key("m", 1, 3, "s", Some(0));
    let plan = c.call(ops::PrepareStore::new(k.clone(), W)).await;
    assert_eq!(plan, StorePlan::Inline);
    let mut pickle = PickleWriter::new();
    let shape = [2, CHUNK as u64, 12];
    let half = larder_types::dtype::DType::from_name("float16").unwrap();
    for i in 0..3 {
        // The chunk in the middle has another shape: it is left out and the others are kept.
        let shape = if i == 1 { [2, 12, CHUNK as u64] } else { shape };
        pickle.push(half, &shape, &[i; 768]).unwrap();
    }
    let commit = ops::CommitStore { key: k, instance_id: W, data: pickle.finish() };
    assert!(!c.call(commit).await);
    assert_eq!(c.hit(&key("m", 1, 3, "r", None)).await, 1);
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.resident_objects), 2);
    let worker = key("m", 1, 1, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: worker, instance_id: W }).await;
    let RetrievePlan::Inline(data) = plan else { panic!("{plan:?}") };
    let tensors = read_tensors(&data).unwrap();
    assert_eq!((tensors.len(), tensors[0].shape()), (1, &shape[..]));
    assert_eq!(tensors[0].contiguous().unwrap(), [0; 768]);
    assert_eq!(
        server.state.core().read(|core, _| core.gauges().lookup_leases),
        0,
        "nothing is held after the answer"
    );
    // What is no pickle of tensors is refused, not run.
    let k = key("m", 3, 1, "s", Some(0));
    let commit = ops::CommitStore { key: k, instance_id: W, data: Bytes::from_static(b"cos\nsystem\n.") };
    assert!(!c.call(commit).await);
    server.stop().await;
}

#[tokio::test]
async fn every_operation_is_answered_at_once_by_a_server_that_knows_nobody() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    let k = || key("m", 1, 2, "r", Some(0));
    fn encode(result: impl larder_wire::codec::Value) -> ResultFrame {
        ResultFrame::encode(&result)
    }
    let cases: [(Request, ResultFrame); 21] = [
        (ops::UnregisterKvCache { instance_id: W }.into(), encode(())),
        (ops::UnregisterQCache { payloads: vec![Bytes::from_static(b"\x07")] }.into(), encode(())),
        (
            ops::Store {
                key: k(),
                instance_id: W,
                block_ids: vec![vec![1]],
                event: Bytes::from_static(b"stub_ipc_handle"),
            }
            .into(),
            encode(Copied { event: Bytes::new(), success: false }),
        ),
        (ops::UnregisterEngineDriven { instance_id: W }.into(), encode(())),
        (ops::PrepareStore::new(k(), W).into(), encode(StorePlan::NOTHING)),
        (ops::CommitStore { key: k(), instance_id: W, data: Bytes::new() }.into(), encode(false)),
        (ops::PrepareRetrieve { key: k(), instance_id: W }.into(), encode(RetrievePlan::Missing)),
        (ops::CommitRetrieve { key: k(), instance_id: W }.into(), encode(false)),
        (ops::FreeLookupLocks { key: k(), tp_size: 1, extra_ranges: Vec::new() }.into(), encode(())),
        (ops::EndSession { request_id: "x".into() }.into(), encode(())),
        (ops::QueryPrefetchStatus { request_id: "x".into() }.into(), encode(0_i64)),
        (ops::GetChunkSize.into(), encode(CHUNK as i64)),
        (ops::GetExperimental.into(), encode(vec!["kv_event_stream".to_owned()])),
        (ops::Noop.into(), encode("OK".to_owned())),
        (ops::Ping { instance_id: None }.into(), encode(true)),
        // After a restart a worker learns once that it is not registered.
        (ops::Ping { instance_id: Some(W) }.into(), encode(false)),
        (ops::Ping { instance_id: Some(W) }.into(), encode(true)),
        (
            ops::CbProtocolHandshake { version: 1 }.into(),
            encode(Handshake { server_version: 0, matches: false }),
        ),
        (ops::CbReorderPlan { payloads: vec![Bytes::new(); 3] }.into(), encode(Vec::<i64>::new())),
        (ops::StoreQ { payloads: vec![Bytes::new(); 4] }.into(), encode(Copied::default())),
        (ops::Clear { force: false }.into(), encode(())),
    ];
    for (request, expected) in cases {
        assert_eq!(c.result(request.clone()).await, expected, "{request:?}");
    }
    server.stop().await;
}

/// What memory loses comes back from files, after a restart too; `retain` keeps it, `default` does not.
#[tokio::test]
async fn what_l1_loses_comes_back_from_l2() {
    use larder_server::config::PrefetchPolicy;
    let directory = Directory::new();
    let with_files = |policy| {
        let mut config = with_files(&directory);
        config.l2.prefetch_policy = policy;
        config
    };
    let server = TestServer::start(with_files(PrefetchPolicy::Default)).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    store(&mut c, &pool, 1, 4, 10).await;
    server.stop().await;
    assert_eq!(directory.objects(), 4, "a shutdown leaves nothing behind");
    for (policy, resident) in [(PrefetchPolicy::Default, 0), (PrefetchPolicy::Retain, 4)] {
        let server = TestServer::start(with_files(policy)).await;
        let mut c = server.client().await;
        let pool = open_pool(&c.register(7, "m").await);
        let lookup = ops::Lookup { key: key("m", 1, 4, "r", None), tp_size: 1 };
        c.call(lookup).await;
        let timeout = std::time::Duration::from_secs(20);
        let wait = ops::WaitPrefetchStatus { request_id: "r".into(), timeout };
        assert_eq!(c.call(wait).await, Some(4), "{policy}");
        let worker = key("m", 1, 4, "r", Some(0));
        let plan = c.call(ops::PrepareRetrieve { key: worker.clone(), instance_id: W }).await;
        let RetrievePlan::Slots(slots) = plan else { panic!("{plan:?}") };
        assert!(holds(&pool, &slots, 10), "{policy}");
        c.call(ops::CommitRetrieve { key: worker, instance_id: W }).await;
        c.call(ops::EndSession { request_id: "r".into() }).await;
        assert_eq!(
            server.state.core().read(|core, _| core.gauges().l1.resident_objects),
            resident,
            "{policy}"
        );
        server.stop().await;
    }
}

#[tokio::test]
async fn a_lost_connection_gives_back_what_it_held() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    store(&mut c, &pool, 1, 2, 1).await;
    let mut scheduler = server.client().await;
    assert_eq!(scheduler.hit(&key("m", 1, 2, "r", None)).await, 2);
    let mut writer = server.client().await;
    writer.register(8, "m").await;
    let instance_id = InstanceId(8);
    writer.call(ops::PrepareStore::new(key("m", 9, 1, "w", Some(0)), instance_id)).await;
    let gauges = server.state.core().read(|core, _| core.gauges());
    assert_eq!((gauges.lookup_leases, gauges.stores), (1, 1));
    scheduler.dealer.close().await;
    writer.dealer.close().await;
    server
        .until("both are given back", |s| {
            let g = s.core().read(|core, _| core.gauges());
            (g.sessions, g.lookup_leases, g.stores) == (0, 0, 0)
        })
        .await;
    assert_eq!(c.hit(&key("m", 9, 1, "q", None)).await, 0, "what was abandoned is never published");
    server.stop().await;
}

#[tokio::test]
async fn a_registration_that_cannot_be_served_runs_uncached() {
    let mut server = TestServer::start(config()).await;
    server.expect_log("worker not served");
    let mut c = server.client().await;
    let none = Pool::default();
    let bad = [
        ops::RegisterEngineDriven { dtype: "float7".into(), ..registration(7, "m") },
        ops::RegisterEngineDriven { num_physical_slots: Some(0), ..registration(7, "m") },
        ops::RegisterEngineDriven { num_layers: i64::MAX, ..registration(7, "m") },
        ops::RegisterEngineDriven { world_size: 256, ..registration(7, "m") },
        registration(7, "a@b"),
    ];
    for registration in bad {
        let what = format!("{registration:?}");
        assert_eq!(c.call(registration).await, none, "{what}");
    }
    assert!(c.call(ops::Ping { instance_id: Some(W) }).await, "it is left alone");
    assert_eq!(c.hit(&key("m", 1, 1, "r", None)).await, 0);
    server.stop().await;
}

#[tokio::test]
async fn operators_find_health_version_and_metrics() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    store(&mut c, &pool, 1, 2, 1).await;
    assert_eq!(c.hit(&key("m", 1, 2, "r", None)).await, 2);
    for (path, expected) in [
        ("/", r#"{"service":"LMCache HTTP API","status":"ok"}"#),
        ("/healthcheck", r#"{"status":"healthy"}"#),
        ("/livez", r#"{"status":"alive"}"#),
        ("/lmc_version", r#""0.5.6""#),
    ] {
        assert_eq!(server.get(path).await, (200, expected.to_owned()), "{path}");
    }
    assert_eq!(server.get("/readyz").await.0, 200);
    assert!(server.get("/version").await.1.starts_with("\"0.5.6-"));
    let (status, body) = server.get("/nope").await;
    assert_eq!((status, body.as_str()), (404, r#"{"detail":"Not Found","error":"Not Found"}"#));
    let (_, metrics) = server.get("/metrics").await;
    for line in [
        "lmcache_mp_lookup_hit_tokens_total{model_name=\"m\",cache_salt=\"\"} 32",
        "# TYPE lmcache_mp_lookup_hit_tokens_total counter",
        "lmcache_mp_l1_objects{l1_tag=\"_default\"} 2",
        "lmcache_mp_num_finished_stores_total{device=\"cpu\"} 1",
        "lmcache_mp_request_duration_seconds_count{operation=\"lookup\",outcome=\"ok\"} 1",
        "lmcache_mp_connections 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    assert!(!metrics.contains("# EOF"));
    server.stop().await;
}
