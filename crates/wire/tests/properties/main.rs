//! Properties of what this crate reads and writes: round trips, agreement with simpler code, and no panic
//! whatever the bytes. The last also runs under cargo-fuzz, see `fuzz/`.

#[path = "../../fuzz/bodies.rs"]
mod bodies;
mod round_trips;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// Bytes of the golden vectors in the form each body takes.
struct Corpus {
    requests: Vec<Vec<u8>>,
    responses: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
    pickles: Vec<Vec<u8>>,
    names: Vec<Vec<u8>>,
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn document(file: &str) -> Value {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// All messages of one direction, without repetitions of the commonest.
fn messages(dir: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for file in ["frames_operations.json", "frames_operations_pickle.json", "frames_optional_operations.json"]
    {
        for step in list(&document(file)["steps"]) {
            for message in list(&step["messages"]).filter(|message| message["dir"] == dir) {
                let frames: Vec<Vec<u8>> =
                    list(&message["frames"]).filter_map(Value::as_str).map(unhex).collect();
                all.push(bodies::join(frames.iter().map(Vec::as_slice)));
            }
        }
    }
    assert!(!all.is_empty());
    all
}

static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let texts = |file: &str, field: &str| -> Vec<String> {
        let document = document(file);
        let texts: Vec<String> = list(&document["vectors"])
            .filter_map(|record| record[field].as_str().map(str::to_owned))
            .collect();
        assert!(!texts.is_empty(), "{file} has no {field}");
        texts
    };
    let keys = texts("object_keys.json", "hex");
    Corpus {
        requests: messages("c2s"),
        responses: messages("s2c"),
        keys: keys.iter().map(|key| [&[16, 0][..], &unhex(key)].concat()).collect(),
        pickles: texts("pickle.json", "hex").iter().map(|pickle| unhex(pickle)).collect(),
        names: texts("object_names.json", "fs_filename").into_iter().map(String::into_bytes).collect(),
    }
});

/// One change to a byte string.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<Index>().prop_map(Damage::Remove),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn damaged(samples: &[Vec<u8>], sample: Index, damages: &[Damage]) -> Vec<u8> {
    let mut bytes = sample.get(samples).clone();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match damage {
            Damage::Replace(at, byte) => bytes[at.index(len)] = *byte,
            Damage::Insert(at, byte) => bytes.insert(at.index(len), *byte),
            Damage::Remove(at) => drop(bytes.remove(at.index(len))),
            Damage::Cut(at) => bytes.truncate(at.index(len)),
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(len), to.index(len));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend_from_slice(&part);
            }
        }
    }
    bytes
}

#[test]
fn undamaged_samples_pass() {
    CORPUS.requests.iter().for_each(|bytes| bodies::request(bytes));
    CORPUS.responses.iter().for_each(|bytes| bodies::response(bytes));
    CORPUS.keys.iter().for_each(|bytes| bodies::key(bytes));
    CORPUS.pickles.iter().for_each(|bytes| bodies::pickle(bytes));
    CORPUS.names.iter().for_each(|bytes| bodies::file_name(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        bodies::request(&bytes);
        bodies::response(&bytes);
        bodies::key(&bytes);
        bodies::pickle(&bytes);
        bodies::file_name(&bytes);
    }

    #[test]
    fn no_damage_to_a_request_causes_a_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::request(&damaged(&CORPUS.requests, sample, &damages));
    }

    #[test]
    fn no_damage_to_a_response_causes_a_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::response(&damaged(&CORPUS.responses, sample, &damages));
    }

    #[test]
    fn no_damage_to_a_key_causes_a_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::key(&damaged(&CORPUS.keys, sample, &damages));
    }

    #[test]
    fn no_damage_to_a_pickle_causes_a_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..4),
    ) {
        bodies::pickle(&damaged(&CORPUS.pickles, sample, &damages));
    }

    #[test]
    fn no_damage_to_a_file_name_causes_a_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::file_name(&damaged(&CORPUS.names, sample, &damages));
    }
}
