//! Router and Dealer over real sockets: service, limits, shutdown.

use std::collections::HashMap;
use std::time::Duration;

use crate::server::{PATIENCE, Reported, Server};
use bytes::Bytes;
use larder_zmtp::codec::SocketType;
use larder_zmtp::{
    CloseReason, ConnectError, Dealer, DealerOptions, Endpoint, Limits, Message, PeerId, ProtocolError,
    RecvError, SendError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const HANDSHAKE: &[u8] = include_bytes!("../../src/driver/handshake.bin");

async fn dealer(server: &Server) -> Dealer {
    Dealer::connect(server.endpoint(), DealerOptions::default()).await.unwrap()
}

async fn named(server: &Server, identity: &'static str) -> Result<Dealer, ConnectError> {
    let options = DealerOptions { identity: identity.into(), ..DealerOptions::default() };
    Dealer::connect(server.endpoint(), options).await
}

async fn call(dealer: &mut Dealer, parts: &[&'static str]) -> Message {
    let message: Message = parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect();
    dealer.send(message).await.unwrap();
    recv(dealer).await.unwrap()
}

async fn recv(dealer: &mut Dealer) -> Result<Message, RecvError> {
    timeout(PATIENCE, dealer.recv()).await.expect("in time")
}

/// A client that has done its handshake by hand.
async fn raw(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all(HANDSHAKE).await.unwrap();
    let mut theirs = vec![0; HANDSHAKE.len()];
    stream.read_exact(&mut theirs).await.unwrap();
    stream
}

/// Reads until the other side closes. A reset is a close, too.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    bytes
}

#[tokio::test]
async fn echoes_messages_over_tcp() {
    let server = Server::tcp(Limits::default()).await;
    let mut dealer = dealer(&server).await;
    for parts in [&["a"][..], &["a", "", "b"], &["", ""], &[""]] {
        assert_eq!(call(&mut dealer, parts).await, parts);
    }
    server.stop().await;
}

#[tokio::test]
async fn receives_a_large_message_into_a_buffer_of_its_size() {
    let server = Server::tcp(Limits::default()).await;
    let mut dealer = dealer(&server).await;
    let large: Bytes = (0..20_000_000u32).map(|at| (at * 31) as u8).collect::<Vec<_>>().into();
    let message = vec![Bytes::from_static(b"uid"), large.clone(), Bytes::from_static(b"end")];
    dealer.send(message.clone()).await.unwrap();
    assert!(recv(&mut dealer).await.unwrap() == message);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_under_pipelining_from_several_clients() {
    const COUNT: u32 = 5_000;
    let server = Server::tcp(Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut dealer = dealer(&server).await;
        clients.push(tokio::spawn(async move {
            let sender = dealer.peer().clone();
            let sending = async move {
                for at in 0..COUNT {
                    let mut message = vec![Bytes::copy_from_slice(&at.to_be_bytes()); 3];
                    message[1] = vec![0; (at % 3000) as usize].into();
                    while sender.send(message.clone()) == Err(SendError::Full) {
                        tokio::task::yield_now().await;
                    }
                }
            };
            let receiving = async {
                for at in 0..COUNT {
                    let message = recv(&mut dealer).await.unwrap();
                    assert_eq!(message[0][..], at.to_be_bytes());
                    assert_eq!(message[1].len(), (at % 3000) as usize);
                }
            };
            tokio::join!(sending, receiving);
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn dealer_waits_for_queue_space_and_pauses_reading() {
    let server = Server::tcp(Limits::default()).await;
    let options = DealerOptions {
        receive_queue_messages_max: 2,
        limits: Limits { send_queue_messages_max: 3, ..Limits::default() },
        ..DealerOptions::default()
    };
    let mut dealer = Dealer::connect(server.endpoint(), options).await.unwrap();
    for at in 0..100u8 {
        dealer.send([Bytes::from(vec![at; 1000])]).await.unwrap();
    }
    for at in 0..100u8 {
        assert_eq!(recv(&mut dealer).await.unwrap(), [vec![at; 1000]]);
    }
    server.stop().await;
}

#[tokio::test]
async fn serves_several_endpoints_with_unique_peer_ids() {
    let any: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let mut server = Server::start(&[any.clone(), any], Limits::default()).await;
    assert_ne!(server.endpoints[0], server.endpoints[1]);
    let mut seen = HashMap::new();
    for endpoint in server.endpoints.clone() {
        for _ in 0..3 {
            let dealer = Dealer::connect(&endpoint, DealerOptions::default()).await.unwrap();
            let peer = server.connected().await;
            assert!(peer.remote().starts_with("tcp://127.0.0.1:"), "{}", peer.remote());
            assert!(seen.insert(peer.id(), dealer).is_none());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn binds_names_and_wildcards() {
    for text in ["tcp://localhost:0", "tcp://*:0"] {
        let server = Server::start(&[text.parse().unwrap()], Limits::default()).await;
        let endpoint = format!("tcp://localhost:{}", server.port()).parse().unwrap();
        let mut dealer = Dealer::connect(&endpoint, DealerOptions::default()).await.unwrap();
        assert_eq!(call(&mut dealer, &["x"]).await, ["x"]);
        server.stop().await;
    }
}

#[tokio::test]
async fn binds_ipv6_where_available() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let server = Server::start(&["tcp://[::1]:0".parse().unwrap()], Limits::default()).await;
    assert!(server.endpoint().to_string().starts_with("tcp://[::1]:"));
    let mut dealer = dealer(&server).await;
    assert_eq!(call(&mut dealer, &["x"]).await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn port_in_use_is_an_error_that_names_it() {
    let server = Server::tcp(Limits::default()).await;
    let error = larder_zmtp::Router::bind(&[server.endpoint().clone()], Limits::default()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} is in use by another process", server.endpoint()));
    server.stop().await;
}

#[tokio::test]
async fn gone_is_called_once_per_peer_for_every_end_reason() {
    let mut server = Server::tcp(Limits::default()).await;
    // A client that leaves, one that breaks the protocol, one that makes the service panic, one that we
    // close, and one that stays until the shutdown.
    let leaving = dealer(&server).await;
    let left = server.connected().await;
    leaving.close().await;
    assert_eq!(server.gone().await, left.id());
    let mut breaking = raw(&server).await;
    let broke = server.connected().await;
    breaking.write_all(b"\xff").await.unwrap();
    assert_eq!(server.gone().await, broke.id());
    assert_eq!(broke.send([Bytes::new()]), Err(SendError::Gone));
    let panicking = dealer(&server).await;
    let panicked = server.connected().await;
    panicking.try_send([Bytes::from_static(b"panic")]).unwrap();
    assert_eq!(server.gone().await, panicked.id());
    let mut closing = dealer(&server).await;
    let closed = server.connected().await;
    closed.close();
    assert_eq!(recv(&mut closing).await, Err(RecvError(CloseReason::PeerClosed)));
    assert_eq!(server.gone().await, closed.id());
    assert!(closed.is_gone());
    let _staying = dealer(&server).await;
    let stayed = server.connected().await;
    let rest = server.stop().await;
    let gone: Vec<PeerId> = rest
        .iter()
        .filter_map(|report| if let Reported::Gone(id) = report { Some(*id) } else { None })
        .collect();
    assert_eq!(gone, [stayed.id()]);
}

#[tokio::test]
async fn peers_without_handshake_are_not_reported() {
    let server = Server::tcp(Limits::default()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    read_to_end(&mut stream).await;
    assert!(server.stop().await.is_empty());
}

#[tokio::test]
async fn shutdown_sends_queued_messages_even_if_requests_are_unread() {
    let mut server = Server::tcp(Limits::default()).await;
    let mut client = raw(&server).await;
    let peer = server.connected().await;
    let part = Bytes::from(vec![1; 100_000]);
    for _ in 0..20 {
        peer.send([part.clone()]).unwrap();
    }
    // Requests that nobody will read must not turn the close into a reset that destroys the answers.
    client.write_all(&b"\x00\x06silent".repeat(1000)).await.unwrap();
    let (_, received) = tokio::join!(server.stop(), async {
        let received = read_to_end(&mut client).await;
        drop(client);
        received
    });
    assert_eq!(received.len(), 20 * (9 + 100_000));
    assert_eq!(peer.send([part]), Err(SendError::Gone));
}

#[tokio::test]
async fn pause_keeps_the_order_of_answers_and_delays_the_drain() {
    let mut server = Server::tcp(Limits::default()).await;
    let mut dealer = dealer(&server).await;
    for word in ["slow", "quick"] {
        dealer.send(vec![Bytes::from_static(word.as_bytes())]).await.unwrap();
    }
    assert_eq!(recv(&mut dealer).await.unwrap(), ["slow"]);
    assert_eq!(recv(&mut dealer).await.unwrap(), ["quick"]);
    dealer.send(vec![Bytes::from_static(b"slow")]).await.unwrap();
    for _ in 0..3 {
        while !matches!(server.next_report().await, Reported::Message(_)) {}
    }
    let (_, answer) = tokio::join!(server.stop(), recv(&mut dealer));
    assert_eq!(answer.unwrap(), ["slow"]);
}

#[tokio::test]
async fn client_reconnects_after_a_restart_on_the_same_port() {
    let server = Server::tcp(Limits::default()).await;
    let endpoint = server.endpoint().clone();
    let mut client = dealer(&server).await;
    server.stop().await;
    assert_eq!(recv(&mut client).await, Err(RecvError(CloseReason::PeerClosed)));
    let server = Server::start(&[endpoint], Limits::default()).await;
    assert_eq!(call(&mut dealer(&server).await, &["x"]).await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn frame_that_claims_a_tebibyte_closes_only_its_connection() {
    let server = Server::tcp(Limits::default()).await;
    let mut other = dealer(&server).await;
    let mut client = raw(&server).await;
    client.write_all(b"\x02\x00\x00\x01\x00\x00\x00\x00\x00").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"");
    assert_eq!(call(&mut other, &["x"]).await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn messages_over_a_limit_close_the_connection() {
    let limits =
        Limits { frame_bytes_max: 20, message_bytes_max: 30, message_parts_max: 3, ..Limits::default() };
    let server = Server::tcp(limits).await;
    for sizes in [&[21][..], &[20, 11], &[1, 1, 1, 1]] {
        let mut client = dealer(&server).await;
        let message: Message = sizes.iter().map(|&size| Bytes::from(vec![0; size])).collect();
        client.try_send(message).unwrap();
        assert_eq!(recv(&mut client).await, Err(RecvError(CloseReason::PeerClosed)), "{sizes:?}");
    }
    let mut client = dealer(&server).await;
    let message: Message = [20, 9, 1].iter().map(|&size| Bytes::from(vec![0; size])).collect();
    client.try_send(message.clone()).unwrap();
    assert_eq!(recv(&mut client).await, Ok(message));
    server.stop().await;
}

#[tokio::test]
async fn refuses_peers_above_the_limit_until_one_ends() {
    let mut server = Server::tcp(Limits { peers_max: 2, ..Limits::default() }).await;
    let (first, mut second) = (dealer(&server).await, dealer(&server).await);
    server.connected().await.keep();
    server.connected().await.keep();
    let refused = Dealer::connect(server.endpoint(), DealerOptions::default()).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Handshake { source: CloseReason::PeerClosed, .. }),
        "{refused:?}"
    );
    first.close().await;
    server.gone().await;
    let mut third = dealer(&server).await;
    assert_eq!(call(&mut third, &["x"]).await, ["x"]);
    assert_eq!(call(&mut second, &["y"]).await, ["y"]);
    server.stop().await;
}

#[tokio::test]
async fn peers_that_never_asked_do_not_block_new_ones() {
    let server = Server::tcp(Limits { peers_max: 3, ..Limits::default() }).await;
    let mut early = dealer(&server).await;
    assert_eq!(call(&mut early, &["x"]).await, ["x"]);
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(dealer(&server).await);
    }
    assert_eq!(call(&mut dealer(&server).await, &["y"]).await, ["y"]);
    assert_eq!(call(&mut early, &["z"]).await, ["z"]);
    assert_eq!(recv(&mut silent[0]).await, Err(RecvError(CloseReason::PeerClosed)));
    server.stop().await;
}

#[tokio::test]
async fn half_open_connections_do_not_block_new_ones() {
    let server = Server::tcp(Limits { half_open_max: 20, ..Limits::default() }).await;
    let mut half_open = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        stream.write_all(&HANDSHAKE[..10]).await.unwrap();
        half_open.push(stream);
    }
    assert_eq!(call(&mut dealer(&server).await, &["x"]).await, ["x"]);
    assert_eq!(read_to_end(&mut half_open[0]).await.len(), 64, "our greeting, then the end");
    // The youngest can still complete its handshake.
    let youngest = half_open.last_mut().unwrap();
    youngest.write_all(&HANDSHAKE[10..]).await.unwrap();
    let mut theirs = vec![0; HANDSHAKE.len()];
    youngest.read_exact(&mut theirs).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn routing_id_is_taken_until_its_peer_is_gone() {
    let mut server = Server::tcp(Limits::default()).await;
    let mut first = named(&server, "same").await.unwrap();
    assert_eq!(server.connected().await.identity(), b"same");
    let refused = named(&server, "same").await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Handshake { source: CloseReason::PeerClosed, .. }),
        "{refused:?}"
    );
    let mut other = named(&server, "other").await.unwrap();
    assert_eq!(call(&mut first, &["x"]).await, ["x"]);
    assert_eq!(call(&mut other, &["x"]).await, ["x"]);
    first.close().await;
    server.gone().await;
    let mut again = named(&server, "same").await.unwrap();
    assert_eq!(call(&mut again, &["x"]).await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn full_queue_is_reported_and_does_not_block_other_peers() {
    let limits = Limits { send_queue_messages_max: 100, send_queue_bytes_max: 50_000, ..Limits::default() };
    let mut server = Server::tcp(limits).await;
    let mut flooded = raw(&server).await;
    flooded.write_all(b"\x00\x05flood").await.unwrap();
    loop {
        match server.next_report().await {
            Reported::Flooded(taken) => break assert_eq!(taken, 50),
            Reported::Connected(_) | Reported::Message(_) => {}
            Reported::Gone(peer) => panic!("{peer} is gone"),
        }
    }
    assert_eq!(call(&mut dealer(&server).await, &["x"]).await, ["x"]);
    // All that was taken arrives.
    let mut answers = vec![0; 50 * (9 + 1000)];
    timeout(PATIENCE, flooded.read_exact(&mut answers)).await.expect("in time").unwrap();
    server.stop().await;
}

#[tokio::test]
async fn incompatible_socket_kinds_get_an_error() {
    // A puppet ROUTER that answers our DEALER with the READY of a PUB.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let puppet = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&HANDSHAKE[..64]).await.unwrap();
        stream.write_all(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB").await.unwrap();
        read_to_end(&mut stream).await
    };
    let (refused, heard) = tokio::join!(Dealer::connect(&endpoint, DealerOptions::default()), puppet);
    let expected =
        ProtocolError::IncompatibleSocketType { ours: SocketType::Dealer, theirs: SocketType::Pub };
    match refused.unwrap_err() {
        ConnectError::Handshake { source, .. } => assert_eq!(source, CloseReason::Protocol(expected)),
        other => panic!("{other:?}"),
    }
    assert!(heard.ends_with(b"\x05ERROR\x13Invalid socket type"));
}

#[tokio::test]
async fn connecting_to_a_closed_or_silent_port_is_an_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let options = || DealerOptions { connect_timeout: Duration::from_millis(50), ..DealerOptions::default() };
    let error = Dealer::connect(&endpoint, options()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error:?}");
    drop(listener);
    let error = Dealer::connect(&endpoint, DealerOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Io { .. }), "{error:?}");
    let identity = Bytes::from(vec![0; 256]);
    let error = Dealer::connect(&endpoint, DealerOptions { identity, ..options() }).await.unwrap_err();
    assert!(matches!(error, ConnectError::IdentityTooLong { bytes: 256 }), "{error:?}");
}

#[tokio::test]
async fn dropped_dealer_still_sends_queued_messages() {
    let mut server = Server::tcp(Limits::default()).await;
    let sending = dealer(&server).await;
    let peer = server.connected().await;
    for _ in 0..50 {
        sending.try_send([Bytes::from_static(b"silent"), Bytes::from(vec![0; 50_000])]).unwrap();
    }
    drop(sending);
    for _ in 0..50 {
        assert!(matches!(server.next_report().await, Reported::Message(id) if id == peer.id()));
    }
    assert_eq!(server.gone().await, peer.id());
    server.stop().await;
}

#[tokio::test]
async fn dropping_the_serve_future_calls_gone_for_every_peer() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(AtomicUsize);
    impl larder_zmtp::Service for Count {
        fn message(&self, _: &larder_zmtp::Peer, _: Message) {}
        fn gone(&self, _: &larder_zmtp::Peer) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let router =
        larder_zmtp::Router::bind(&["tcp://127.0.0.1:0".parse().unwrap()], Limits::default()).await.unwrap();
    let endpoint = router.local_endpoints()[0].clone();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let serving = tokio::spawn(router.serve(Arc::clone(&count), std::future::pending()));
    let mut client = Dealer::connect(&endpoint, DealerOptions::default()).await.unwrap();
    serving.abort();
    assert!(recv(&mut client).await.is_err());
    assert!(serving.await.unwrap_err().is_cancelled());
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}
