//! `frames_*.json`: conversations between stock clients and the reference, in both directions.

use larder_wire::error::DecodeError;
use larder_wire::key::CacheKey;
use larder_wire::message::{Envelope, Incoming, ResponseMessage, request_frames, stream_control_frames};
use larder_wire::msgpack::Reader;
use larder_wire::operation::{Operation, OperationError};
use larder_wire::ops::{
    Clear, CommitRetrieve, CommitStore, FreeLookupLocks, GetExperimental, Lookup, PrepareRetrieve,
    PrepareStore, Retrieve, Store,
};
use larder_wire::request::Request;
use serde_json::{Value, json};

use crate::bodies::recode;
use crate::support::{array, document, frames, records, text};

const STEPWISE: [&str; 4] = [
    "frames_operations.json",
    "frames_operations_pickle.json",
    "frames_optional_operations.json",
    "frames_scenarios.json",
];

const VLLM: [&str; 4] = [
    "frames_vllm_engine_driven_shm.json",
    "frames_vllm_kv_events.json",
    "frames_vllm_lmcache_driven_cpu_shm.json",
    "frames_vllm_prefix_caching.json",
];

/// Steps whose request is no operation.
const UNKNOWN_OPERATIONS: [&str; 3] =
    ["operation id is a float", "unknown legacy id", "unknown operation name"];

/// Steps whose payloads are refused.
const REFUSED: [&str; 5] = [
    "payload is not msgpack",
    "payload of the wrong type",
    "text that is no number where a plain int is declared",
    "text where int or nil is declared is refused",
    "too many payloads",
];

/// Steps with a request that no client of 0.5.6 would send in these bytes.
const NOT_CANONICAL: [&str; 13] = [
    "a float where a plain int is declared is truncated",
    "bool payload given as int",
    "get_experimental id of 0.5.3 and 0.5.4",
    "lookup without num_kv_readers (clients before 0.5.5)",
    "lookup without num_kv_readers (clients before 0.5.5), unregistered model",
    "nil where a plain bool is declared is false",
    "operation frame is echoed byte for byte",
    "operation name instead of the legacy id",
    "register without num_physical_slots (clients before 0.5.5)",
    "text where a plain int is declared is converted",
    "too few payloads (clear as 0.5.5 sends it)",
    "uid frame is echoed byte for byte",
    "uid may be any msgpack value: it is echoed",
];

/// Every message of every file with the note of its step, which vLLM's conversations do not have.
fn messages() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for file in STEPWISE {
        let before = all.len();
        for step in records(file, "steps") {
            let note = text(&step, "note").to_owned();
            all.extend(array(&step, "messages").iter().map(|message| (note.clone(), message.clone())));
        }
        assert!(all.len() > before, "{file} has no messages");
    }
    for file in VLLM {
        all.extend(records(file, "messages").into_iter().map(|message| (String::new(), message)));
    }
    all
}

fn requests() -> Vec<(String, Value)> {
    messages().into_iter().filter(|(_, message)| message["dir"] == "c2s").collect()
}

fn decode_uid(envelope: &Envelope) -> Option<u64> {
    Reader::new(&envelope.uid).u64("uid").ok()
}

#[test]
fn requests_decode_and_encode_to_the_same_frames() {
    let (mut unknown, mut refused, mut not_canonical, mut same) = (vec![], vec![], vec![], 0);
    for (note, message) in requests() {
        let frames = frames(&message);
        let incoming =
            Incoming::from_frames(frames.clone()).unwrap_or_else(|error| panic!("{note}: {error}"));
        let (envelope, payloads) = match incoming {
            Incoming::Request { envelope, payloads } => (envelope, payloads),
            Incoming::Stream { uid, control } => {
                let uid = Reader::new(&uid).u64("uid").unwrap();
                assert_eq!(stream_control_frames(uid, control), frames, "{note}");
                continue;
            }
        };
        let operation = match envelope.operation() {
            Ok(operation) => operation,
            Err(OperationError::Unknown(_) | OperationError::Malformed) => {
                unknown.push(note);
                continue;
            }
        };
        let request = match Request::decode(operation, &payloads) {
            Ok(request) => request,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused.push(note);
                continue;
            }
        };
        assert_eq!(request.operation(), operation);
        let again = Request::decode(operation, &request.encode());
        assert_eq!(again.as_ref(), Ok(&request), "{note}");
        match decode_uid(&envelope).map(|uid| request_frames(uid, &request)) {
            Some(encoded) if encoded == frames => same += 1,
            _ => not_canonical.push(note),
        }
    }
    unknown.sort();
    assert_eq!(unknown, UNKNOWN_OPERATIONS);
    refused.sort();
    assert_eq!(refused, REFUSED);
    not_canonical.sort();
    not_canonical.dedup();
    assert_eq!(not_canonical, NOT_CANONICAL);
    assert!(same > 250, "only {same} requests were compared");
}

