//! Sample inputs from the golden vectors, in the form that the functions of `bodies` take.

use larder_wire::grpc;
use larder_wire::operation::Operation;
use serde_json::Value;

use super::bodies;

/// Samples of every decoder.
pub(crate) struct Corpus {
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) responses: Vec<Vec<u8>>,
    pub(crate) calls: Vec<Vec<u8>>,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) pickles: Vec<Vec<u8>>,
    pub(crate) tensor_maps: Vec<Vec<u8>>,
    pub(crate) names: Vec<Vec<u8>>,
}

impl Corpus {
    /// Reads the golden vectors.
    pub(crate) fn read() -> Self {
        let keys = texts("object_keys.json", "hex");
        Self {
            requests: messages("c2s"),
            responses: messages("s2c"),
            calls: calls(),
            keys: keys.iter().map(|key| [&[16, 0][..], &unhex(key)].concat()).collect(),
            pickles: texts("pickle.json", "hex").iter().map(|pickle| unhex(pickle)).collect(),
            tensor_maps: texts("tensor_maps.json", "hex").iter().map(|map| unhex(map)).collect(),
            names: texts("../../../types/tests/vectors/object_names.json", "fs_filename")
                .into_iter()
                .map(String::into_bytes)
                .collect(),
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn document(file: &str) -> Value {
    // The crate `fuzz` includes this file too.
    let path = format!("{}/../wire/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// One text field of every vector of a file.
fn texts(file: &str, field: &str) -> Vec<String> {
    let document = document(file);
    let texts: Vec<String> =
        list(&document["vectors"]).filter_map(|record| record[field].as_str().map(str::to_owned)).collect();
    assert!(!texts.is_empty(), "{file} has no {field}");
    texts
}

/// The recorded calls over gRPC, each behind its operation and the form of its tokens.
fn calls() -> Vec<Vec<u8>> {
    let document = document("grpc.json");
    let calls = list(&document["exchanges"]).filter_map(|exchange| {
        let method = grpc::find(exchange["method"].as_str()?)?;
        let operation = Operation::ALL.iter().position(|operation| *operation == method.operation)?;
        // A request that is too long for the file is given by its length, in words.
        let request = exchange["request"].as_str().filter(|request| !request.contains(' '))?;
        Some([&[operation as u8, 0][..], &unhex(request)].concat())
    });
    calls.collect()
}

/// The recorded messages of one direction (`c2s` or `s2c`), each as frames with their lengths.
fn messages(direction: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for file in ["frames_operations.json", "frames_operations_pickle.json", "frames_optional_operations.json"]
    {
        for step in list(&document(file)["steps"]) {
            for message in list(&step["messages"]).filter(|message| message["dir"] == direction) {
                let frames: Vec<Vec<u8>> =
                    list(&message["frames"]).filter_map(Value::as_str).map(unhex).collect();
                all.push(bodies::join(frames.iter().map(Vec::as_slice)));
            }
        }
    }
    assert!(!all.is_empty());
    all
}
