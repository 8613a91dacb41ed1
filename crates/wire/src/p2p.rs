//! Structures of the peer-to-peer operations (`protocol.md` 15).

use std::sync::Arc;

use crate::error::DecodeError;
use crate::handle::{TENSOR_AXES_MAX, decode_dtype};
use crate::msgpack::{Reader, Writer, required};
use crate::registration::KERNEL_GROUPS_MAX;
use larder_types::dtype::{DType, tensor_bytes};
use larder_types::object::{
    ChunkHash, KvRank, ObjectGroup, ObjectKey, ObjectKeyError, check_cache_salt, check_model_name,
    check_object_group,
};

/// Object keys of one call.
pub const OBJECT_KEYS_MAX: usize = 1 << 20;

/// Shapes and element types of the tensors that make up one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Shape of each tensor.
    pub shapes: Vec<Vec<u64>>,
    /// Element type of each tensor; as many as there are shapes.
    pub dtypes: Vec<DType>,
}

impl MemoryLayout {
    /// Bytes of one object; `None` if that overflows.
    pub fn bytes(&self) -> Option<u64> {
        let mut tensors = self.shapes.iter().zip(&self.dtypes);
        tensors.try_fold(0_u64, |bytes, (shape, &dtype)| bytes.checked_add(tensor_bytes(dtype, shape)?))
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut shapes, mut dtypes) = (None, None);
        reader.structure("layout", |name, reader| {
            match name {
                b"shapes" => {
                    shapes = Some(reader.list("shapes", KERNEL_GROUPS_MAX, |reader| {
                        reader.list("shapes", TENSOR_AXES_MAX, |reader| reader.u64("shapes"))
                    })?);
                }
                b"dtypes" => {
                    let dtype = |reader: &mut Reader<'_>| decode_dtype(reader, "dtypes");
                    dtypes = Some(reader.list("dtypes", KERNEL_GROUPS_MAX, dtype)?);
                }
                _ => reader.skip("layout")?,
            }
            Ok(())
        })?;
        let layout = Self { shapes: required("shapes", shapes)?, dtypes: required("dtypes", dtypes)? };
        if layout.shapes.len() != layout.dtypes.len() {
            return Err(DecodeError::OutOfRange {
                field: "dtypes",
                value: layout.dtypes.len() as i128,
                allowed: "the number of shapes",
            });
        }
        Ok(layout)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(2);
        writer.str("shapes");
        writer.array(self.shapes.len());
        self.shapes.iter().for_each(|shape| writer.uints(shape));
        writer.str("dtypes");
        writer.array(self.dtypes.len());
        self.dtypes.iter().for_each(|dtype| writer.str(dtype.name()));
    }
}

/// Layouts by object group, in the order they were sent.
pub type GroupLayouts = Vec<(ObjectGroup, MemoryLayout)>;

pub(crate) fn decode_group_layouts(reader: &mut Reader<'_>) -> Result<GroupLayouts, DecodeError> {
    let count = reader.map("group_layout_descs")?;
    if count > KERNEL_GROUPS_MAX {
        return Err(DecodeError::TooMany { field: "group_layout_descs", count, limit: KERNEL_GROUPS_MAX });
    }
    let mut layouts = Vec::with_capacity(count);
    for _ in 0..count {
        let group = check_object_group(reader.int("group_layout_descs")?).map_err(of_key)?;
        layouts.push((group, MemoryLayout::decode(reader)?));
    }
    Ok(layouts)
}

pub(crate) fn encode_group_layouts(layouts: &[(ObjectGroup, MemoryLayout)], writer: &mut Writer) {
    writer.map(layouts.len());
    for (group, layout) in layouts {
        writer.uint(u64::from(*group));
        layout.encode(writer);
    }
}

/// Where an object lies in the server's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Bytes from the start of the pool; -1 for an object that is not there.
    pub offset: i64,
    /// Bytes of the object; 0 for an object that is not there.
    pub size: i64,
}

impl Address {
    /// Stands for an object that is not there.
    pub const MISSING: Self = Self { offset: -1, size: 0 };

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut offset, mut size) = (None, None);
        reader.structure("address", |name, reader| {
            match name {
                b"offset" => offset = Some(reader.i64("offset")?),
                b"size" => size = Some(reader.i64("size")?),
                _ => reader.skip("address")?,
            }
            Ok(())
        })?;
        Ok(Self { offset: required("offset", offset)?, size: required("size", size)? })
    }

    pub(crate) fn encode(self, writer: &mut Writer) {
        writer.map(2);
        writer.str("offset");
        writer.int(self.offset);
        writer.str("size");
        writer.int(self.size);
    }
}

fn of_key(source: ObjectKeyError) -> DecodeError {
    DecodeError::Key { field: "object key", source }
}

/// Reads one object key.
pub(crate) fn decode_object_key(reader: &mut Reader<'_>) -> Result<ObjectKey, DecodeError> {
    let (mut chunk_hash, mut model_name, mut kv_rank) = (None, None, None);
    let (mut object_group, mut cache_salt) = (0, "");
    reader.structure("object key", |name, reader| {
        match name {
            b"chunk_hash" => chunk_hash = Some(decode_hash(reader, "chunk_hash")?),
            b"model_name" => model_name = Some(reader.name("model_name")?),
            b"kv_rank" => {
                let kv_rank_int = reader.int("kv_rank")?;
                let fits = u32::try_from(kv_rank_int);
                kv_rank = Some(fits.map_err(|_| of_key(ObjectKeyError::KvRank { kv_rank: kv_rank_int }))?);
            }
            b"object_group_id" => {
                object_group = check_object_group(reader.int("object_group_id")?).map_err(of_key)?;
            }
            b"cache_salt" => cache_salt = reader.str("cache_salt")?,
            _ => reader.skip("object key")?,
        }
        Ok(())
    })?;
    let model_name = required("model_name", model_name)?;
    check_model_name(model_name).map_err(of_key)?;
    check_cache_salt(cache_salt).map_err(of_key)?;
    Ok(ObjectKey {
        chunk_hash: required("chunk_hash", chunk_hash)?,
        model_name: Arc::from(model_name),
        kv_rank: KvRank(required("kv_rank", kv_rank)?),
        object_group,
        cache_salt: Arc::from(cache_salt),
    })
}

/// Reads a chunk hash.
pub(crate) fn decode_hash(reader: &mut Reader<'_>, field: &'static str) -> Result<ChunkHash, DecodeError> {
    let hash = reader.bin(field)?;
    ChunkHash::new(hash)
        .ok_or(DecodeError::Key { field, source: ObjectKeyError::HashLength { bytes: hash.len() } })
}

/// Writes one object key as the reference does: every field.
pub(crate) fn encode_object_key(key: &ObjectKey, writer: &mut Writer) {
    writer.map(5);
    writer.str("chunk_hash");
    writer.bin(key.chunk_hash.as_bytes());
    writer.str("model_name");
    writer.str(&key.model_name);
    writer.str("kv_rank");
    writer.uint(u64::from(key.kv_rank.0));
    writer.str("object_group_id");
    writer.uint(u64::from(key.object_group));
    writer.str("cache_salt");
    writer.str(&key.cache_salt);
}
