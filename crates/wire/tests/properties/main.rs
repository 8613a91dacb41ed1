//! Properties of what this crate reads and writes: round trips, agreement with simpler code, and no panic
//! whatever the bytes. The functions of the last kind (`bodies`) are also fuzz targets, see `crates/fuzz`.

mod bodies;
mod corpus;
mod round_trips;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

use self::corpus::Corpus;

static CORPUS: LazyLock<Corpus> = LazyLock::new(Corpus::read);

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
    CORPUS.calls.iter().for_each(|bytes| bodies::grpc(bytes));
    CORPUS.keys.iter().for_each(|bytes| bodies::key(bytes));
    CORPUS.pickles.iter().for_each(|bytes| bodies::pickle(bytes));
    CORPUS.tensor_maps.iter().for_each(|bytes| bodies::tensor_map(bytes));
    CORPUS.names.iter().for_each(|bytes| bodies::file_name(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_cause_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        bodies::request(&bytes);
        bodies::response(&bytes);
        bodies::grpc(&bytes);
        bodies::key(&bytes);
        bodies::pickle(&bytes);
        bodies::tensor_map(&bytes);
        bodies::file_name(&bytes);
    }

    #[test]
    fn damaged_requests_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::request(&damaged(&CORPUS.requests, sample, &damages));
    }

    #[test]
    fn damaged_responses_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::response(&damaged(&CORPUS.responses, sample, &damages));
    }

    #[test]
    fn damaged_calls_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::grpc(&damaged(&CORPUS.calls, sample, &damages));
    }

    #[test]
    fn damaged_keys_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::key(&damaged(&CORPUS.keys, sample, &damages));
    }

    #[test]
    fn damaged_pickles_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..4),
    ) {
        bodies::pickle(&damaged(&CORPUS.pickles, sample, &damages));
    }

    #[test]
    fn damaged_tensor_maps_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::tensor_map(&damaged(&CORPUS.tensor_maps, sample, &damages));
    }

    #[test]
    fn damaged_file_names_cause_no_panic(
        sample in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
    ) {
        bodies::file_name(&damaged(&CORPUS.names, sample, &damages));
    }
}
