//! `store`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::Value;
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer};
use crate::ops::{operation, samples};

/// Copies chunks out of the engine's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker whose blocks hold them.
    pub instance_id: InstanceId,
    /// One list per kernel group, covering the key's range from its first block.
    pub block_ids: Vec<Vec<i64>>,
    /// Handle of the event to wait for before copying.
    pub event: Bytes,
}

/// Result of a copy by the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Handle of the event after the copy; empty if no work was given to a device.
    pub event: Bytes,
    /// Whether the data was copied.
    pub success: bool,
}

impl Value for Copied {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.tuple(field, 2, "an array of an event and a boolean")?;
        Ok(Self { event: Bytes::decode(reader, "event")?, success: reader.bool("success")? })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.array(2);
        writer.bin(&self.event);
        writer.bool(self.success);
    }
}

operation!(
    Store = Some(6), "store",
    { key, instance_id, block_ids, event } -> Copied, failure: Some(Copied::default())
);

samples!(Store: vec![Self {
    key: key(Some(3)),
    instance_id: INSTANCE,
    block_ids: vec![vec![0, 1, 70_000], vec![]],
    event: Bytes::from_static(b"event"),
}] => vec![Copied { event: Bytes::from_static(&[3; 64]), success: true }]);
