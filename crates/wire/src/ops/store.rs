//! `store`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::{Value, payloads};
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer};
use crate::ops::OperationSpec;

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

payloads!(Store { key, instance_id, block_ids, event });

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

impl OperationSpec for Store {
    const ID: Option<u8> = Some(6);
    const NAME: &'static str = "store";
    type Response = Copied;

    fn failure() -> Option<Self::Response> {
        Some(Copied::default())
    }
}

#[cfg(test)]
impl super::tests::Samples for Store {
    fn requests() -> Vec<Self> {
        vec![Self {
            key: super::tests::key(Some(3)),
            instance_id: super::tests::INSTANCE,
            block_ids: vec![vec![0, 1, 70_000], vec![]],
            event: Bytes::from_static(b"event"),
        }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![Copied { event: Bytes::from_static(&[3; 64]), success: true }]
    }
}
