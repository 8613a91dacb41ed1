//! `register_q_cache`.

use bytes::Bytes;

use crate::codec::Payloads;
use crate::error::DecodeError;
use crate::ops::{RegisterKvCache, operation, payload_count, samples};

/// Registers a ring of query tensors, with the payloads of `register_kv_cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterQCache(pub RegisterKvCache);

impl Payloads for RegisterQCache {
    const COUNT: usize = RegisterKvCache::COUNT;

    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
        if frames.len() != Self::COUNT {
            return Err(payload_count::<Self>(frames.len()));
        }
        RegisterKvCache::decode(frames).map(Self)
    }

    fn encode(&self) -> Vec<Bytes> {
        self.0.encode()
    }
}

operation!(RegisterQCache = Some(3), "register_q_cache", -> (), failure: None);

samples!(RegisterQCache: RegisterKvCache::requests().into_iter().map(Self).collect() => vec![()]);
