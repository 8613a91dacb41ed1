//! The codec as a whole: handshakes, limits, commands, and properties over arbitrary bytes and splits.

#[path = "common/input.rs"]
mod input;
#[path = "common/machine.rs"]
mod machine;

use bytes::{BufMut, Bytes};
use larder_zmtp::ProtocolError;
use larder_zmtp::codec::{Connection, ConnectionOptions, Event, SocketType};
use machine::{FRAME_BYTES_MAX, HANDSHAKE, MESSAGE_BYTES_MAX, PARTS_MAX, router, run};
use proptest::collection::vec;
use proptest::prelude::*;

fn open_router() -> Connection {
    let mut connection = router();
    let (events, error) = run(&mut connection, HANDSHAKE, &[]);
    assert!(matches!(events[..], [Event::Ready(_)]) && error.is_none());
    connection.output().clear();
    connection
}

fn error_of(input: &[u8]) -> ProtocolError {
    run(&mut open_router(), input, &[]).1.expect("an error")
}

fn frame_claiming(flags: u8, bytes: u64) -> Vec<u8> {
    let mut frame = vec![flags];
    frame.extend_from_slice(&bytes.to_be_bytes());
    frame
}

#[test]
fn router_holds_ready_until_the_peer_is_accepted() {
    let mut connection = router();
    assert_eq!(connection.output().len(), 64, "the greeting");
    connection.feed(HANDSHAKE);
    assert!(matches!(connection.poll_event(), Ok(Some(Event::Ready(_)))));
    connection.feed(b"\x00\x02hi");
    assert_eq!(connection.poll_event(), Ok(None), "nothing before accept");
    assert_eq!(connection.output().len(), 64);
    connection.accept();
    let ready = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER\x08Identity\x00\x00\x00\x00";
    assert_eq!(&connection.output()[64..], ready);
    assert_eq!(connection.poll_event(), Ok(Some(Event::Message(vec![Bytes::from_static(b"hi")]))));
}

