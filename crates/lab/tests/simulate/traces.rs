//! Reading trace files, and simulating excerpts of real traces.

use std::fs;
use std::path::{Path, PathBuf};

use larder_lab::simulate::model::{L2Size, Setup};
use larder_lab::simulate::trace::{Event, ReadError, ReadOptions, Trace, read};
use larder_policy::PrefetchKind;
use larder_policy::eviction::EvictionKind;

use crate::policies::run_both;
use crate::setup;

pub(crate) fn cut(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(name)
}

/// Writes a file with the content, in its own folder.
fn file(name: &str, content: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("simulate").join(name);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("trace.jsonl");
    fs::write(&path, content).unwrap();
    path
}

fn read_text(name: &str, content: &str) -> Result<Trace, ReadError> {
    read(&file(name, content), &ReadOptions::default())
}

#[test]
fn reads_compressed_traces_and_their_chunk_size() {
    let mooncake = read(&cut("mooncake_cut.jsonl.gz"), &ReadOptions::default()).unwrap();
    assert_eq!((mooncake.name.as_str(), mooncake.chunk_tokens), ("mooncake_cut", 512));
    assert_eq!((mooncake.requests().len(), mooncake.chunk_accesses()), (400, MOONCAKE_ACCESSES));
    let claude = read(&cut("claude_code_cut.jsonl.zst"), &ReadOptions::default()).unwrap();
    assert_eq!((claude.name.as_str(), claude.chunk_tokens), ("claude_code_cut", 256));
    assert_eq!((claude.requests().len(), claude.chunk_accesses()), (90, CLAUDE_ACCESSES));
    let options = ReadOptions { requests_max: Some(10), ..ReadOptions::default() };
    let few = read(&cut("mooncake_cut.jsonl.gz"), &options).unwrap();
    assert_eq!(few.requests(), &mooncake.requests()[..10]);
    assert!(few.unique_chunks() < mooncake.unique_chunks());
}

#[test]
fn reads_concatenated_compressed_files() {
    for name in ["mooncake_cut.jsonl.gz", "claude_code_cut.jsonl.zst"] {
        let (once, bytes) =
            (read(&cut(name), &ReadOptions::default()).unwrap(), fs::read(cut(name)).unwrap());
        let twice = file(name, "");
        fs::write(&twice, [&bytes[..], &bytes[..]].concat()).unwrap();
        let twice = read(&twice, &ReadOptions::default()).unwrap();
        assert_eq!(twice.requests().len(), 2 * once.requests().len());
        assert_eq!(twice.unique_chunks(), once.unique_chunks());
    }
}

/// Whole chunks of all lines, counted independently of this code.
const MOONCAKE_ACCESSES: u64 = 10_949;
const CLAUDE_ACCESSES: u64 = 21_531;

#[test]
fn fast_path_equals_the_core_on_real_traces() {
    for name in ["mooncake_cut.jsonl.gz", "claude_code_cut.jsonl.zst"] {
        let trace = read(&cut(name), &ReadOptions::default()).unwrap();
        for percent in [1, 10, 40] {
            let l1_chunks = trace.unique_chunks() * percent / 100;
            for l2 in [L2Size::None, L2Size::Unbounded, L2Size::Chunks(trace.unique_chunks() / 2)] {
                for eviction in [EvictionKind::Lru, EvictionKind::S3Fifo, EvictionKind::Arc] {
                    for prefetch in [PrefetchKind::Default, PrefetchKind::Retain] {
                        run_both(&trace, &Setup { eviction, prefetch, ..setup(l1_chunks, l2) });
                    }
                }
            }
        }
    }
}

