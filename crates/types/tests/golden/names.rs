//! `object_names.json`.

use larder_types::file_names::ObjectKeyJson;
use larder_types::object::ObjectKey;

use crate::support::{object_key, records, text};

const FILE: &str = "object_names.json";

#[test]
fn names_equal_those_of_the_reference() {
    let mut unsupported = Vec::new();
    let mut checked = 0;
    for record in records(FILE, "vectors") {
        if record["key"].is_null() {
            continue;
        }
        let Some(key) = object_key(&record["key"]) else {
            unsupported.push(text(&record, "native_key").to_owned());
            assert!(ObjectKey::from_file_name(text(&record, "fs_filename")).is_err());
            continue;
        };
        // Both `has/inside` and `has-SEP-inside` have this name in the reference.
        if &*key.model_name == "has-SEP-inside" {
            assert_ne!(key.file_name(), text(&record, "fs_filename"));
        } else {
            assert_eq!(key.file_name(), text(&record, "fs_filename"));
        }
        assert_eq!(key.native_key(), text(&record, "native_key"));
        let json = ObjectKeyJson::from(&key);
        assert_eq!(serde_json::to_value(&json).unwrap(), record["json"]);
        let read: ObjectKeyJson = serde_json::from_value(record["json"].clone()).unwrap();
        assert_eq!(ObjectKey::try_from(read), Ok(key));
        checked += 1;
    }
    // No hash of ours is empty and no rank exceeds 32 bits.
    assert_eq!(unsupported, ["empty-hash@00000000@0@", "m@100000000@0@abcd"]);
    assert!(checked >= 7, "only {checked} records were used");
}

#[test]
fn file_names_parse_as_in_the_reference() {
    let (mut keys, mut refused) = (0, 0);
    for record in records(FILE, "vectors") {
        let name = text(&record, "fs_filename");
        let parsed = ObjectKey::from_file_name(name);
        let expected = &record["filename_parses_back_to"];
        match (!expected.is_null()).then(|| object_key(expected)).flatten() {
            Some(key) => {
                assert_eq!(parsed, Ok(key), "{name}");
                keys += 1;
            }
            None => {
                assert!(parsed.is_err(), "{name} was read as {parsed:?}");
                refused += 1;
            }
        }
    }
    assert!(keys >= 9 && refused >= 5, "{keys} keys and {refused} refusals");
}

#[test]
fn reads_json_without_defaulted_fields() {
    let text = r#"{"chunk_hash_hex": "ab", "model_name": "m", "kv_rank": 1}"#;
    let json: ObjectKeyJson = serde_json::from_str(text).unwrap();
    let key = ObjectKey::try_from(json).unwrap();
    assert_eq!((key.object_group, &*key.cache_salt), (0, ""));
}
