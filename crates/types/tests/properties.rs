//! Hashes equal those of simpler code, and names are read back.

use larder_types::dtype::DType;
use larder_types::file_names::ObjectKeyJson;
use larder_types::hash::{HashAlgorithm, TokenHasher};
use larder_types::layout::Layout;
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
    fn names_round_trip(key in object_key()) {
        prop_assert_eq!(ObjectKey::from_file_name(&key.file_name()), Ok(key.clone()));
        prop_assert_eq!(ObjectKey::from_native_key(&key.native_key()), Ok(key.clone()));
        prop_assert!(key.native_key().starts_with(&*key.model_name));
        let json = serde_json::to_string(&ObjectKeyJson::from(&key)).unwrap();
        let json: ObjectKeyJson = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(ObjectKey::try_from(json), Ok(key));
    }

    #[test]
    fn different_keys_have_different_names(a in object_key(), b in object_key()) {
        prop_assert_eq!(a == b, a.file_name() == b.file_name());
        prop_assert_eq!(a == b, a.native_key() == b.native_key());
    }

    #[test]
    fn models_differ_in_names_only(model in confusable(), other in confusable()) {
        let key = |model: &str| ObjectKey::new(ChunkHash::new(&[1]).unwrap(), model, KvRank(0), 0, "").unwrap();
        prop_assert_eq!(model == other, key(&model).file_name() == key(&other).file_name());
    }

    #[test]
    fn extended_names_do_not_depend_on_case_or_normalisation(key in object_key()) {
        let key = key.with_layout(Layout::new(&[1], DType::UInt8).unwrap().id());
        let name = key.file_name();
        prop_assert!(name.is_ascii() && !name.contains('/') && !name.contains('\0'));
        // Letters in upper case are those of escapes only.
        let decoded = name.split('%').skip(1).fold(name.clone(), |rest, escape| {
            rest.replacen(&format!("%{}", &escape[..2]), "", 1)
        });
        prop_assert!(!decoded.bytes().any(|byte| byte.is_ascii_uppercase()), "{}", name);
    }
}

/// Model names of the pieces that names are made of.
fn confusable() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "-SEP-", "-SEP", "SEP-", "-", "SEP", "a", "A", "%2F", "%", "~", ".data",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn object_key() -> impl Strategy<Value = ObjectKey> {
    let hash = prop::collection::vec(any::<u8>(), 1..=32);
    let model = prop_oneof!["[^@]{0,40}", confusable()];
    let salt = prop_oneof!["[^@/\\\\\0]{0,128}", Just(String::new()), Just("%".to_owned())];
    let layout = prop::option::of(1..4_u64);
    (hash, model, any::<u32>(), any::<u32>(), salt, layout).prop_map(
        |(hash, model, rank, group, salt, layout)| {
            let hash = ChunkHash::new(&hash).expect("1 to 32 bytes");
            let key = ObjectKey::new(hash, model, KvRank(rank), group, salt).expect("legal names");
            let layout = layout.map(|bytes| Layout::new(&[bytes], DType::UInt8).expect("a layout").id());
            key.with_layout(layout.unwrap_or_default())
        },
    )
}
