//! Interop with libzmq, through pyzmq, in both directions. `interop.py` is the other side.
//!
//! Needs the feature `interop` and the environment variable `LARDER_PYTHON`; `make test` sets both.
#![cfg(feature = "interop")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_zmtp::{Dealer, DealerOptions, Endpoint, Limits, Message, Peer, Router, Service};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A scenario that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

struct Python {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn start(scenario: &str, endpoint: &str) -> Python {
        let python = std::env::var_os("LARDER_PYTHON").expect(
            "LARDER_PYTHON must name a Python interpreter with pyzmq: run `make test`, which sets it",
        );
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop.py");
        let mut child = Command::new(&python)
            .args([script, scenario, endpoint])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run LARDER_PYTHON ({}): {error}", python.display()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Python { stdin: child.stdin.take(), child, lines }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("in time").unwrap();
        line.expect("Python is still running")
    }

    async fn send_line(&mut self, line: &str) {
        self.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Closes its stdin and expects success.
    async fn finish(mut self) {
        drop(self.stdin.take());
        while self.line().await != "done" {}
        assert!(timeout(PATIENCE, self.child.wait()).await.expect("in time").unwrap().success());
    }
}

struct Echo;

impl Service for Echo {
    fn message(&self, peer: &Peer, parts: Message) {
        peer.send(parts).unwrap();
    }

    fn gone(&self, _: &Peer) {}
}

struct Server {
    endpoint: Endpoint,
    shutdown: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(endpoint: &Endpoint, limits: Limits) -> Server {
        let router = Router::bind(std::slice::from_ref(endpoint), limits).await.unwrap();
        let endpoint = router.local_endpoints()[0].clone();
        let (shutdown, is_shutdown) = oneshot::channel::<()>();
        let serving = tokio::spawn(router.serve(Arc::new(Echo), async {
            let _ = is_shutdown.await;
        }));
        Server { endpoint, shutdown, serving }
    }

