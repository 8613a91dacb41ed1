//! Turns a fuzzer's bytes into runs of the state machine.

use bytes::Bytes;
use larder_zmtp::codec::Message;

use super::machine::{self, HANDSHAKE, MESSAGE_BYTES_MAX, PARTS_MAX};

/// The first byte says how many bytes of splits follow (its low 3 bits) and whether the rest comes after a
/// proper handshake (its high bit), so that the fuzzer need not find one.
pub(crate) fn connection(data: &[u8]) {
    let Some((&control, data)) = data.split_first() else { return };
    let (splits, rest) = data.split_at(usize::from(control & 7).min(data.len()));
    let splits: Vec<u16> = splits.iter().map(|&split| split.into()).collect();
    if control & 0x80 == 0 {
        machine::any_bytes(rest, &splits);
    } else {
        machine::any_bytes(&[HANDSHAKE, rest].concat(), &splits);
    }
}

/// Each byte pair is a part: a size (scaled, so that every way of receiving is taken) and whether it is the
/// last of its message. The first two bytes are splits.
pub(crate) fn round_trip(data: &[u8]) {
    let Some((splits, data)) = data.split_first_chunk::<2>() else { return };
    let splits = [u16::from(splits[0]) + 1, u16::from(splits[1]) * 64 + 1];
    let mut messages: Vec<Message> = Vec::new();
    let mut message = Message::new();
    let mut message_bytes = 0;
    for pair in data.chunks_exact(2).take(64) {
        let size = match pair[1] & 0b110 {
            0 | 0b010 => usize::from(pair[0]),
            0b100 => usize::from(pair[0]) * 64,
            _ => usize::from(pair[0]) * 512,
        };
        if message_bytes + size <= MESSAGE_BYTES_MAX {
            message_bytes += size;
            message.push(Bytes::from(vec![pair[0]; size]));
        }
        let is_last = pair[1] & 1 == 1 || message.len() == PARTS_MAX;
        if is_last && !message.is_empty() {
            messages.push(std::mem::take(&mut message));
            message_bytes = 0;
        }
    }
    machine::round_trip(&messages, &splits);
}
