//! `p2p_lookup_and_lock`.

use larder_types::dtype::{DType, tensor_bytes};
use larder_types::object::{ObjectGroup, ObjectKey, check_object_group};
use larder_types::{Layout, LayoutId};

use crate::codec::{KERNEL_GROUPS_MAX, Value, structure};
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};
use crate::ops::{operation, samples};

/// The id of a lookup that was refused: its result has no addresses.
pub const REFUSED: i64 = -1;

/// Peer to peer: looks objects up and locks those found. The result is the id of the lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2pLookupAndLock {
    /// The objects.
    pub keys: Vec<ObjectKey>,
    /// The layouts that the peer expects.
    pub layouts: GroupLayouts,
}

/// Shapes and element types of the tensors that make up one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Shape of each tensor.
    pub shapes: Vec<Vec<u64>>,
    /// Element type of each tensor; as many as there are shapes.
    pub dtypes: Vec<DType>,
}

structure!(MemoryLayout { shapes, dtypes });

impl MemoryLayout {
    /// Bytes of one object; `None` if that overflows.
    pub fn bytes(&self) -> Option<u64> {
        let mut tensors = self.shapes.iter().zip(&self.dtypes);
        tensors.try_fold(0_u64, |bytes, (shape, &dtype)| bytes.checked_add(tensor_bytes(dtype, shape)?))
    }
}

/// Layouts by object group, in the order they were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLayouts(pub Vec<(ObjectGroup, MemoryLayout)>);

impl GroupLayouts {
    /// The layout of a group's objects. Unknown if it was not sent, or is of several tensors: objects here are one.
    pub fn of(&self, group: ObjectGroup) -> LayoutId {
        let sent = self.0.iter().find(|(id, _)| *id == group).map(|(_, layout)| layout);
        let layout = sent.and_then(|layout| match (&layout.shapes[..], &layout.dtypes[..]) {
            ([shape], [dtype]) => Layout::new(shape, *dtype),
            _ => None,
        });
        layout.map(|layout| layout.id()).unwrap_or_default()
    }
}

/// A map from the group's number.
impl Value for GroupLayouts {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let count = reader.map(field)?;
        if count > KERNEL_GROUPS_MAX {
            return Err(DecodeError::TooMany { field, count, limit: KERNEL_GROUPS_MAX });
        }
        let mut layouts = Vec::with_capacity(count);
        for _ in 0..count {
            let group = check_object_group(reader.int(field)?).map_err(DecodeError::object_key)?;
            let layout = MemoryLayout::decode(reader, "layout")?;
            if layout.shapes.len() != layout.dtypes.len() {
                return Err(DecodeError::OutOfRange {
                    field: "dtypes",
                    value: layout.dtypes.len() as i128,
                    allowed: "the number of shapes",
                });
            }
            layouts.push((group, layout));
        }
        Ok(Self(layouts))
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(self.0.len());
        for (group, layout) in &self.0 {
            writer.uint(u64::from(*group));
            layout.encode(writer);
        }
    }
}

operation!(
    P2pLookupAndLock = Some(29), "p2p_lookup_and_lock",
    { keys, layouts as "group_layout_descs" } -> i64, failure: Some(REFUSED)
);

samples!(P2pLookupAndLock: {
    let shapes = vec![vec![2, 16, 12], vec![4]];
    let layout = MemoryLayout { shapes, dtypes: vec![DType::Float16, DType::Int8] };
    let keys = vec![object_key(0), object_key(3)];
    vec![Self { keys, layouts: GroupLayouts(vec![(0, layout)]) }]
} => vec![0]);
