//! The cache key that most operations carry: which tokens of which model and rank.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{Value, decode_only};
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer, required};
use crate::tokens::{TokenError, Tokens};
use larder_types::LayoutId;
use larder_types::object::{
    ChunkHash, KvRank, ObjectGroup, ObjectKey, ObjectKeyError, WORLD_SIZE_MAX, check_cache_salt,
    check_model_name,
};

/// Readers of one object that a key may announce. Real deployments have a few dozen.
pub const KV_READERS_MAX: u32 = 1 << 16;

/// A cache key that decodes but cannot be used as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A bound of a worker's range is not on a chunk boundary.
    #[error("{field} {tokens} is not a multiple of the chunk size {chunk_tokens}")]
    Unaligned {
        /// `start` or `end`.
        field: &'static str,
        /// The bound as given.
        tokens: u64,
        /// Tokens per chunk.
        chunk_tokens: usize,
    },
    /// A worker's range ends behind the tokens.
    #[error("end {end} is behind the last of {tokens} tokens")]
    PastTokens {
        /// The end as given.
        end: u64,
        /// Count of tokens.
        tokens: usize,
    },
    /// A worker's call that names no worker.
    #[error("worker_id is nil, but only a worker can make this call")]
    NoWorker,
    /// The number of readers is negative or absurd.
    #[error("num_kv_readers must be 1 to {KV_READERS_MAX} (got {readers})")]
    Readers {
        /// The number as given.
        readers: i64,
    },
    /// A token that cannot be hashed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The model, rank or world of the key cannot be part of an object key.
    #[error(transparent)]
    Object(#[from] ObjectKeyError),
}

/// `IPCCacheServerKey` of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheKey {
    /// The model as the engine names it.
    pub model_name: Arc<str>,
    /// Number of distinct pieces that one chunk's KV data is split into.
    pub world_size: u32,
    /// Which piece; `None` in the scheduler's calls, for all of them.
    pub worker_id: Option<u32>,
    /// The tokens of the request from position 0, not only those of the range.
    pub tokens: Tokens,
    /// First token of the range.
    pub start: u64,
    /// Token after the range.
    pub end: u64,
    /// The session; not part of the identity.
    pub request_id: Arc<str>,
    /// Isolation domain; empty for none.
    pub cache_salt: Arc<str>,
    /// Settings passed through, as the MessagePack map that was sent; not part of the identity.
    pub request_configs: Option<Bytes>,
    /// How many workers will read each object; `None` from clients before 0.5.5. Not part of the
    /// identity. See [`CacheKey::kv_readers`].
    pub num_kv_readers: Option<i64>,
}

/// MessagePack's form of a boolean.
const TRUE: u8 = 0xc3;

/// Fields that a key always has.
const FIELDS: usize = 10;

/// Hand-written, because it is decoded in nearly every request and `num_kv_readers` may be left out.
///
/// Decoding fails if a required field is missing, a field has another type or is negative, a name is
/// longer than [`NAME_BYTES_MAX`](crate::msgpack::NAME_BYTES_MAX) or its kind, there are more tokens than
/// [`TOKENS_MAX`](crate::tokens::TOKENS_MAX), or the salt breaks the rules. Tokens
/// outside u32 decode; hashing them fails.
impl Value for CacheKey {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        Self::decode_with(reader, field, Bytes::copy_from_slice)
    }

    /// Tokens in bytes are a slice of the frame, not a copy.
    fn decode_payload(frame: &Bytes, field: &'static str) -> Result<Self, DecodeError> {
        decode_only(frame, field, |reader| Self::decode_with(reader, field, |bytes| frame.slice_ref(bytes)))
    }

    /// Every field in the reference's order. `num_kv_readers` is left out if it is `None`, as clients
    /// before 0.5.5 do.
    fn encode(&self, writer: &mut Writer) {
        writer.map(if self.num_kv_readers.is_some() { FIELDS } else { FIELDS - 1 });
        writer.str("model_name");
        writer.str(&self.model_name);
        writer.str("world_size");
        writer.uint(u64::from(self.world_size));
        writer.str("worker_id");
        match self.worker_id {
            Some(worker_id) => writer.uint(u64::from(worker_id)),
            None => writer.nil(),
        }
        match self.tokens.packed_bytes() {
            Some(bytes) => {
                writer.str("token_bytes");
                writer.bin(bytes);
            }
            None => {
                writer.str("token_ids");
                self.tokens.encode(writer);
            }
        }
        writer.str("start");
        writer.uint(self.start);
        writer.str("end");
        writer.uint(self.end);
        writer.str("request_id");
        writer.str(&self.request_id);
        writer.str("cache_salt");
        writer.str(&self.cache_salt);
        writer.str("request_configs");
        match &self.request_configs {
            Some(map) => writer.raw(map),
            None => writer.nil(),
        }
        if let Some(readers) = self.num_kv_readers {
            writer.str("num_kv_readers");
            writer.int(readers);
        }
    }
}

