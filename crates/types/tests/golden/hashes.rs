//! `token_hash.json`.

use larder_types::hash::{HashAlgorithm, TokenHasher};
use larder_types::object::ChunkHash;
use serde_json::Value;

use crate::support::{document, hash, hashes, number, records, text, tokens};

const FILE: &str = "token_hash.json";

fn hasher(record: &Value) -> TokenHasher {
    let seed = record["pythonhashseed"].as_str();
    let algorithm = HashAlgorithm::parse(text(record, "algorithm"), seed).expect("an algorithm");
    let chunk_tokens = usize::try_from(number(record, "chunk_size")).expect("a chunk size");
    TokenHasher::new(algorithm, chunk_tokens).expect("chunks have tokens")
}

#[test]
fn hashes_equal_those_of_the_reference() {
    let lists = &document(FILE)["token_lists"];
    let mut checked = 0;
    for record in records(FILE, "vectors") {
        if !matches!(record["algorithm"].as_str(), Some("blake3" | "sha256_cbor")) {
            continue;
        }
        let hasher = hasher(&record);
        assert_eq!(Some(hasher.none_hash()), hash(&record["none_hash"]), "{record}");
        let mut tokens = tokens(&lists[text(&record, "tokens")]);
        let mut first_chunk = 0;
        if let (Some(start), Some(end)) = (record["start"].as_u64(), record["end"].as_u64()) {
            tokens.truncate(end as usize);
            first_chunk = start as usize / hasher.chunk_tokens();
        }
        let prefix = record.get("prefix_hash").and_then(hash);
        let mut own: Vec<ChunkHash> = Vec::new();
        hasher.extend(prefix, &tokens, &mut own);
        assert_eq!(own.get(first_chunk..).unwrap_or_default(), hashes(&record, "hashes"), "{record}");
        checked += 1;
    }
    assert!(checked >= 60, "only {checked} records were used");
}

#[test]
fn refuses_the_builtin_hash() {
    let builtin = |record: &Value| record["algorithm"].as_str() == Some("builtin");
    let records: Vec<Value> = records(FILE, "vectors").into_iter().filter(builtin).collect();
    assert!(!records.is_empty());
    for record in records {
        assert!(HashAlgorithm::parse(text(&record, "algorithm"), None).is_err());
    }
}

/// The reference keeps the hashes of a session's first tokens when other tokens follow under the same
/// id. Hashing the second list by itself must not give those.
#[test]
fn hashes_do_not_depend_on_earlier_token_lists() {
    let session = records(FILE, "vectors").into_iter().find(|record| record["session"] == true);
    let session = session.expect("a session record");
    let all = tokens(&document(FILE)["token_lists"]["count300"]);
    let chunk_tokens = number(&session, "chunk_size") as usize;
    let hasher = TokenHasher::new(HashAlgorithm::Blake3, chunk_tokens).expect("chunks have tokens");
    assert_eq!(hasher.hash(&all[..32]), hashes(&session, "first"));
    let second: Vec<u32> = all[..64].iter().map(|token| token + 1).collect();
    let stale = hashes(&session, "second");
    assert_eq!(stale[..2], hashes(&session, "first"));
    let own = hasher.hash(&second);
    assert_ne!(own[..2], stale[..2]);
    // Its later chunks are hashed onto the stale ones.
    let mut continued = Vec::new();
    hasher.extend(Some(stale[1]), &second[32..], &mut continued);
    assert_eq!(continued, stale[2..]);
}
