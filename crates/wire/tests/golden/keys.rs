//! `object_keys.json`.

use bytes::Bytes;
use larder_types::hash::{HashAlgorithm, TokenHasher};
use larder_types::object::{ChunkHash, ObjectKey, ObjectKeyError};
use larder_wire::codec::{Value as _, encode_frame};
use larder_wire::error::DecodeError;
use larder_wire::key::{CacheKey, KeyError};
use serde_json::Value;

use crate::support::{array, hashes, hex, number, object_key, records, text, tokens, unhex};

const FILE: &str = "object_keys.json";

fn of_kind(kind: &str) -> Vec<Value> {
    let records: Vec<Value> =
        records(FILE, "vectors").into_iter().filter(|record| record["kind"] == kind).collect();
    assert!(!records.is_empty(), "{FILE} has no records of kind {kind:?}");
    records
}

fn cache_key(value: &Value) -> CacheKey {
    assert!(value["request_configs"].is_null(), "{value}");
    CacheKey {
        model_name: text(value, "model_name").into(),
        world_size: number(value, "world_size") as u32,
        worker_id: value["worker_id"].as_u64().map(|worker_id| worker_id as u32),
        tokens: tokens(&value["token_ids"]).into(),
        start: number(value, "start"),
        end: number(value, "end"),
        request_id: text(value, "request_id").into(),
        cache_salt: text(value, "cache_salt").into(),
        request_configs: None,
        num_kv_readers: value["num_kv_readers"].as_i64(),
    }
}

fn decode(bytes: &[u8]) -> Result<CacheKey, DecodeError> {
    CacheKey::decode_payload(&Bytes::copy_from_slice(bytes), "key")
}

/// All objects of a key: group by group, in a group chunk by chunk, for a chunk rank by rank.
fn objects(
    key: &CacheKey,
    chunk_hashes: &[ChunkHash],
    groups: &[u32],
) -> Result<Vec<Vec<ObjectKey>>, KeyError> {
    let ranks = key.kv_ranks()?;
    let group = |&group: &u32| -> Result<Vec<ObjectKey>, KeyError> {
        let rows: Result<Vec<_>, _> =
            ranks.iter().map(|&rank| key.object_row(chunk_hashes, group, rank)).collect();
        let rows = rows?;
        Ok((0..chunk_hashes.len()).flat_map(|chunk| rows.iter().map(move |row| row[chunk].clone())).collect())
    };
    groups.iter().map(group).collect()
}

#[test]
fn keys_map_to_the_object_keys_of_the_reference() {
    let mut refused = 0;
    for record in of_kind("map") {
        let key = cache_key(&record["key"]);
        let chunk_tokens = number(&record, "chunk_size") as usize;
        let hasher = TokenHasher::new(HashAlgorithm::Blake3, chunk_tokens).expect("chunks have tokens");
        let chunks = key.worker_chunks(chunk_tokens).expect("an aligned range");
        let all = hasher.hash(key.tokens.hashable(usize::MAX).expect("tokens of 32 bits"));
        let chunk_hashes = hashes(&record, "chunk_hashes");
        assert_eq!(all[chunks], chunk_hashes, "{record}");
        let groups: Vec<u32> = tokens(&record["object_group_ids"]);
        if key.world_size > 255 {
            // The reference lets these overflow, and several ranks get the same name.
            let world_size = ObjectKeyError::WorldSize { world_size: key.world_size };
            assert_eq!(objects(&key, &chunk_hashes, &groups), Err(world_size.into()));
            refused += 1;
            continue;
        }
        let expected: Vec<Vec<ObjectKey>> = array(&record, "object_keys")
            .iter()
            .map(|group| {
                group.as_array().expect("a list").iter().map(|key| object_key(key).unwrap()).collect()
            })
            .collect();
        assert_eq!(objects(&key, &chunk_hashes, &groups), Ok(expected), "{record}");
    }
    assert_eq!(refused, 1);
}

#[test]
fn lookup_rows_equal_those_of_the_reference() {
    for record in of_kind("rows") {
        let key = cache_key(&record["key"]);
        let chunk_hashes = hashes(&record, "chunk_hashes");
        let rows = array(&record, "rows");
        let ranks = key.kv_ranks().expect("a world of 1 to 255");
        for (index, row) in rows.iter().enumerate() {
            // Rows go group by group, in a group rank by rank.
            let group = number(row, "object_group_id") as u32;
            let rank = ranks[index % ranks.len()];
            let expected: Option<Vec<ObjectKey>> = array(row, "keys").iter().map(object_key).collect();
            assert_eq!(key.object_row(&chunk_hashes, group, rank).ok(), expected, "{row}");
        }
    }
}

#[test]
fn keys_decode_and_encode_as_in_the_reference() {
    for record in of_kind("decode") {
        let note = text(&record, "note");
        let decoded = decode(&unhex(text(&record, "hex")));
        if record["accepted"] == false {
            assert!(decoded.is_err(), "{note} was accepted: {decoded:?}");
            continue;
        }
        let key = decoded.unwrap_or_else(|error| panic!("{note}: {error}"));
        let encoded = encode_frame(&key);
        if note == "defaulted fields absent" {
            // The reference omits the absent fields; this encoder writes all that an old client sends.
            assert_eq!(decode(&encoded), Ok(key), "{note}");
        } else {
            assert_eq!(hex(&encoded), text(&record, "reencoded"), "{note}");
        }
    }
}

#[test]
fn tokens_that_cannot_be_hashed_decode_but_do_not_hash() {
    let mut seen = 0;
    for record in of_kind("decode") {
        if text(&record, "note").starts_with("token id") && record["accepted"] == true {
            let key = decode(&unhex(text(&record, "hex"))).expect("accepted by the reference");
            assert!(key.tokens.hashable(usize::MAX).is_err(), "{record}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn keys_of_older_clients_get_their_readers_derived() {
    let absent = |record: &Value| record["note"] == "defaulted fields absent";
    let record = of_kind("decode").into_iter().find(absent).expect("the record");
    let mut key = decode(&unhex(text(&record, "hex"))).expect("accepted by the reference");
    assert_eq!(key.num_kv_readers, None);
    key.world_size = 2;
    for (tp_size, readers) in [(1, 1), (0, 1), (2, 1), (8, 8), (-1, 1)] {
        assert_eq!(key.kv_readers(tp_size), Ok(readers), "tp_size {tp_size}");
    }
    key.num_kv_readers = Some(3);
    assert_eq!(key.kv_readers(8), Ok(3));
    key.num_kv_readers = Some(-1);
    assert_eq!(key.kv_readers(8), Err(KeyError::Readers { readers: -1 }));
}
