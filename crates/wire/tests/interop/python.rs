//! Questions to the installed reference, LMCache 0.5.6 and torch, which `LARDER_PYTHON` names.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Asks `reference.py` one question.
pub(crate) fn ask(question: &str, argument: Value) -> Value {
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

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no text {field} in {value}"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
