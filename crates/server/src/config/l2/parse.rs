//! From the JSON of `--l2-adapter` to an adapter's settings.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::json::{Fields, SpecError, parse_object};
use super::super::{EvictionPolicy, suggest};
use super::{
    BackendFaults, DEFAULT_TAG, EvictionConfig, FaultInjectConfig, FsConfig, FsNativeConfig, L2AdapterConfig,
    L2Backend, MockConfig,
};

/// The types this server has.
const SERVED: &[&str] = &["fault_inject", "fs", "fs_native", "mock"];

/// Types that exist elsewhere, with what to use here.
const UNSERVED: &[(&str, &str)] = &[
    ("aerospike", USE_FILES),
    ("bigtable", USE_FILES),
    ("dax", "a larger --l1-size-gb uses memory, and 'fs_native' a file system on the device"),
    ("hf3fs", "use 'fs' on the mount point"),
    ("hfbucket", USE_FILES),
    ("mooncake_store", USE_FILES),
    ("native_plugin", "it loads a Python extension; use 'fs' or 'fs_native'"),
    ("nixl_native", "use 'fs_native' on the same file system"),
    ("nixl_store", "use 'fs_native' on the same file system"),
    ("nixl_store_dynamic", "use 'fs_native' on the same file system"),
    ("p2p", "let the servers share an 'fs' adapter on a network file system"),
    ("plugin", "it loads a Python class; use 'fs' or 'fs_native'"),
    ("raw_block", "use 'fs_native' on a file system on the device"),
    ("resp", USE_FILES),
    ("s3", USE_FILES),
    ("sagemaker-hyperpod", USE_FILES),
    ("valkey", USE_FILES),
];

const USE_FILES: &str = "use 'fs' or 'fs_native', on a network file system where servers share it";

/// Reads the adapter at `position` (counted from 1), with every fault there is.
pub fn parse_adapter(position: usize, text: &str) -> Result<L2AdapterConfig, Vec<SpecError>> {
    let subject = format!("--l2-adapter #{position}");
    let map = parse_object(&subject, text).map_err(|fault| vec![fault])?;
    adapter(&subject, &map)
}

fn adapter(subject: &str, map: &Map<String, Value>) -> Result<L2AdapterConfig, Vec<SpecError>> {
    let name = type_name(subject, map).map_err(|fault| vec![fault])?;
    let mut fields = Fields::new(format!("{subject} ('{name}')"), map);
    fields.skip("type");
    let affinity_tag = fields.name("affinity_tag").unwrap_or(DEFAULT_TAG).to_owned();
    let shared = fields.boolean("shared", false);
    let persist = fields.boolean("persist_enabled", true);
    let eviction = fields.object("eviction").and_then(|block| eviction(subject, &name, block, &mut fields));
    let checksum = fields.boolean("checksum", false);
    if let Some(block) = fields.object("serde") {
        fields.conflict(format!("serde is not part of this server; {}", instead_of_serde(block)));
    }
    if checksum && shared {
        fields.conflict("checksum needs files of this server's own, and 'shared' says that others write too");
    }
    let backend = backend(subject, &name, &mut fields);
    let faults = fields.finish();
    match backend {
        Some(backend) if faults.is_empty() => {
            Ok(L2AdapterConfig { affinity_tag, shared, eviction, persist, checksum, backend })
        }
        _ => Err(faults),
    }
}

/// The `type`, if it is one this server has.
fn type_name(subject: &str, map: &Map<String, Value>) -> Result<String, SpecError> {
    let subject = subject.to_owned();
    let Some(name) = map.get("type").and_then(Value::as_str) else {
        return Err(SpecError::MissingType { subject });
    };
    if SERVED.contains(&name) {
        return Ok(name.to_owned());
    }
    let name = name.to_owned();
    if let Some((_, advice)) = UNSERVED.iter().find(|(known, _)| *known == name) {
        return Err(SpecError::UnservedType { subject, name, advice });
    }
    let everything = SERVED.iter().copied().chain(UNSERVED.iter().map(|(known, _)| *known));
    let hint = suggest::hint(&name, everything);
    Err(SpecError::UnknownType { subject, name, hint, known: SERVED.join(", ") })
}

