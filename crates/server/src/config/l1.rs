//! The first tier: the arena in host memory, its leases and its eviction.

use std::time::Duration;

use serde_json::{Map, Value};

use super::GIB;
use larder_l2::spec::{Fields, SpecError, parse_object};

/// Eviction settings of one tier.
pub use larder_policy::eviction::EvictionConfig;
/// The order in which objects are evicted from a tier.
pub use larder_policy::eviction::EvictionKind as EvictionPolicy;

/// The tag of the only pool, unless `--l1-manager` gives another.
pub use larder_l2::config::DEFAULT_TAG;

/// The arena, and the lifetime of leases on it.
#[derive(Clone, Debug, PartialEq)]
pub struct L1Config {
    /// The pool's name; an L2 adapter's affinity tag refers to it.
    pub tag: String,
    /// Size of the arena. At least [`L1Config::align_bytes`].
    pub bytes: u64,
    /// Alignment of every slot. A power of two.
    pub align_bytes: u64,
    /// Names the shared-memory file, see [`L1Config::shm_path`]. `None`: no shared memory, bytes travel through
    /// the request socket.
    pub shm_name: Option<String>,
    /// Whether to run without shared memory if `/dev/shm` is too small, instead of an error.
    pub shm_fallback: bool,
    /// Whether the arena takes 2 MiB pages from the kernel's reserve. Never together with shared memory.
    pub hugepages: bool,
    /// A read lease expires after this time.
    pub read_ttl: Duration,
    /// A write reservation expires after this time.
    pub write_ttl: Duration,
    /// The part of L1 that one client may hold by lookups, retrieves and stores, in (0, 1].
    pub client_share: f64,
}

impl L1Config {
    /// The shared-memory file that workers open. The protocol fixes its path except for the name.
    pub fn shm_path(&self) -> Option<String> {
        self.shm_name.as_deref().map(shm_path)
    }
}

/// The file behind the shared-memory name `name`.
pub fn shm_path(name: &str) -> String {
    format!("/dev/shm/lmcache_l1_pool_{name}")
}

impl Default for L1Config {
    fn default() -> Self {
        Self {
            tag: DEFAULT_TAG.to_owned(),
            bytes: GIB,
            align_bytes: 4096,
            shm_name: Some(default_shm_name(5555)),
            shm_fallback: false,
            hugepages: false,
            read_ttl: Duration::from_secs(300),
            write_ttl: Duration::from_secs(600),
            client_share: 0.5,
        }
    }
}

/// The default shared-memory name. It depends on the port only, so that a restarted server finds and removes the
/// file of the previous one.
pub fn default_shm_name(port: u16) -> String {
    format!("larder_{port}")
}

/// Parses the JSON of `--l1-manager`; `defaults` has the values of absent fields.
pub fn parse_manager(
    text: &str,
    defaults: (L1Config, EvictionConfig),
) -> Result<(L1Config, EvictionConfig), Vec<SpecError>> {
    let subject = "--l1-manager";
    let map = parse_object(subject, text).map_err(|error| vec![error])?;
    let conflict =
        |error: &str| vec![SpecError::Conflict { subject: subject.to_owned(), error: error.to_owned() }];
    match map.get("type").and_then(Value::as_str) {
        Some("DRAM") => {}
        Some("DEVDAX") => return Err(conflict("type DEVDAX is not part of this server; use type DRAM")),
        Some("GDS") => return Err(conflict("type GDS is not part of this server; use type DRAM")),
        _ => {
            return Err(vec![SpecError::Other(
                "--l1-manager requires type DRAM, DEVDAX or GDS (this server: DRAM)",
            )]);
        }
    }
    let (mut l1, mut eviction) = defaults;
    let mut fields = Fields::new(subject, &map);
    fields.ignore("type");
    l1.tag = fields.required_name("tag").unwrap_or_default().to_owned();
    l1.bytes = fields.required_gib("size_gb").unwrap_or(l1.bytes);
    l1.align_bytes = fields.positive("align_bytes").unwrap_or(l1.align_bytes);
    l1.hugepages = fields.boolean("use_hugepages", l1.hugepages);
    if let Some(name) = fields.text("shm_name") {
        l1.shm_name = (!name.is_empty()).then(|| name.to_owned());
    }
    // Without effect: memory is always committed as it is first used.
    fields.boolean("use_lazy", true);
    fields.positive("init_size_gb");
    let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
    l1.read_ttl = seconds(fields.positive("read_ttl_seconds"), l1.read_ttl);
    l1.write_ttl = seconds(fields.positive("write_ttl_seconds"), l1.write_ttl);
    if let Some(block) = fields.object("eviction") {
        read_eviction(block, &mut eviction, &mut fields);
    }
    let errors = reword_unknown_fields(fields.finish());
    if errors.is_empty() { Ok((l1, eviction)) } else { Err(errors) }
}

