//! A test coordinator that drops its state on request, and what it has after the next resync.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use larder_core::index::Removal;
use larder_types::Time;
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_store::StorePlan;
use serde_json::{Value, json};

use crate::support::{Client, Directory, TestServer, key, with_files};

/// What it knows.
#[derive(Debug, Default)]
struct Known {
    is_registered: bool,
    incarnation: u64,
    last_seq: u64,
    /// Tier and chunk hash.
    placements: BTreeSet<(String, String)>,
}

impl Known {
    /// Takes a batch as the stock coordinator does: a new incarnation voids what is known of L1, and what is
    /// not newer than what it has counts for nothing.
    fn take(&mut self, batch: &Value) {
        let number = |name: &str| batch[name].as_u64().expect("a number");
        let (incarnation, seq) = (number("incarnation"), number("seq"));
        if incarnation > self.incarnation {
            self.placements.retain(|(tier, _)| tier != "l1");
            (self.incarnation, self.last_seq) = (incarnation, 0);
        }
        if incarnation < self.incarnation || seq <= self.last_seq {
            return;
        }
        // One that has forgotten may first hear of what was going on.
        assert!(seq == self.last_seq + 1 || self.last_seq == 0, "{} is missing", self.last_seq + 1);
        self.last_seq = seq;
        let tier = batch["tier"].as_str().expect("a tier");
        for entry in batch["entries"].as_array().expect("a list") {
            let place = (tier.to_owned(), entry["key"]["chunk_hash_hex"].to_string());
            match batch["event_type"].as_str() {
                Some("store") => drop(self.placements.insert(place)),
                Some("delete") => drop(self.placements.remove(&place)),
                _ => {}
            }
        }
    }

    fn of(&self, tier: &str) -> usize {
        self.placements.iter().filter(|(t, _)| t == tier).count()
    }
}

type Book = Arc<Mutex<Known>>;

/// Its address, and what it knows.
async fn coordinator() -> (String, Book) {
    let book = Book::default();
    let register = |Shared(book): Shared<Book>| async move {
        book.lock().expect("whole").is_registered = true;
        Json(json!({"instance_id": "node", "re_registered": false}))
    };
    let heartbeat = |Shared(book): Shared<Book>, Path(_): Path<String>| async move {
        if book.lock().expect("whole").is_registered { StatusCode::OK } else { StatusCode::NOT_FOUND }
    };
    let events = |Shared(book): Shared<Book>, Json(body): Json<Value>| async move {
        let mut known = book.lock().expect("whole");
        body["batches"].as_array().expect("a list").iter().for_each(|batch| known.take(batch));
        Json(json!({}))
    };
    let router = Router::new()
        .route("/instances", post(register).get(get(|| async { "" })))
        .route("/instances/{id}/heartbeat", put(heartbeat))
        .route("/instances/{id}", delete(|| async { StatusCode::NO_CONTENT }))
        .route("/events", post(events))
        .with_state(book.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, book)
}

async fn store(c: &mut Client, seed: u32, chunks: usize) {
    let key = key("m", seed, chunks, "store", Some(0));
    let instance_id = InstanceId(7);
    let plan = c.call(ops::PrepareStore::new(key.clone(), instance_id)).await;
    assert!(matches!(plan, StorePlan::Slots { .. }), "{plan:?}");
    let commit = ops::CommitStore { key, instance_id, data: Bytes::new() };
    assert!(c.call(commit).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_lost_its_state_gets_the_inventory_again() {
    let (url, book) = coordinator().await;
    let directory = Directory::new();
    let mut config = with_files(&directory);
    // More than fit into one page of the inventory.
    config.l1.bytes = 8 << 20;
    config.coordinator.url = Some(url);
    config.coordinator.event_reporting = true;
    config.coordinator.heartbeat_interval = Duration::from_millis(10);
    config.coordinator.event_flush_interval = Duration::from_millis(10);
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    store(&mut c, 1, 600).await;
    let knows = |l1: usize, l2: usize| {
        let known = book.lock().expect("whole");
        (known.of("l1"), known.of("l2")) == (l1, l2)
    };
    server.until("it knows of both tiers", |_| knows(600, 600)).await;

    // It forgets everything, as in a restart.
    *book.lock().expect("whole") = Known::default();
    store(&mut c, 2, 100).await;
    server.until("it knows again, and what is new", |_| knows(700, 700)).await;

    // It goes back to an older copy, in which there is what was removed since.
    let objects = server.state.core().read(|core, _| core.index().list(0, 10).objects);
    let keys: Vec<_> = objects.into_iter().map(|object| object.key).collect();
    let removed = server.state.core().with(|core, _| core.remove(Time::ZERO, &keys, true));
    assert_eq!(removed, [Removal::Removed; 10]);
    server.until("it knows of the removal", |_| knows(690, 700)).await;
    let reported_again = || server.state.reporting.counts().reported_again;
    // How many new objects arrive by the resync, and how many as events, depends on timing.
    let before = reported_again();
    {
        let mut known = book.lock().expect("whole");
        let gone = keys.iter().map(|key| ("l1".to_owned(), format!("\"{}\"", key.chunk_hash)));
        known.placements.extend(gone);
        known.is_registered = false;
        assert_eq!(known.of("l1"), 700);
    }
    server.until("it knows better", |_| knows(690, 700)).await;
    server.until("everything is reported once more", |_| reported_again() >= before + 690 + 700).await;
    assert_eq!(server.state.reporting.counts().lost, 0);
    server.stop().await;
}