impl CacheKey {
    /// `keep` makes bytes of a part of the frame.
    fn decode_with(
        reader: &mut Reader<'_>,
        field: &'static str,
        keep: impl Fn(&[u8]) -> Bytes,
    ) -> Result<Self, DecodeError> {
        let (mut model_name, mut world_size, mut worker_id) = (None, None, None);
        let (mut token_ids, mut token_bytes) = (None, None);
        let (mut start, mut end, mut request_id) = (None, None, None);
        let (mut cache_salt, mut request_configs, mut num_kv_readers) = ("", None, None);
        reader.structure(field, |name, reader| {
            match name {
                b"model_name" => model_name = Some(reader.name("model_name")?),
                b"world_size" => world_size = Some(reader.u32("world_size")?),
                b"worker_id" if reader.nil() => worker_id = Some(None),
                b"worker_id" => worker_id = Some(Some(reader.u32("worker_id")?)),
                b"token_ids" => token_ids = Some(Tokens::decode(reader, "token_ids")?),
                b"token_bytes" => {
                    token_bytes = Some(Tokens::packed(keep(reader.bin("token_bytes")?), "token_bytes")?);
                }
                b"start" => start = Some(reader.u64("start")?),
                b"end" => end = Some(reader.u64("end")?),
                b"request_id" => request_id = Some(reader.name("request_id")?),
                b"cache_salt" => cache_salt = reader.str("cache_salt")?,
                b"request_configs" => request_configs = decode_request_configs(reader)?,
                b"num_kv_readers" => num_kv_readers = Some(reader.i64("num_kv_readers")?),
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        check_cache_salt(cache_salt).map_err(|source| DecodeError::Key { field: "cache_salt", source })?;
        Ok(Self {
            model_name: required("model_name", model_name)?.into(),
            world_size: required("world_size", world_size)?,
            worker_id: required("worker_id", worker_id)?,
            tokens: match (token_ids, token_bytes) {
                (Some(_), Some(_)) => {
                    return Err(DecodeError::Both { one: "token_ids", other: "token_bytes" });
                }
                (ids, bytes) => required("token_ids or token_bytes", ids.or(bytes))?,
            },
            start: required("start", start)?,
            end: required("end", end)?,
            request_id: required("request_id", request_id)?.into(),
            cache_salt: cache_salt.into(),
            request_configs: request_configs.map(Bytes::copy_from_slice),
            num_kv_readers,
        })
    }

    /// Whether both keys identify the same data: all fields but the request, its settings and the number
    /// of readers are equal.
    pub fn same_identity(&self, other: &Self) -> bool {
        self.model_name == other.model_name
            && self.world_size == other.world_size
            && self.worker_id == other.worker_id
            && self.start == other.start
            && self.end == other.end
            && self.cache_salt == other.cache_salt
            && self.tokens == other.tokens
    }

    /// Whole chunks of a lookup: those before `end` and within the tokens. `start` does not matter.
    /// `chunk_tokens` of 0 gives no chunks.
    pub fn lookup_chunks(&self, chunk_tokens: usize) -> usize {
        let end = usize::try_from(self.end).unwrap_or(usize::MAX).min(self.tokens.len());
        end.checked_div(chunk_tokens).unwrap_or(0)
    }

    /// The chunks of a worker's range, counted from token 0. Empty if the range ends where or before it
    /// starts.
    ///
    /// # Errors
    /// A bound is not a multiple of `chunk_tokens`, or the range ends behind the tokens.
    pub fn worker_chunks(&self, chunk_tokens: usize) -> Result<Range<usize>, KeyError> {
        let start = chunk_of("start", self.start, chunk_tokens)?;
        let end = chunk_of("end", self.end, chunk_tokens)?;
        if self.end > self.tokens.len() as u64 {
            return Err(KeyError::PastTokens { end: self.end, tokens: self.tokens.len() });
        }
        // Both are now at most the count of tokens.
        Ok(start.min(end) as usize..end as usize)
    }

    /// The ranks that the key covers: its worker's, or all of the world for a scheduler's key.
    ///
    /// # Errors
    /// The world is empty or too large for a [`KvRank`], or the worker is outside it.
    pub fn kv_ranks(&self) -> Result<Vec<KvRank>, KeyError> {
        if self.world_size == 0 || self.world_size > WORLD_SIZE_MAX {
            return Err(ObjectKeyError::WorldSize { world_size: self.world_size }.into());
        }
        let ranks = match self.worker_id {
            Some(worker_id) => vec![KvRank::checked(self.world_size, worker_id)?],
            None => (0..self.world_size).map(|rank| KvRank::new(self.world_size, rank)).collect(),
        };
        Ok(ranks)
    }

    /// The rank of a worker's key.
    ///
    /// # Errors
    /// The key names no worker, or [`CacheKey::kv_ranks`] refuses it.
    pub fn worker_rank(&self) -> Result<KvRank, KeyError> {
        Ok(KvRank::checked(self.world_size, self.worker_id.ok_or(KeyError::NoWorker)?)?)
    }

    /// The object keys of `hashes` for one object group and rank.
    ///
    /// # Errors
    /// The model name contains `@`.
    pub fn object_row(
        &self,
        hashes: &[ChunkHash],
        object_group: ObjectGroup,
        kv_rank: KvRank,
    ) -> Result<Vec<ObjectKey>, KeyError> {
        check_model_name(&self.model_name)?;
        let key = |&chunk_hash: &ChunkHash| ObjectKey {
            chunk_hash,
            model_name: Arc::clone(&self.model_name),
            kv_rank,
            object_group,
            cache_salt: Arc::clone(&self.cache_salt),
            layout: LayoutId::UNKNOWN,
        };
        Ok(hashes.iter().map(key).collect())
    }

    /// Whether the request wants nothing to be loaded (`lmcache.skip_load`, from 0.5.7 on).
    pub fn skips_load(&self) -> bool {
        let Some(map) = &self.request_configs else { return false };
        let mut skips = false;
        // It was read before.
        let _ = Reader::new(map).structure("request_configs", |name, reader| {
            match name {
                b"lmcache.skip_load" => skips = reader.raw("request_configs")? == [TRUE],
                _ => reader.skip("request_configs")?,
            }
            Ok(())
        });
        skips
    }

    /// How many workers will read each object. Clients before 0.5.5 do not send it; for them it follows
    /// from `tp_size`, the second payload of the lookup, by the rule of the servers of that time.
    ///
    /// # Errors
    /// The number is negative or above [`KV_READERS_MAX`].
    pub fn kv_readers(&self, tp_size: i64) -> Result<u32, KeyError> {
        let readers = match self.num_kv_readers {
            Some(readers) if readers != 0 => readers,
            _ => {
                let world_size = i64::from(self.world_size);
                let tp_size = if tp_size > 1 { tp_size } else { world_size };
                if tp_size > world_size { tp_size } else { 1 }
            }
        };
        match u32::try_from(readers) {
            Ok(count @ 1..=KV_READERS_MAX) => Ok(count),
            _ => Err(KeyError::Readers { readers }),
        }
    }
}

/// Checks that `tokens` is on a chunk boundary and returns which.
fn chunk_of(field: &'static str, tokens: u64, chunk_tokens: usize) -> Result<u64, KeyError> {
    match (tokens.checked_rem(chunk_tokens as u64), tokens.checked_div(chunk_tokens as u64)) {
        (Some(0), Some(chunk)) => Ok(chunk),
        _ => Err(KeyError::Unaligned { field, tokens, chunk_tokens }),
    }
}

/// Reads a map with text keys or nil, and returns its bytes.
fn decode_request_configs<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    if reader.nil() {
        return Ok(None);
    }
    let before = reader.rest();
    reader.structure("request_configs", |_, reader| reader.skip("request_configs"))?;
    Ok(Some(&before[..before.len() - reader.rest().len()]))
}