fn read_eviction(block: &Map<String, Value>, eviction: &mut EvictionConfig, outer: &mut Fields<'_>) {
    let mut fields = Fields::new("--l1-manager eviction", block);
    let names = "'LRU', 'ARC', 'adaptive', 'IsolatedLRU', or 'noop'";
    eviction.policy =
        fields.choice("eviction_policy", names, EvictionPolicy::from_name).unwrap_or(eviction.policy);
    eviction.trigger_watermark =
        fields.positive_fraction("trigger_watermark").unwrap_or(eviction.trigger_watermark);
    eviction.ratio = fields.positive_fraction("eviction_ratio").unwrap_or(eviction.ratio);
    eviction.background_trim |=
        block.contains_key("trigger_watermark") || block.contains_key("eviction_ratio");
    let mut errors = fields.finish();
    if errors.iter().any(|error| matches!(error, SpecError::UnknownField { .. })) {
        errors.retain(|error| !matches!(error, SpecError::UnknownField { .. }));
        outer.conflict("eviction must contain policy, watermark and ratio settings only");
    }
    outer.add_errors(errors);
}

/// Gives errors about unknown fields the text that LMCache has.
fn reword_unknown_fields(errors: Vec<SpecError>) -> Vec<SpecError> {
    let reword = |error| match error {
        SpecError::UnknownField { subject, field, hint } => {
            SpecError::Conflict { subject, error: format!("Unknown L1 fields: ['{field}']{hint}") }
        }
        other => other,
    };
    errors.into_iter().map(reword).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let errors = parse_manager(text, Default::default()).expect_err("an error");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn parses_all_fields_and_keeps_other_defaults() {
        let text = r#"{"type":"DRAM","tag":"hot","size_gb":0.5,"align_bytes":8192,"shm_name":"x","use_hugepages":false,
            "use_lazy":true,"init_size_gb":20,"read_ttl_seconds":7,"eviction":{"trigger_watermark":0.5}}"#;
        let (l1, eviction) = parse_manager(text, Default::default()).expect("a valid pool");
        let expected = L1Config {
            tag: "hot".to_owned(),
            bytes: GIB / 2,
            align_bytes: 8192,
            shm_name: Some("x".to_owned()),
            read_ttl: Duration::from_secs(7),
            ..L1Config::default()
        };
        assert_eq!(l1, expected);
        assert_eq!(
            eviction,
            EvictionConfig { trigger_watermark: 0.5, background_trim: true, ..EvictionConfig::default() }
        );
    }

    #[test]
    fn each_error_is_one_line() {
        let cases = [
            ("[1]", "--l1-manager: expected a JSON object, got list"),
            ("{}", "--l1-manager requires type DRAM, DEVDAX or GDS (this server: DRAM)"),
            (r#"{"type":"GDS"}"#, "--l1-manager: type GDS is not part of this server; use type DRAM"),
            (
                r#"{"type":"DRAM","tag":"","size_gb":1}"#,
                "--l1-manager: tag must be a non-empty string, got \"\"",
            ),
            (
                r#"{"type":"DRAM","tag":"t","size_gb":0}"#,
                "--l1-manager: size_gb must be a finite positive number, got 0",
            ),
            (
                r#"{"type":"DRAM","tag":"t","size_gb":1,"sise_gb":1}"#,
                "--l1-manager: Unknown L1 fields: ['sise_gb'], did you mean 'size_gb'?",
            ),
            (
                r#"{"type":"DRAM","tag":"t","size_gb":1,"eviction":{"x":1}}"#,
                "--l1-manager: eviction must contain policy, watermark and ratio settings only",
            ),
            (
                r#"{"type":"DRAM","tag":"t","size_gb":1,"eviction":{"trigger_watermark":7}}"#,
                "--l1-manager eviction: trigger_watermark must be between zero and one (above 0), got 7",
            ),
        ];
        for (text, line) in cases {
            assert_eq!(lines(text), [line], "{text}");
        }
    }
}
