//! gRPC beside ZMTP: the recorded calls of stock clients, order, limits, streams, the end of connections and servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use larder_server::config::{Config, Transport};
use larder_wire::ops;
use larder_zmtp::{Dealer, DealerOptions, Endpoint};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CHUNK, TestServer, config, key};

/// A connection of a client with one client id.
struct Client {
    send: SendRequest<Bytes>,
    id: &'static str,
}

/// How a call has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Message(Vec<u8>),
    /// Its number and its text.
    Status(u8, String),
}

/// A call before its message is sent.
struct Open {
    answer: ResponseFuture,
    body: SendStream<Bytes>,
}

fn address(server: &TestServer) -> (String, u16) {
    let Endpoint::Tcp { host, port } = &server.endpoint else { panic!("a TCP endpoint") };
    (host.clone(), *port)
}

impl Client {
    async fn connect(server: &TestServer, id: &'static str) -> Self {
        let stream = TcpStream::connect(address(server)).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { send, id }
    }

    async fn open(&mut self, method: &str) -> Open {
        let mut send = self.send.clone().ready().await.unwrap();
        let request = Request::post(format!("http://larder/lmcache.mp.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("lmcache-client-id-bin", self.id)
            .body(())
            .unwrap();
        let (answer, body) = send.send_request(request, false).unwrap();
        Open { answer, body }
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> Answer {
        let mut open = self.open(method).await;
        open.send(message);
        open.answer().await
    }

    async fn ok(&mut self, method: &str, message: &[u8]) -> Vec<u8> {
        match self.call(method, message).await {
            Answer::Message(message) => message,
            status => panic!("{method}: {status:?}"),
        }
    }

    async fn status(&mut self, method: &str, message: &[u8]) -> (u8, String) {
        match self.call(method, message).await {
            Answer::Status(code, text) => (code, text),
            answer => panic!("{method}: {answer:?}"),
        }
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

impl Open {
    fn send(&mut self, message: &[u8]) {
        self.body.send_data(framed(message), true).unwrap();
    }

    async fn answer(self) -> Answer {
        let (head, mut body) = self.answer.await.unwrap().into_parts();
        if let Some(status) = status(&head.headers) {
            return status;
        }
        let mut message = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            message.extend_from_slice(&piece);
        }
        let trailers = body.trailers().await.unwrap().expect("trailers");
        match status(&trailers) {
            Some(Answer::Status(0, _)) => Answer::Message(message.split_off(5)),
            other => other.expect("a status"),
        }
    }
}

fn status(headers: &HeaderMap) -> Option<Answer> {
    let code = headers.get("grpc-status")?.to_str().unwrap().parse().unwrap();
    let text = headers.get("grpc-message").map_or("", |text| text.to_str().unwrap());
    Some(Answer::Status(code, text.to_owned()))
}

/// A field of a message: a number.
fn number(tag: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![tag << 3];
    let mut rest = value;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// The same: bytes, text or a message.
fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = number(tag, value.len() as u64);
    bytes[0] |= 2;
    bytes.extend_from_slice(value);
    bytes
}

/// A key with one chunk that begins with `seed`, of the worker or of the scheduler.
fn chunk_key(seed: u8, request: &str, is_worker: bool) -> Vec<u8> {
    let worker = if is_worker { number(3, 0) } else { Vec::new() };
    [
        field(1, b"m"),
        number(2, 1),
        worker,
        field(4, &[seed; CHUNK]),
        number(6, CHUNK as u64),
        field(7, request.as_bytes()),
        number(10, 1),
    ]
    .concat()
}

/// `prepare_store`, `commit_store` and the like, by worker 5.
fn transfer(seed: u8, request: &str) -> Vec<u8> {
    [field(1, &chunk_key(seed, request, true)), number(2, 5)].concat()
}

fn lookup(seed: u8, request: &str) -> Vec<u8> {
    [field(1, &chunk_key(seed, request, false)), number(2, 1)].concat()
}

/// Worker 5 of model `m`, as in the support's registration.
fn registration() -> Vec<u8> {
    [
        number(1, 5),
        field(2, b"m"),
        number(3, 1),
        number(4, 4),
        number(5, 2),
        number(6, 12),
        field(7, b"float16"),
        number(8, 1),
        number(9, CHUNK as u64),
    ]
    .concat()
}

/// Registers worker 5 and stores one chunk.
async fn stored(server: &TestServer, seed: u8) -> Client {
    let mut worker = Client::connect(server, "worker").await;
    worker.ok("EngineDrivenService/RegisterKvCacheEngineDrivenContext", &registration()).await;
    worker.ok("EngineDrivenService/PrepareStore", &transfer(seed, "store")).await;
    let committed = worker.ok("EngineDrivenService/CommitStore", &transfer(seed, "store")).await;
    assert_eq!(committed, [8, 1]);
    worker
}

const NO_SLOTS: &str = "0a1782a5736c6f747390ad6368756e6b5f696e646963657390";

/// The answers that differ from the reference's. `None`: it has contents of this run.
const DIFFERENCES: [(&str, Option<&str>); 14] = [
    // Contents that no two servers share: names, sizes, offsets.
    ("register, engine-driven", None),
    ("prepare store", None),
    ("prepare retrieve", None),
    // As over ZMQ: tests/interop/golden_differences.py has the reasons.
    ("ping of an instance that is not registered", Some("")),
    ("prepare retrieve without a lock", None),
    // Failures are values, not errors, because engines do not handle errors.
    ("prepare store by an unregistered instance", Some(NO_SLOTS)),
    ("prepare store, start off the chunk grid", Some(NO_SLOTS)),
    ("prepare store, end beyond the tokens", Some(NO_SLOTS)),
    ("lookup without readers", Some("")),
    ("a handle that is none", Some("")),
    // What cannot be decoded is the client's mistake.
    ("bytes that are no protobuf", Some("INVALID_ARGUMENT")),
    ("a bad salt", Some("INVALID_ARGUMENT")),
    ("request_configs that are no map", Some("INVALID_ARGUMENT")),
    ("an unknown engine", Some("INVALID_ARGUMENT")),
];

#[tokio::test]
async fn recorded_calls_get_the_recorded_answers() {
    let recording: Value =
        serde_json::from_str(include_str!("../../../wire/tests/vectors/grpc.json")).unwrap();
    let mut server = TestServer::start(config()).await;
    server.expect_log("worker not served");
    let mut client = Client::connect(&server, "golden").await;
    let mut compared = 0;
    for exchange in recording["exchanges"].as_array().unwrap() {
        let text = |name: &str| exchange[name].as_str();
        let (Some(title), Some(request)) = (text("title"), text("request").filter(|r| !r.contains(' ')))
        else {
            continue;
        };
        let method = text("method").unwrap().strip_prefix("/lmcache.mp.").unwrap();
        let answer = match client.call(method, &bytes(request)).await {
            Answer::Message(message) => hex(&message),
            Answer::Status(3, _) => "INVALID_ARGUMENT".to_owned(),
            Answer::Status(12, text) => format!("UNIMPLEMENTED {text}"),
            other => panic!("{title}: {other:?}"),
        };
        let recorded = match text("status") {
            Some(status) => format!("{status} {}", text("details").unwrap()),
            None => text("response").unwrap().to_owned(),
        };
        match DIFFERENCES.iter().find(|(of, _)| *of == title) {
            Some((_, None)) => {}
            Some((_, Some(ours))) => {
                assert_eq!(answer, *ours, "{title}");
                assert_ne!(answer, recorded, "{title}: no difference any more");
            }
            None => assert_eq!(answer, recorded, "{title}"),
        }
        compared += 1;
    }
    assert!(compared >= 50, "{compared} exchanges");
    server.stop().await;
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn both_protocols_share_a_port_and_the_cache() {
    let server = TestServer::start(config()).await;
    let _worker = stored(&server, 9).await;
    let mut zmq = server.client().await;
    let mut key = key("m", 0, 1, "over zmq", None);
    key.tokens = vec![9; CHUNK].into();
    assert_eq!(zmq.hit(&key).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn tokens_travel_in_the_form_of_the_client() {
    let server = TestServer::start(config()).await;
    let mut worker = stored(&server, 9).await;
    let words: Vec<u8> = [9_u32; CHUNK].iter().flat_map(|token| token.to_be_bytes()).collect();
    let key = [
        field(1, b"m"),
        number(2, 1),
        field(4, &words),
        number(6, CHUNK as u64),
        field(7, b"r"),
        number(10, 1),
    ];
    let lookup = field(1, &key.concat());
    worker.id = "of 0.5.7";
    assert_eq!(worker.ok("ManagementService/Ping", &[]).await, [8, 1]);
    worker.ok("LookupService/Lookup", &lookup).await;
    assert_eq!(worker.ok("LookupService/QueryPrefetchStatus", &field(1, b"r")).await, [8, 1]);
    server.stop().await;
}

#[tokio::test]
async fn transfers_run_in_the_order_in_which_they_were_opened_and_others_overtake() {
    let server = TestServer::start(config()).await;
    let mut worker = stored(&server, 1).await;
    let mut prepare = worker.open("EngineDrivenService/PrepareStore").await;
    let mut commit = worker.open("EngineDrivenService/CommitStore").await;
    commit.send(&transfer(2, "r"));
    // The commit is there by the time that these are answered.
    assert_eq!(worker.ok("ControllerService/Ping", &[]).await, [8, 1]);
    worker.ok("LookupService/Lookup", &lookup(1, "r")).await;
    assert_eq!(worker.ok("LookupService/QueryPrefetchStatus", &field(1, b"r")).await, [8, 1]);
    // Another client's transfers do not wait either.
    let mut other = Client { send: worker.send.clone(), id: "other" };
    other.ok("EngineDrivenService/PrepareStore", &transfer(3, "r")).await;
    prepare.send(&transfer(2, "r"));
    assert!(matches!(prepare.answer().await, Answer::Message(plan) if plan.len() > 40));
    assert_eq!(commit.answer().await, Answer::Message(vec![8, 1]), "the commit of what was prepared");
    server.stop().await;
}

#[tokio::test]
async fn leases_of_a_client_end_with_its_connection() {
    let server = TestServer::start(config()).await;
    let _worker = stored(&server, 1).await;
    let mut scheduler = Client::connect(&server, "scheduler").await;
    scheduler.ok("LookupService/Lookup", &lookup(1, "r")).await;
    let pinned =
        |state: &larder_server::app::state::State| state.core().read(|core, _| core.gauges().sessions);
    assert_eq!(pinned(&server.state), 1);
    drop(scheduler);
    server.until("the session ends", |state| pinned(state) == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn wrong_calls_get_a_status_and_the_connection_lives() {
    let mut config = config();
    config.rpc.grpc_message_bytes_max = 2 << 20;
    let mut server = TestServer::start(config).await;
    server.expect_log("refused: a message of");
    let mut client = Client::connect(&server, "c").await;
    assert_eq!(client.status("Nope/Ping", &[]).await, (12, "Method not found!".to_owned()));
    assert_eq!(client.status("LookupService/Lookup", &[0xff; 3]).await.0, 3);
    assert_eq!(client.status("ObservabilityService/SubscribeKvEvents", &number(3, u64::MAX)).await.0, 3);
    assert_eq!(client.status("LookupService/Lookup", &vec![0; (2 << 20) + 1]).await.0, 8);
    // Each two bytes are a group of layers, which takes fifty times as much in memory.
    let groups = field(10, &[]).repeat(600_000);
    let register = "EngineDrivenService/RegisterKvCacheEngineDrivenContext";
    assert_eq!(client.status(register, &groups).await.0, 8);
    let mut compressed = client.open("ControllerService/Ping").await;
    compressed.body.send_data(Bytes::from_static(b"\x01\0\0\0\0"), true).unwrap();
    assert!(matches!(compressed.answer().await, Answer::Status(12, _)));
    let mut empty = client.open("ControllerService/Ping").await;
    empty.body.send_data(Bytes::new(), true).unwrap();
    assert!(matches!(empty.answer().await, Answer::Status(3, _)));
    let mut send = client.send.clone().ready().await.unwrap();
    let request = Request::get("http://larder/lmcache.mp.ControllerService/Ping").body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 415);
    assert_eq!(client.ok("ControllerService/Ping", &[]).await, [8, 1]);
    server.stop().await;
}

#[tokio::test]
async fn long_requests_pass_through_the_window() {
    let server = TestServer::start(config()).await;
    let _worker = stored(&server, 1).await;
    let mut client = Client::connect(&server, "c").await;
    let tokens = vec![1; 2_000_000];
    let key = [field(1, b"m"), number(2, 1), field(4, &tokens), number(6, 16), field(7, b"r"), number(10, 1)];
    client.ok("LookupService/Lookup", &field(1, &key.concat())).await;
    assert_eq!(client.ok("LookupService/QueryPrefetchStatus", &field(1, b"r")).await, [8, 1]);
    server.stop().await;
}

/// The next message of a stream; `None` at its end.
async fn next(body: &mut RecvStream) -> Option<Bytes> {
    let piece = body.data().await?.unwrap();
    body.flow_control().release_capacity(piece.len()).unwrap();
    Some(piece.slice(5..))
}

#[tokio::test]
async fn events_are_streamed_until_the_client_cancels() {
    let server = TestServer::start(config()).await;
    let mut worker = stored(&server, 1).await;
    let subscription = [number(1, 5), field(2, b"m"), number(4, 16)].concat();
    let mut open = worker.open("ObservabilityService/SubscribeKvEvents").await;
    open.send(&subscription);
    let mut body = open.answer.await.unwrap().into_body();
    let first = next(&mut body).await.expect("a batch at once");
    assert_eq!(first[..2], [8, 1], "enabled");
    for seed in 2..5 {
        worker.ok("EngineDrivenService/PrepareStore", &transfer(seed, "r")).await;
        worker.ok("EngineDrivenService/CommitStore", &transfer(seed, "r")).await;
        // The chunk that was there before is perhaps the first.
        while !next(&mut body).await.expect("a batch").ends_with(&field(7, &[seed; CHUNK])) {}
    }
    assert_eq!(server.state.events.gauges().subscribers, 1);
    drop((body, open.body));
    server.until("the subscription ends", |state| state.events.gauges().subscribers == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_streams_and_says_goodbye() {
    let server = TestServer::start(config()).await;
    let mut client = Client::connect(&server, "c").await;
    let mut open = client.open("ObservabilityService/SubscribeKvEvents").await;
    open.send(&[number(1, 5), field(2, b"m"), number(4, 16)].concat());
    let mut body = open.answer.await.unwrap().into_body();
    next(&mut body).await.expect("a batch at once");
    server.stop().await;
    assert_eq!(next(&mut body).await, None);
    let trailers = body.trailers().await.unwrap().expect("trailers");
    assert_eq!(status(&trailers), Some(Answer::Status(0, String::new())));
    assert!(client.send.ready().await.is_err(), "the server takes no more calls");
}

#[tokio::test]
async fn beginnings_of_other_protocols_end_their_connections_only() {
    let server = TestServer::start(config()).await;
    let mut client = Client::connect(&server, "c").await;
    for garbage in
        [&b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"PUT", b"\xffPRI *", b"P\xff"]
    {
        let mut stream = TcpStream::connect(address(&server)).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // The server may answer in its own protocol first.
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert_eq!(client.ok("ControllerService/Ping", &[]).await, [8, 1]);
    server.stop().await;
}

fn speaking(transport: Transport) -> Config {
    let mut config = config();
    config.rpc.transport = transport;
    config
}

#[tokio::test]
async fn a_protocol_that_is_off_is_not_served() {
    let server = TestServer::start(speaking(Transport::Zmq)).await;
    let stream = TcpStream::connect(address(&server)).await.unwrap();
    let shaken = h2::client::handshake(stream).await;
    if let Ok((_send, connection)) = shaken {
        let connection: h2::client::Connection<TcpStream, Bytes> = connection;
        assert!(connection.await.is_err());
    }
    let mut zmq = server.client().await;
    assert!(zmq.call(ops::Ping { instance_id: None }).await);
    server.stop().await;
    let server = TestServer::start(speaking(Transport::Grpc)).await;
    assert!(Dealer::connect(&server.endpoint, DealerOptions::default()).await.is_err());
    let mut client = Client::connect(&server, "c").await;
    assert_eq!(client.ok("ControllerService/Ping", &[]).await, [8, 1]);
    server.stop().await;
}
