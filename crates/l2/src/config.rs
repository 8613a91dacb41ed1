//! Configuration of one adapter, from the JSON of `--l2-adapter`.

use std::sync::Arc;

use larder_policy::eviction::{EvictionConfig, EvictionKind};
use serde_json::{Map, Value, json};

use crate::adapter::Adapter;
use crate::adapters::{BackendConfig, OpenContext, TYPES, UNSERVED};
use crate::error::L2Error;
use crate::layers::{FaultConfig, LayersConfig};
use crate::spec::{Fields, SpecError, parse_object, suggest};

/// The affinity tag unless one is given, and the tag of L1 unless it is named.
pub const DEFAULT_TAG: &str = "_default";

/// What is done with the checksums of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumMode {
    /// None is kept or checked.
    Off,
    /// Each object gets one, and is checked if it has one.
    #[default]
    Check,
    /// Each object gets one, and is a miss without one.
    Require,
}

impl ChecksumMode {
    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(false) => Some(Self::Off),
            Value::Bool(true) => Some(Self::Check),
            Value::String(text) if text == "require" => Some(Self::Require),
            _ => None,
        }
    }

    fn to_json(self) -> Value {
        match self {
            Self::Off => json!(false),
            Self::Check => json!(true),
            Self::Require => json!("require"),
        }
    }
}

/// One adapter: the settings common to all types, and the backend's.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Tag of the L1 pool that this adapter stores from and loads into.
    pub affinity_tag: String,
    /// Whether other servers use the same backend.
    pub shared: bool,
    /// What is evicted when the backend is full; `None`: the least recently used objects.
    pub eviction: Option<EvictionConfig>,
    /// Whether data is to be kept at shutdown and found again at start. Files always are.
    pub persist: bool,
    /// Whether a checksum of each object is kept and checked when it is loaded.
    pub checksum: ChecksumMode,
    /// The backend.
    pub backend: BackendConfig,
}

/// Parses the `position`-th `--l2-adapter`, counted from 1.
///
/// # Errors
/// All errors in `text`.
pub fn parse_adapter(position: usize, text: &str) -> Result<AdapterConfig, Vec<SpecError>> {
    let subject = format!("--l2-adapter #{position}");
    let map = parse_object(&subject, text).map_err(|error| vec![error])?;
    AdapterConfig::parse(&subject, &map)
}

impl AdapterConfig {
    /// An adapter with this backend and the defaults of all common settings.
    pub fn new(backend: BackendConfig) -> Self {
        Self {
            affinity_tag: DEFAULT_TAG.to_owned(),
            shared: false,
            eviction: None,
            persist: true,
            checksum: Self::default_checksum(&backend),
            backend,
        }
    }

    /// Files have checksums unless they are switched off; memory of this process has none.
    fn default_checksum(backend: &BackendConfig) -> ChecksumMode {
        if backend.settings().keeps_checksums() { ChecksumMode::Check } else { ChecksumMode::Off }
    }

    pub(crate) fn parse(subject: &str, map: &Map<String, Value>) -> Result<Self, Vec<SpecError>> {
        let type_name = type_name(subject, map).map_err(|error| vec![error])?;
        let mut fields = Fields::new(format!("{subject} ('{type_name}')"), map);
        fields.ignore("type");
        let affinity_tag = fields.name("affinity_tag").unwrap_or(DEFAULT_TAG).to_owned();
        let shared = fields.boolean("shared", false);
        let persist = fields.boolean("persist_enabled", true);
        let eviction = fields.object("eviction").and_then(|block| parse_eviction(block, &mut fields));
        let checksum = fields.custom("checksum", "true, false, or 'require'", ChecksumMode::from_json);
        if let Some(block) = fields.object("serde") {
            fields.conflict(format!("serde is not part of this server; {}", instead_of_serde(block)));
        }
        let backend = BackendConfig::parse(type_name, &mut fields);
        let keeps_checksums = backend.as_ref().is_none_or(|backend| backend.settings().keeps_checksums());
        if checksum == Some(ChecksumMode::Require) && !keeps_checksums {
            fields.conflict("checksum 'require' is for files: objects of this type are kept in memory");
        }
        let errors = fields.finish();
        match backend {
            Some(backend) if errors.is_empty() => {
                let checksum = checksum.unwrap_or_else(|| Self::default_checksum(&backend));
                Ok(Self { affinity_tag, shared, eviction, persist, checksum, backend })
            }
            _ => Err(errors),
        }
    }

