//! `frames_057_groups_*.jsonl`: workers with several groups of layers, as LMCache 0.5.7rc2 and its server speak. One message
//! a line: connection, direction, frames.

use bytes::Bytes;
use larder_wire::message::request_frames;
use larder_wire::operation::Operation;
use larder_wire::request::Request;
use larder_wire::response::ResultFrame;
use serde_json::Value;

use crate::bodies::recode;
use crate::support::{array, text, unhex};

fn messages(file: &str) -> Vec<(String, Vec<Bytes>)> {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let message = |line: &str| {
        let message: Value = serde_json::from_str(line).expect("one message a line");
        let frame = |frame: &Value| Bytes::from(unhex(frame.as_str().expect("a frame is text")));
        (text(&message, "d").to_owned(), array(&message, "f").iter().map(frame).collect())
    };
    lines.lines().map(message).collect()
}

#[test]
fn requests_and_answers_decode_and_encode_to_the_same_frames() {
    let mut seen = Vec::new();
    for file in ["frames_057_groups_swa.jsonl", "frames_057_groups_subchunk.jsonl"] {
        for (direction, frames) in messages(file) {
            let operation = Operation::decode(&frames[1]).expect("an operation of today");
            if direction == "c2s" {
                let request = Request::decode(operation, &frames[2..]);
                let request = request.unwrap_or_else(|error| panic!("{file}: {operation}: {error}"));
                let encoded = request_frames(0, &request);
                // An empty list of further ranges is not written.
                let is_short = operation == Operation::FreeLookupLocks && encoded.len() + 1 == frames.len();
                let sent = if is_short { &frames[..encoded.len()] } else { &frames[..] };
                assert_eq!(encoded[1..], sent[1..], "{file}: {operation}");
                seen.push(operation);
            } else {
                let result = ResultFrame(frames.get(2).cloned());
                let encoded = recode(operation, &result);
                assert_eq!(encoded.as_ref(), Ok(&result), "{file}: answer of {operation}");
            }
        }
    }
    for operation in [Operation::RegisterEngineDriven, Operation::PrepareStore, Operation::PrepareRetrieve] {
        assert!(seen.contains(&operation), "{operation} is not in the recordings");
    }
}
