//! Comparison with the installed reference: `cargo test -p larder-wire --features interop`.
//!
//! Needs the environment variable `LARDER_PYTHON`: a Python with LMCache 0.5.6 and torch.

mod samples;

use std::io::Write;
use std::process::{Command, Stdio};

use larder_types::dtype::DType;
use larder_wire::operation::Operation;
use larder_wire::pickle::{PickleWriter, read_tensors};
use serde_json::{Value, json};

/// Asks `reference.py` one question.
fn ask(question: &str, argument: Value) -> Value {
    let python = std::env::var("LARDER_PYTHON").unwrap_or_else(|_| {
        panic!(
            "set LARDER_PYTHON to a Python that has LMCache 0.5.6 and torch, or leave out --features interop"
        )
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/reference.py");
    let mut command = Command::new(&python);
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("LARDER_PYTHON={python}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(json!({ question: argument }).to_string().as_bytes()).expect("Python reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("Python ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let result = result.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str::<Value>(result).expect("JSON")[question].take()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no text {field} in {value}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn python_loads_our_pickles() {
    let shapes: [&[u64]; 5] = [&[], &[0, 3], &[2, 1, 3, 4], &[70_000], &[300]];
    let mut expected = Vec::new();
    let mut writer = PickleWriter::new();
    for &dtype in DType::ALL.iter().filter(|dtype| dtype.storage_class().is_some()) {
        for shape in shapes {
            let count = shape.iter().product::<u64>() as usize * dtype.width();
            // Only 0 and 1 are values of a bool.
            let modulus = if dtype == DType::Bool { 2 } else { 251 };
            let bytes: Vec<u8> = (0..count).map(|at| (at % modulus) as u8).collect();
            writer.push(dtype, shape, &bytes).unwrap();
            expected.push(json!({"dtype": dtype.name(), "shape": shape, "raw": hex(&bytes)}));
        }
    }
    let pickles = [hex(&PickleWriter::new().finish()), hex(&writer.finish())];
    let answer = ask("load_pickles", json!(pickles));
    assert_eq!(list(&answer)[0], json!([]));
    let loaded = list(&list(&answer)[1]);
    assert_eq!(loaded.len(), expected.len());
    for (loaded, expected) in loaded.iter().zip(&expected) {
        assert!(loaded == expected, "{} {}", expected["dtype"], expected["shape"]);
    }
}

#[test]
fn we_read_the_pickles_of_python() {
    let answer = ask("make_pickles", Value::Null);
    assert!(list(&answer).len() >= 20);
    for record in list(&answer) {
        let name = text(record, "name");
        let pickle = unhex(text(record, "hex"));
        let tensors = read_tensors(&pickle).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensors.len(), list(&record["tensors"]).len(), "{name}");
        for (tensor, expected) in tensors.iter().zip(list(&record["tensors"])) {
            let mut bytes = vec![0; tensor.byte_len() as usize];
            tensor.copy_to(&mut bytes).unwrap();
            let own = json!({"dtype": tensor.dtype().name(), "shape": tensor.shape(), "raw": hex(&bytes)});
            assert!(&own == expected, "{name}: {} {}", own["dtype"], own["shape"]);
        }
    }
}

#[test]
fn we_refuse_other_pickles_of_python() {
    let answer = ask("refused_pickles", Value::Null);
    assert!(list(&answer).len() >= 9);
    for record in list(&answer) {
        assert!(read_tensors(&unhex(text(record, "hex"))).is_err(), "{}", text(record, "name"));
    }
}

#[test]
fn element_types_are_those_of_torch() {
    let answer = ask("element_types", Value::Null);
    let types = answer.as_object().expect("an object");
    assert!(types.len() >= 46);
    for (name, expected) in types {
        let dtype = DType::from_name(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(json!({"name": dtype.name(), "width": dtype.width()}), *expected, "{name}");
    }
    for dtype in DType::ALL {
        assert!(types.contains_key(dtype.name()), "torch has no {dtype}");
    }
}

#[test]
fn the_reference_reads_our_requests_and_writes_the_same() {
    let requests = samples::requests();
    for operation in Operation::ALL {
        assert!(requests.iter().any(|request| request.operation() == *operation), "no sample of {operation}");
    }
    let payloads = |request: &larder_wire::request::Request| -> Vec<String> {
        request.encode().iter().map(|frame| hex(frame)).collect()
    };
    let question: Vec<Value> = requests
        .iter()
        .map(
            |request| json!({"operation": hex(&request.operation().encode()), "payloads": payloads(request)}),
        )
        .collect();
    let answer = ask("recode_requests", json!(question));
    for (request, recoded) in requests.iter().zip(list(&answer)) {
        assert_eq!(text(recoded, "operation"), request.operation().name());
        assert_eq!(recoded["payloads"], json!(payloads(request)), "{request:?}");
    }
}

#[test]
fn the_reference_reads_our_responses_and_writes_the_same() {
    let responses = samples::responses();
    let mut question = Vec::new();
    for (operation, response) in &responses {
        let Some(result) = response.encode() else { continue };
        question.push(json!({"operation": operation.name(), "result": hex(&result)}));
    }
    for &operation in Operation::ALL {
        if let Some(result) = operation.failure().and_then(|response| response.encode()) {
            question.push(json!({"operation": operation.name(), "result": hex(&result)}));
        }
    }
    assert!(question.len() >= 30);
    let answer = ask("recode_responses", json!(question));
    for (question, recoded) in question.iter().zip(list(&answer)) {
        assert_eq!(recoded, &question["result"], "{question}");
    }
}
