//! `ping`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::{Payloads, Value, encode_frame};
use crate::error::DecodeError;
use crate::ops::{operation, payload_count, samples};

/// Heartbeat of a worker, or a probe. The result is false if the worker is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The worker; `None` for a probe, and for a worker of a client before 0.5.0.
    pub instance_id: Option<InstanceId>,
}

/// Clients before 0.5.0 send no payload.
impl Payloads for Ping {
    const COUNT: usize = 1;

    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
        match frames {
            [] => Ok(Self { instance_id: None }),
            [instance_id] => Ok(Self { instance_id: Value::decode_payload(instance_id, "instance_id")? }),
            _ => Err(payload_count::<Self>(frames.len())),
        }
    }

    fn encode(&self) -> Vec<Bytes> {
        vec![encode_frame(&self.instance_id)]
    }
}

operation!(Ping = Some(22), "ping", -> bool, failure: None);

samples!(Ping: vec![Self { instance_id: None }, Self { instance_id: Some(INSTANCE) }] => vec![true]);