#[test]
fn dealer_sends_ready_after_the_greeting() {
    let mut dealer = Connection::new(ConnectionOptions {
        socket_type: SocketType::Dealer,
        identity: Bytes::from_static(b"me"),
        frame_bytes_max: 1000,
        message_parts_max: 4,
        message_bytes_max: 1000,
        hold_ready: false,
    });
    dealer.feed(&HANDSHAKE[..64]);
    assert_eq!(dealer.poll_event(), Ok(None));
    let ready = b"\x04\x2b\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x02me";
    assert_eq!(&dealer.output()[64..], ready);
    let (events, _) = run(&mut router(), &dealer.output().clone(), &[1]);
    let [Event::Ready(peer)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((peer.socket_type, &peer.identity[..]), (SocketType::Dealer, &b"me"[..]));
}

#[test]
fn refuses_incompatible_socket_types_with_an_error_command() {
    for (name, fits) in [("DEALER", true), ("REQ", true), ("ROUTER", true), ("SUB", false), ("PUSH", false)] {
        let mut input = HANDSHAKE[..64].to_vec();
        let body_bytes = 5 + 1 + 1 + 11 + 4 + name.len();
        input.extend_from_slice(&[4, body_bytes as u8]);
        input.extend_from_slice(b"\x05READY\x0bSocket-Type\x00\x00\x00");
        input.push(name.len() as u8);
        input.extend_from_slice(name.as_bytes());
        let mut connection = router();
        let (events, error) = run(&mut connection, &input, &[]);
        assert_eq!((events.len() == 1, error.is_none()), (fits, fits), "{name}: {error:?}");
        let refused = connection.output()[64..].starts_with(b"\x04\x1a\x05ERROR\x13Invalid socket type");
        assert_eq!(refused, !fits, "{name}");
    }
}

#[test]
fn refuses_a_frame_that_claims_a_tebibyte_at_once() {
    let expected = ProtocolError::FrameTooLarge { bytes: 1 << 40, bytes_max: FRAME_BYTES_MAX };
    assert_eq!(error_of(&frame_claiming(0x02, 1 << 40)), expected);
    let expected = ProtocolError::FrameTooLarge { bytes: u64::MAX, bytes_max: FRAME_BYTES_MAX };
    assert_eq!(error_of(&frame_claiming(0x03, u64::MAX)), expected);
    assert!(matches!(error_of(&frame_claiming(0x06, 1 << 40)), ProtocolError::FrameTooLarge { .. }));
}

#[test]
fn frame_buffer_grows_with_received_bytes_to_the_exact_size() {
    const MIB: usize = 1024 * 1024;
    let frame_bytes = 100 * MIB;
    let mut connection = Connection::new(ConnectionOptions {
        socket_type: SocketType::Router,
        identity: Bytes::new(),
        frame_bytes_max: 1024 * MIB,
        message_parts_max: 1,
        message_bytes_max: 1024 * MIB,
        hold_ready: false,
    });
    run(&mut connection, HANDSHAKE, &[]);
    connection.feed(&frame_claiming(0x02, frame_bytes as u64));
    assert_eq!(connection.poll_event(), Ok(None));
    let mut received = 0;
    while received < frame_bytes {
        let space = connection.space().remaining_mut();
        assert!(space > 0 && space <= received.max(MIB), "{space} after {received}");
        received += connection.feed(&vec![7; space]);
        let event = connection.poll_event().unwrap();
        assert_eq!(event.is_some(), received == frame_bytes);
    }
    assert!(!connection.is_amid_message());
}

#[test]
fn limits_are_exact_in_bytes_and_parts() {
    let largest = FRAME_BYTES_MAX as u64;
    let mut input = frame_claiming(0x02, largest);
    input.resize(input.len() + FRAME_BYTES_MAX, 1);
    let (events, error) = run(&mut open_router(), &input, &[60_000]);
    assert_eq!((events.len(), error), (1, None));
    assert!(matches!(error_of(&frame_claiming(0x02, largest + 1)), ProtocolError::FrameTooLarge { .. }));

    let mut input = frame_claiming(0x03, largest);
    input.resize(input.len() + FRAME_BYTES_MAX, 1);
    let rest = (MESSAGE_BYTES_MAX - FRAME_BYTES_MAX) as u64;
    let mut fits = input.clone();
    fits.extend_from_slice(&frame_claiming(0x02, rest));
    fits.resize(fits.len() + rest as usize, 2);
    assert_eq!(run(&mut open_router(), &fits, &[60_000]).1, None);
    input.extend_from_slice(&frame_claiming(0x02, rest + 1));
    assert!(matches!(error_of(&input), ProtocolError::MessageTooLarge { .. }));

    let mut input = b"\x01\x00".repeat(PARTS_MAX - 1);
    input.extend_from_slice(b"\x00\x00");
    assert_eq!(run(&mut open_router(), &input, &[]).1, None);
    let too_many = b"\x01\x00".repeat(PARTS_MAX + 1);
    assert_eq!(error_of(&too_many), ProtocolError::TooManyParts { parts_max: PARTS_MAX });
}

#[test]
fn answers_pings_between_the_parts_of_a_message() {
    let mut connection = open_router();
    let input = b"\x01\x01a\x04\x0b\x04PING\x00\x0actxt\x00\x01b\x04\x07\x04PING\x00\x00";
    let (events, error) = run(&mut connection, input, &[1]);
    let message = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let expected =
        [Event::Ping { ttl_deciseconds: 10 }, Event::Message(message), Event::Ping { ttl_deciseconds: 0 }];
    assert_eq!((&events[..], error), (&expected[..], None));
    assert_eq!(&connection.output()[..], b"\x04\x09\x04PONGctxt\x04\x05\x04PONG");
}

#[test]
fn pings_only_peers_of_version_3_1() {
    for (minor, understood) in [(0, false), (1, true), (7, true)] {
        let mut input = HANDSHAKE.to_vec();
        input[11] = minor;
        let mut connection = router();
        assert!(!connection.ping(0), "not before the handshake");
        assert_eq!(run(&mut connection, &input, &[]).1, None);
        connection.output().clear();
        assert_eq!(connection.ping(5), understood);
        let expected: &[u8] = if understood { b"\x04\x07\x04PING\x00\x05" } else { b"" };
        assert_eq!(connection.output(), expected);
    }
}

#[test]
fn misplaced_commands_end_the_connection_and_unknown_ones_do_not() {
    assert_eq!(run(&mut open_router(), b"\x04\x0a\x09SUBSCRIBE\x00\x01x", &[]).1, None);
    assert_eq!(error_of(&HANDSHAKE[64..]), ProtocolError::OutOfOrder("second READY"));
    assert_eq!(error_of(b"\x04\x0a\x05ERROR\x03bad"), ProtocolError::PeerError("bad".into()));
    assert_eq!(error_of(b"\x05\x01\x00"), ProtocolError::BadFlags { flags: 5 });
    for early in [&b"\x00\x01x"[..], b"\x04\x07\x04PING\x00\x00"] {
        let mut input = HANDSHAKE[..64].to_vec();
        input.extend_from_slice(early);
        assert!(matches!(run(&mut router(), &input, &[]).1, Some(ProtocolError::OutOfOrder(_))));
    }
}

#[test]
fn kept_small_part_does_not_retain_the_read_buffer() {
    let mut connection = open_router();
    connection.feed(b"\x01\x01u\x00\x05hello");
    let Ok(Some(Event::Message(parts))) = connection.poll_event() else { panic!("a message") };
    assert!(parts.iter().all(|part| part.is_unique()));
}

fn message() -> impl Strategy<Value = Vec<Bytes>> {
    let size = prop_oneof![8 => 0usize..300, 2 => 8_000usize..9_000, 1 => 15_000usize..40_000];
    let part = (size, any::<u8>()).prop_map(|(size, fill)| Bytes::from(vec![fill; size]));
    vec(part, 1..=7)
}

/// Bytes that look like traffic: mostly well-formed frames, some of them damaged.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        4 => (0u8..2, vec(any::<u8>(), 0..60)).prop_map(|(flags, body)| {
            let mut frame = vec![flags, body.len() as u8];
            frame.extend(body);
            frame
        }),
        1 => vec(any::<u8>(), 0..16).prop_map(|context| {
            let mut frame = vec![4, 7 + context.len() as u8];
            frame.extend(b"\x04PING\x00\x01");
            frame.extend(context);
            frame
        }),
        1 => (9_000usize..30_000).prop_map(|size| {
            let mut frame = frame_claiming(0x02, size as u64);
            frame.resize(frame.len() + size, 9);
            frame
        }),
        1 => vec(any::<u8>(), 0..20),
    ];
    vec(frame, 0..12).prop_map(|frames| [HANDSHAKE.to_vec(), frames.concat()].concat())
}

proptest! {
    #[test]
    fn messages_survive_any_split(messages in vec(message(), 0..6), splits in vec(any::<u16>(), 0..8)) {
        machine::round_trip(&messages, &splits);
    }

    #[test]
    fn messages_survive_byte_by_byte(messages in vec(message(), 0..3)) {
        machine::round_trip(&messages, &[1]);
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic(input in vec(any::<u8>(), 0..200), splits in vec(1u16..20, 0..8)) {
        machine::any_bytes(&input, &splits);
    }

    #[test]
    fn arbitrary_traffic_causes_no_panic(input in traffic(), splits in vec(1u16..2000, 0..8)) {
        machine::any_bytes(&input, &splits);
    }

    #[test]
    fn damaged_handshake_causes_no_panic(at in 0..HANDSHAKE.len(), byte: u8, splits in vec(1u16..20, 0..8)) {
        let mut input = HANDSHAKE.to_vec();
        input[at] = byte;
        machine::any_bytes(&input, &splits);
    }

    #[test]
    fn fuzz_targets_pass_on_random_input(data in vec(any::<u8>(), 0..400)) {
        input::connection(&data);
        input::round_trip(&data);
    }
}
