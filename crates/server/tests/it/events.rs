//! Event streams over real sockets: what a subscriber is sent, when, and how a stream ends.

use bytes::Bytes;
use larder_types::ids::InstanceId;
use larder_wire::message::{StreamControl, request_frames, stream_control_frames};
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use larder_wire::ops::subscribe_kv_events::{Event, EventBatch, EventKind};

use crate::support::{CHUNK, Client, Directory, TestServer, config, fill, key, open_pool, with_files};

const W: InstanceId = InstanceId(7);

/// A worker that follows what it does.
struct Follower {
    client: Client,
    pool: std::fs::File,
}

impl Follower {
    async fn new(server: &TestServer) -> Self {
        let mut client = server.client().await;
        let pool = open_pool(&client.register(W.0, "m").await);
        Self { client, pool }
    }

    async fn store(&mut self, seed: u32, chunks: usize) {
        let key = key("m", seed, chunks, "store", Some(0));
        let plan = self.client.call(ops::PrepareStore::new(key.clone(), W)).await;
        let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
        fill(&self.pool, &slots, 1);
        let commit = ops::CommitStore { key, instance_id: W, data: Bytes::new() };
        assert!(self.client.call(commit).await);
    }
}

/// A connection that does nothing but follow.
struct Stream(Client);

impl Stream {
    async fn open(server: &TestServer, instance: i64, cursor: i64, max_events: i64) -> Self {
        let mut stream = Self(server.client().await);
        stream.subscribe(1, instance, cursor, max_events).await;
        stream
    }

    async fn subscribe(&mut self, uid: u64, instance: i64, cursor: i64, max_events: i64) {
        let instance_id = InstanceId(instance);
        let subscription = ops::SubscribeKvEvents { instance_id, model_name: "m".into(), cursor, max_events };
        let frames = request_frames(uid, &subscription.into());
        self.0.dealer.send(frames).await.expect("sends");
    }

    async fn say(&mut self, control: StreamControl) {
        self.0.dealer.send(stream_control_frames(1, control)).await.expect("sends");
    }

    /// The next message: its topic and its batch; none at the end.
    async fn message(&mut self) -> (u64, Option<EventBatch>) {
        let message = self.0.answer().await;
        let uid = message.uid().expect("a number");
        (uid, message.result.decode().expect("as stock clients understand it"))
    }

    async fn batch(&mut self) -> EventBatch {
        self.message().await.1.expect("a batch")
    }

    /// Asks for batches until `events` of them have been sent.
    async fn events(&mut self, events: usize) -> Vec<Event> {
        let mut all = Vec::new();
        while all.len() < events {
            self.say(StreamControl::Ack).await;
            let batch = self.batch().await;
            assert!(!batch.lost && !batch.events.is_empty(), "later batches wait for something to tell");
            all.extend(batch.events);
        }
        all
    }
}

#[tokio::test]
async fn stored_chunks_come_in_order_with_their_tokens_and_what_goes_is_withdrawn() {
    let server = TestServer::start(config()).await;
    let mut worker = Follower::new(&server).await;
    let mut stream = Stream::open(&server, 7, 0, 8).await;
    let first = stream.batch().await;
    assert!(first.enabled && !first.lost && first.events.is_empty(), "{first:?}");
    worker.store(1, 2).await;
    let stored = stream.events(2).await;
    let tokens = key("m", 1, 2, "", None).tokens;
    let tokens = tokens.hashable(2 * CHUNK).expect("small numbers").to_vec();
    for (i, event) in stored.iter().enumerate() {
        assert_eq!((event.seq, event.kind, &*event.medium), (i as u64 + 1, EventKind::Stored, "CPU"));
        assert_eq!(event.tokens, tokens[i * CHUNK..][..CHUNK].to_vec().into());
    }
    assert_eq!(stored[0].parent_block_hash, None);
    assert_eq!(stored[1].parent_block_hash, Some(stored[0].block_hashes[0]));
    worker.client.call(ops::Clear { force: false }).await;
    let removed = stream.events(1).await;
    assert_eq!((removed[0].kind, removed[0].block_hashes.len(), removed[0].seq), (EventKind::Removed, 2, 4));
    let (status, report) = server.get("/status").await;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let events = &report["kv_events"];
    assert_eq!((status, &events["subscribers"], &events["next_seq"]), (200, &1.into(), &5.into()));
    server.stop().await;
}

