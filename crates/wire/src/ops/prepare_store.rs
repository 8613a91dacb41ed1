//! `prepare_store`.

use larder_types::InstanceId;

use crate::codec::{Value, payloads};
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer, required};
use crate::ops::OperationSpec;
use crate::slot::{Context, Slot};

/// Asks for slots to write chunks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareStore {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
}

payloads!(PrepareStore { key, instance_id });

/// Response of `prepare_store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlan {
    /// Write into these slots. No slots: everything is stored already, or nothing can be.
    Slots {
        /// The slots.
        slots: Vec<Slot>,
        /// For each slot, its chunk's index in the key's range.
        chunk_indices: Vec<u64>,
    },
    /// There is no shared memory; send the chunks as a pickle.
    Pickle,
}

impl StorePlan {
    /// There is nothing to write, or nothing can be written.
    pub const NOTHING: Self = Self::Slots { slots: Vec::new(), chunk_indices: Vec::new() };
}

impl Value for StorePlan {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let mut context = Context::default();
        reader.structure(field, |name, reader| {
            match name {
                b"context" => context = Context::decode(reader)?,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        let Some(slots) = context.slots else { return Ok(Self::Pickle) };
        let chunk_indices = required("chunk_indices", context.chunk_indices)?;
        if slots.len() != chunk_indices.len() {
            return Err(DecodeError::OutOfRange {
                field: "chunk_indices",
                value: chunk_indices.len() as i128,
                allowed: "the number of slots",
            });
        }
        Ok(Self::Slots { slots, chunk_indices })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(1);
        match self {
            Self::Pickle => Context::encode(None, None, writer),
            Self::Slots { slots, chunk_indices } => {
                Context::encode(Some(slots), Some(chunk_indices), writer);
            }
        }
    }
}

impl OperationSpec for PrepareStore {
    const ID: Option<u8> = Some(16);
    const NAME: &'static str = "prepare_store";
    type Response = StorePlan;

    fn failure() -> Option<Self::Response> {
        Some(StorePlan::NOTHING)
    }
}

#[cfg(test)]
impl super::tests::Samples for PrepareStore {
    fn requests() -> Vec<Self> {
        vec![Self { key: super::tests::key(Some(0)), instance_id: super::tests::INSTANCE }]
    }

    fn responses() -> Vec<Self::Response> {
        let slots = vec![super::tests::slot(0), super::tests::slot(1 << 33)];
        vec![StorePlan::Pickle, StorePlan::Slots { slots, chunk_indices: vec![0, 5] }]
    }
}
