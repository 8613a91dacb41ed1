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
    pub(crate) group_ids: Option<Vec<u64>>,
    pub(crate) chunk_indices: Option<Vec<u64>>,
}

/// A list of the context, one number for each slot.
pub(crate) type PerSlot<'a> = (&'static str, &'a [u64]);

impl Context {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut context = Self::default();
        reader.structure("context", |name, reader| {
            match name {
                b"slots" => context.slots = Some(Vec::decode(reader, "slots")?),
                b"group_ids" => context.group_ids = Some(numbers(reader, "group_ids")?),
                b"chunk_indices" => context.chunk_indices = Some(numbers(reader, "chunk_indices")?),
                _ => reader.skip("context")?,
            }
            Ok(())
        })?;
        Ok(context)
    }

    /// Writes a map with the key `context` for the given slots, with lists of numbers beside them.
    pub(crate) fn encode(slots: Option<&Vec<Slot>>, lists: &[PerSlot<'_>], writer: &mut Writer) {
        writer.str("context");
        writer.map(usize::from(slots.is_some()) + lists.len());
        if let Some(slots) = slots {
            writer.str("slots");
            slots.encode(writer);
        }
        for (name, numbers) in lists {
            writer.str(name);
            writer.uints(numbers);
        }
    }
}

fn numbers(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<u64>, DecodeError> {
    reader.list(field, SLOTS_MAX, |reader| reader.u64(field))
}

/// Checks that a list has one number for each slot.
pub(crate) fn check_per_slot(slots: &[Slot], (field, numbers): PerSlot<'_>) -> Result<(), DecodeError> {
    let (value, allowed) = (numbers.len() as i128, "the number of slots");
    if numbers.len() == slots.len() { Ok(()) } else { Err(DecodeError::OutOfRange { field, value, allowed }) }
}
