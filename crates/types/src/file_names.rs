//! Object keys as text: file names, keys of native connectors, and JSON.
//!
//! Servers and stores of the reference use the same names (`docs/formats.md`, "Object names").

use std::fmt::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::{
    ChunkHash, HASH_BYTES_MAX, KvRank, ObjectGroup, ObjectKey, ObjectKeyError, check_cache_salt,
    check_model_name,
};

/// Suffix of an object's file name.
pub const FILE_SUFFIX: &str = ".data";

/// Replaces `/` in the model name of a file name. Not reversible for models that contain it.
const SLASH: &str = "-SEP-";

/// A text that is not the name of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The suffix is missing.
    #[error("the name does not end in {FILE_SUFFIX:?}")]
    Suffix,
    /// Not four or five parts.
    #[error("the name has {parts} parts separated by '@', 4 or 5 are needed")]
    Parts {
        /// Parts in it.
        parts: usize,
    },
    /// A hexadecimal part has another character, or too many digits.
    #[error("{part} {text:?} is not a hexadecimal number of the right size")]
    Hex {
        /// Which part.
        part: &'static str,
        /// Its text.
        text: String,
    },
    /// The parts do not make a key.
    #[error(transparent)]
    Key(#[from] ObjectKeyError),
}

impl ObjectKey {
    /// Name of the file that holds the object:
    /// `MODEL@0xRRRRRRRR@G@HASH[@SALT].data`, with `/` in the model written as `-SEP-`.
    pub fn file_name(&self) -> String {
        let model_name = self.model_name.replace('/', SLASH);
        let mut name = self.joined(&model_name, "0x");
        name.push_str(FILE_SUFFIX);
        name
    }

    /// Key of native connectors and RESP servers: `MODEL@RRRRRRRR@G@HASH[@SALT]`.
    pub fn native_key(&self) -> String {
        self.joined(&self.model_name, "")
    }

    fn joined(&self, model_name: &str, rank_prefix: &str) -> String {
        // Five separators, two numbers of at most eight digits, the prefix and the suffix.
        let capacity = model_name.len() + 2 * HASH_BYTES_MAX + self.cache_salt.len() + 32;
        let mut name = String::with_capacity(capacity);
        name.push_str(model_name);
        let (rank, group, hash) = (self.kv_rank.0, self.object_group, self.chunk_hash);
        write!(name, "@{rank_prefix}{rank:08x}@{group:x}@{hash}").expect("writing to a String does not fail");
        if !self.cache_salt.is_empty() {
            name.push('@');
            name.push_str(&self.cache_salt);
        }
        name
    }

    /// Reads a key back from the name of a file. `-SEP-` always becomes `/`, and the `0x` before the
    /// rank may be missing, as in the reference.
    ///
    /// # Errors
    /// The name is not of that form. Directories contain other files too, so callers skip these.
    pub fn from_file_name(name: &str) -> Result<Self, NameError> {
        let stem = name.strip_suffix(FILE_SUFFIX).ok_or(NameError::Suffix)?;
        let parts: Vec<&str> = stem.splitn(7, '@').collect();
        let (model_name, rank, group, hash, salt) = match parts[..] {
            [model_name, rank, group, hash] => (model_name, rank, group, hash, ""),
            [model_name, rank, group, hash, salt] => (model_name, rank, group, hash, salt),
            _ => return Err(NameError::Parts { parts: parts.len() }),
        };
        let rank = parse_hex("kv_rank", rank.strip_prefix("0x").unwrap_or(rank))?;
        let group = parse_hex("object_group_id", group)?;
        let hash = parse_hash("chunk_hash", hash)?;
        Ok(Self::new(hash, model_name.replace(SLASH, "/"), KvRank(rank), group, salt)?)
    }
}

/// A number of up to eight hexadecimal digits.
fn parse_hex(part: &'static str, text: &str) -> Result<u32, NameError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u32::from_str_radix(text, 16).ok().filter(|_| digits);
    number.ok_or_else(|| NameError::Hex { part, text: text.to_owned() })
}

/// A chunk hash in hexadecimal digits.
fn parse_hash(part: &'static str, text: &str) -> Result<ChunkHash, NameError> {
    let refused = || NameError::Hex { part, text: text.chars().take(2 * HASH_BYTES_MAX + 2).collect() };
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(refused());
    }
    if digits.len() / 2 > HASH_BYTES_MAX {
        return Err(ObjectKeyError::HashLength { bytes: digits.len() / 2 }.into());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(refused);
    let mut bytes = [0; HASH_BYTES_MAX];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    let bytes = &bytes[..digits.len() / 2];
    ChunkHash::new(bytes).ok_or_else(|| ObjectKeyError::HashLength { bytes: bytes.len() }.into())
}

/// An object key in JSON, as in HTTP answers, events and durable state of the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectKeyJson {
    /// Hash of the chunk in lower-case hexadecimal digits.
    pub chunk_hash_hex: String,
    /// The model.
    pub model_name: Arc<str>,
    /// Which piece of the chunk's KV data.
    pub kv_rank: u32,
    /// Which group of layers.
    #[serde(default)]
    pub object_group_id: ObjectGroup,
    /// Isolation domain.
    #[serde(default = "no_salt")]
    pub cache_salt: Arc<str>,
}

fn no_salt() -> Arc<str> {
    Arc::from("")
}

impl From<&ObjectKey> for ObjectKeyJson {
    fn from(key: &ObjectKey) -> Self {
        Self {
            chunk_hash_hex: key.chunk_hash.to_string(),
            model_name: Arc::clone(&key.model_name),
            kv_rank: key.kv_rank.0,
            object_group_id: key.object_group,
            cache_salt: Arc::clone(&key.cache_salt),
        }
    }
}

impl TryFrom<ObjectKeyJson> for ObjectKey {
    type Error = NameError;

    fn try_from(json: ObjectKeyJson) -> Result<Self, NameError> {
        check_model_name(&json.model_name)?;
        check_cache_salt(&json.cache_salt)?;
        Ok(Self {
            chunk_hash: parse_hash("chunk_hash_hex", &json.chunk_hash_hex)?,
            model_name: json.model_name,
            kv_rank: KvRank(json.kv_rank),
            object_group: json.object_group_id,
            cache_salt: json.cache_salt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_hexadecimal_digits() {
        assert_eq!(parse_hex("n", "1F"), Ok(31));
        for text in ["", "+1", "-1", "1_0", " 1", "100000000", "0x1"] {
            assert!(parse_hex("n", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn refuses_names_of_other_files() {
        let refused = |name| ObjectKey::from_file_name(name).map_err(|error| error.to_string());
        assert!(refused("x.tmp").is_err_and(|text| text.contains(".data")));
        assert!(refused("m@1@0.data").is_err_and(|text| text.contains("3 parts")));
        assert!(refused("m@1@0@aaa.data").is_err_and(|text| text.contains("\"aaa\"")));
        assert!(refused("m@1@0@aa@a\\b.data").is_err_and(|text| text.contains("cache_salt")));
    }
}