#[test]
fn responses_decode_and_encode_to_the_same_frames() {
    let mut same = 0;
    for (note, message) in messages() {
        if message["dir"] != "s2c" {
            continue;
        }
        let frames = frames(&message);
        let response = ResponseMessage::from_frames(frames.clone()).unwrap();
        let operation = response.envelope.operation().unwrap_or_else(|error| panic!("{note}: {error}"));
        let result = recode(operation, &response.result).unwrap_or_else(|error| panic!("{note}: {error}"));
        assert_eq!(response.envelope.response(result), frames, "{note}");
        same += 1;
    }
    assert!(same > 250, "only {same} responses were compared");
}

/// Operations that have a vector; the others are compared with the reference in the interop tests only.
const OPERATIONS_WITH_VECTORS: usize = 33;

#[test]
fn vectors_cover_most_operations() {
    let mut seen: Vec<Operation> = requests()
        .iter()
        .filter_map(|(_, message)| Operation::decode(frames(message).get(1)?).ok())
        .collect();
    seen.sort();
    seen.dedup();
    assert!(seen.len() >= OPERATIONS_WITH_VECTORS, "{seen:?}");
}

/// The cache key, for the operations that carry one.
fn cache_key(request: &Request) -> Option<&CacheKey> {
    match request {
        Request::Store(Store { key, .. })
        | Request::Retrieve(Retrieve { key, .. })
        | Request::Lookup(Lookup { key, .. })
        | Request::FreeLookupLocks(FreeLookupLocks { key, .. })
        | Request::PrepareStore(PrepareStore { key, .. })
        | Request::CommitStore(CommitStore { key, .. })
        | Request::PrepareRetrieve(PrepareRetrieve { key, .. })
        | Request::CommitRetrieve(CommitRetrieve { key, .. }) => Some(key),
        _ => None,
    }
}

#[test]
fn decoded_values_equal_those_of_the_vectors() {
    let mut checked = 0;
    for (note, message) in requests() {
        let Ok(Incoming::Request { envelope, payloads }) = Incoming::from_frames(frames(&message)) else {
            continue;
        };
        let Some(request) = envelope.operation().ok().and_then(|op| Request::decode(op, &payloads).ok())
        else {
            continue;
        };
        let Some(key) = cache_key(&request) else { continue };
        let expected = &message["decoded"]["payloads"][0];
        let own = json!({
            "model_name": &*key.model_name,
            "world_size": key.world_size,
            "worker_id": key.worker_id,
            "token_ids": key.tokens.hashable(usize::MAX).expect("tokens of 32 bits").to_vec(),
            "start": key.start,
            "end": key.end,
            "request_id": &*key.request_id,
            "cache_salt": &*key.cache_salt,
        });
        for (field, value) in own.as_object().expect("an object") {
            assert_eq!(&expected[field], value, "{note}: {field}");
        }
        assert_eq!(key.num_kv_readers, expected["num_kv_readers"].as_i64(), "{note}");
        assert_eq!(key.request_configs.is_some(), expected["request_configs"].is_object(), "{note}");
        checked += 1;
    }
    assert!(checked > 100, "only {checked} keys were compared");
}

#[test]
fn accepts_requests_of_older_clients() {
    let step = |note: &str| {
        let (_, message) = requests().into_iter().find(|(own, _)| own == note).expect("the step");
        let Ok(Incoming::Request { envelope, payloads }) = Incoming::from_frames(frames(&message)) else {
            panic!("{note} is no request")
        };
        Request::decode(envelope.operation().unwrap(), &payloads).unwrap()
    };
    assert_eq!(step("get_experimental id of 0.5.3 and 0.5.4"), GetExperimental.into());
    assert_eq!(step("too few payloads (clear as 0.5.5 sends it)"), Clear { force: false }.into());
    let Request::Lookup(Lookup { key, tp_size }) =
        step("lookup without num_kv_readers (clients before 0.5.5)")
    else {
        panic!("no lookup")
    };
    assert_eq!(key.num_kv_readers, None);
    assert_eq!(key.kv_readers(tp_size), Ok(1));
}

#[test]
fn chunk_size_answer_equals_that_of_the_file() {
    let size = document("frames_operations.json")["chunk_size"].as_i64();
    let (_, answer) = messages()
        .into_iter()
        .find(|(note, message)| note == "get_chunk_size" && message["dir"] == "s2c")
        .expect("the step");
    let message = ResponseMessage::from_frames(frames(&answer)).unwrap();
    assert_eq!(message.result.decode::<i64>().ok(), size);
    assert_eq!(
        message.result.decode::<bool>(),
        Err(DecodeError::Type { field: "result", expected: "a boolean", found: "an integer" })
    );
}
