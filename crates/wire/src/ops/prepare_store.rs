//! `prepare_store`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::{GROUPS_MAX, Payloads, Value, decode_only, encode_frame};
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer, required};
use crate::ops::{operation, payload_count, samples};
use crate::slot::{Context, Slot, check_per_slot};

/// Asks for slots to write chunks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareStore {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
    /// For each group of the worker the chunks that it does not write, counted from the start of the key's range; no list
    /// means none. Clients before 0.5.7 do not send this payload. Not checked: any numbers decode.
    pub skipped_chunks: Option<Vec<Vec<i64>>>,
}

impl PrepareStore {
    /// All chunks of all groups.
    pub fn new(key: CacheKey, instance_id: InstanceId) -> Self {
        Self { key, instance_id, skipped_chunks: None }
    }
}

/// Two payloads, or three.
impl Payloads for PrepareStore {
    const COUNT: usize = 2;

    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
        let (key, instance_id, skipped_chunks) = match frames {
            [key, instance_id] => (key, instance_id, None),
            [key, instance_id, skipped_chunks] => (key, instance_id, Some(skipped_chunks)),
            _ => return Err(payload_count::<Self>(frames.len())),
        };
        let lists = |frame: &Bytes| {
            let field = "skipped_chunks";
            decode_only(frame, field, |reader| {
                reader.list(field, GROUPS_MAX, |reader| Vec::<i64>::decode(reader, field))
            })
        };
        Ok(Self {
            key: Value::decode_payload(key, "key")?,
            instance_id: Value::decode_payload(instance_id, "instance_id")?,
            skipped_chunks: skipped_chunks.map(lists).transpose()?,
        })
    }

    fn encode(&self) -> Vec<Bytes> {
        let mut frames = vec![encode_frame(&self.key), encode_frame(&self.instance_id)];
        frames.extend(self.skipped_chunks.as_ref().map(encode_frame));
        frames
    }
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
        /// For each slot, its group, if the worker has several.
        group_ids: Option<Vec<u64>>,
    },
    /// There is no shared memory; send the chunks with the commit.
    Inline,
}

impl StorePlan {
    /// There is nothing to write, or nothing can be written.
    pub const NOTHING: Self = Self::Slots { slots: Vec::new(), chunk_indices: Vec::new(), group_ids: None };
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
        let Some(slots) = context.slots else { return Ok(Self::Inline) };
        let chunk_indices = required("chunk_indices", context.chunk_indices)?;
        check_per_slot(&slots, ("chunk_indices", &chunk_indices))?;
        if let Some(group_ids) = &context.group_ids {
            check_per_slot(&slots, ("group_ids", group_ids))?;
        }
        Ok(Self::Slots { slots, chunk_indices, group_ids: context.group_ids })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(1);
        match self {
            Self::Inline => Context::encode(None, &[], writer),
            Self::Slots { slots, chunk_indices, group_ids: None } => {
                Context::encode(Some(slots), &[("chunk_indices", chunk_indices)], writer);
            }
            Self::Slots { slots, chunk_indices, group_ids: Some(group_ids) } => {
                let lists = [("chunk_indices", &chunk_indices[..]), ("group_ids", group_ids)];
                Context::encode(Some(slots), &lists, writer);
            }
        }
    }
}

operation!(PrepareStore = Some(16), "prepare_store", -> StorePlan, failure: Some(StorePlan::NOTHING));

samples!(PrepareStore: vec![Self::new(key(Some(0)), INSTANCE)] => {
    let slots = || vec![slot(0), slot(1 << 33)];
    vec![
        StorePlan::Inline,
        StorePlan::Slots { slots: slots(), chunk_indices: vec![0, 5], group_ids: None },
        StorePlan::Slots { slots: slots(), chunk_indices: vec![5, 0], group_ids: Some(vec![0, 1]) },
    ]
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{INSTANCE, key};

    #[test]
    fn skipped_chunks_are_a_third_payload() {
        for skipped in [vec![], vec![vec![], vec![0, 1, -7]], vec![vec![]; GROUPS_MAX]] {
            let request =
                PrepareStore { skipped_chunks: Some(skipped), ..PrepareStore::new(key(Some(0)), INSTANCE) };
            let frames = request.encode();
            assert_eq!(frames.len(), 3);
            assert_eq!(PrepareStore::decode(&frames), Ok(request));
        }
        let too_many = PrepareStore {
            skipped_chunks: Some(vec![vec![]; GROUPS_MAX + 1]),
            ..PrepareStore::new(key(Some(0)), INSTANCE)
        };
        let refused = PrepareStore::decode(&too_many.encode());
        assert!(matches!(refused, Err(DecodeError::TooMany { .. })), "{refused:?}");
    }
}
