//! Slots of the shared memory, as the prepare operations describe them.

use std::sync::Arc;

use larder_types::dtype::DType;

use crate::codec::{Entry, Value, structure};
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};

/// Slots of one transfer.
pub const SLOTS_MAX: usize = 1 << 20;

/// A piece of the shared memory that holds one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Bytes from the start of the shared memory.
    pub offset: u64,
    /// Bytes of the chunk.
    pub length: u64,
    /// Shape of the chunk.
    pub shape: Arc<[u64]>,
    /// Element type of the chunk.
    pub dtype: DType,
}

structure!(Slot { offset, length, shape, dtype });

impl Entry for Slot {
    const LIST_MAX: usize = SLOTS_MAX;
}

/// The `context` map in the results of the prepare operations, whose fields may all be absent.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) slots: Option<Vec<Slot>>,
    pub(crate) chunk_indices: Option<Vec<u64>>,
}

impl Context {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut context = Self::default();
        reader.structure("context", |name, reader| {
            match name {
                b"slots" => context.slots = Some(Vec::decode(reader, "slots")?),
                b"chunk_indices" => {
                    let index = |reader: &mut Reader<'_>| reader.u64("chunk_indices");
                    context.chunk_indices = Some(reader.list("chunk_indices", SLOTS_MAX, index)?);
                }
                _ => reader.skip("context")?,
            }
            Ok(())
        })?;
        Ok(context)
    }

    /// Writes a map with the key `context` for the given slots, with their chunk indices if there are any.
    pub(crate) fn encode(slots: Option<&Vec<Slot>>, chunk_indices: Option<&[u64]>, writer: &mut Writer) {
        writer.str("context");
        writer.map(usize::from(slots.is_some()) + usize::from(chunk_indices.is_some()));
        if let Some(slots) = slots {
            writer.str("slots");
            slots.encode(writer);
        }
        if let Some(chunk_indices) = chunk_indices {
            writer.str("chunk_indices");
            writer.uints(chunk_indices);
        }
    }
}
