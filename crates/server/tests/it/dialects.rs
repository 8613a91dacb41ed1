//! Clients of other versions than 0.5.6: recorded conversations, and what must be kept apart.

use std::collections::HashMap;

use bytes::Bytes;
use larder_types::InstanceId;
use larder_wire::codec::encode_frame;
use larder_wire::dialect::Dialect;
use larder_wire::key::CacheKey;
use larder_wire::operation::Operation;
use larder_wire::ops;
use larder_wire::ops::free_lookup_locks::TokenRange;
use larder_wire::ops::register_engine_driven::Pool;
use larder_wire::response::ResultFrame;
use larder_wire::tokens::Tokens;
use serde_json::Value;

use crate::support::{CHUNK, Client, TestServer, config, key, registration};

/// The conversations of stock clients with the servers of their own versions.
const RECORDINGS: [(&str, Dialect); 4] = [
    ("0.4.7", Dialect::V0_4_7),
    ("0.5.0", Dialect::V0_5_0),
    ("0.5.2", Dialect::V0_5_0),
    ("0.5.7", Dialect::V0_5_7),
];

/// Tokens per chunk in the recordings.
const RECORDED_CHUNK: u32 = 64;

/// Results with names and addresses of the server that was recorded.
const OWN: [Operation; 4] = [
    Operation::RegisterEngineDriven,
    Operation::PrepareStore,
    Operation::PrepareRetrieve,
    Operation::GetExperimental,
];

struct Recorded {
    connection: u64,
    is_request: bool,
    frames: Vec<Bytes>,
}

fn recording(version: &str) -> Vec<Recorded> {
    let path = format!("{}/../wire/tests/vectors/clients_{version}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let unhex = |text: &str| {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
        (0..text.len()).step_by(2).map(byte).collect::<Bytes>()
    };
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let frames = line["f"].as_array().expect("frames").iter();
        Recorded {
            connection: line["c"].as_u64().expect("a number"),
            is_request: line["d"] == "c2s",
            frames: frames.map(|frame| unhex(frame.as_str().expect("text"))).collect(),
        }
    };
    text.lines().map(message).collect()
}

#[tokio::test]
async fn recorded_conversations_get_the_same_answers() {
    for (version, dialect) in RECORDINGS {
        let mut config = config();
        config.chunk_tokens = RECORDED_CHUNK;
        config.l1.bytes = 8 << 20;
        let server = TestServer::start(config).await;
        let mut clients: HashMap<u64, Client> = HashMap::new();
        let recorded = recording(version);
        let mut answers = 0;
        for message in recorded.iter().filter(|message| message.is_request) {
            let id = message.connection;
            if let std::collections::hash_map::Entry::Vacant(vacant) = clients.entry(id) {
                vacant.insert(server.client().await);
            }
            let client = clients.get_mut(&id).expect("just made");
            client.dealer.send(message.frames.clone()).await.expect("sends");
            let answer = client.answer().await;
            assert_eq!(answer.envelope.uid, message.frames[0], "{version}");
            assert_eq!(answer.envelope.operation, message.frames[1], "{version}");
            let is_its = |other: &&Recorded| {
                !other.is_request && other.connection == id && other.frames[0] == message.frames[0]
            };
            // The recording of the last request may end before its answer.
            let Some(expected) = recorded.iter().find(is_its) else { continue };
            let operation = dialect.decode(&message.frames[1]).expect("an operation");
            if OWN.contains(&operation) {
                assert!(answer.result.0.is_some(), "{version} {operation}");
            } else {
                assert_eq!(answer.result.0.as_ref(), expected.frames.get(2), "{version} {operation}");
            }
            answers += 1;
        }
        assert!(answers >= 20, "{version} has {answers} answers");
        drop(clients);
        server.stop().await;
    }
}

impl Client {
    /// The result of a request of an older client.
    async fn old(&mut self, id: u8, payloads: &[Bytes]) -> ResultFrame {
        self.numbered(0, id, payloads).await
    }

