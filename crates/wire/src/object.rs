//! Object keys: what names the stored bytes of one chunk.
//!
//! An *object* is the KV data of one chunk of tokens, for one object group, on one KV rank.

use std::fmt;
use std::sync::Arc;

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

/// Which piece of a chunk's KV data an object holds: `world_size << 24 | rank << 16 |
/// world_size << 8 | rank`, as LMCache packs it for one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KvRank(pub u32);

impl KvRank {
    /// Packs `rank` of `world_size`. Values above 255 run into the neighbouring byte, as in LMCache.
    pub const fn new(world_size: u32, rank: u32) -> Self {
        Self((world_size << 24) | (rank << 16) | (world_size << 8) | rank)
    }
}

/// Number of an object group: 0 unless a model's layers are split by attention window.
pub type ObjectGroup = u32;

/// Names one object everywhere: in L1, in L2 and on the wire.
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
}