#[tokio::test]
async fn no_batch_comes_without_a_credit() {
    let server = TestServer::start(config()).await;
    let mut worker = Follower::new(&server).await;
    let mut stream = Stream::open(&server, 7, 0, 8).await;
    stream.batch().await;
    for seed in 1..4 {
        worker.store(seed, 1).await;
    }
    // All three are in the log before the credit is: one batch has them all.
    server
        .until("the log has every event", |state| {
            state.core().read(|core, _| core.stats().chunk_events().last()) == 3
        })
        .await;
    stream.say(StreamControl::Ack).await;
    assert_eq!(stream.batch().await.events.len(), 3);
    stream.say(StreamControl::Cancel).await;
    assert_eq!(stream.message().await, (1, None), "nothing comes between");
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_recorded_without_a_subscriber_and_a_new_one_gets_an_inventory() {
    let server = TestServer::start(config()).await;
    let mut worker = Follower::new(&server).await;
    worker.store(1, 2).await;
    assert_eq!(server.state.core().read(|core, _| core.stats().chunk_events().last()), 0);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut stream = Stream::open(&server, 7, 0, 8).await;
        let first = stream.batch().await;
        assert!(!first.lost);
        seen.push(first.events.iter().map(|event| event.block_hashes[0]).collect::<Vec<_>>());
        assert_eq!(first.events[1].parent_block_hash, Some(first.events[0].block_hashes[0]));
        drop(stream);
        server
            .until("the recording ends", |state| {
                !state.core().read(|core, _| core.stats().chunk_events().is_on())
            })
            .await;
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(server.state.events.gauges().subscribers, 0);
    server.stop().await;
}

#[tokio::test]
async fn one_instance_has_one_stream() {
    let server = TestServer::start(config()).await;
    let mut stream = Stream::open(&server, 7, 0, 8).await;
    stream.batch().await;
    stream.subscribe(2, 7, 0, 8).await;
    assert_eq!(stream.message().await, (1, None), "the first one ends");
    assert_eq!(stream.message().await.0, 2);
    stream.subscribe(3, 8, 0, 8).await;
    assert_eq!(stream.message().await.0, 3);
    assert_eq!(server.state.events.gauges().subscribers, 2);
    // An ended stream gets no further messages.
    stream.say(StreamControl::Ack).await;
    stream.say(StreamControl::Cancel).await;
    assert_eq!(stream.0.call(ops::GetChunkSize).await, CHUNK as i64);
    server.stop().await;
}

#[tokio::test]
async fn a_slow_subscriber_gets_a_gap_notice_and_goes_on() {
    let mut config = config();
    config.kv_event_log_records = 2;
    let server = TestServer::start(config).await;
    let mut worker = Follower::new(&server).await;
    let mut stream = Stream::open(&server, 7, 0, 1).await;
    stream.batch().await;
    for seed in 1..5 {
        worker.store(seed, 1).await;
    }
    stream.say(StreamControl::Ack).await;
    let batch = stream.batch().await;
    assert_eq!((batch.lost, batch.events.len(), batch.next_cursor), (true, 1, 3));
    stream.say(StreamControl::Ack).await;
    let batch = stream.batch().await;
    assert_eq!((batch.lost, batch.events.len(), batch.next_cursor), (false, 1, 4));
    let mut ahead = Stream::open(&server, 8, 999, 8).await;
    let batch = ahead.batch().await;
    assert_eq!((batch.lost, batch.events.len(), batch.next_cursor), (true, 0, 4));
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_that_is_none_ends_at_once() {
    let server = TestServer::start(config()).await;
    for (cursor, max_events) in [(-1, 8), (0, 0), (0, 1025)] {
        let mut stream = Stream::open(&server, 7, cursor, max_events).await;
        assert_eq!(stream.message().await, (1, None), "{cursor}, {max_events}");
    }
    assert_eq!(server.state.events.gauges().subscribers, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_server_without_a_log_says_so_and_ends_the_stream() {
    let without_log = |config: &mut larder_server::config::Config| config.kv_event_log_records = 0;
    let unobserved = |config: &mut larder_server::config::Config| config.metrics.observability = false;
    for switch_off in [without_log, unobserved] {
        let mut config = config();
        switch_off(&mut config);
        let server = TestServer::start(config).await;
        let mut stream = Stream::open(&server, 7, 0, 8).await;
        assert!(!stream.batch().await.enabled);
        // A client that had not read that yet would forget it at the end.
        stream.say(StreamControl::Ack).await;
        assert_eq!(stream.message().await, (1, None));
        assert_eq!(stream.0.call(ops::GetExperimental).await, Vec::<String>::new());
        server.stop().await;
    }
}

#[tokio::test]
async fn stores_to_l2_and_removals_have_their_own_medium() {
    let directory = Directory::new();
    let mut config = with_files(&directory);
    let larder_l2::adapters::BackendConfig::Fs(files) = &mut config.l2.adapters[0].backend else { panic!() };
    // Room for two objects of 768 bytes.
    files.max_capacity_bytes = 2000;
    let server = TestServer::start(config).await;
    let mut worker = Follower::new(&server).await;
    let mut stream = Stream::open(&server, 7, 0, 8).await;
    stream.batch().await;
    let mut received: Vec<(EventKind, String, usize)> = Vec::new();
    for seed in 1..4 {
        worker.store(seed, 1).await;
        // Memory, then the file; for the third, an older file goes first.
        let stored = |received: &[(EventKind, String, usize)]| {
            received
                .iter()
                .filter(|(kind, medium, _)| *kind == EventKind::Stored && medium == "STORAGE")
                .count()
        };
        while stored(&received) < seed as usize {
            let events = stream.events(1).await;
            received.extend(events.iter().map(|e| (e.kind, e.medium.to_string(), e.tokens.len())));
        }
    }
    let count = |kind, medium: &str, tokens| {
        received.iter().filter(|event| **event == (kind, medium.to_owned(), tokens)).count()
    };
    assert_eq!(count(EventKind::Stored, "CPU", CHUNK), 3, "{received:?}");
    assert_eq!(count(EventKind::Stored, "STORAGE", 0), 3, "{received:?}");
    assert_eq!(count(EventKind::Removed, "STORAGE", 0), 1, "{received:?}");
    assert_eq!(received.len(), 7);
    server.stop().await;
}

#[tokio::test]
async fn loads_from_l2_are_sent_with_their_tokens() {
    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    let mut worker = Follower::new(&server).await;
    worker.store(1, 3).await;
    server.stop().await;
    let mut config = with_files(&directory);
    config.l2.prefetch_policy = larder_server::config::PrefetchPolicy::Retain;
    let server = TestServer::start(config).await;
    let mut worker = Follower::new(&server).await;
    let mut stream = Stream::open(&server, 7, 0, 8).await;
    assert!(stream.batch().await.events.is_empty());
    assert_eq!(worker.client.hit(&key("m", 1, 3, "r", None)).await, 3);
    let events = stream.events(3).await;
    assert!(events.iter().all(|e| (e.kind, &*e.medium, e.tokens.len()) == (EventKind::Stored, "CPU", CHUNK)));
    server.stop().await;
}
