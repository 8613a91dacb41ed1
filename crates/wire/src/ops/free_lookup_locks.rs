//! `free_lookup_locks`.

use bytes::Bytes;

use crate::codec::{Entry, Payloads, Value, encode_frame};
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer};
use crate::ops::{operation, payload_count, samples};

/// Releases read locks that a lookup took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeLookupLocks {
    /// The tokens whose locks to release.
    pub key: CacheKey,
    /// Workers that share the KV heads; only used for keys without `num_kv_readers`.
    pub tp_size: i64,
    /// What earlier lookups of the request found that were replaced by later ones. From 0.5.7 on.
    pub extra_ranges: Vec<TokenRange>,
}

/// Tokens from one position to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRange {
    /// First token.
    pub start: u64,
    /// Token after the range.
    pub end: u64,
}

impl Value for TokenRange {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.tuple(field, 2, "an array of two positions")?;
        Ok(Self { start: reader.u64(field)?, end: reader.u64(field)? })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.array(2);
        writer.uint(self.start);
        writer.uint(self.end);
    }
}

impl Entry for TokenRange {
    /// A request is seldom looked up more than twice.
    const LIST_MAX: usize = 1 << 10;
}

/// Clients before 0.5.7 send two payloads.
impl Payloads for FreeLookupLocks {
    const COUNT: usize = 2;

    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
        let (key, tp_size, extra_ranges) = match frames {
            [key, tp_size] => (key, tp_size, Vec::new()),
            [key, tp_size, ranges] => (key, tp_size, Value::decode_payload(ranges, "extra_ranges")?),
            _ => return Err(payload_count::<Self>(frames.len())),
        };
        let (key, tp_size) = (Value::decode_payload(key, "key")?, Value::decode_payload(tp_size, "tp_size")?);
        Ok(Self { key, tp_size, extra_ranges })
    }

    fn encode(&self) -> Vec<Bytes> {
        let mut frames = vec![encode_frame(&self.key), encode_frame(&self.tp_size)];
        if !self.extra_ranges.is_empty() {
            frames.push(encode_frame(&self.extra_ranges));
        }
        frames
    }
}

operation!(FreeLookupLocks = Some(12), "free_lookup_locks", -> (), failure: Some(()));

samples!(FreeLookupLocks: vec![Self { key: key(None), tp_size: 1, extra_ranges: Vec::new() }] => vec![()]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::key;

    #[test]
    fn has_two_or_three_payloads() {
        let ranges = vec![TokenRange { start: 64, end: 192 }, TokenRange { start: 0, end: 0 }];
        let request = FreeLookupLocks { key: key(None), tp_size: 1, extra_ranges: ranges };
        let frames = request.encode();
        assert_eq!(frames[2][..], b"\x92\x92\x40\xcc\xc0\x92\x00\x00"[..]);
        assert_eq!(FreeLookupLocks::decode(&frames), Ok(request.clone()));
        let none = FreeLookupLocks { extra_ranges: Vec::new(), ..request };
        let empty = [&frames[..2], &[Bytes::from_static(b"\x90")]].concat();
        assert_eq!(FreeLookupLocks::decode(&empty), Ok(none.clone()));
        assert_eq!(FreeLookupLocks::decode(&frames[..2]), Ok(none));
        assert!(FreeLookupLocks::decode(&frames[..1]).is_err());
        for bad in [&b"\xc0"[..], b"\x91\x91\x01", b"\x91\x92\x01\xff", b"\x91\x93\x01\x02\x03", b"\x91\x05"]
        {
            let frames = [&frames[..2], &[Bytes::from_static(bad)]].concat();
            assert!(FreeLookupLocks::decode(&frames).is_err(), "{bad:x?}");
        }
    }
}
