//! `prepare_retrieve`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::Value;
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer, required};
use crate::ops::{operation, samples};
use crate::slot::{Context, Slot};

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
    /// There is no shared memory; these are the chunks as a pickle.
    Pickle(Bytes),
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
        Ok(match (required("success", success)?, context.slots) {
            (false, _) => Self::Missing,
            (true, Some(slots)) => Self::Slots(slots),
            (true, None) => Self::Pickle(data),
        })
    }

    fn encode(&self, writer: &mut Writer) {
        let (success, data, slots) = match self {
            Self::Missing => (false, &[][..], None),
            Self::Slots(slots) => (true, &[][..], Some(slots)),
            Self::Pickle(data) => (true, &data[..], None),
        };
        writer.map(3);
        writer.str("success");
        writer.bool(success);
        writer.str("data");
        writer.bin(data);
        Context::encode(slots, None, writer);
    }
}

operation!(
    PrepareRetrieve = Some(18), "prepare_retrieve",
    { key, instance_id } -> RetrievePlan, failure: Some(RetrievePlan::Missing)
);

samples!(PrepareRetrieve: vec![Self { key: key(Some(0)), instance_id: INSTANCE }] => {
    let pickle = RetrievePlan::Pickle(Bytes::from_static(b"p"));
    vec![RetrievePlan::Missing, RetrievePlan::Slots(vec![slot(4096)]), pickle]
});