    /// Opens the backend and the layers around it.
    ///
    /// # Errors
    /// The backend cannot be opened.
    pub fn open(&self, context: &OpenContext) -> Result<Arc<dyn Adapter>, L2Error> {
        self.open_with_faults(context, None)
    }

    pub(crate) fn open_with_faults(
        &self,
        context: &OpenContext,
        fault: Option<FaultConfig>,
    ) -> Result<Arc<dyn Adapter>, L2Error> {
        let settings = self.backend.settings();
        let adapter = settings.open(self, context)?;
        // Faults are injected above the backend's own checksums.
        let in_memory = !settings.keeps_checksums() || fault.is_some();
        let checksum = self.checksum != ChecksumMode::Off && in_memory;
        LayersConfig { checksum, fault, ..LayersConfig::default() }.wrap(adapter)
    }

    /// Whether it enforces quotas of cache salts.
    pub fn enforces_quotas(&self) -> bool {
        self.backend.settings().enforces_quotas(self)
    }

    /// Settings that are accepted and have no effect, one line each.
    pub fn warnings(&self) -> Vec<String> {
        self.backend.settings().warnings(self)
    }

    /// The adapter as LMCache's `GET /config` shows it.
    pub fn to_json(&self) -> Value {
        let mut value = self.backend.settings().to_json();
        value["type"] = json!(self.backend.type_name());
        value["affinity_tag"] = json!(self.affinity_tag);
        value["shared"] = json!(self.shared);
        value["eviction_config"] = self.eviction.map_or(Value::Null, |eviction| {
            json!({
                "eviction_policy": eviction.policy.name(),
                "trigger_watermark": eviction.trigger_watermark,
                "eviction_ratio": eviction.ratio,
            })
        });
        // LMCache shows the text of a Python object here.
        let persist = if self.persist { "True" } else { "False" };
        value["persist_config"] = json!(format!("PersistConfig(persist_enabled={persist})"));
        value["serde_config"] = Value::Null;
        value["checksum"] = self.checksum.to_json();
        value
    }
}

/// The `type`, if this server has it.
fn type_name<'a>(subject: &str, map: &'a Map<String, Value>) -> Result<&'a str, SpecError> {
    let subject = subject.to_owned();
    let Some(name) = map.get("type").and_then(Value::as_str) else {
        return Err(SpecError::MissingType { subject });
    };
    if TYPES.contains(&name) {
        return Ok(name);
    }
    let found = UNSERVED.iter().find(|(known, _)| *known == name);
    let (known, name) = (TYPES.join(", "), name.to_owned());
    if let Some((_, advice)) = found {
        return Err(SpecError::UnservedType { subject, name, advice });
    }
    let hint = suggest::hint(&name, TYPES.iter().copied().chain(UNSERVED.iter().map(|(known, _)| *known)));
    Err(SpecError::UnknownType { subject, name, hint, known })
}

fn parse_eviction(block: &Map<String, Value>, outer: &mut Fields<'_>) -> Option<EvictionConfig> {
    let mut fields = Fields::new(format!("{} eviction", outer.subject()), block);
    // The adaptive policy learns from lookups in L1 only.
    let known = |name: &str| EvictionKind::from_name(name).filter(|kind| *kind != EvictionKind::Adaptive);
    let policy = fields.choice("eviction_policy", "'LRU', 'ARC', 'IsolatedLRU', or 'noop'", known);
    if !block.contains_key("eviction_policy") {
        fields.conflict("eviction_policy must be given: 'LRU', 'ARC', 'IsolatedLRU', or 'noop'");
    }
    let default = EvictionConfig::default();
    let trigger_watermark =
        fields.positive_fraction("trigger_watermark").unwrap_or(default.trigger_watermark);
    let ratio = fields.positive_fraction("eviction_ratio").unwrap_or(default.ratio);
    outer.add_errors(fields.finish());
    let background_trim = block.contains_key("trigger_watermark") || block.contains_key("eviction_ratio");
    Some(EvictionConfig { policy: policy?, trigger_watermark, ratio, background_trim })
}

