//! `register_q_cache`.

use bytes::Bytes;

use crate::codec::Payloads;
use crate::error::DecodeError;
use crate::ops::{OperationSpec, RegisterKvCache, payload_count};

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

impl OperationSpec for RegisterQCache {
    const ID: Option<u8> = Some(3);
    const NAME: &'static str = "register_q_cache";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        None
    }
}

#[cfg(test)]
impl super::tests::Samples for RegisterQCache {
    fn requests() -> Vec<Self> {
        RegisterKvCache::requests().into_iter().map(Self).collect()
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
