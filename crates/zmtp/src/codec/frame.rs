//! Frame headers: one byte of flags, then the size of the body in one byte or in eight.

use super::ProtocolError;

const MORE: u8 = 0b001;
const LONG: u8 = 0b010;
const COMMAND: u8 = 0b100;
const KNOWN: u8 = MORE | LONG | COMMAND;

/// Longest frame header, in bytes.
pub const HEADER_BYTES_MAX: usize = 9;

/// What a frame is, apart from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A command, for the peer's engine.
    Command,
    /// A part of a message that further parts follow.
    Part,
    /// The last part of a message.
    LastPart,
}

/// The header of a frame as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// Size of the body in bytes, as the peer claims it.
    pub body_bytes: u64,
    /// Size of the header itself in bytes.
    pub header_bytes: usize,
}

impl FrameHeader {
    /// Reads a header from the start of `bytes`: `None` while it is incomplete.
    ///
    /// # Errors
    /// `BadFlags` for a reserved bit, or for a command that claims to be continued.
    pub fn parse(bytes: &[u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        let Some((&flags, rest)) = bytes.split_first() else { return Ok(None) };
        if flags & !KNOWN != 0 || flags & (COMMAND | MORE) == COMMAND | MORE {
            return Err(ProtocolError::BadFlags { flags });
        }
        let kind = match (flags & COMMAND != 0, flags & MORE != 0) {
            (true, _) => FrameKind::Command,
            (false, true) => FrameKind::Part,
            (false, false) => FrameKind::LastPart,
        };
        if flags & LONG == 0 {
            return Ok(rest.first().map(|&size| FrameHeader {
                kind,
                body_bytes: size.into(),
                header_bytes: 2,
            }));
        }
        Ok(rest.first_chunk().map(|size| FrameHeader {
            kind,
            body_bytes: u64::from_be_bytes(*size),
            header_bytes: HEADER_BYTES_MAX,
        }))
    }
}

/// Appends the header of a frame of `kind` with a body of `body_bytes` bytes.
pub fn write_header(out: &mut Vec<u8>, kind: FrameKind, body_bytes: usize) {
    let flags = match kind {
        FrameKind::Command => COMMAND,
        FrameKind::Part => MORE,
        FrameKind::LastPart => 0,
    };
    match u8::try_from(body_bytes) {
        Ok(size) => out.extend_from_slice(&[flags, size]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(body_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_short_and_long_headers_as_in_the_rfc() {
        let mut out = Vec::new();
        write_header(&mut out, FrameKind::LastPart, 255);
        assert_eq!(out, [0x00, 0xFF]);
        out.clear();
        write_header(&mut out, FrameKind::Part, 256);
        assert_eq!(out, [0x03, 0, 0, 0, 0, 0, 0, 1, 0]);
        out.clear();
        write_header(&mut out, FrameKind::Command, 5);
        assert_eq!(out, [0x04, 0x05]);
    }

    #[test]
    fn reads_small_sizes_in_long_form() {
        let header = FrameHeader::parse(&[0x02, 0, 0, 0, 0, 0, 0, 0, 3]);
        let expected = FrameHeader { kind: FrameKind::LastPart, body_bytes: 3, header_bytes: 9 };
        assert_eq!(header, Ok(Some(expected)));
    }

    #[test]
    fn refuses_reserved_flags_and_continued_commands() {
        for flags in (0u8..=255).filter(|&flags| flags > 7 || flags & 5 == 5) {
            assert_eq!(FrameHeader::parse(&[flags]), Err(ProtocolError::BadFlags { flags }));
        }
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            body_bytes in prop_oneof![0usize..600, any::<u32>().prop_map(|n| n as usize)],
            kind in prop_oneof![Just(FrameKind::Command), Just(FrameKind::Part), Just(FrameKind::LastPart)],
        ) {
            let mut out = Vec::new();
            write_header(&mut out, kind, body_bytes);
            for end in 0..out.len() {
                prop_assert_eq!(FrameHeader::parse(&out[..end]), Ok(None));
            }
            let header = FrameHeader { kind, body_bytes: body_bytes as u64, header_bytes: out.len() };
            prop_assert_eq!(FrameHeader::parse(&out), Ok(Some(header)));
        }
    }
}
