//! Object keys and chunk hashes in MessagePack.

use std::sync::Arc;

use larder_types::LayoutId;
use larder_types::object::{
    ChunkHash, KvRank, ObjectKey, ObjectKeyError, check_cache_salt, check_model_name, check_object_group,
};

use crate::codec::{Entry, Value};
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer, required};

/// Object keys of one call.
pub const OBJECT_KEYS_MAX: usize = 1 << 16;

/// Hand-written: its parts have rules of their own, and errors say which one is broken. The protocol has no layouts
/// here, so a decoded key has none.
impl Value for ObjectKey {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let (mut chunk_hash, mut model_name, mut kv_rank) = (None, None, None);
        let (mut object_group, mut cache_salt) = (0, "");
        reader.structure(field, |name, reader| {
            match name {
                b"chunk_hash" => chunk_hash = Some(ChunkHash::decode(reader, "chunk_hash")?),
                b"model_name" => model_name = Some(reader.name("model_name")?),
                b"kv_rank" => {
                    let value = reader.int("kv_rank")?;
                    let rank = u32::try_from(value).map_err(|_| ObjectKeyError::KvRank { kv_rank: value });
                    kv_rank = Some(KvRank(rank.map_err(DecodeError::object_key)?));
                }
                b"object_group_id" => {
                    let group = check_object_group(reader.int("object_group_id")?);
                    object_group = group.map_err(DecodeError::object_key)?;
                }
                b"cache_salt" => cache_salt = reader.str("cache_salt")?,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        let model_name = required("model_name", model_name)?;
        check_model_name(model_name).map_err(DecodeError::object_key)?;
        check_cache_salt(cache_salt).map_err(DecodeError::object_key)?;
        Ok(Self {
            chunk_hash: required("chunk_hash", chunk_hash)?,
            model_name: Arc::from(model_name),
            kv_rank: required("kv_rank", kv_rank)?,
            object_group,
            cache_salt: Arc::from(cache_salt),
            layout: LayoutId::UNKNOWN,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(5);
        writer.str("chunk_hash");
        self.chunk_hash.encode(writer);
        writer.str("model_name");
        writer.str(&self.model_name);
        writer.str("kv_rank");
        writer.uint(u64::from(self.kv_rank.0));
        writer.str("object_group_id");
        writer.uint(u64::from(self.object_group));
        writer.str("cache_salt");
        writer.str(&self.cache_salt);
    }
}

impl Entry for ObjectKey {
    const LIST_MAX: usize = OBJECT_KEYS_MAX;
}

impl Value for ChunkHash {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let hash = reader.bin(field)?;
        let source = ObjectKeyError::HashLength { bytes: hash.len() };
        Self::new(hash).ok_or(DecodeError::Key { field, source })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.bin(self.as_bytes());
    }
}

impl Entry for ChunkHash {
    const LIST_MAX: usize = 1 << 20;
}
