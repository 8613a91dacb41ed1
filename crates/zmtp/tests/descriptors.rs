//! A process that runs out of file descriptors. A binary of its own, because the limit is the process's.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_zmtp::{Dealer, DealerOptions, Endpoint, Limits, Message, Peer, Router, Service};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

struct Echo;

impl Service for Echo {
    fn message(&self, peer: &Peer, parts: Message) {
        peer.send(parts).expect("space");
    }

    fn gone(&self, _: &Peer) {}
}

async fn echoes(dealer: &mut Dealer) -> bool {
    dealer.send([Bytes::from_static(b"x")]).await.unwrap();
    dealer.recv().await.unwrap() == [b"x".as_slice()]
}

#[tokio::test]
async fn running_out_of_descriptors_only_delays_new_connections() {
    let router = Router::bind(&["tcp://127.0.0.1:0".parse().unwrap()], Limits::default()).await.unwrap();
    let endpoint = router.local_endpoints()[0].clone();
    let Endpoint::Tcp { port, .. } = endpoint else { panic!("not TCP") };
    tokio::spawn(router.serve(Arc::new(Echo), std::future::pending()));
    let mut early = Dealer::connect(&endpoint, DealerOptions::default()).await.unwrap();
    assert!(echoes(&mut early).await);

    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
    let mut clients = Vec::new();
    // The clients of this test and the router share the limit, and meet it together.
    while let Ok(client) = TcpStream::connect(("127.0.0.1", port)) {
        clients.push(client);
    }
    for _ in 0..10 {
        assert!(echoes(&mut early).await, "connected peers are served");
    }
    clients.clear();
    let late = async { Dealer::connect(&endpoint, DealerOptions::default()).await.unwrap() };
    let mut late = tokio::time::timeout(Duration::from_secs(60), late).await.expect("in time");
    assert!(echoes(&mut late).await);
}
