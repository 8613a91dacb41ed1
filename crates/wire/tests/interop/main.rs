//! Pickles and element types compared with the installed reference:
//! `cargo test -p larder-wire --features interop`. Requests and responses are compared in `src/ops/tests.rs`.

mod python;

use larder_types::dtype::DType;
use larder_wire::pickle::{PickleWriter, read_tensors};
use serde_json::{Value, json};

use crate::python::{ask, hex, list, text};

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
fn reads_pickles_of_python() {
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
fn refuses_other_pickles_of_python() {
    let answer = ask("refused_pickles", Value::Null);
    assert!(list(&answer).len() >= 9);
    for record in list(&answer) {
        assert!(read_tensors(&unhex(text(record, "hex"))).is_err(), "{}", text(record, "name"));
    }
}

#[test]
fn element_types_equal_those_of_torch() {
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
