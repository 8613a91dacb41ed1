//! The driver over an in-memory pipe, on a paused clock: time passes only when nothing else can happen.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::codec::SocketType;
use crate::router::{connection_options, new_peer};

const HANDSHAKE: &[u8] = include_bytes!("handshake.bin");
const PING_TTL_1S: &[u8] = b"\x04\x07\x04PING\x00\x0a";
const LONG: Duration = Duration::from_secs(3600);

#[derive(Debug, PartialEq)]
enum Heard {
    Admitted,
    Message(Message),
    Ended(CloseReason),
}

/// Reports what it hears, and echoes every message `echoes` times.
struct Probe {
    heard: mpsc::UnboundedSender<Heard>,
    echoes: usize,
    refused: Arc<Mutex<usize>>,
}

impl Inlet for Probe {
    fn admit(&mut self, _: &Peer, _: PeerProperties) -> Result<(), Refusal> {
        self.heard.send(Heard::Admitted).unwrap();
        Ok(())
    }

    fn message(&mut self, peer: &Peer, message: Message) {
        for _ in 0..self.echoes {
            if peer.send(message.clone()).is_err() {
                *self.refused.lock().unwrap() += 1;
            }
        }
        self.heard.send(Heard::Message(message)).unwrap();
    }

    fn ended(&mut self, reason: &CloseReason) {
        self.heard.send(Heard::Ended(reason.clone())).unwrap();
    }
}

struct Rig {
    /// The other end of the connection.
    far: DuplexStream,
    heard: mpsc::UnboundedReceiver<Heard>,
    peer: Peer,
    refused: Arc<Mutex<usize>>,
}

impl Rig {
    fn new(limits: &Limits, echoes: usize) -> Rig {
        let usage = Usage::new(limits);
        Rig::sharing(limits, echoes, &usage)
    }

    /// A connection of a router whose connections hold `usage` together.
    fn sharing(limits: &Limits, echoes: usize, usage: &Arc<Usage>) -> Rig {
        let (near, far) = duplex(1024);
        let (sender, heard) = mpsc::unbounded_channel();
        let refused = Arc::default();
        let peer = new_peer("test".into(), limits, usage);
        let options = connection_options(SocketType::Router, Bytes::new(), limits);
        let probe = Probe { heard: sender, echoes, refused: Arc::clone(&refused) };
        tokio::spawn(Driver::new(near, options, limits, usage, peer.clone(), probe).run());
        Rig { far, heard, peer, refused }
    }

    async fn open(limits: &Limits, echoes: usize) -> Rig {
        let mut rig = Rig::new(limits, echoes);
        rig.far.write_all(HANDSHAKE).await.unwrap();
        rig.expect_bytes(&HANDSHAKE[..64]).await;
        let mut ready = vec![0; HANDSHAKE.len() - 64];
        rig.far.read_exact(&mut ready).await.unwrap();
        assert_eq!(rig.heard().await, Heard::Admitted);
        rig
    }

    async fn heard(&mut self) -> Heard {
        timeout(LONG, self.heard.recv()).await.expect("within an hour").expect("before the end")
    }

    async fn ended(&mut self) -> CloseReason {
        loop {
            if let Heard::Ended(reason) = self.heard().await {
                assert!(self.peer.is_gone() || self.heard.recv().await.is_none());
                return reason;
            }
        }
    }

    async fn expect_bytes(&mut self, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        timeout(LONG, self.far.read_exact(&mut bytes)).await.expect("within an hour").unwrap();
        assert_eq!(bytes, expected);
    }
}

