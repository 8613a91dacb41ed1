//! The first tier: the arena in host memory, its leases, and what leaves it under pressure.

use std::time::Duration;

use serde_json::{Map, Value};

use super::GIB;
use larder_l2::spec::{Fields, SpecError, parse_object};

/// Eviction settings of one tier.
pub use larder_policy::eviction::EvictionConfig;
/// The order in which objects are evicted from a tier.
pub use larder_policy::eviction::EvictionKind as EvictionPolicy;

/// The tag of the only pool, unless `--l1-manager` names it otherwise.
pub use larder_l2::config::DEFAULT_TAG;

/// The arena and the life of the leases on it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Whether to go on without shared memory where `/dev/shm` has no room, rather than refuse to start.
    pub shm_fallback: bool,
    /// Whether the arena takes 2 MiB pages from the kernel's reserve. Never together with shared memory.
    pub hugepages: bool,
    /// A read lease ends this long after it was taken.
    pub read_ttl: Duration,
    /// A write reservation ends this long after it was made.
    pub write_ttl: Duration,
}

impl L1Config {
    /// The shared-memory file workers open: they know the name only, so the rest is fixed by the protocol.
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
        }
    }
}

/// The shared-memory name of a server that was given none. It depends on the port alone, so a restarted server
/// finds and reclaims what its predecessor left behind.
pub fn default_shm_name(port: u16) -> String {
    format!("larder_{port}")
}

/// Reads one `--l1-manager`; what it leaves open stays as in `defaults`.
pub fn parse_manager(
    text: &str,
    defaults: (L1Config, EvictionConfig),
) -> Result<(L1Config, EvictionConfig), Vec<SpecError>> {
    let subject = "--l1-manager";
    let map = parse_object(subject, text).map_err(|fault| vec![fault])?;
    let conflict =
        |fault: &str| vec![SpecError::Conflict { subject: subject.to_owned(), error: fault.to_owned() }];
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
    // Memory is always committed as it is first used, so these two change nothing.
    fields.boolean("use_lazy", true);
    fields.positive("init_size_gb");
    let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
    l1.read_ttl = seconds(fields.positive("read_ttl_seconds"), l1.read_ttl);
    l1.write_ttl = seconds(fields.positive("write_ttl_seconds"), l1.write_ttl);
    if let Some(block) = fields.object("eviction") {
        read_eviction(block, &mut eviction, &mut fields);
    }
    let faults = name_unknown_fields(fields.finish());
    if faults.is_empty() { Ok((l1, eviction)) } else { Err(faults) }
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
    let mut faults = fields.finish();
    if faults.iter().any(|fault| matches!(fault, SpecError::UnknownField { .. })) {
        faults.retain(|fault| !matches!(fault, SpecError::UnknownField { .. }));
        outer.conflict("eviction must contain policy, watermark and ratio settings only");
    }
    outer.add_errors(faults);
}

/// Puts unknown fields into the words that people search for.
fn name_unknown_fields(faults: Vec<SpecError>) -> Vec<SpecError> {
    let in_other_words = |fault| match fault {
        SpecError::UnknownField { subject, field, hint } => {
            SpecError::Conflict { subject, error: format!("Unknown L1 fields: ['{field}']{hint}") }
        }
        other => other,
    };
    faults.into_iter().map(in_other_words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let faults = parse_manager(text, Default::default()).expect_err("a fault");
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pool_takes_all_its_fields_and_leaves_the_rest() {
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
    fn each_fault_is_one_line() {
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
