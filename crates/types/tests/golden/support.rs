//! Reading vector files.

use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use serde_json::Value;

/// The records under `list` in a vector file.
pub(crate) fn records(file: &str, list: &str) -> Vec<Value> {
    let value = document(file);
    let records = value[list].as_array().cloned().unwrap_or_default();
    assert!(!records.is_empty(), "{file} has no records under {list:?}");
    records
}

/// A whole vector file.
pub(crate) fn document(file: &str) -> Value {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {record}"))
}

pub(crate) fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or_else(|| panic!("{field} is no number in {record}"))
}

pub(crate) fn array<'a>(record: &'a Value, field: &str) -> &'a [Value] {
    record[field].as_array().unwrap_or_else(|| panic!("{field} is no list in {record}"))
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd number of digits: {text}");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

pub(crate) fn hash(value: &Value) -> Option<ChunkHash> {
    ChunkHash::new(&unhex(value.as_str().expect("a hash is text")))
}

pub(crate) fn hashes(record: &Value, field: &str) -> Vec<ChunkHash> {
    array(record, field).iter().map(|value| hash(value).expect("1 to 32 bytes")).collect()
}

pub(crate) fn tokens(value: &Value) -> Vec<u32> {
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    let tokens = value.as_array().expect("tokens are a list").iter();
    tokens.map(|value| token(value).expect("a token of 32 bits")).collect()
}

/// An object key, or `None` if this implementation cannot hold it: an empty hash, or a rank above 32
/// bits, which the reference gets by letting large worlds overflow.
pub(crate) fn object_key(value: &Value) -> Option<ObjectKey> {
    let rank = u32::try_from(number(value, "kv_rank")).ok()?;
    let group = u32::try_from(number(value, "object_group_id")).ok()?;
    let key = ObjectKey::new(
        hash(&value["chunk_hash"])?,
        text(value, "model_name"),
        KvRank(rank),
        group,
        text(value, "cache_salt"),
    );
    Some(key.expect("the rules for keys are kept"))
}