fn limits() -> Limits {
    Limits { write_stall_timeout: 2 * LONG, ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn handshake_times_out() {
    for sent in [0, 1, 64, HANDSHAKE.len() - 1] {
        let mut rig = Rig::new(&limits(), 0);
        let begun = Instant::now();
        rig.far.write_all(&HANDSHAKE[..sent]).await.unwrap();
        assert_eq!(rig.ended().await, CloseReason::HandshakeTimeout);
        let elapsed = begun.elapsed();
        assert!(elapsed >= limits().handshake_timeout && elapsed < 2 * limits().handshake_timeout);
    }
    let mut rig = Rig::open(&limits(), 0).await;
    assert!(timeout(LONG / 2, rig.heard.recv()).await.is_err(), "an open connection may be silent");
}

#[tokio::test(start_paused = true)]
async fn handshake_that_trickles_times_out_too() {
    let mut rig = Rig::new(&limits(), 0);
    for byte in HANDSHAKE {
        if rig.far.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(rig.ended().await, CloseReason::HandshakeTimeout);
}

#[tokio::test(start_paused = true)]
async fn answers_a_request() {
    let mut rig = Rig::open(&limits(), 1).await;
    rig.far.write_all(b"\x01\x01a\x00\x02bc").await.unwrap();
    rig.expect_bytes(b"\x01\x01a\x00\x02bc").await;
    drop(rig.far);
    assert!(matches!(rig.heard.recv().await, Some(Heard::Message(parts)) if parts.len() == 2));
    assert_eq!(rig.heard.recv().await, Some(Heard::Ended(CloseReason::PeerClosed)));
    assert_eq!(rig.peer.send([Bytes::new()]), Err(crate::SendError::Gone));
}

#[tokio::test(start_paused = true)]
async fn message_from_another_task_wakes_the_connection() {
    let mut rig = Rig::open(&limits(), 0).await;
    for round in 0..100u8 {
        rig.peer.send([Bytes::from(vec![round])]).unwrap();
        rig.expect_bytes(&[0, 1, round]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn end_within_a_message_is_reported_as_such() {
    let mut rig = Rig::open(&limits(), 0).await;
    rig.far.write_all(b"\x01\x01a").await.unwrap();
    drop(rig.far);
    assert_eq!(rig.heard.recv().await, Some(Heard::Ended(CloseReason::PeerClosedAmidMessage)));
}

#[tokio::test(start_paused = true)]
async fn protocol_error_ends_the_connection_after_earlier_messages() {
    let mut rig = Rig::open(&limits(), 1).await;
    rig.far.write_all(b"\x00\x01a\xff").await.unwrap();
    assert_eq!(rig.heard().await, Heard::Message(vec![Bytes::from_static(b"a")]));
    assert_eq!(rig.ended().await, CloseReason::Protocol(ProtocolError::BadFlags { flags: 0xFF }));
    rig.expect_bytes(b"\x00\x01a").await;
}

#[tokio::test(start_paused = true)]
async fn close_ends_a_connection_at_once() {
    let mut rig = Rig::open(&limits(), 0).await;
    rig.peer.close();
    assert_eq!(rig.ended().await, CloseReason::ClosedHere);
}

#[tokio::test(start_paused = true)]
async fn sends_pings_if_configured_and_closes_silent_peers() {
    let limits = Limits { ping_interval: Some(Duration::from_secs(5)), ..limits() };
    let mut rig = Rig::open(&limits, 0).await;
    let begun = Instant::now();
    for round in 1..4 {
        rig.expect_bytes(b"\x04\x07\x04PING\x00\x00").await;
        assert_eq!(begun.elapsed().as_secs(), round * 5);
        rig.far.write_all(b"\x04\x05\x04PONG").await.unwrap();
    }
    rig.expect_bytes(b"\x04\x07\x04PING\x00\x00").await;
    assert_eq!(rig.ended().await, CloseReason::Silent);
    assert_eq!(begun.elapsed().as_secs(), 4 * 5 + limits.ping_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn closes_peers_that_break_their_ttl() {
    let mut rig = Rig::open(&limits(), 0).await;
    for _ in 0..5 {
        rig.far.write_all(PING_TTL_1S).await.unwrap();
        rig.expect_bytes(b"\x04\x05\x04PONG").await;
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert!(!rig.peer.is_gone());
    // Any traffic keeps the promise.
    rig.far.write_all(b"\x00\x00").await.unwrap();
    tokio::time::sleep(LONG / 2).await;
    assert!(!rig.peer.is_gone());
    rig.far.write_all(PING_TTL_1S).await.unwrap();
    assert_eq!(rig.ended().await, CloseReason::Silent);
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_until_the_peer_reads() {
    let limits = Limits { send_queue_messages_max: 10, ..limits() };
    let mut rig = Rig::open(&limits, 25).await;
    rig.far.write_all(b"\x00\x01a").await.unwrap();
    assert!(matches!(rig.heard().await, Heard::Message(_)));
    assert_eq!(*rig.refused.lock().unwrap(), 15);
    rig.expect_bytes(&b"\x00\x01a".repeat(10)).await;
    rig.far.write_all(b"\x00\x01b").await.unwrap();
    rig.expect_bytes(&b"\x00\x01b".repeat(10)).await;
}

#[tokio::test(start_paused = true)]
async fn queue_is_limited_in_bytes_but_takes_any_single_message() {
    let limits = Limits { send_queue_bytes_max: 1000, ..limits() };
    let rig = Rig::open(&limits, 0).await;
    let part = |bytes: usize| [Bytes::from(vec![0; bytes])];
    assert_eq!(rig.peer.send(part(5000)), Ok(()));
    assert_eq!(rig.peer.send(part(1)), Err(crate::SendError::Full));
    assert_eq!(rig.peer.queued(), Queued { messages: 1, bytes: 5000 });
    // A kilobyte fits into the pipe; the rest is still counted while it waits for the socket.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.peer.queued(), Queued { messages: 1, bytes: 5000 });
    let mut rig = rig;
    let mut frame = vec![0x02, 0, 0, 0, 0, 0, 0, 0x13, 0x88];
    frame.resize(9 + 5000, 0);
    rig.expect_bytes(&frame).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.peer.queued(), Queued::default());
    assert_eq!(rig.peer.send(part(600)), Ok(()));
    assert_eq!(rig.peer.send(part(600)), Err(crate::SendError::Full));
}

#[tokio::test(start_paused = true)]
async fn does_not_read_from_a_peer_that_does_not_read() {
    let limits = Limits { send_queue_messages_max: 100, ..limits() };
    let mut rig = Rig::open(&limits, 1).await;
    let mut requests = 0;
    let request = [b"\x00\xc8".to_vec(), vec![1; 200]].concat();
    // It sends until the pipe is full and nothing moves for an hour.
    while timeout(LONG, rig.far.write_all(&request)).await.is_ok() {
        requests += 1;
        assert!(requests < 1000, "reading goes on");
    }
    assert_eq!(*rig.refused.lock().unwrap(), 0, "reading stops before answers are refused");
    assert!(rig.peer.queued().messages > 50 && rig.peer.queued().messages <= 100);
    // Then it reads, and everything that was sent is answered.
    for _ in 0..requests {
        rig.expect_bytes(&request).await;
    }
}

#[tokio::test(start_paused = true)]
async fn holds_back_pings_of_a_peer_that_does_not_read() {
    let mut rig = Rig::open(&limits(), 0).await;
    let mut pings = 0;
    while timeout(LONG, rig.far.write_all(PING_TTL_1S)).await.is_ok() {
        pings += 1;
        assert!(pings < 10_000, "reading goes on");
    }
    assert!(!rig.peer.is_gone(), "what we do not read is not held against the peer");
}

#[tokio::test(start_paused = true)]
async fn closes_a_peer_that_takes_no_bytes() {
    let limits = Limits { write_stall_timeout: Duration::from_secs(60), ..limits() };
    let mut rig = Rig::open(&limits, 0).await;
    let begun = Instant::now();
    rig.peer.send([Bytes::from(vec![0; 10_000])]).unwrap();
    let mut some = [0; 1000];
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        rig.far.read_exact(&mut some).await.unwrap();
    }
    assert_eq!(rig.ended().await, CloseReason::Stalled);
    assert_eq!(begun.elapsed().as_secs(), 3 * 50 + 60);
}

#[tokio::test(start_paused = true)]
async fn draining_sends_queued_messages_and_reads_none() {
    let mut rig = Rig::open(&limits(), 0).await;
    rig.peer.send([Bytes::from(vec![7; 5000])]).unwrap();
    rig.peer.ask(Ask::Drain);
    rig.far.write_all(b"\x00\x05never").await.unwrap();
    let mut sent = Vec::new();
    rig.far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent.len(), 9 + 5000);
    drop(rig.far);
    assert_eq!(rig.heard.recv().await, Some(Heard::Ended(CloseReason::ClosedHere)));
}

#[tokio::test(start_paused = true)]
async fn draining_ends_in_time_if_the_peer_does_not_read() {
    let mut rig = Rig::open(&limits(), 0).await;
    rig.peer.send([Bytes::from(vec![7; 5000])]).unwrap();
    let begun = Instant::now();
    rig.peer.ask(Ask::Drain);
    assert_eq!(rig.ended().await, CloseReason::ClosedHere);
    assert_eq!(begun.elapsed().as_secs(), limits().linger.as_secs());
}

#[tokio::test(start_paused = true)]
async fn draining_ends_a_handshake_at_once() {
    let mut rig = Rig::new(&limits(), 0);
    rig.peer.ask(Ask::Drain);
    assert_eq!(rig.ended().await, CloseReason::ClosedHere);
}

#[tokio::test(start_paused = true)]
async fn pings_continue_after_a_pause_in_reading() {
    let limits = Limits {
        ping_interval: Some(Duration::from_secs(5)),
        send_queue_messages_max: 4,
        send_queue_bytes_max: 100_000,
        ..limits()
    };
    let mut rig = Rig::open(&limits, 0).await;
    // Over half of the queue: nothing is read, and the peer's silence is not held against it.
    rig.peer.send([Bytes::from(vec![7; 90_000])]).unwrap();
    tokio::time::sleep(LONG / 2).await;
    assert!(!rig.peer.is_gone());
    let mut rest = [0; 9 + 90_000];
    rig.far.read_exact(&mut rest).await.unwrap();
    // Now it is read from again, and still silent.
    assert_eq!(rig.ended().await, CloseReason::Silent);
}

/// The header of a last part of `bytes` bytes.
fn header(bytes: u64) -> Vec<u8> {
    [&[0x02][..], &bytes.to_be_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn message_that_stops_or_trickles_ends_its_connection() {
    for trickles in [false, true] {
        let mut rig = Rig::open(&limits(), 0).await;
        let begun = Instant::now();
        rig.far.write_all(&header(1 << 20)).await.unwrap();
        while trickles && rig.far.write_all(&[0; 1000]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(rig.ended().await, CloseReason::MessageStalled);
        let elapsed = begun.elapsed();
        assert!(elapsed <= 2 * limits().stall_timeout, "{elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_message_that_gets_on_arrives() {
    let mut rig = Rig::open(&limits(), 0).await;
    rig.far.write_all(&header(1 << 20)).await.unwrap();
    for _ in 0..1024 {
        rig.far.write_all(&[0; 1024]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(matches!(rig.heard().await, Heard::Message(parts) if parts[0].len() == 1 << 20));
}

#[tokio::test(start_paused = true)]
async fn what_is_received_of_all_messages_is_limited_and_the_stalled_ones_give_way() {
    const BYTES: usize = 1 << 20;
    let limits = Limits { receive_bytes_max: 3 * BYTES, ..limits() };
    let usage = Usage::new(&limits);
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let mut rig = Rig::sharing(&limits, 0, &usage);
        rig.far.write_all(HANDSHAKE).await.unwrap();
        rig.far.write_all(&header(8 * BYTES as u64)).await.unwrap();
        // Its first megabyte, if there is room for it.
        let _ = timeout(Duration::from_millis(1), rig.far.write_all(&vec![0; BYTES - 2048])).await;
        stalled.push(rig);
    }
    assert!(usage.receiving_bytes() > BYTES && usage.receiving_bytes() <= limits.receive_bytes_max);
    // Small messages need no room.
    let mut small = Rig::sharing(&limits, 0, &usage);
    small.far.write_all(HANDSHAKE).await.unwrap();
    small.far.write_all(b"\x00\x01a").await.unwrap();
    assert_eq!(small.heard().await, Heard::Admitted);
    assert!(matches!(small.heard().await, Heard::Message(_)));
    // A large one waits until those that do not get on are closed.
    let begun = Instant::now();
    let mut large = Rig::sharing(&limits, 0, &usage);
    large.far.write_all(HANDSHAKE).await.unwrap();
    large.far.write_all(&[header(2 * BYTES as u64), vec![0; 2 * BYTES]].concat()).await.unwrap();
    assert_eq!(large.heard().await, Heard::Admitted);
    assert!(matches!(large.heard().await, Heard::Message(_)));
    assert!(begun.elapsed() <= limits.stall_timeout / 2, "{:?}", begun.elapsed());
    for mut rig in stalled {
        let reason = rig.ended().await;
        assert!(matches!(reason, CloseReason::MessageStalled | CloseReason::NoRoom), "{reason}");
    }
    assert_eq!(usage.receiving_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn message_of_a_paused_peer_counts_until_the_pause_ends() {
    const BYTES: usize = 1 << 20;
    let limits = limits();
    let usage = Usage::new(&limits);
    let mut rig = Rig::sharing(&limits, 0, &usage);
    rig.far.write_all(HANDSHAKE).await.unwrap();
    assert_eq!(rig.heard().await, Heard::Admitted);
    let pause = rig.peer.pause();
    let message = [header(BYTES as u64), vec![0; BYTES]].concat();
    drop(pause);
    let peer = rig.peer.clone();
    let writes = tokio::spawn(async move {
        rig.far.write_all(&message).await.unwrap();
        rig
    });
    // Paused while the message is on its way, as a service does that goes on elsewhere.
    while usage.receiving_bytes() < BYTES / 2 {
        tokio::task::yield_now().await;
    }
    let pause = peer.pause();
    tokio::time::sleep(LONG / 2).await;
    assert!(usage.receiving_bytes() > BYTES / 2);
    drop(pause);
    let mut rig = writes.await.unwrap();
    assert!(matches!(rig.heard().await, Heard::Message(_)));
    rig.far.write_all(b"\x00\x01a").await.unwrap();
    assert!(matches!(rig.heard().await, Heard::Message(_)));
    assert_eq!(usage.receiving_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_sent_to_all_is_limited() {
    let limits = Limits { send_bytes_max: 1_000_000, ..limits() };
    let usage = Usage::new(&limits);
    let part = |bytes: usize| [Bytes::from(vec![0; bytes])];
    let mut rigs: Vec<Rig> = (0..3).map(|_| Rig::sharing(&limits, 0, &usage)).collect();
    for rig in &mut rigs {
        rig.far.write_all(HANDSHAKE).await.unwrap();
        assert_eq!(rig.heard().await, Heard::Admitted);
    }
    assert_eq!(rigs[0].peer.send(part(600_000)), Ok(()));
    assert_eq!(rigs[1].peer.send(part(600_000)), Ok(()), "the one that meets the limit passes");
    assert_eq!(rigs[2].peer.send(part(600_000)), Err(crate::SendError::Full));
    assert_eq!(rigs[2].peer.send(part(1000)), Ok(()), "small answers pass");
    assert_eq!(usage.answers_refused(), 1);
    // A peer that takes nothing is closed sooner than usual, until there is room again.
    tokio::time::sleep(2 * WRITE_STALL_IF_TIGHT).await;
    assert_eq!(rigs.iter().filter(|rig| rig.peer.is_gone()).count(), 1);
    assert_eq!(rigs[2].peer.send(part(600_000)), Ok(()));
    rigs.clear();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(usage.sending_bytes(), 0);
}
