//! Encodes messages: small parts are copied into one buffer, large ones are sent from their own.

use std::io::IoSlice;

use bytes::Bytes;

use super::frame::{FrameKind, write_header};

/// Parts up to this size (bytes) are copied next to their header: cheaper than one more I/O slice.
const COPY_BYTES_MAX: usize = 1024;

/// Capacity of the staging buffer that is kept between batches, in bytes.
const STAGING_KEEP_BYTES: usize = 16 * 1024;

/// A batch of messages to be sent.
///
/// Holds encoded bytes until [`advance`](Encoder::advance) has accounted for all of them; then it is
/// empty and its buffers are reused. The caller bounds the batch by what it pushes.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Headers, small parts and raw bytes of the whole batch.
    staging: Vec<u8>,
    /// Everything to send, in order.
    pieces: Vec<Piece>,
    /// First piece not sent entirely.
    piece_at: usize,
    /// Bytes of that piece that have been sent.
    sent_of_piece: usize,
    /// Start in `staging` of the piece that is being filled.
    staged_from: usize,
}

#[derive(Debug)]
enum Piece {
    Staged { from: usize, to: usize },
    Shared(Bytes),
}

impl Encoder {
    /// An empty encoder.
    #[must_use]
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// Appends a message. One without parts has no form on the wire and adds nothing.
    pub fn push(&mut self, message: impl IntoIterator<Item = Bytes>) {
        let mut parts = message.into_iter();
        let mut next = parts.next();
        while let Some(part) = next {
            next = parts.next();
            let kind = if next.is_some() { FrameKind::Part } else { FrameKind::LastPart };
            write_header(&mut self.staging, kind, part.len());
            if part.len() <= COPY_BYTES_MAX {
                self.staging.extend_from_slice(&part);
            } else {
                self.close_staged();
                self.pieces.push(Piece::Shared(part));
            }
        }
    }

    /// Appends bytes that are frames already, and empties `bytes`.
    pub fn push_raw(&mut self, bytes: &mut Vec<u8>) {
        self.staging.append(bytes);
    }

    /// Whether everything has been sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.staging.is_empty()
    }

    /// Fills `slices` with what is to be sent next, in order. Returns how many were filled: 0 only if
    /// the encoder is empty (or `slices` is).
    pub fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.close_staged();
        let this = &*self;
        let mut filled = 0;
        let mut skip = this.sent_of_piece;
        for (slice, piece) in slices.iter_mut().zip(&this.pieces[this.piece_at..]) {
            *slice = IoSlice::new(&this.bytes_of(piece)[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// Accounts for `bytes` more bytes sent, and drops pieces that have been sent entirely.
    pub fn advance(&mut self, mut bytes: usize) {
        self.close_staged();
        while let Some(piece) = self.pieces.get(self.piece_at) {
            let left = self.bytes_of(piece).len() - self.sent_of_piece;
            if bytes < left {
                self.sent_of_piece += bytes;
                return;
            }
            bytes -= left;
            self.pieces[self.piece_at] = Piece::Staged { from: 0, to: 0 };
            self.sent_of_piece = 0;
            self.piece_at += 1;
        }
        debug_assert_eq!(bytes, 0, "more bytes sent than were there");
        self.clear();
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.staging.clear();
        self.staging.shrink_to(STAGING_KEEP_BYTES);
        (self.piece_at, self.sent_of_piece, self.staged_from) = (0, 0, 0);
    }

    fn bytes_of<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Staged { from, to } => &self.staging[*from..*to],
            Piece::Shared(bytes) => bytes,
        }
    }

    fn close_staged(&mut self) {
        if self.staged_from < self.staging.len() {
            self.pieces.push(Piece::Staged { from: self.staged_from, to: self.staging.len() });
            self.staged_from = self.staging.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(encoder: &mut Encoder, step: usize, slices_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !encoder.is_empty() {
            let mut slices = vec![IoSlice::new(&[]); slices_max];
            let filled = encoder.slices(&mut slices);
            assert!(filled > 0);
            let flat: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            let sent = flat.len().min(step);
            out.extend_from_slice(&flat[..sent]);
            encoder.advance(sent);
        }
        out
    }

    #[test]
    fn small_messages_make_one_slice() {
        let mut encoder = Encoder::new();
        for _ in 0..10 {
            encoder.push([Bytes::from_static(b"uid"), Bytes::from_static(b""), Bytes::from_static(b"x")]);
        }
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(encoder.slices(&mut slices), 1);
        assert_eq!(&slices[0][..8], b"\x01\x03uid\x01\x00\x00");
    }

    #[test]
    fn large_parts_are_not_copied_and_are_dropped_once_sent() {
        let part = Bytes::from(vec![1; 100_000]);
        let mut encoder = Encoder::new();
        encoder.push([part.clone(), part.clone()]);
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(encoder.slices(&mut slices), 4);
        assert_eq!(slices[1].as_ptr(), part.as_ptr());
        encoder.advance(2 * (100_000 + 9));
        assert!(encoder.is_empty());
        assert!(part.is_unique());
    }

    #[test]
    fn message_without_parts_adds_nothing() {
        let mut encoder = Encoder::new();
        encoder.push([]);
        assert!(encoder.is_empty());
    }

    proptest! {
        #[test]
        fn partial_sends_lose_nothing(
            sizes in proptest::collection::vec(proptest::collection::vec(0usize..3000, 1..5), 1..6),
            step in 1usize..5000,
            slices_max in 1usize..6,
        ) {
            let messages: Vec<Vec<Bytes>> = sizes
                .iter()
                .map(|sizes| sizes.iter().map(|&size| Bytes::from(vec![size as u8; size])).collect())
                .collect();
            let mut expected = Vec::new();
            let mut encoder = Encoder::new();
            for message in &messages {
                for (at, part) in message.iter().enumerate() {
                    let last = at + 1 == message.len();
                    let kind = if last { FrameKind::LastPart } else { FrameKind::Part };
                    write_header(&mut expected, kind, part.len());
                    expected.extend_from_slice(part);
                }
                encoder.push(message.iter().cloned());
            }
            prop_assert_eq!(drain(&mut encoder, step, slices_max), expected);
        }
    }
}
