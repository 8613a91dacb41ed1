//! `clear`.

use bytes::Bytes;

use crate::codec::{Payloads, Value, encode_frame};
use crate::error::DecodeError;
use crate::ops::{operation, payload_count, samples};

/// Removes all objects from L1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// Whether to remove objects that are in use too.
    pub force: bool,
}

/// Clients before 0.5.6 send no payload and mean "not forced".
impl Payloads for Clear {
    const COUNT: usize = 1;

    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
        match frames {
            [] => Ok(Self { force: false }),
            [force] => Ok(Self { force: Value::decode_payload(force, "force")? }),
            _ => Err(payload_count::<Self>(frames.len())),
        }
    }

    fn encode(&self) -> Vec<Bytes> {
        vec![encode_frame(&self.force)]
    }
}

operation!(Clear = Some(20), "clear", -> (), failure: Some(()));

samples!(Clear: vec![Self { force: true }] => vec![()]);
