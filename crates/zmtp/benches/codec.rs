//! The codec without sockets: a message is encoded, then decoded by a peer after its handshake.

use std::hint::black_box;
use std::io::IoSlice;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder_zmtp::codec::{Connection, ConnectionOptions, Encoder, Event, Message, SocketType};

/// A peer's greeting and READY.
const HANDSHAKE: &[u8] = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL\
    \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
    \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
    \x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00";
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A connection after the handshake.
fn connected() -> Connection {
    let mut connection = Connection::new(ConnectionOptions {
        socket_type: SocketType::Router,
        identity: Bytes::new(),
        frame_bytes_max: MESSAGE_BYTES_MAX,
        message_parts_max: 16,
        message_bytes_max: MESSAGE_BYTES_MAX,
        hold_ready: false,
    });
    receive(&mut connection, HANDSHAKE);
    connection
}

/// Feeds all of `bytes`; the last message that came out.
fn receive(connection: &mut Connection, mut bytes: &[u8]) -> Option<Message> {
    let mut last = None;
    loop {
        match connection.poll_event().expect("legal bytes") {
            Some(Event::Message(message)) => last = Some(message),
            Some(_) => {}
            None if bytes.is_empty() => return last,
            None => bytes = &bytes[connection.feed(bytes)..],
        }
    }
}

/// The bytes of a message on the wire.
fn encode(message: &Message) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.push(message.iter().cloned());
    let mut wire = Vec::new();
    while !encoder.is_empty() {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = encoder.slices(&mut slices);
        let start = wire.len();
        slices[..count].iter().for_each(|slice| wire.extend_from_slice(slice));
        let written = wire.len() - start;
        encoder.advance(written);
    }
    wire
}

fn echo(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    for part_bytes in [200, 64 << 10, 4 << 20] {
        let message: Message = (0..4).map(|_| Bytes::from(vec![7; part_bytes / 4])).collect();
        let mut connection = connected();
        group.throughput(Throughput::Bytes(part_bytes as u64));
        group.bench_function(BenchmarkId::new("encode and decode", part_bytes), |b| {
            b.iter(|| {
                let wire = encode(black_box(&message));
                receive(&mut connection, &wire)
            });
        });
    }
}

criterion_group!(benches, echo);
criterion_main!(benches);
