//! Object keys as text: file names, keys of native connectors, and JSON.
//!
//! Servers and stores of the reference use the same names (`docs/formats.md`, "Object names").

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::layout::LayoutId;
use crate::object::{
    ChunkHash, HASH_BYTES_MAX, KvRank, ObjectGroup, ObjectKey, ObjectKeyError, check_cache_salt,
    check_model_name,
};

/// Suffix of an object's file name.
pub const FILE_SUFFIX: &str = ".data";

/// Replaces `/` in the model name of a plain file name.
const SLASH: &str = "-SEP-";

/// A text that is not the name of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The suffix is missing.
    #[error("the name does not end in {FILE_SUFFIX:?}")]
    Suffix,
    /// Not four to six parts.
    #[error("the name has {parts} parts separated by '@', 4 to 6 are needed")]
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
    /// The percent escapes of a part are not those of UTF-8.
    #[error("{part} {text:?} is not UTF-8 with percent escapes")]
    Escape {
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
    /// Name of the file that holds the object. Each key has its own, and [`from_file_name`](Self::from_file_name)
    /// reads it back.
    ///
    /// - A *plain* name, as the reference writes it, if the layout is not known: `MODEL@0xRRRRRRRR@G@HASH[@SALT].data`,
    ///   with `/` in the model written as `-SEP-`.
    /// - An *extended* name if the layout is known, or if the model's plain name would read back as another model:
    ///   `MODEL@0xRRRRRRRR@G@HASH@SALT@[LAYOUT].data`, model and salt with percent escapes. It has six parts, so
    ///   the reference ignores it.
    pub fn file_name(&self) -> String {
        let plain_model = self.plain_model().filter(|_| !self.layout.is_known());
        let mut name = if let Some(model) = plain_model {
            self.joined(&model, "0x", &self.cache_salt, None)
        } else {
            let escaped = |text| utf8_percent_encode(text, ESCAPED).to_string();
            self.joined(&escaped(&self.model_name), "0x", &escaped(&self.cache_salt), Some(self.layout))
        };
        name.push_str(FILE_SUFFIX);
        name
    }

    /// The model name as plain file names write it. `None` if it would read back as another one, so that the model's
    /// objects have no plain names.
    pub fn plain_model(&self) -> Option<String> {
        let plain = self.model_name.replace('/', SLASH);
        let reads_back = !plain.contains(SLASH) || plain.replace(SLASH, "/") == *self.model_name;
        reads_back.then_some(plain)
    }

    /// Key of native connectors and RESP servers: `MODEL@RRRRRRRR@G@HASH[@SALT]`, as in the reference, if the layout
    /// is not known, otherwise `MODEL@RRRRRRRR@G@HASH@SALT@LAYOUT`.
    pub fn native_key(&self) -> String {
        let layout = self.layout.is_known().then_some(self.layout);
        self.joined(&self.model_name, "", &self.cache_salt, layout)
    }

    fn joined(&self, model: &str, rank_prefix: &str, salt: &str, layout: Option<LayoutId>) -> String {
        // Six separators, two numbers of at most eight digits, the layout, the prefix and the suffix.
        let capacity = model.len() + 2 * HASH_BYTES_MAX + salt.len() + LayoutId::DIGITS + 32;
        let mut name = String::with_capacity(capacity);
        name.push_str(model);
        let (rank, group, hash) = (self.kv_rank.0, self.object_group, self.chunk_hash);
        write!(name, "@{rank_prefix}{rank:08x}@{group:x}@{hash}").expect("writing to a String does not fail");
        if !salt.is_empty() || layout.is_some() {
            name.push('@');
            name.push_str(salt);
        }
        if let Some(layout) = layout {
            name.push('@');
            if layout.is_known() {
                write!(name, "{layout}").expect("writing to a String does not fail");
            }
        }
        name
    }

    /// Reads a key back from the name of a file, plain or extended. In a plain one `-SEP-` always becomes `/`. The
    /// `0x` before the rank may be missing, as in the reference.
    ///
    /// # Errors
    /// The name is not of that form. Directories contain other files too, so callers skip these.
    pub fn from_file_name(name: &str) -> Result<Self, NameError> {
        let stem = name.strip_suffix(FILE_SUFFIX).ok_or(NameError::Suffix)?;
        let parts = Parts::of(stem)?;
        let (model, salt) = if parts.is_extended {
            (unescape("model_name", parts.model)?, unescape("cache_salt", parts.salt)?)
        } else {
            (parts.model.replace(SLASH, "/").into(), parts.salt.into())
        };
        parts.key(&model, &salt)
    }

    /// Reads a [native key](Self::native_key) back.
    ///
    /// # Errors
    /// The text is not of that form.
    pub fn from_native_key(text: &str) -> Result<Self, NameError> {
        let parts = Parts::of(text)?;
        parts.key(parts.model, parts.salt)
    }
}