    async fn stop(self) {
        self.shutdown.send(()).unwrap();
        timeout(PATIENCE, self.serving).await.expect("in time").unwrap();
    }
}

fn any_port() -> Endpoint {
    "tcp://127.0.0.1:0".parse().unwrap()
}

/// Runs a client scenario against our ROUTER.
async fn client_with(scenario: &str, limits: Limits) {
    let server = Server::start(&any_port(), limits).await;
    Python::start(scenario, &server.endpoint.to_string()).finish().await;
    server.stop().await;
}

async fn client(scenario: &str) {
    client_with(scenario, Limits::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_router_echoes_all_sizes() {
    client("client_echo").await;
}

#[tokio::test]
async fn our_router_echoes_over_ipc() {
    let path = std::env::temp_dir().join(format!("larder-zmtp-interop-{}", std::process::id()));
    let server = Server::start(&Endpoint::Ipc(path), Limits::default()).await;
    Python::start("client_echo", &server.endpoint.to_string()).finish().await;
    server.stop().await;
}

#[tokio::test]
async fn our_router_echoes_large_messages() {
    client("client_large").await;
}

#[tokio::test]
async fn our_router_takes_many_parts() {
    client("client_parts").await;
}

#[tokio::test]
async fn our_router_closes_on_too_many_parts_and_the_client_comes_back() {
    client("client_too_many_parts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_router_keeps_the_order_of_pipelined_requests() {
    client("client_pipelined").await;
}

#[tokio::test]
async fn our_router_answers_heartbeats() {
    client("client_heartbeats").await;
}

#[tokio::test]
async fn our_router_sends_heartbeats() {
    let limits = Limits {
        ping_interval: Some(Duration::from_millis(50)),
        ping_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    client_with("client_pinged", limits).await;
}

#[tokio::test]
async fn our_router_serves_req() {
    client("client_req").await;
}

#[tokio::test]
async fn our_router_serves_many_short_connections() {
    client("client_many_connections").await;
}

#[tokio::test]
async fn our_router_refuses_a_second_client_with_the_same_routing_id() {
    client("client_duplicate").await;
}

#[tokio::test]
async fn our_router_refuses_other_kinds_of_sockets() {
    client("client_wrong_kind").await;
}

#[tokio::test]
async fn our_router_loses_nothing_to_a_client_that_pauses() {
    client("client_stalls").await;
}

#[tokio::test]
async fn a_client_of_libzmq_reconnects_to_a_restarted_router() {
    let mut server = Server::start(&any_port(), Limits::default()).await;
    let mut python = Python::start("client_reconnects", &server.endpoint.to_string());
    for _ in 0..3 {
        assert_eq!(python.line().await, "echoed");
        let endpoint = server.endpoint.clone();
        server.stop().await;
        server = Server::start(&endpoint, Limits::default()).await;
        python.send_line("restarted").await;
    }
    python.finish().await;
    server.stop().await;
}

/// Connects our DEALER to a ROUTER of libzmq.
async fn dealer_to(scenario: &str, endpoint: &str, limits: Limits) -> (Python, Dealer) {
    let mut python = Python::start(scenario, endpoint);
    let endpoint: Endpoint = python.line().await.parse().unwrap();
    let options = DealerOptions { identity: Bytes::from_static(b"us"), limits, ..DealerOptions::default() };
    (python, Dealer::connect(&endpoint, options).await.unwrap())
}

async fn echoes(dealer: &mut Dealer, message: Message) {
    dealer.send(message.clone()).await.unwrap();
    assert!(timeout(PATIENCE, dealer.recv()).await.expect("in time").unwrap() == message);
}

async fn echoes_all_sizes(mut dealer: Dealer) {
    echoes(&mut dealer, vec![Bytes::new(), Bytes::new()]).await;
    for size in [0, 1, 255, 256, 8191, 8192, 65_536, 1_000_000, 30_000_000] {
        echoes(&mut dealer, vec![Bytes::from_static(b"uid"), Bytes::from(vec![7; size])]).await;
    }
    echoes(&mut dealer, (0..64).map(|at| Bytes::from(vec![at; at.into()])).collect()).await;
    dealer.close().await;
}

#[tokio::test]
async fn our_dealer_is_echoed_by_libzmq() {
    let (python, dealer) = dealer_to("server_echo", "", Limits::default()).await;
    echoes_all_sizes(dealer).await;
    python.finish().await;
}

#[tokio::test]
async fn our_dealer_is_echoed_by_libzmq_over_ipc() {
    let path = std::env::temp_dir().join(format!("larder-zmtp-libzmq-{}", std::process::id()));
    let (python, dealer) =
        dealer_to("server_echo", &format!("ipc://{}", path.display()), Limits::default()).await;
    echoes_all_sizes(dealer).await;
    python.finish().await;
    let _ = std::fs::remove_file(path);
}

#[tokio::test]
async fn our_dealer_pipelines_to_libzmq() {
    let (python, mut dealer) = dealer_to("server_echo", "", Limits::default()).await;
    // Fewer than libzmq's high-water mark: beyond it a ROUTER of libzmq drops answers.
    for at in 0..900u32 {
        dealer.send([Bytes::copy_from_slice(&at.to_be_bytes())]).await.unwrap();
    }
    for at in 0..900u32 {
        let message = timeout(PATIENCE, dealer.recv()).await.expect("in time").unwrap();
        assert_eq!(message, [at.to_be_bytes().to_vec()]);
    }
    python.finish().await;
}

#[tokio::test]
async fn our_dealer_and_libzmq_exchange_heartbeats() {
    let limits = Limits {
        ping_interval: Some(Duration::from_millis(30)),
        ping_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let (python, mut dealer) = dealer_to("server_heartbeats", "", limits).await;
    echoes(&mut dealer, vec![Bytes::from_static(b"before")]).await;
    assert!(timeout(Duration::from_millis(2500), dealer.recv()).await.is_err(), "nothing happens");
    echoes(&mut dealer, vec![Bytes::from_static(b"after")]).await;
    python.finish().await;
}
