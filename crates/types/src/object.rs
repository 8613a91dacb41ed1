//! Object keys: the identity of an *object*, which is the KV data of one chunk of tokens, for one object
//! group, on one KV rank.

use std::fmt;
use std::sync::Arc;

use crate::layout::LayoutId;

/// The largest chunk hash accepted, in bytes. BLAKE3-256 and SHA-256 use all of it.
pub const HASH_BYTES_MAX: usize = 32;

/// Identifies one chunk of tokens and, because hashes are chained, everything before it.
///
/// Up to [`HASH_BYTES_MAX`] bytes, stored inline. Unused tail bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkHash {
    bytes: [u8; HASH_BYTES_MAX],
    len: u8,
}

impl ChunkHash {
    /// Wraps a 32-byte digest.
    pub const fn from_digest(bytes: [u8; HASH_BYTES_MAX]) -> Self {
        Self { bytes, len: HASH_BYTES_MAX as u8 }
    }

    /// Takes 1 to [`HASH_BYTES_MAX`] bytes; `None` for any other length.
    pub fn new(hash: &[u8]) -> Option<Self> {
        if hash.is_empty() || hash.len() > HASH_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; HASH_BYTES_MAX];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Self { bytes, len: hash.len() as u8 })
    }

    /// The hash as given.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The largest world size that a [`KvRank`] can hold.
pub const WORLD_SIZE_MAX: u32 = 255;

/// The longest cache salt, in characters.
pub const CACHE_SALT_CHARS_MAX: usize = 128;

/// Characters that a cache salt must not contain: they separate the parts of names.
const CACHE_SALT_FORBIDDEN: [char; 4] = ['@', '/', '\\', '\0'];

/// A broken rule for object keys. Most texts are those of the reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectKeyError {
    /// `@` separates the parts of names.
    #[error("model_name must not contain '@' (got {model_name:?})")]
    ModelName {
        /// The name as given.
        model_name: String,
    },
    /// The group is negative.
    #[error("object_group_id must be >= 0 (got {group})")]
    GroupNegative {
        /// The group as given.
        group: i128,
    },
    /// The group does not fit [`ObjectGroup`].
    #[error("object_group_id {group} is too large, the largest is {}", ObjectGroup::MAX)]
    GroupTooLarge {
        /// The group as given.
        group: i128,
    },
    /// One of the characters that separate the parts of names.
    #[error("cache_salt must not contain {{{character:?}}}")]
    SaltCharacter {
        /// The first such character.
        character: char,
    },
    /// The salt is too long.
    #[error("cache_salt exceeds max length {CACHE_SALT_CHARS_MAX} (got {chars})")]
    SaltLength {
        /// Characters in it.
        chars: usize,
    },
    /// The hash is empty or too long.
    #[error("chunk_hash must be 1 to {HASH_BYTES_MAX} bytes (got {bytes})")]
    HashLength {
        /// Bytes in it.
        bytes: usize,
    },
    /// The rank does not fit 32 bits.
    #[error("kv_rank {kv_rank} does not fit 32 bits")]
    KvRank {
        /// The rank as given.
        kv_rank: i128,
    },
    /// The world size does not fit its byte of a rank.
    #[error("world_size must be 1 to {WORLD_SIZE_MAX} (got {world_size})")]
    WorldSize {
        /// The world size as given.
        world_size: u32,
    },
    /// The rank is not one of the world.
    #[error("worker_id {rank} is not in a world of {world_size}")]
    Rank {
        /// The rank as given.
        rank: u32,
        /// The world size.
        world_size: u32,
    },
}

/// Checks a model name that is to become part of an object key.
pub fn check_model_name(model_name: &str) -> Result<(), ObjectKeyError> {
    if model_name.contains('@') {
        return Err(ObjectKeyError::ModelName { model_name: model_name.to_owned() });
    }
    Ok(())
}

/// Checks a cache salt.
pub fn check_cache_salt(cache_salt: &str) -> Result<(), ObjectKeyError> {
    if let Some(character) = cache_salt.chars().find(|c| CACHE_SALT_FORBIDDEN.contains(c)) {
        return Err(ObjectKeyError::SaltCharacter { character });
    }
    // A character takes at least one byte, so most salts need no counting.
    if cache_salt.len() > CACHE_SALT_CHARS_MAX {
        let chars = cache_salt.chars().count();
        if chars > CACHE_SALT_CHARS_MAX {
            return Err(ObjectKeyError::SaltLength { chars });
        }
    }
    Ok(())
}

/// Checks an object group that a peer sent.
pub fn check_object_group(group: i128) -> Result<ObjectGroup, ObjectKeyError> {
    if group < 0 {
        return Err(ObjectKeyError::GroupNegative { group });
    }
    ObjectGroup::try_from(group).map_err(|_| ObjectKeyError::GroupTooLarge { group })
}

/// Which piece of a chunk's KV data an object holds: `world_size << 24 | rank << 16 |
/// world_size << 8 | rank`, as LMCache packs it for one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KvRank(pub u32);

impl KvRank {
    /// Packs `rank` of `world_size`. Values above 255 overflow into the neighbouring byte, as in LMCache.
    pub const fn new(world_size: u32, rank: u32) -> Self {
        Self((world_size << 24) | (rank << 16) | (world_size << 8) | rank)
    }
}

impl KvRank {
    /// Packs `rank` of `world_size` if each fits its byte. LMCache packs larger numbers into neighbouring
    /// bytes, so that two ranks get the same name.
    pub fn checked(world_size: u32, rank: u32) -> Result<Self, ObjectKeyError> {
        if world_size == 0 || world_size > WORLD_SIZE_MAX {
            return Err(ObjectKeyError::WorldSize { world_size });
        }
        if rank >= world_size {
            return Err(ObjectKeyError::Rank { rank, world_size });
        }
        Ok(Self::new(world_size, rank))
    }

    /// The world size it was packed from.
    pub const fn world_size(self) -> u32 {
        self.0 >> 24
    }
}

/// Number of an object group: 0 unless a model's layers are split by attention window.
pub type ObjectGroup = u32;

/// Identifies one object in L1, in L2 and on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Hash of the chunk.
    pub chunk_hash: ChunkHash,
    /// The model as the engine names it; never contains `@`.
    pub model_name: Arc<str>,
    /// Which piece of the chunk's KV data.
    pub kv_rank: KvRank,
    /// Which group of layers.
    pub object_group: ObjectGroup,
    /// Isolation domain; empty for none.
    pub cache_salt: Arc<str>,
    /// How its bytes are to be read. [`LayoutId::UNKNOWN`] if the key comes from a place that does not say it.
    pub layout: LayoutId,
}

impl ObjectKey {
    /// A key of unknown layout, if the model name and the salt follow the rules ([`check_model_name`],
    /// [`check_cache_salt`]).
    pub fn new(
        chunk_hash: ChunkHash,
        model_name: impl Into<Arc<str>>,
        kv_rank: KvRank,
        object_group: ObjectGroup,
        cache_salt: impl Into<Arc<str>>,
    ) -> Result<Self, ObjectKeyError> {
        let (model_name, cache_salt) = (model_name.into(), cache_salt.into());
        check_model_name(&model_name)?;
        check_cache_salt(&cache_salt)?;
        let layout = LayoutId::UNKNOWN;
        Ok(Self { chunk_hash, model_name, kv_rank, object_group, cache_salt, layout })
    }

    /// The same object in that layout.
    #[must_use]
    pub fn with_layout(self, layout: LayoutId) -> Self {
        Self { layout, ..self }
    }
}
