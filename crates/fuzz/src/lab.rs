//! Traces and recordings.

use std::path::PathBuf;
use std::sync::LazyLock;

use larder_lab::recording::{Header, Line, Reader};
use larder_lab::simulate::trace::{ReadOptions, read};

const RECORDING: &str = r#"{"larder_recording":1,"chunk_tokens":256}
{"op":"model","at":3,"model":"m","world_size":1,"chunk_bytes":33554432}
{"op":"lookup","at":10,"request":"a","model":"m","tokens":700,"new":["e1","5c"]}
{"op":"store","at":90,"request":"a","model":"m","start":0,"end":2,"after":"5c"}
{"op":"retrieve","at":91,"request":"a","model":"m","start":0,"end":1,"after":"e1"}
{"op":"end","at":95,"request":"a","hit":0}
{"op":"lookup","at":99,"request":"b","model":"m","tokens":800,"after":"5c","new":["07"]}
"#;

/// A trace file of any format, compressed or not: it is read or refused, and what was read is consistent.
pub(crate) fn trace(data: &[u8]) {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| super::scratch::directory("trace").join("trace"));
    std::fs::write(&*FILE, data).expect("a file can be written");
    let Ok(trace) = read(&FILE, &ReadOptions::default()) else { return };
    assert!(!trace.requests().is_empty());
    for request in trace.requests() {
        assert!(trace.looked_up(request).len() <= trace.chunks(request).len());
        for chunk in trace.chunks(request) {
            trace.hash(*chunk);
        }
    }
}

pub(crate) fn trace_seeds() -> Vec<Vec<u8>> {
    let traces = concat!(env!("CARGO_MANIFEST_DIR"), "/../lab/tests/traces");
    let lookups = r#"{"timestamp":1.5,"request_id":"a","model_name":"m","chunk_size":256,"chunk_hashes":["0xe1","0x5c"],"seq_len":512}
"#;
    let mooncake = r#"{"timestamp":0,"input_length":1024,"output_length":5,"hash_ids":[0,1]}
"#;
    let mut seeds = vec![RECORDING.into(), lookups.into(), mooncake.into()];
    for file in std::fs::read_dir(traces).expect("traces of the tests").flatten() {
        seeds.push(std::fs::read(file.path()).expect("a trace can be read"));
    }
    seeds
}

/// The lines of a recording. A line that decodes also survives being encoded and decoded again.
pub(crate) fn recording(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let Some(Ok(_)) = lines.next().map(serde_json::from_slice::<Header>) else { return };
    let mut reader = Reader::new();
    for line in lines {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
        let text = serde_json::to_vec(&line).expect("a line is written");
        assert_eq!(serde_json::from_slice::<Line>(&text).ok().as_ref(), Some(&line));
        if let Line::Lookup { chain, .. } = &line {
            let _ = reader.hashes(chain);
        }
    }
}

pub(crate) fn recording_seeds() -> Vec<Vec<u8>> {
    vec![RECORDING.into()]
}
