//! The authority of calls over Unix sockets.
//!
//! gRPC's C library names the server of a Unix socket by the path, percent-encoded (`:authority: tmp%2Frequests`), which
//! `h2` refuses as malformed. Nothing here needs it, so each `%` in it is made a `-` before `h2` reads it. The library writes
//! headers without Huffman coding, and the length stays the same.

/// The connection preface of HTTP/2.
const PREFACE_BYTES: usize = 24;
/// The head of each frame: three bytes of length, the type, the flags, and the stream.
const HEAD_BYTES: usize = 9;
/// Types of frames that hold headers.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const NAME: &[u8] = b":authority";

/// A length of one byte in HPACK; this one says that more bytes follow.
const LENGTH_MORE: u8 = 0x7f;

/// Finds the authority in what a client sends, in any pieces.
#[derive(Debug)]
pub(super) struct AuthorityFilter {
    /// Bytes to pass over before the next head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Bytes left of a frame of headers.
    headers: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of the name are there.
    Name(usize),
    /// The length follows; what is known of it, and the next bit.
    Length(usize, u32),
    /// So many bytes of the value follow.
    Value(usize),
}

impl Default for AuthorityFilter {
    fn default() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; HEAD_BYTES], head_bytes: 0, headers: 0, state: State::Name(0) }
    }
}

impl AuthorityFilter {
    /// Changes the next bytes of a connection.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.pass_some(bytes);
            bytes = &mut bytes[taken..];
        }
    }

    /// The same for some of them. Returns how many, at least one.
    fn pass_some(&mut self, bytes: &mut [u8]) -> usize {
        if self.skip > 0 {
            let taken = self.skip.min(bytes.len());
            self.skip -= taken;
            return taken;
        }
        if self.headers > 0 {
            let taken = self.headers.min(bytes.len());
            self.headers -= taken;
            bytes[..taken].iter_mut().for_each(|byte| self.header_byte(byte));
            return taken;
        }
        self.head[self.head_bytes] = bytes[0];
        self.head_bytes += 1;
        if self.head_bytes == HEAD_BYTES {
            self.head_bytes = 0;
            let [high, middle, low, kind, ..] = self.head;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            match kind {
                HEADERS | CONTINUATION => self.headers = length,
                _ => self.skip = length,
            }
        }
        1
    }

    fn header_byte(&mut self, byte: &mut u8) {
        self.state = match self.state {
            State::Name(known) if *byte != NAME[known] => State::Name(usize::from(*byte == NAME[0])),
            State::Name(known) if known + 1 == NAME.len() => State::Length(0, 0),
            State::Name(known) => State::Name(known + 1),
            State::Length(0, 0) if *byte < LENGTH_MORE => State::Value(usize::from(*byte)),
            State::Length(0, 0) if *byte == LENGTH_MORE => State::Length(usize::from(LENGTH_MORE), 0),
            // Huffman coding, or a length that no path has.
            State::Length(0, 0) | State::Length(_, 14..) => State::Name(0),
            State::Length(length, bit) => {
                let length = length + (usize::from(*byte & 0x7f) << bit);
                if *byte < 0x80 { State::Value(length) } else { State::Length(length, bit + 7) }
            }
            State::Value(left) => {
                if *byte == b'%' {
                    *byte = b'-';
                }
                State::Value(left.saturating_sub(1))
            }
        };
        if self.state == State::Value(0) {
            self.state = State::Name(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client sends: a call with this authority, and a message that looks like one.
    fn sent(authority: &str) -> Vec<u8> {
        let mut length = vec![authority.len().min(0x7f) as u8];
        if authority.len() >= 0x7f {
            let rest = authority.len() - 0x7f;
            length.extend([rest as u8 & 0x7f | 0x80, (rest >> 7) as u8]);
        }
        let headers = [b"\x83@\n:authority", &length[..], authority.as_bytes(), b"@\x03a:a\x04%2F%"].concat();
        let data = b":authority\x04%2F%";
        let frame = |kind: u8, payload: &[u8]| {
            [&(payload.len() as u32).to_be_bytes()[1..], &[kind, 4, 0, 0, 0, 1], payload].concat()
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        [&preface[..], &frame(4, b""), &frame(HEADERS, &headers), &frame(0, data)].concat()
    }

    #[test]
    fn only_the_authority_is_changed_in_any_pieces() {
        for path in ["localhost", "tmp%2Frequests", &"%2Fd".repeat(40)] {
            let (before, after) = (sent(path), sent(&path.replace('%', "-")));
            for piece in [1, 2, 7, before.len()] {
                let mut bytes = before.clone();
                let mut filter = AuthorityFilter::default();
                bytes.chunks_mut(piece).for_each(|piece| filter.pass(piece));
                assert_eq!(bytes, after, "{path} in pieces of {piece}");
            }
        }
    }
}