/// Characters of a model or a salt that an extended name escapes: all but lower-case letters, digits and a few others,
/// so that file systems that ignore case or normalise Unicode keep names apart. `~` is never written, so that a part
/// that begins with it can stand for something else.
const ESCAPED: &AsciiSet = &{
    let mut set = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
    let mut letter = b'A';
    while letter <= b'Z' {
        set = set.add(letter);
        letter += 1;
    }
    set
};

fn unescape<'a>(part: &'static str, text: &'a str) -> Result<Cow<'a, str>, NameError> {
    let escape = |_| NameError::Escape { part, text: text.to_owned() };
    percent_decode_str(text).decode_utf8().map_err(escape)
}

/// The parts of a name.
struct Parts<'a> {
    model: &'a str,
    rank: &'a str,
    group: &'a str,
    hash: &'a str,
    salt: &'a str,
    layout: LayoutId,
    is_extended: bool,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.splitn(7, '@').collect();
        let (model, rank, group, hash, salt, layout) = match parts[..] {
            [model, rank, group, hash] => (model, rank, group, hash, "", None),
            [model, rank, group, hash, salt] => (model, rank, group, hash, salt, None),
            [model, rank, group, hash, salt, layout] => (model, rank, group, hash, salt, Some(layout)),
            _ => return Err(NameError::Parts { parts: parts.len() }),
        };
        let is_extended = layout.is_some();
        let layout = match layout.unwrap_or_default() {
            "" => LayoutId::UNKNOWN,
            text => LayoutId::parse(text)
                .ok_or_else(|| NameError::Hex { part: "layout", text: text.to_owned() })?,
        };
        Ok(Self { model, rank, group, hash, salt, layout, is_extended })
    }

    fn key(&self, model: &str, salt: &str) -> Result<ObjectKey, NameError> {
        let rank = parse_hex("kv_rank", self.rank.strip_prefix("0x").unwrap_or(self.rank))?;
        let group = parse_hex("object_group_id", self.group)?;
        let hash = parse_hash("chunk_hash", self.hash)?;
        Ok(ObjectKey::new(hash, model, KvRank(rank), group, salt)?.with_layout(self.layout))
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
    /// The layout in hexadecimal digits; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
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
            layout: key.layout.is_known().then(|| key.layout.to_string()),
        }
    }
}

impl TryFrom<ObjectKeyJson> for ObjectKey {
    type Error = NameError;

    fn try_from(json: ObjectKeyJson) -> Result<Self, NameError> {
        check_model_name(&json.model_name)?;
        check_cache_salt(&json.cache_salt)?;
        let layout = json.layout.filter(|text| !text.is_empty()).map_or(Ok(LayoutId::UNKNOWN), |text| {
            LayoutId::parse(&text).ok_or(NameError::Hex { part: "layout", text })
        })?;
        Ok(Self {
            chunk_hash: parse_hash("chunk_hash_hex", &json.chunk_hash_hex)?,
            model_name: json.model_name,
            kv_rank: KvRank(json.kv_rank),
            object_group: json.object_group_id,
            cache_salt: json.cache_salt,
            layout,
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
