//! `prepare_store`.

use larder_types::InstanceId;

use crate::codec::Value;
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer, required};
use crate::ops::{operation, samples};
use crate::slot::{Context, Slot};

/// Asks for slots to write chunks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareStore {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
}

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

operation!(
    PrepareStore = Some(16), "prepare_store",
    { key, instance_id } -> StorePlan, failure: Some(StorePlan::NOTHING)
);

samples!(PrepareStore: vec![Self { key: key(Some(0)), instance_id: INSTANCE }] => {
    let slots = vec![slot(0), slot(1 << 33)];
    vec![StorePlan::Pickle, StorePlan::Slots { slots, chunk_indices: vec![0, 5] }]
});