/// The backend `name`; `None` where a needed field is missing or wrong, which `fields` has noted.
fn backend(subject: &str, name: &str, fields: &mut Fields<'_>) -> Option<L2Backend> {
    match name {
        "fs" => fs(fields).map(L2Backend::Fs),
        "fs_native" => {
            let num_workers = fields.positive("num_workers").unwrap_or(4) as usize;
            fs(fields).map(|fs| L2Backend::FsNative(FsNativeConfig { fs, num_workers }))
        }
        "mock" => {
            let max_size_bytes = fields.needed_gib("max_size_gb");
            let bandwidth = fields.needed_gib("mock_bandwidth_gb");
            Some(L2Backend::Mock(MockConfig {
                max_size_bytes: max_size_bytes?,
                bandwidth_bytes_per_second: bandwidth?,
            }))
        }
        "fault_inject" => fault_inject(subject, fields).map(L2Backend::FaultInject),
        other => unreachable!("type_name lets only served types through, not {other}"),
    }
}

fn fs(fields: &mut Fields<'_>) -> Option<FsConfig> {
    let base_path = fields.needed_name("base_path");
    let relative_tmp_dir = fields.text("relative_tmp_dir").filter(|text| !text.is_empty()).map(PathBuf::from);
    if relative_tmp_dir.as_deref().is_some_and(escapes) {
        fields.conflict("relative_tmp_dir must stay inside base_path: relative, and without '..'");
    }
    Some(FsConfig {
        read_ahead_bytes: fields.positive("read_ahead_size"),
        use_odirect: fields.boolean("use_odirect", false),
        max_capacity_bytes: fields.gib("max_capacity_gb").unwrap_or(0),
        base_path: base_path?.into(),
        relative_tmp_dir,
    })
}