/// What to do instead of a transformation of bytes that LMCache has.
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
    use crate::adapters::fault_inject::FaultInjectConfig;
    use crate::adapters::fs::{FsConfig, FsNativeConfig, SyncPolicy};
    use crate::adapters::mock::MockConfig;
    use crate::spec::bytes_from_gib;
    use std::time::Duration;

    fn lines(text: &str) -> Vec<String> {
        parse_adapter(1, text).expect_err("an error").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_all_fields_of_fs_native() {
        let text = r#"{"type":"fs_native","base_path":"/data","relative_tmp_dir":"tmp","read_ahead_size":4096,
            "use_odirect":true,"num_workers":8,"max_capacity_gb":1.5,"affinity_tag":"hot","shared":false,
            "persist_enabled":false,"eviction":{"eviction_policy":"LRU","eviction_ratio":0.5},
            "checksum":"require","sync":"always"}"#;
        let adapter = parse_adapter(1, text).expect("a valid adapter");
        let fs = FsConfig {
            base_path: "/data".into(),
            relative_tmp_dir: Some("tmp".into()),
            read_ahead_bytes: Some(4096),
            use_odirect: true,
            max_capacity_bytes: bytes_from_gib(1.5),
            sync: SyncPolicy::Always,
            ..FsConfig::default()
        };
        let expected = AdapterConfig {
            affinity_tag: "hot".to_owned(),
            shared: false,
            eviction: Some(EvictionConfig { ratio: 0.5, background_trim: true, ..EvictionConfig::default() }),
            persist: false,
            checksum: ChecksumMode::Require,
            backend: BackendConfig::FsNative(FsNativeConfig { fs, num_workers: 8 }),
        };
        assert_eq!(adapter, expected);
    }

    #[test]
    fn reads_all_fields_of_fault_inject_and_mock() {
        let text = r#"{"type":"fault_inject","rate":0.25,"seed":-7,"gap_indices":[0,3],"gap_tail_ratios":[0,0.5],
            "error_rate":0.5,"hang_seconds":7,"bit_flip_rate":1,
            "inner":{"type":"mock","max_size_gb":2,"mock_bandwidth_gb":1}}"#;
        let adapter = parse_adapter(1, text).expect("a valid adapter");
        let BackendConfig::FaultInject(config) = adapter.backend else { panic!("{adapter:?}") };
        let FaultInjectConfig { inner, faults, backend_faults } = config;
        assert_eq!((faults.rate, faults.seed), (0.25, -7));
        assert_eq!((faults.gap_indices, faults.gap_tail_ratios), (vec![0, 3], vec![0.0, 0.5]));
        let expected = FaultConfig {
            seed: (-7_i64).cast_unsigned(),
            error: 0.5,
            hang_time: Duration::from_secs(7),
            bit_flip: 1.0,
            ..FaultConfig::default()
        };
        assert_eq!(backend_faults, expected);
        let mock = MockConfig { max_size_bytes: 2 << 30, bandwidth_bytes_per_second: 1 << 30 };
        assert_eq!(inner.backend, BackendConfig::Mock(mock));
    }

    #[test]
    fn files_have_checksums_unless_they_are_switched_off() {
        let cases = [
            (r#"{"type":"fs","base_path":"/d"}"#, ChecksumMode::Check),
            (r#"{"type":"fs","base_path":"/d","shared":true,"checksum":true}"#, ChecksumMode::Check),
            (r#"{"type":"fs_native","base_path":"/d","checksum":false}"#, ChecksumMode::Off),
            (r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1}"#, ChecksumMode::Off),
            (r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"checksum":true}"#, ChecksumMode::Check),
        ];
        for (text, mode) in cases {
            assert_eq!(parse_adapter(1, text).expect("a valid adapter").checksum, mode, "{text}");
        }
        let wrong = [
            (
                r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"checksum":"require"}"#,
                "('mock'): checksum 'require' is for files: objects of this type are kept in memory",
            ),
            (
                r#"{"type":"fs","base_path":"/d","checksum":"yes"}"#,
                "('fs'): checksum must be true, false, or 'require', got \"yes\"",
            ),
            (
                r#"{"type":"fs","base_path":"/d","sync":true}"#,
                "('fs'): sync must be 'always', 'batch', or 'none', got true",
            ),
        ];
        for (text, line) in wrong {
            assert_eq!(lines(text), [format!("--l2-adapter #1 {line}")]);
        }
    }

    #[test]
    fn each_error_is_one_line() {
        let cases = [
            ("{", "Invalid JSON for --l2-adapter #1: EOF while parsing an object at line 1 column 1"),
            ("[]", "--l2-adapter #1: expected a JSON object, got list"),
            ("{}", "--l2-adapter #1: missing 'type' field"),
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
                r#"{"type":"fs","base_path":"file:///data/kv"}"#,
                "--l2-adapter #1 ('fs'): base_path is a path, not a URI: write \"/data/kv\"",
            ),
            (
                r#"{"type":"fs_native","base_path":"/d","mode":"0700"}"#,
                "--l2-adapter #1 ('fs_native'): mode must be an octal file mode that lets the owner read and write, \
                 without execution, such as \"0600\" or \"0660\", got \"0700\"",
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
    fn unknown_type_lists_known_types() {
        let line = format!("--l2-adapter #1: unknown adapter type 'zzz'. Known: {}", TYPES.join(", "));
        assert_eq!(lines(r#"{"type":"zzz"}"#), [line]);
    }

    #[test]
    fn reports_all_errors_at_once() {
        let text = r#"{"type":"fs","bse_path":"/d","use_odirect":"yes","shared":1}"#;
        assert_eq!(lines(text).len(), 4, "{:#?}", lines(text));
    }

    #[test]
    fn warns_about_settings_without_effect() {
        let cases: [(&str, &[&str]); 8] = [
            (r#"{"type":"fs","base_path":"/d"}"#, &[]),
            (
                r#"{"type":"fs","base_path":"/d","max_capacity_gb":1,"eviction":{"eviction_policy":"LRU"}}"#,
                &[],
            ),
            (r#"{"type":"fs","base_path":"/d","eviction":{"eviction_policy":"IsolatedLRU"}}"#, &[]),
            (
                r#"{"type":"fs_native","base_path":"/d","persist_enabled":false}"#,
                &["persist_enabled false is ignored: files stay, as LMCache leaves them"],
            ),
            (
                r#"{"type":"fs","base_path":"/d","eviction":{"eviction_policy":"LRU"}}"#,
                &["eviction limits nothing without max_capacity_gb"],
            ),
            (
                r#"{"type":"fs","base_path":"/d","max_capacity_gb":1,"eviction":{"eviction_policy":"ARC"}}"#,
                &["eviction_policy ARC is for L1; files are evicted as with LRU"],
            ),
            (
                r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"eviction":{"eviction_policy":"LRU"}}"#,
                &["eviction is ignored: 'mock' evicts at max_size_gb as LRU does"],
            ),
            (
                r#"{"type":"fault_inject","eviction":{"eviction_policy":"LRU"},
                    "inner":{"type":"fs","base_path":"/d","persist_enabled":false}}"#,
                &[
                    "eviction and persist_enabled are ignored here: they go into 'inner'",
                    "inner: persist_enabled false is ignored: files stay, as LMCache leaves them",
                ],
            ),
        ];
        for (text, lines) in cases {
            assert_eq!(parse_adapter(1, text).expect("a valid adapter").warnings(), lines, "{text}");
        }
    }

    #[test]
    fn names_a_replacement_for_each_type_of_lmcache() {
        for (name, _) in UNSERVED {
            let text = format!(r#"{{"type":"{name}"}}"#);
            let [line] = &lines(&text)[..] else { panic!("one line for {name}") };
            assert!(line.contains(&format!("no '{name}' adapter")), "{line}");
        }
    }
}