    /// The same, of the request with this number.
    async fn numbered(&mut self, uid: u8, id: u8, payloads: &[Bytes]) -> ResultFrame {
        let (uid, operation) = (Bytes::copy_from_slice(&[uid]), Bytes::copy_from_slice(&[id]));
        self.dealer.send([&[uid, operation], payloads].concat()).await.expect("sends");
        self.answer().await.result
    }
}

#[tokio::test]
async fn workers_of_0_4_7_with_the_same_process_id_are_two() {
    let server = TestServer::start(config()).await;
    let mut pools = Vec::new();
    for (request, hidden) in [("one", 12), ("two", 24)] {
        let mut client = server.client().await;
        assert_eq!(client.old(17, &[]).await.decode(), Ok(CHUNK as i64));
        let worker = ops::RegisterEngineDriven { hidden_dim_size: hidden, ..registration(7, "m") };
        let pool: Pool = client.old(10, &[encode_frame(&worker)]).await.decode().expect("a pool");
        assert!(!pool.shm_name.is_empty());
        let key = key("m", 1, 1, request, Some(0));
        let payloads = [encode_frame(&key), encode_frame(&InstanceId(7))];
        let plan: ops::prepare_store::StorePlan = client.old(12, &payloads).await.decode().expect("a plan");
        let ops::prepare_store::StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
        assert_eq!(slots.iter().map(|slot| slot.length).collect::<Vec<_>>(), [64 * hidden as u64]);
        assert_eq!(client.old(18, &[]).await.decode(), Ok(true));
        pools.push((client, pool));
    }
    assert_eq!(server.state.core().read(|core, _| core.workers().count()), 2);
    drop(pools);
    server.stop().await;
}

/// Its heartbeats name no worker, and it registers again only after one was answered with false.
#[tokio::test]
async fn a_client_of_0_4_7_that_comes_back_registers_again() {
    let server = TestServer::start(config()).await;
    let mut client = server.client().await;
    assert_eq!(
        client.numbered(7, 9, &[encode_frame(&"r".to_owned())]).await,
        ResultFrame(None),
        "it has ended"
    );
    assert_eq!(client.numbered(8, 18, &[]).await.decode(), Ok(false));
    assert_eq!(client.numbered(9, 18, &[]).await.decode(), Ok(true));
    let pool: Pool = client.old(10, &[encode_frame(&registration(7, "m"))]).await.decode().expect("a pool");
    assert!(!pool.shm_name.is_empty());
    assert_eq!(client.old(18, &[]).await.decode(), Ok(true));
    server.stop().await;
}

