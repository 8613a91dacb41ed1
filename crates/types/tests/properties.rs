//! Hashes equal those of simpler code, and names are read back.

use larder_types::file_names::ObjectKeyJson;
use larder_types::hash::{HashAlgorithm, TokenHasher};
use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use proptest::prelude::*;

proptest! {
    #[test]
    fn hashes_equal_those_of_a_plain_loop(
        tokens in prop::collection::vec(any::<u32>(), 0..200), chunk in 1..40_usize, split in 0..10_usize,
    ) {
        let hasher = TokenHasher::new(HashAlgorithm::Blake3, chunk).unwrap();
        let mut prefix = blake3::hash(&[0; 12]);
        let mut plain = Vec::new();
        for chunk in tokens.chunks_exact(chunk) {
            let mut state = blake3::Hasher::new();
            state.update(prefix.as_bytes());
            chunk.iter().for_each(|token| { state.update(&token.to_be_bytes()); });
            prefix = state.finalize();
            plain.push(ChunkHash::from_digest(*prefix.as_bytes()));
        }
        prop_assert_eq!(&hasher.hash(&tokens), &plain);
        let split = split.min(plain.len());
        let mut pieces = hasher.hash(&tokens[..split * chunk]);
        hasher.extend(pieces.last().copied(), &tokens[split * chunk..], &mut pieces);
        prop_assert_eq!(pieces, plain);
    }

    #[test]
    fn names_round_trip(
        hash in prop::collection::vec(any::<u8>(), 1..=32), model in "[^@]{0,40}", rank: u32, group: u32,
        salt in "[^@/\\\\\0]{0,128}",
    ) {
        // Other models do not read back, as in the reference.
        prop_assume!(model.replace('/', "-SEP-").replace("-SEP-", "/") == model);
        let key = ObjectKey::new(ChunkHash::new(&hash).unwrap(), model.as_str(), KvRank(rank), group, salt);
        let key = key.unwrap();
        prop_assert_eq!(ObjectKey::from_file_name(&key.file_name()), Ok(key.clone()));
        prop_assert!(key.native_key().starts_with(&*key.model_name));
        let json = serde_json::to_string(&ObjectKeyJson::from(&key)).unwrap();
        let json: ObjectKeyJson = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(ObjectKey::try_from(json), Ok(key));
    }
}
