//! `prepare_retrieve`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::Value;
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer, required};
use crate::ops::{operation, samples};
use crate::slot::{Context, Slot, check_per_slot};

/// Asks for slots to read chunks from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareRetrieve {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
}

/// Response of `prepare_retrieve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetrievePlan {
    /// Part of the range is not cached.
    Missing,
    /// Read from these slots, one per chunk of the range in its order.
    Slots(Vec<Slot>),
    /// The same for a worker with several groups, which may need only the last chunks of the range.
    GroupSlots {
        /// The slots.
        slots: Vec<Slot>,
        /// For each slot, its group.
        group_ids: Vec<u64>,
        /// For each slot, its chunk's index in the key's range.
        chunk_indices: Vec<u64>,
    },
    /// There is no shared memory; these are the chunks, as a [pickle](crate::pickle) or a
    /// [map](crate::tensor_map).
    Inline(Bytes),
}

impl Value for RetrievePlan {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let (mut success, mut data, mut context) = (None, Bytes::new(), Context::default());
        reader.structure(field, |name, reader| {
            match name {
                b"success" => success = Some(reader.bool("success")?),
                b"data" => data = Bytes::decode(reader, "data")?,
                b"context" => context = Context::decode(reader)?,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        Ok(match (required("success", success)?, context.slots, context.group_ids) {
            (false, ..) => Self::Missing,
            (true, Some(slots), None) => Self::Slots(slots),
            (true, Some(slots), Some(group_ids)) => {
                let chunk_indices = required("chunk_indices", context.chunk_indices)?;
                check_per_slot(&slots, ("chunk_indices", &chunk_indices))?;
                check_per_slot(&slots, ("group_ids", &group_ids))?;
                Self::GroupSlots { slots, group_ids, chunk_indices }
            }
            (true, None, _) => Self::Inline(data),
        })
    }

    fn encode(&self, writer: &mut Writer) {
        let data = if let Self::Inline(data) = self { &data[..] } else { &[] };
        writer.map(3);
        writer.str("success");
        writer.bool(!matches!(self, Self::Missing));
        writer.str("data");
        writer.bin(data);
        match self {
            Self::Missing | Self::Inline(_) => Context::encode(None, &[], writer),
            Self::Slots(slots) => Context::encode(Some(slots), &[], writer),
            Self::GroupSlots { slots, group_ids, chunk_indices } => {
                let lists = [("group_ids", &group_ids[..]), ("chunk_indices", chunk_indices)];
                Context::encode(Some(slots), &lists, writer);
            }
        }
    }
}

operation!(
    PrepareRetrieve = Some(18), "prepare_retrieve",
    { key, instance_id } -> RetrievePlan, failure: Some(RetrievePlan::Missing)
);

samples!(PrepareRetrieve: vec![Self { key: key(Some(0)), instance_id: INSTANCE }] => {
    let inline = RetrievePlan::Inline(Bytes::from_static(b"p"));
    let slots = vec![slot(0), slot(4096)];
    let groups = RetrievePlan::GroupSlots { slots, group_ids: vec![0, 1], chunk_indices: vec![0, 2] };
    vec![RetrievePlan::Missing, RetrievePlan::Slots(vec![slot(4096)]), groups, inline]
});
