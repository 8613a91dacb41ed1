//! What must hold for the state machine whatever it is fed. Shared by the property tests and the fuzz
//! target.

use bytes::Bytes;
use larder_zmtp::ProtocolError;
use larder_zmtp::codec::{Connection, ConnectionOptions, Encoder, Event, Message, SocketType};

pub(crate) const FRAME_BYTES_MAX: usize = 200_000;
pub(crate) const MESSAGE_BYTES_MAX: usize = 300_000;
pub(crate) const PARTS_MAX: usize = 8;

/// A peer's greeting and READY.
pub(crate) const HANDSHAKE: &[u8] = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL\
    \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
    \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
    \x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00";

pub(crate) fn router() -> Connection {
    Connection::new(ConnectionOptions {
        socket_type: SocketType::Router,
        identity: Bytes::new(),
        frame_bytes_max: FRAME_BYTES_MAX,
        message_parts_max: PARTS_MAX,
        message_bytes_max: MESSAGE_BYTES_MAX,
        hold_ready: true,
    })
}

/// Feeds `input` in pieces of the lengths given (over and over, each at least 1) and returns the events
/// and the error that ended them.
pub(crate) fn run(
    connection: &mut Connection,
    mut input: &[u8],
    splits: &[u16],
) -> (Vec<Event>, Option<ProtocolError>) {
    let mut events = Vec::new();
    let mut splits = splits.iter().cycle();
    loop {
        match connection.poll_event() {
            Ok(Some(event)) => {
                if let Event::Ready(_) = &event {
                    connection.accept();
                }
                check_event(&event);
                events.push(event);
            }
            Ok(None) if input.is_empty() => return (events, None),
            Ok(None) => {
                let split = splits.next().map_or(usize::MAX, |&split| usize::from(split).max(1));
                let fed = connection.feed(&input[..input.len().min(split)]);
                assert!(fed > 0, "no space although all events were taken");
                input = &input[fed..];
            }
            Err(error) => {
                assert_eq!(connection.poll_event(), Err(error.clone()), "an error stays");
                return (events, Some(error));
            }
        }
    }
}

fn check_event(event: &Event) {
    if let Event::Message(parts) = event {
        assert!((1..=PARTS_MAX).contains(&parts.len()));
        assert!(parts.iter().all(|part| part.len() <= FRAME_BYTES_MAX));
        assert!(parts.iter().map(Bytes::len).sum::<usize>() <= MESSAGE_BYTES_MAX);
    }
}

/// Whatever arrives in whatever pieces: no panic, and the pieces make no difference.
pub(crate) fn any_bytes(input: &[u8], splits: &[u16]) {
    let whole = run(&mut router(), input, &[]);
    let pieces = run(&mut router(), input, splits);
    assert_eq!(whole, pieces);
}

/// What was encoded is decoded, in whatever pieces it arrives.
pub(crate) fn round_trip(messages: &[Message], splits: &[u16]) {
    let mut encoder = Encoder::new();
    encoder.push_raw(&mut HANDSHAKE.to_vec());
    for message in messages {
        encoder.push(message.iter().cloned());
    }
    let mut wire = Vec::new();
    while !encoder.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 3];
        let filled = encoder.slices(&mut slices);
        let before = wire.len();
        slices[..filled].iter().for_each(|slice| wire.extend_from_slice(slice));
        let sent = wire.len() - before;
        encoder.advance(sent);
    }
    let mut connection = router();
    let (mut events, error) = run(&mut connection, &wire, splits);
    assert_eq!(error, None);
    assert!(matches!(events.remove(0), Event::Ready(_)));
    let received: Vec<_> = events
        .into_iter()
        .map(|event| match event {
            Event::Message(message) => message,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(received, messages);
    assert!(!connection.is_amid_message());
}