#[test]
fn lookup_log_keeps_tenants_apart() {
    let line = |salt: &str| {
        format!(
            r#"{{"timestamp":1.5,"model_name":"m"{salt},"chunk_size":16,"seq_len":40,"dtypes":["bfloat16"],"shapes":[[2,16,12]],"chunk_hashes":["0xaa","0xbb"]}}"#
        )
    };
    let (a, b, none) = (line(r#","cache_salt":"a""#), line(r#","cache_salt":"b""#), line(""));
    let trace = read_text("tenants", &format!("{a}\n{b}\n{a}\n{none}\n")).unwrap();
    assert_eq!((trace.requests().len(), trace.unique_chunks(), trace.chunk_accesses()), (4, 6, 8));
    assert_eq!(trace.chunk_bytes, Some(2 * 16 * 12 * 2));
}

#[test]
fn partial_last_chunk_is_ignored() {
    let line =
        r#"{"timestamp": 27482, "input_length": 1300, "output_length": 1, "hash_ids": [46, 47, 2366]}"#;
    let trace = read_text("whole", line).unwrap();
    assert_eq!((trace.chunk_tokens, trace.chunk_accesses(), trace.unique_chunks()), (512, 2, 2));
    assert_eq!((trace.requests()[0].at_ms, trace.requests()[0].tokens), (27482, 1300));
}

#[test]
fn incomplete_last_line_is_skipped_and_counted() {
    let whole = r#"{"timestamp": 1, "input_length": 1300, "output_length": 1, "hash_ids": [1, 2, 3]}"#;
    let trace = read_text("cut", &format!("{whole}\n{}", &whole[..30])).unwrap();
    assert_eq!((trace.requests().len(), trace.skipped_lines), (1, 1));
}

#[test]
fn invalid_traces_are_one_line_errors() {
    let whole = r#"{"timestamp": 1, "input_length": 512, "output_length": 1, "hash_ids": [1]}"#;
    let cases = [
        ("empty", String::new(), "is empty"),
        ("text", "hello\n".to_owned(), "line 1: is not a JSON object"),
        ("other", "{\"a\":1}\n".to_owned(), "is no trace"),
        ("broken", format!("{whole}\n{{}}\n{whole}\n"), "line 2: missing field"),
        ("vague", whole.replace("512", "0").replace("[1]", "[]"), "give --chunk-tokens"),
        ("future", "{\"larder_recording\":9,\"chunk_tokens\":16}\n".to_owned(), "of version 9"),
        ("none", "{\"larder_recording\":1,\"chunk_tokens\":16}\n".to_owned(), "has no requests"),
        ("zero", "{\"larder_recording\":1,\"chunk_tokens\":0}\n".to_owned(), "no tokens"),
    ];
    for (name, content, expected) in cases {
        let error = read_text(name, &content).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{name}: {error}");
    }
    let error = read(&cut("missing"), &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, ReadError::Io(_)), "{error}");
}

#[test]
fn lookup_logs_of_a_folder_are_merged_by_time() {
    let line = |at: f64, hashes: &str| {
        format!(
            "{{\"timestamp\": {at}, \"request_id\": \"r\", \"model_name\": \"m\", \"chunk_size\": 16, \
             \"seq_len\": 40, \"dtypes\": [\"float16\"], \"shapes\": [[2, 16, 12]], \"chunk_hashes\": {hashes}}}\n"
        )
    };
    let first = file("logs", "");
    let folder = first.parent().unwrap();
    let late = line(1700000009.5, r#"["0xaa", "0xbb"]"#);
    fs::write(folder.join("lookup_hashes_1.jsonl"), &late).unwrap();
    fs::write(folder.join("lookup_hashes_2.jsonl"), line(1700000007.0, r#"["0xaa", "0xcc"]"#)).unwrap();
    let trace = read(folder, &ReadOptions::default()).unwrap();
    assert_eq!((trace.chunk_tokens, trace.chunk_bytes), (16, Some(768)));
    assert_eq!(trace.requests().iter().map(|r| r.at_ms).collect::<Vec<_>>(), [0, 2500]);
    assert_eq!((trace.chunk_accesses(), trace.unique_chunks()), (4, 3));
    let models = ReadOptions { model: Some("other".to_owned()), ..ReadOptions::default() };
    assert!(read(folder, &models).unwrap_err().to_string().contains("has no requests"));
    let two = late.clone() + &late.replace("\"m\"", "\"n\"");
    assert!(read_text("models", &two).unwrap_err().to_string().contains("--model"));
}

#[test]
fn recording_keeps_the_order_of_events() {
    let lines = [
        r#"{"larder_recording":1,"chunk_tokens":16}"#,
        r#"{"op":"model","at":0,"model":"m","world_size":1,"chunk_bytes":768}"#,
        r#"{"op":"lookup","at":5,"request":"a","model":"m","tokens":40,"new":["aa","bb"]}"#,
        r#"{"op":"lookup","at":6,"request":"b","model":"m","salt":"x","tokens":40,"after":"bb"}"#,
        r#"{"op":"store","at":7,"request":"a","model":"m","start":0,"end":3,"after":"bb","new":["cc"]}"#,
        r#"{"op":"end","at":8,"request":"b","hit":1}"#,
        r#"{"op":"dropped","at":8,"lines":3}"#,
        r#"{"op":"lookup","at":9,"request":"c","model":"m","tokens":40,"after":"dd"}"#,
        r#"{"op":"end","at":9,"request":"a","hit":0}"#,
    ];
    let trace = read_text("recording", &lines.join("\n")).unwrap();
    let events = [Event::Lookup(0), Event::Lookup(1), Event::Store(0, 0..3), Event::End(1), Event::End(0)];
    assert_eq!(trace.events(), Some(&events[..]));
    assert_eq!((trace.chunk_tokens, trace.chunk_bytes, trace.skipped_lines), (16, Some(768), 4));
    let [a, b] = trace.requests() else { panic!("two requests") };
    assert_eq!((trace.looked_up(a).len(), trace.chunks(a).len(), trace.looked_up(b).len()), (2, 3, 2));
    assert_eq!((a.recorded_hit, b.recorded_hit, b.tokens), (Some(0), Some(1), 40));
    assert_eq!(trace.unique_chunks(), 5, "tenants have no chunks in common");
}