#[tokio::test]
async fn clients_that_are_too_old_are_named_and_run_uncached() {
    let mut server = TestServer::start(config()).await;
    server.expect_log("client not served");
    for (versions, chunk_size, ping, register) in [("0.4.3 to 0.4.5", 11, 12, 1), ("0.4.6", 16, 17, 10)] {
        let mut client = server.client().await;
        assert_eq!(client.old(chunk_size, &[]).await.decode(), Ok(CHUNK as i64));
        assert_eq!(client.old(ping, &[]).await.decode(), Ok(true));
        assert_eq!(client.old(register, &[]).await.0, None);
        assert_eq!(client.old(6, &[encode_frame(&"r".to_owned())]).await.decode(), Ok(Some(0_i64)));
        let lines = server.logged(versions);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("upgrade its LMCache to 0.4.7 or later"), "{lines:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_chunk_size_is_agreed_on_or_the_right_one_is_named() {
    let mut server = TestServer::start(config()).await;
    server.expect_log("client not served");
    let mut client = server.client().await;
    for required_alignment in [1, 8, 16] {
        assert_eq!(client.call(ops::NegotiateChunkSize { required_alignment }).await, CHUNK as i64);
    }
    assert!(server.logged("client not served").is_empty());
    for required_alignment in [24, 24, 0, i64::MIN, i64::MAX] {
        let name = encode_frame(&"negotiate_chunk_size".to_owned());
        let frames = vec![Bytes::from_static(b"\x00"), name, encode_frame(&required_alignment)];
        client.dealer.send(frames).await.expect("sends");
        assert_eq!(client.call(ops::Noop).await, "OK", "there is no answer to {required_alignment}");
    }
    let lines = server.logged("client not served");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("--chunk-size 24"), "{lines:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_understood_is_logged_once_and_answered_if_possible() {
    let mut server = TestServer::start(config()).await;
    server.expect_log("client not served");
    let mut client = server.client().await;
    assert_eq!(client.call(ops::Noop).await, "OK");
    for _ in 0..3 {
        let lookup = client.old(8, &[encode_frame(&"no key".to_owned()), encode_frame(&1_i64)]).await;
        assert_eq!(lookup, ResultFrame(None), "the status is 0 then");
        assert_eq!(client.old(17, &[]).await.decode(), Ok(false));
        assert_eq!(client.old(1, &[]).await, ResultFrame(None));
    }
    client.dealer.send(vec![Bytes::from_static(b"\x00"), Bytes::from_static(b"\x63")]).await.expect("sends");
    assert_eq!(client.call(ops::Noop).await, "OK", "no answer can be right for an unknown operation");
    let lines = server.logged("client not served");
    assert_eq!(lines.len(), 4, "{lines:?}");
    for reason in ["lookup: ", "commit_store takes 3 payloads", "lmcache_driven", "unknown operation 99"] {
        assert_eq!(lines.iter().filter(|line| line.contains(reason)).count(), 1, "{reason}: {lines:?}");
    }
    server.stop().await;
}

/// The key with its tokens as bytes.
fn packed(key: CacheKey) -> CacheKey {
    let tokens = key.tokens.hashable(usize::MAX).expect("small numbers").to_vec();
    let bytes: Bytes = tokens.iter().flat_map(|token| token.to_be_bytes()).collect();
    CacheKey { tokens: Tokens::packed(bytes, "tokens").expect("whole tokens"), ..key }
}

#[tokio::test]
async fn prompts_in_either_form_are_the_same() {
    let server = TestServer::start(config()).await;
    let mut client = server.client().await;
    client.register(1, "m").await;
    let instance_id = InstanceId(1);
    for (seed, swap) in [(1, false), (2, true)] {
        let form = |key, is_packed| if is_packed { packed(key) } else { key };
        let own = form(key("m", seed, 3, "store", Some(0)), swap);
        client.call(ops::PrepareStore { key: own.clone(), instance_id, skipped_chunks: None }).await;
        assert!(client.call(ops::CommitStore { key: own, instance_id, data: Bytes::new() }).await);
        let lookup = form(key("m", seed, 3, "look", None), !swap);
        assert_eq!(client.hit(&lookup).await, 3);
        let skips = CacheKey {
            request_configs: Some(Bytes::from_static(b"\x81\xb1lmcache.skip_load\xc3")),
            request_id: "skips".into(),
            ..lookup.clone()
        };
        assert_eq!(client.hit(&skips).await, 0);
        let rest = CacheKey { start: 2 * CHUNK as u64 + 1, request_id: "rest".into(), ..lookup };
        assert_eq!(client.hit(&rest).await, 3);
        assert_eq!(server.state.core().read(|core, _| core.gauges().lookup_leases), 2);
        let extra = TokenRange { start: 2 * CHUNK as u64, end: 3 * CHUNK as u64 };
        let none = CacheKey { start: 0, end: 0, ..rest };
        client.call(ops::FreeLookupLocks { key: none, tp_size: 1, extra_ranges: vec![extra] }).await;
        assert_eq!(server.state.core().read(|core, _| core.gauges().lookup_leases), 1);
        client.call(ops::EndSession { request_id: "look".into() }).await;
    }
    server.stop().await;
}
