//! Commands: READY, ERROR, PING and PONG are understood, others are ignored.
//!
//! A command's body is a name with a length byte in front, then data in a form that depends on the name.

use bytes::Bytes;

use super::frame::{FrameKind, write_header};
use super::{ProtocolError, SocketType};

/// Longest command body accepted, in bytes. READY carries an identity and a few short properties.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Longest identity (routing id), in bytes.
pub const IDENTITY_BYTES_MAX: usize = 255;

/// Longest context of a PING that is echoed, in bytes; what is longer is cut.
pub const PING_CONTEXT_BYTES_MAX: usize = 16;

const READY: &[u8] = b"READY";
const ERROR: &[u8] = b"ERROR";
const PING: &[u8] = b"PING";
const PONG: &[u8] = b"PONG";
const SOCKET_TYPE: &[u8] = b"Socket-Type";
const IDENTITY: &[u8] = b"Identity";

/// Properties that a peer announces in READY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProperties {
    /// The peer's kind of socket.
    pub socket_type: SocketType,
    /// The peer's routing id; empty if it has none of its own.
    pub identity: Bytes,
}

/// A command as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The peer's part of the handshake.
    Ready(PeerProperties),
    /// The peer closes the connection, for this reason.
    Error(String),
    /// The peer wants a PONG with the same context.
    Ping {
        /// Tenths of a second within which the peer promises further traffic; 0 promises nothing.
        ttl_deciseconds: u16,
        /// To be echoed.
        context: &'a [u8],
    },
    /// The answer to a PING of ours.
    Pong,
    /// An unknown command.
    Unknown,
}

impl<'a> Command<'a> {
    /// Reads the body of a command frame.
    ///
    /// # Errors
    /// `BadCommand` if the body does not have the form that its name requires; `IdentityTooLong` and
    /// `UnknownSocketType` from READY.
    pub fn parse(body: &'a [u8]) -> Result<Command<'a>, ProtocolError> {
        let (name, data) = split_short(body).ok_or(ProtocolError::BadCommand("no name"))?;
        match name {
            READY => parse_properties(data).map(Command::Ready),
            ERROR => {
                let (reason, _) = split_short(data).ok_or(ProtocolError::BadCommand("ERROR"))?;
                Ok(Command::Error(reason.escape_ascii().to_string()))
            }
            PING => {
                let (ttl, context) = data.split_first_chunk().ok_or(ProtocolError::BadCommand("PING"))?;
                let context = &context[..context.len().min(PING_CONTEXT_BYTES_MAX)];
                Ok(Command::Ping { ttl_deciseconds: u16::from_be_bytes(*ttl), context })
            }
            PONG => Ok(Command::Pong),
            _ => Ok(Command::Unknown),
        }
    }
}

/// Splits off a field with a length byte in front.
fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

/// Splits off a field with a four-byte length in front.
fn split_long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)
}

fn parse_properties(mut data: &[u8]) -> Result<PeerProperties, ProtocolError> {
    let malformed = || ProtocolError::BadCommand("READY");
    let mut socket_type = None;
    let mut identity = Bytes::new();
    while !data.is_empty() {
        let (name, rest) = split_short(data).ok_or_else(malformed)?;
        let (value, rest) = split_long(rest).ok_or_else(malformed)?;
        data = rest;
        if name.eq_ignore_ascii_case(SOCKET_TYPE) {
            socket_type = Some(SocketType::parse(value)?);
        } else if name.eq_ignore_ascii_case(IDENTITY) {
            if value.len() > IDENTITY_BYTES_MAX {
                return Err(ProtocolError::IdentityTooLong { bytes: value.len() });
            }
            identity = Bytes::copy_from_slice(value);
        }
    }
    let socket_type = socket_type.ok_or(ProtocolError::BadCommand("READY without Socket-Type"))?;
    Ok(PeerProperties { socket_type, identity })
}

/// Appends a READY frame.
///
/// An identity longer than [`IDENTITY_BYTES_MAX`] is cut to that length.
pub fn write_ready(out: &mut Vec<u8>, socket_type: SocketType, identity: &[u8]) {
    let identity = &identity[..identity.len().min(IDENTITY_BYTES_MAX)];
    let mut body = Vec::with_capacity(64 + identity.len());
    write_short(&mut body, READY);
    write_short(&mut body, SOCKET_TYPE);
    write_long(&mut body, socket_type.name().as_bytes());
    write_short(&mut body, IDENTITY);
    write_long(&mut body, identity);
    write_command(out, &body);
}

/// Appends an ERROR frame. A reason longer than 255 bytes is cut.
pub fn write_error(out: &mut Vec<u8>, reason: &str) {
    let mut body = Vec::with_capacity(8 + reason.len());
    write_short(&mut body, ERROR);
    write_short(&mut body, &reason.as_bytes()[..reason.len().min(255)]);
    write_command(out, &body);
}