/// Whether `path`, taken relative to a directory, may lead out of it.
fn escapes(path: &Path) -> bool {
    !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn fault_inject(subject: &str, fields: &mut Fields<'_>) -> Option<FaultInjectConfig> {
    let rate = fields.fraction("rate").unwrap_or(0.0);
    let seed = fields.integer("seed", 0);
    let gap_indices = fields
        .list("gap_indices", "a list of non-negative integers", |value| value.as_u64().map(|n| n as usize));
    let gap_tail_ratios = fields.list("gap_tail_ratios", "a list of numbers from 0 to 1", |value| {
        value.as_f64().filter(|ratio| (0.0..=1.0).contains(ratio))
    });
    let beneath = backend_faults(fields);
    let Some(inner) = fields.object("inner") else {
        fields.conflict("inner must be the JSON object of another adapter");
        return None;
    };
    match adapter(&format!("{subject} ('fault_inject') inner"), inner) {
        Ok(inner) => {
            let inner = Box::new(inner);
            Some(FaultInjectConfig { inner, beneath, rate, seed, gap_indices, gap_tail_ratios })
        }
        Err(faults) => {
            fields.adopt(faults);
            None
        }
    }
}

/// Ours: the reference's loads are dropped, and nothing else goes wrong.
fn backend_faults(fields: &mut Fields<'_>) -> BackendFaults {
    let mut rate = |field| fields.fraction(field).unwrap_or(0.0);
    BackendFaults {
        error_rate: rate("error_rate"),
        hang_rate: rate("hang_rate"),
        short_read_rate: rate("short_read_rate"),
        bit_flip_rate: rate("bit_flip_rate"),
        torn_write_rate: rate("torn_write_rate"),
        hang: Duration::from_secs(fields.positive("hang_seconds").unwrap_or(60)),
    }
}

fn eviction(
    subject: &str,
    name: &str,
    block: &Map<String, Value>,
    outer: &mut Fields<'_>,
) -> Option<EvictionConfig> {
    let mut fields = Fields::new(format!("{subject} ('{name}') eviction"), block);
    // What is learned is learned about L1.
    let known = |name: &str| EvictionPolicy::from_name(name).filter(|p| *p != EvictionPolicy::Adaptive);
    let policy = fields.choice("eviction_policy", "'LRU', 'ARC', 'IsolatedLRU', or 'noop'", known);
    if !block.contains_key("eviction_policy") {
        fields.conflict("eviction_policy must be given: 'LRU', 'ARC', 'IsolatedLRU', or 'noop'");
    }
    let default = EvictionConfig::default();
    let trigger_watermark = fields.share("trigger_watermark").unwrap_or(default.trigger_watermark);
    let ratio = fields.share("eviction_ratio").unwrap_or(default.ratio);
    outer.adopt(fields.finish());
    let background_trim = block.contains_key("trigger_watermark") || block.contains_key("eviction_ratio");
    Some(EvictionConfig { policy: policy?, trigger_watermark, ratio, background_trim })
}

/// What to do where the reference would transform bytes on their way.
fn instead_of_serde(block: &Map<String, Value>) -> &'static str {
    match block.get("type").and_then(Value::as_str) {
        Some("fp8" | "turboquant") => {
            "let the engine keep its KV cache in 8 bits (vLLM: --kv-cache-dtype fp8), which halves L1 as well"
        }
        Some("aesgcm") => "put base_path on an encrypted file system (fscrypt, LUKS)",
        _ => "leave it out, bytes are stored as they are",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bytes_from_gib;

    fn lines(text: &str) -> Vec<String> {
        parse_adapter(1, text).expect_err("a fault").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_take_all_their_fields() {
        let text = r#"{"type":"fs_native","base_path":"/data","relative_tmp_dir":"tmp","read_ahead_size":4096,
            "use_odirect":true,"num_workers":8,"max_capacity_gb":1.5,"affinity_tag":"hot","shared":false,
            "persist_enabled":false,"eviction":{"eviction_policy":"LRU","eviction_ratio":0.5},
            "checksum":true}"#;
        let adapter = parse_adapter(1, text).expect("a valid adapter");
        let fs = FsConfig {
            base_path: "/data".into(),
            relative_tmp_dir: Some("tmp".into()),
            read_ahead_bytes: Some(4096),
            use_odirect: true,
            max_capacity_bytes: bytes_from_gib(1.5),
        };
        let expected = L2AdapterConfig {
            affinity_tag: "hot".to_owned(),
            shared: false,
            eviction: Some(EvictionConfig { ratio: 0.5, background_trim: true, ..EvictionConfig::default() }),
            persist: false,
            checksum: true,
            backend: L2Backend::FsNative(FsNativeConfig { fs, num_workers: 8 }),
        };
        assert_eq!(adapter, expected);
    }

    #[test]
    fn test_adapters_take_all_their_fields() {
        let text = r#"{"type":"fault_inject","rate":0.25,"seed":-7,"gap_indices":[0,3],"gap_tail_ratios":[0,0.5],
            "error_rate":0.5,"hang_seconds":7,"bit_flip_rate":1,
            "inner":{"type":"mock","max_size_gb":2,"mock_bandwidth_gb":1}}"#;
        let adapter = parse_adapter(1, text).expect("a valid adapter");
        let L2Backend::FaultInject(faulty) = adapter.backend else { panic!("{adapter:?}") };
        assert_eq!((faulty.rate, faulty.seed), (0.25, -7));
        assert_eq!((faulty.gap_indices, faulty.gap_tail_ratios), (vec![0, 3], vec![0.0, 0.5]));
        let beneath = BackendFaults {
            error_rate: 0.5,
            hang: Duration::from_secs(7),
            bit_flip_rate: 1.0,
            ..BackendFaults::default()
        };
        assert_eq!(faulty.beneath, beneath);
        let mock = MockConfig { max_size_bytes: 2 << 30, bandwidth_bytes_per_second: 1 << 30 };
        assert_eq!(faulty.inner.backend, L2Backend::Mock(mock));
    }

    #[test]
    fn each_fault_is_one_line() {
        let cases = [
            ("{", "Invalid JSON for --l2-adapter #1: EOF while parsing an object at line 1 column 1"),
            ("[]", "--l2-adapter #1: expected a JSON object, got list"),
            ("{}", "--l2-adapter #1: missing 'type' field"),
            (
                r#"{"type":"zzz"}"#,
                "--l2-adapter #1: unknown adapter type 'zzz'. Known: fault_inject, fs, fs_native, mock",
            ),
            (r#"{"type":"fs"}"#, "--l2-adapter #1 ('fs'): base_path must be a non-empty string, got nothing"),
            (
                r#"{"type":"fs","base_path":5}"#,
                "--l2-adapter #1 ('fs'): base_path must be a non-empty string, got 5",
            ),
            (
                r#"{"type":"fs","base_path":"/d","base_pth":1}"#,
                "--l2-adapter #1 ('fs'): unknown field 'base_pth', did you mean 'base_path'?",
            ),
            (
                r#"{"type":"fs","base_path":"/d","relative_tmp_dir":"../x"}"#,
                "--l2-adapter #1 ('fs'): relative_tmp_dir must stay inside base_path: relative, and without '..'",
            ),
            (
                r#"{"type":"fs_native","base_path":"/d","num_workers":0}"#,
                "--l2-adapter #1 ('fs_native'): num_workers must be a positive integer, got 0",
            ),
            (
                r#"{"type":"mock","max_size_gb":-1,"mock_bandwidth_gb":1}"#,
                "--l2-adapter #1 ('mock'): max_size_gb must be a finite positive number, got -1",
            ),
            (
                r#"{"type":"fs","base_path":"/d","eviction":{"eviction_policy":"FIFO"}}"#,
                "--l2-adapter #1 ('fs') eviction: eviction_policy must be 'LRU', 'ARC', 'IsolatedLRU', or 'noop', \
                 got \"FIFO\"",
            ),
            (
                r#"{"type":"fault_inject","torn_write_rate":2,"inner":{"type":"fs","base_path":"/d"}}"#,
                "--l2-adapter #1 ('fault_inject'): torn_write_rate must be a number from 0 to 1, got 2",
            ),
            (
                r#"{"type":"fault_inject","inner":{"type":"fs"}}"#,
                "--l2-adapter #1 ('fault_inject') inner ('fs'): base_path must be a non-empty string, got nothing",
            ),
            (
                r#"{"type":"fs","base_path":"/d","shared":true,"checksum":true}"#,
                "--l2-adapter #1 ('fs'): checksum needs files of this server's own, and 'shared' says that others \
                 write too",
            ),
            (
                r#"{"type":"fs","base_path":"/d","serde":{"type":"fp8"}}"#,
                "--l2-adapter #1 ('fs'): serde is not part of this server; let the engine keep its KV cache in 8 bits \
                 (vLLM: --kv-cache-dtype fp8), which halves L1 as well",
            ),
            (
                r#"{"type":"fs","base_path":"/d","serde":{"type":"aesgcm","master_key_path":"/k"}}"#,
                "--l2-adapter #1 ('fs'): serde is not part of this server; put base_path on an encrypted file system \
                 (fscrypt, LUKS)",
            ),
            (
                r#"{"type":"s3"}"#,
                "--l2-adapter #1: this server has no 's3' adapter; use 'fs' or 'fs_native', on a network file system \
                 where servers share it",
            ),
        ];
        for (text, line) in cases {
            assert_eq!(lines(text), [line], "{text}");
        }
    }

    #[test]
    fn faults_are_told_together() {
        let text = r#"{"type":"fs","bse_path":"/d","use_odirect":"yes","shared":1}"#;
        assert_eq!(lines(text).len(), 4, "{:#?}", lines(text));
    }

    #[test]
    fn what_is_asked_for_and_not_done_is_said() {
        let cases: [(&str, &[&str]); 8] = [
            (r#"{"type":"fs","base_path":"/d"}"#, &[]),
            (
                r#"{"type":"fs","base_path":"/d","max_capacity_gb":1,"eviction":{"eviction_policy":"LRU"}}"#,
                &[],
            ),
            (r#"{"type":"fs","base_path":"/d","eviction":{"eviction_policy":"IsolatedLRU"}}"#, &[]),
            (
                r#"{"type":"fs_native","base_path":"/d","persist_enabled":false}"#,
                &["persist_enabled false is set aside: files stay, as LMCache leaves them"],
            ),
            (
                r#"{"type":"fs","base_path":"/d","eviction":{"eviction_policy":"LRU"}}"#,
                &["eviction limits nothing without max_capacity_gb"],
            ),
            (
                r#"{"type":"fs","base_path":"/d","max_capacity_gb":1,"eviction":{"eviction_policy":"ARC"}}"#,
                &["eviction_policy ARC is for L1; objects in files leave as with LRU"],
            ),
            (
                r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"eviction":{"eviction_policy":"LRU"}}"#,
                &["eviction is set aside: a 'mock' makes room at max_size_gb as LRU does"],
            ),
            (
                r#"{"type":"fault_inject","eviction":{"eviction_policy":"LRU"},
                    "inner":{"type":"fs","base_path":"/d","persist_enabled":false}}"#,
                &[
                    "eviction and persist_enabled are set aside here: they go into 'inner'",
                    "inner: persist_enabled false is set aside: files stay, as LMCache leaves them",
                ],
            ),
        ];
        for (text, lines) in cases {
            assert_eq!(parse_adapter(1, text).expect("a valid adapter").warnings(), lines, "{text}");
        }
    }

    #[test]
    fn every_type_of_the_reference_is_recognised() {
        for (name, _) in UNSERVED {
            let text = format!(r#"{{"type":"{name}"}}"#);
            let [line] = &lines(&text)[..] else { panic!("one line for {name}") };
            assert!(line.contains(&format!("no '{name}' adapter")), "{line}");
        }
    }
}
