//! The message of a call, put together from pieces.

use bytes::{Bytes, BytesMut};
use larder_wire::grpc::HEADER_BYTES;

use super::status::{Code, Status};

/// Memory that a message gets before its bytes are there, at most.
const CAPACITY_FIRST: usize = 1 << 20;

/// What has come of a call's only message.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// If it has come in one piece so far.
    whole: Bytes,
    pieces: BytesMut,
}

impl Message {
    /// Bytes that it holds.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.pieces.len()
    }

    /// Bytes that are still to come, as far as they are announced.
    pub(super) fn missing(&self) -> usize {
        self.announced().map_or(0, |(_, length)| (HEADER_BYTES + length).saturating_sub(self.len()))
    }

    /// Adds a piece.
    pub(super) fn push(&mut self, piece: Bytes, bytes_max: usize) -> Result<(), Status> {
        if self.len() == 0 {
            self.whole = piece;
        } else {
            if !self.whole.is_empty() {
                self.pieces.reserve((self.len() + self.missing()).min(CAPACITY_FIRST));
                self.pieces.extend_from_slice(&std::mem::take(&mut self.whole));
            }
            self.pieces.extend_from_slice(&piece);
        }
        match self.announced() {
            Some((flag, _)) if flag != 0 => {
                Err(Status::new(Code::Unimplemented, "compressed messages are not taken"))
            }
            Some((_, length)) if length > bytes_max => {
                let message = format!("a message of {length} bytes, the limit is {bytes_max}");
                Err(Status::new(Code::ResourceExhausted, message))
            }
            Some((_, length)) if self.len() > HEADER_BYTES + length => {
                Err(Status::new(Code::InvalidArgument, "more than one message"))
            }
            _ => Ok(()),
        }
    }

    /// The message without its header, at the end of the stream.
    pub(super) fn finish(self) -> Result<Bytes, Status> {
        let announced = self.announced();
        let is_whole = announced.is_some_and(|(_, length)| self.len() == HEADER_BYTES + length);
        if !is_whole {
            return Err(Status::new(Code::InvalidArgument, "the message ends early"));
        }
        let mut bytes = if self.pieces.is_empty() { self.whole } else { self.pieces.freeze() };
        Ok(bytes.split_off(HEADER_BYTES))
    }

    /// The compression flag and the length, once they are there.
    fn announced(&self) -> Option<(u8, usize)> {
        let bytes = if self.pieces.is_empty() { &self.whole[..] } else { &self.pieces[..] };
        let [flag, length @ ..] = bytes.first_chunk::<HEADER_BYTES>()?;
        Some((*flag, u32::from_be_bytes(*length) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(pieces: &[&'static [u8]]) -> Result<Bytes, Status> {
        let mut message = Message::default();
        for piece in pieces {
            message.push(Bytes::from_static(piece), 8)?;
        }
        message.finish()
    }

    #[test]
    fn message_is_the_same_in_any_pieces() {
        let all = b"\0\0\0\0\x03abc";
        for first in 0..=all.len() {
            for second in first..=all.len() {
                let pieces = [&all[..first], &all[first..second], &all[second..]];
                assert_eq!(put(&pieces), Ok(Bytes::from_static(b"abc")));
            }
        }
        assert_eq!(put(&[b"\0\0\0\0\0"]), Ok(Bytes::new()));
    }

    #[test]
    fn other_forms_are_refused() {
        let code = |pieces: &[&'static [u8]]| put(pieces).unwrap_err().code;
        assert_eq!(code(&[]), Code::InvalidArgument);
        assert_eq!(code(&[b"\0\0\0"]), Code::InvalidArgument);
        assert_eq!(code(&[b"\0\0\0\0\x03ab"]), Code::InvalidArgument);
        assert_eq!(code(&[b"\0\0\0\0\x03ab", b"cd"]), Code::InvalidArgument);
        assert_eq!(code(&[b"\x01\0\0\0\x03abc"]), Code::Unimplemented);
        assert_eq!(code(&[b"\0\0\0\0", b"\x09"]), Code::ResourceExhausted);
        assert_eq!(code(&[b"\0\xff\xff\xff\xff"]), Code::ResourceExhausted);
    }
}