/// Appends a PING frame with an empty context.
pub fn write_ping(out: &mut Vec<u8>, ttl_deciseconds: u16) {
    let mut body = Vec::with_capacity(8);
    write_short(&mut body, PING);
    body.extend_from_slice(&ttl_deciseconds.to_be_bytes());
    write_command(out, &body);
}

/// Appends a PONG frame that echoes `context`.
pub fn write_pong(out: &mut Vec<u8>, context: &[u8]) {
    let mut body = Vec::with_capacity(8 + PING_CONTEXT_BYTES_MAX);
    write_short(&mut body, PONG);
    body.extend_from_slice(context);
    write_command(out, &body);
}

fn write_command(out: &mut Vec<u8>, body: &[u8]) {
    write_header(out, FrameKind::Command, body.len());
    out.extend_from_slice(body);
}

fn write_short(out: &mut Vec<u8>, field: &[u8]) {
    debug_assert!(field.len() <= 255, "callers cut or use constants");
    out.push(field.len() as u8);
    out.extend_from_slice(field);
}

fn write_long(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u32).to_be_bytes());
    out.extend_from_slice(field);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// READY of a libzmq DEALER without an identity of its own, as captured: flags, size, body.
    const LIBZMQ_READY: &[u8] =
        b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00";

    fn body(frame: &[u8]) -> &[u8] {
        &frame[2..]
    }

    #[test]
    fn writes_ready_as_libzmq_does() {
        let mut out = Vec::new();
        write_ready(&mut out, SocketType::Dealer, b"");
        assert_eq!(out, LIBZMQ_READY);
    }

    #[test]
    fn reads_ready_of_libzmq() {
        let expected = PeerProperties { socket_type: SocketType::Dealer, identity: Bytes::new() };
        assert_eq!(Command::parse(body(LIBZMQ_READY)), Ok(Command::Ready(expected)));
    }

    #[test]
    fn property_names_ignore_case_and_unknown_properties_are_skipped() {
        let body = b"\x05READY\x03X-A\x00\x00\x00\x01b\x0bsocket-type\x00\x00\x00\x03REQ\x08IDENTITY\x00\x00\x00\x02me";
        let expected = PeerProperties { socket_type: SocketType::Req, identity: Bytes::from_static(b"me") };
        assert_eq!(Command::parse(body), Ok(Command::Ready(expected)));
    }

    #[test]
    fn refuses_truncated_commands() {
        for end in 0..body(LIBZMQ_READY).len() {
            // Cut between two properties it is still a READY; the identity is optional.
            let outcome = Command::parse(&body(LIBZMQ_READY)[..end]);
            assert!(outcome.is_err() || end == 28, "{end}: {outcome:?}");
        }
        assert!(Command::parse(b"\x04PING\x00").is_err());
        assert!(Command::parse(b"\x05ERROR").is_err());
        assert!(Command::parse(b"\x05ERROR\x05no").is_err());
    }

    #[test]
    fn identity_is_limited_to_255_bytes() {
        let mut ready =
            b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\xff".to_vec();
        ready.extend_from_slice(&[7; 255]);
        assert!(matches!(Command::parse(&ready), Ok(Command::Ready(peer)) if peer.identity.len() == 255));
        let mut ready =
            b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x01\x00".to_vec();
        ready.extend_from_slice(&[7; 256]);
        assert_eq!(Command::parse(&ready), Err(ProtocolError::IdentityTooLong { bytes: 256 }));
    }

    #[test]
    fn ping_context_is_cut_at_16_bytes() {
        let ping = b"\x04PING\x00\x0a0123456789abcdefXYZ";
        let expected = Command::Ping { ttl_deciseconds: 10, context: b"0123456789abcdef" };
        assert_eq!(Command::parse(ping), Ok(expected));
    }

    #[test]
    fn reads_other_commands_as_unknown() {
        assert_eq!(Command::parse(b"\x09SUBSCRIBEtopic"), Ok(Command::Unknown));
        assert_eq!(Command::parse(b"\x00"), Ok(Command::Unknown));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_command_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Command::parse(&bytes);
        }

        #[test]
        fn ready_round_trips(identity in proptest::collection::vec(any::<u8>(), 0..=255)) {
            let mut out = Vec::new();
            write_ready(&mut out, SocketType::Router, &identity);
            let header = super::super::frame::FrameHeader::parse(&out).unwrap().unwrap();
            let expected = PeerProperties { socket_type: SocketType::Router, identity: identity.into() };
            prop_assert_eq!(Command::parse(&out[header.header_bytes..]), Ok(Command::Ready(expected)));
        }
    }
}
