//! From what was said to what was meant: the checked settings become the server's [`Config`].
//!
//! Each value already fits its own flag. What is left are values that must fit each other or the machine, and
//! values that nobody chose.

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use larder_server::config::l1::{default_shm_name, parse_manager};
use larder_server::config::{
    Config, CoordinatorConfig, EvictionConfig, EvictionPolicy, GIB, HashAlgorithm, HttpConfig, L1Config,
    L2Config, LivenessConfig, LogFormat, LogLevel, LoggingConfig, LookupHashLogConfig, MetricsConfig,
    OffloadPolicy, PrefetchPolicy, RpcConfig, Secret, WorkerThreads, bytes_from_gib, l2, random_instance_id,
};

use super::l1_size::{hugepage_shortage, shm_shortage, unchosen_bytes};
use super::machine::Machine;
use super::otlp::otlp;
use super::report::Report;
use super::settings::{Settings, Value};
use super::table::find;

/// What `settings` mean on a machine that `measure` knows. Values that were found out are filled in; what does not
/// fit goes to `report`, and then the configuration is not to be used.
pub(crate) fn resolve(
    settings: &mut Settings,
    measure: impl FnOnce(Option<&str>) -> Machine,
    report: &mut Report,
) -> Config {
    let default = Config::default();
    let rpc = rpc(settings, report);
    let (l1, eviction) = l1(settings, rpc.port, measure, report);
    let l2 = l2(settings, &l1.tag, report);
    let http = http(settings, report);
    let metrics = metrics(settings, &rpc, &http, report);
    let chunk_tokens = whole(settings, "chunk-size", default.chunk_tokens);
    if !chunk_tokens.is_power_of_two() {
        report.warning(format!(
            "{}: is not a power of two, which engines' block sizes are",
            settings.subject("chunk-size")
        ));
    }
    Config {
        instance_id: instance_id(settings),
        chunk_tokens,
        quota_default_bytes: settings.number("quota-default-gb").map(bytes_from_gib),
        null_block_id: whole(settings, "null-block-id", default.null_block_id),
        hash_algorithm: chosen(settings, "hash-algorithm", HashAlgorithm::from_name, default.hash_algorithm),
        separate_object_groups: settings.on("separate-object-groups"),
        liveness: liveness(settings, report),
        kv_event_log_records: whole(settings, "kv-event-log-size", default.kv_event_log_records),
        logging: logging(settings, &metrics, report),
        otlp: otlp(settings, &metrics, report),
        lookup_hash_log: lookup_hash_log(settings, &metrics, report),
        state_dir: settings.text("state-dir").map(PathBuf::from),
        record: settings.text("record").map(PathBuf::from),
        whatif: !settings.on("disable-whatif"),
        coordinator: coordinator(settings, &metrics, report),
        shutdown_timeout: seconds(settings, "shutdown-timeout", default.shutdown_timeout),
        exit_when_idle: settings.number("exit-when-idle-seconds").map(Duration::from_secs_f64),
        rpc,
        l1,
        eviction,
        l2,
        http,
        metrics,
    }
}

/// A whole number of the type that is asked for.
fn whole<T: TryFrom<i64>>(settings: &Settings, name: &str, default: T) -> T {
    settings.whole(name).and_then(|number| T::try_from(number).ok()).unwrap_or(default)
}

fn seconds(settings: &Settings, name: &str, default: Duration) -> Duration {
    let whole = settings.whole(name).and_then(|number| u64::try_from(number).ok()).map(Duration::from_secs);
    let number = settings.number(name).and_then(|number| Duration::try_from_secs_f64(number).ok());
    whole.or(number).unwrap_or(default)
}

fn chosen<T>(settings: &Settings, name: &str, from_name: impl FnOnce(&str) -> Option<T>, default: T) -> T {
    settings.text(name).and_then(from_name).unwrap_or(default)
}

/// A text that is not empty.
fn some_text(settings: &Settings, name: &str) -> Option<String> {
    settings.text(name).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn instance_id(settings: &mut Settings) -> String {
    if let Some(id) = settings.text("instance-id") {
        return id.to_owned();
    }
    let id = random_instance_id();
    settings.found("instance-id", Value::Text(id.clone()), "random");
    id
}

fn rpc(settings: &mut Settings, report: &mut Report) -> RpcConfig {
    let default = RpcConfig::default();
    let host = host(settings, "host", "--port", default.host, report);
    for endpoint in settings.list("listen") {
        if let Err(fault) = check_endpoint(endpoint) {
            report.problem(format!("--listen {endpoint}: {fault}"));
        }
    }
    RpcConfig {
        host,
        port: whole(settings, "port", default.port),
        listen: settings.list("listen").to_vec(),
        worker_threads: worker_threads(settings),
        transfer_mode: chosen(
            settings,
            "supported-transfer-mode",
            larder_server::config::TransferMode::from_name,
            default.transfer_mode,
        ),
    }
}

fn worker_threads(settings: &mut Settings) -> WorkerThreads {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut threads = |name: &'static str, default: usize, how: &'static str| {
        let number = whole(settings, name, default);
        if settings.whole(name).is_none() {
            settings.found(name, Value::Whole(number as i64), how);
        }
        number
    };
    let base = threads("max-workers", cores, "one for each core");
    WorkerThreads {
        base,
        gpu: threads("max-gpu-workers", base, "max-workers"),
        cpu: threads("max-cpu-workers", base, "max-workers"),
    }
}

/// A host to bind: a name or an address, and nothing else.
fn host(settings: &Settings, name: &str, port_flag: &str, default: String, report: &mut Report) -> String {
    let host = settings.text(name).map_or(default, str::to_owned);
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_ipv6 = bare.parse::<Ipv6Addr>().is_ok();
    if host.contains("://") {
        let bare = host.rsplit_once("://").map_or("", |(_, rest)| rest);
        report.problem(format!("{}: leave out the scheme, --{name} {bare}", settings.subject(name)));
    } else if host.contains(':') && !is_ipv6 {
        report.problem(format!(
            "{}: must be a host alone, the port goes to {port_flag}",
            settings.subject(name)
        ));
    } else if host.contains(|c: char| c.is_whitespace() || c == '/') {
        report.problem(format!("{}: must be a host name or an address", settings.subject(name)));
    }
    if is_ipv6 { bare } else { host }
}

/// A light check; what can really be bound shows when it is.
fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    /// The longest path a Unix socket can have.
    const SOCKET_PATH_BYTES_MAX: usize = 107;
    const SHAPE: &str = "must be tcp://HOST:PORT or ipc:///PATH";
    if let Some(path) = endpoint.strip_prefix("ipc://") {
        return match path.len() {
            0 => Err(SHAPE),
            length if length > SOCKET_PATH_BYTES_MAX => Err("the path of a socket has at most 107 bytes"),
            _ => Ok(()),
        };
    }
    let (host, port) = endpoint.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).ok_or(SHAPE)?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = !host.is_empty() && !host.contains('/') && (!host.contains(':') || is_bracketed(endpoint));
    if is_host && is_port { Ok(()) } else { Err(SHAPE) }
}

fn is_bracketed(endpoint: &str) -> bool {
    endpoint.strip_prefix("tcp://").is_some_and(|address| address.parse::<SocketAddr>().is_ok())
}

fn l1(
    settings: &mut Settings,
    port: u16,
    measure: impl FnOnce(Option<&str>) -> Machine,
    report: &mut Report,
) -> (L1Config, EvictionConfig) {
    let default = L1Config::default();
    let hugepages = settings.on("l1-use-hugepages");
    let mut l1 = L1Config {
        shm_name: shm_name(settings, port, hugepages, report),
        shm_fallback: settings.on("shm-fallback"),
        hugepages,
        align_bytes: whole(settings, "l1-align-bytes", default.align_bytes),
        read_ttl: seconds(settings, "l1-read-ttl-seconds", default.read_ttl),
        write_ttl: seconds(settings, "l1-write-ttl-seconds", default.write_ttl),
        ..default
    };
    let mut eviction = eviction(settings);
    let mut bytes = settings.number("l1-size-gb").map(bytes_from_gib);
    match settings.list("l1-manager") {
        [] => {}
        [_] if settings.given("l1-size-gb") => report.problem(
            "--l1-manager: Use either --l1-manager or legacy L1 flags; leave one of --l1-manager and --l1-size-gb out",
        ),
        [text] => match parse_manager(text, (l1.clone(), eviction)) {
            Ok(pool) => {
                (l1, eviction) = pool;
                bytes = Some(l1.bytes);
                let refusal = find("eviction-policy").and_then(|flag| flag.refusal(eviction.policy.name()));
                if let Some(why) = refusal {
                    report.problem(format!("--l1-manager eviction_policy {}: {why}", eviction.policy));
                }
            }
            Err(faults) => faults.iter().for_each(|fault| report.problem(fault.to_string())),
        },
        several => report.problem(format!(
            "--l1-manager: given {} times, but this server has one pool; give it once",
            several.len()
        )),
    }
    check_l1(settings, &l1, bytes, report);
    fit_to_machine(settings, &mut l1, bytes, measure, report);
    (l1, eviction)
}

/// The name of the shared memory, or `None` for doing without.
fn shm_name(settings: &mut Settings, port: u16, hugepages: bool, report: &mut Report) -> Option<String> {
    /// What a file name may have, less the part of it that is fixed.
    const NAME_BYTES_MAX: usize = 255 - "lmcache_l1_pool_".len();
    let Some(name) = settings.text("shm-name").map(str::to_owned) else {
        let name = (!hugepages).then(|| default_shm_name(port));
        let (text, how) = match &name {
            Some(name) => (name.clone(), "named after the port"),
            None => (String::new(), "none beside huge pages"),
        };
        settings.found("shm-name", Value::Text(text), how);
        return name;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.chars().all(plain) || name.len() > NAME_BYTES_MAX {
        report.problem(format!(
            "{}: must be at most {NAME_BYTES_MAX} letters, digits, '_', '-' and '.'",
            settings.subject("shm-name")
        ));
    }
    (!name.is_empty()).then_some(name)
}

fn eviction(settings: &Settings) -> EvictionConfig {
    let default = EvictionConfig::default();
    EvictionConfig {
        policy: chosen(settings, "eviction-policy", EvictionPolicy::from_name, default.policy),
        trigger_watermark: settings.number("eviction-trigger-watermark").unwrap_or(default.trigger_watermark),
        ratio: settings.number("eviction-ratio").unwrap_or(default.ratio),
        background_trim: settings.given("eviction-trigger-watermark") || settings.given("eviction-ratio"),
    }
}

/// What must fit within L1, on any machine.
fn check_l1(settings: &Settings, l1: &L1Config, bytes: Option<u64>, report: &mut Report) {
    let subject =
        |name| if settings.given("l1-manager") { "--l1-manager".to_owned() } else { settings.subject(name) };
    if !l1.align_bytes.is_power_of_two() {
        report.problem(format!(
            "{}: align_bytes must be a power of two, such as 4096",
            subject("l1-align-bytes")
        ));
    } else if bytes.is_some_and(|bytes| bytes < l1.align_bytes) {
        report.problem(format!(
            "{}: size_gb must provide at least align_bytes bytes ({})",
            subject("l1-size-gb"),
            l1.align_bytes
        ));
    }
    if l1.hugepages && l1.shm_name.is_some() {
        report.problem(format!(
            "{}: l1-use-hugepages is incompatible with shared memory; add --shm-name \"\" or leave huge pages out",
            subject("l1-use-hugepages")
        ));
    }
}

/// Chooses a size where nobody did, and checks that the machine has the room.
fn fit_to_machine(
    settings: &mut Settings,
    l1: &mut L1Config,
    bytes: Option<u64>,
    measure: impl FnOnce(Option<&str>) -> Machine,
    report: &mut Report,
) {
    if settings.failed("l1-size-gb") {
        return;
    }
    let machine = measure(l1.shm_name.as_deref());
    l1.bytes = bytes.unwrap_or_else(|| {
        let has_to_fit = l1.shm_name.is_some() && (machine.shm_free >= GIB || !l1.shm_fallback);
        let shm_free = has_to_fit.then_some(machine.shm_free);
        let bytes = unchosen_bytes(machine.memory_available, shm_free);
        settings.found("l1-size-gb", Value::Number(bytes as f64 / GIB as f64), "from free memory");
        bytes
    });
    let subject =
        if settings.given("l1-manager") { "--l1-manager".to_owned() } else { settings.subject("l1-size-gb") };
    if l1.hugepages
        && let Some(line) = hugepage_shortage(l1.bytes, &machine)
    {
        report.problem(format!("{subject}: {line}"));
    }
    if l1.shm_name.is_some()
        && let Some(line) = shm_shortage(l1.bytes, &machine)
    {
        if l1.shm_fallback {
            report.warning(format!("--shm-fallback: going on without shared memory, {line}"));
            l1.shm_name = None;
            settings.found("shm-name", Value::Text(String::new()), "shm-fallback");
        } else {
            report.problem(format!("{subject}: {line}"));
        }
    }
}

fn l2(settings: &Settings, tag: &str, report: &mut Report) -> L2Config {
    let default = L2Config::default();
    let mut adapters = Vec::new();
    for (position, text) in (1..).zip(settings.list("l2-adapter")) {
        match adapter_text(text).map(|text| l2::parse_adapter(position, &text)) {
            Ok(Ok(adapter)) => {
                check_adapter(position, &adapter, tag, report);
                adapters.push(adapter);
            }
            Ok(Err(faults)) => faults.iter().for_each(|fault| report.problem(fault.to_string())),
            Err(fault) => report.problem(format!("--l2-adapter #{position} {text}: {fault}")),
        }
    }
    L2Config {
        adapters,
        store_policy: chosen(settings, "l2-store-policy", OffloadPolicy::from_name, default.store_policy),
        prefetch_policy: chosen(
            settings,
            "l2-prefetch-policy",
            PrefetchPolicy::from_name,
            default.prefetch_policy,
        ),
        prefetch_jobs_max: whole(settings, "l2-prefetch-max-in-flight", default.prefetch_jobs_max),
    }
}

/// The adapter's JSON: the text itself, or the file it names.
fn adapter_text(text: &str) -> Result<String, String> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("cannot be read, {error}")),
        None => Ok(text.to_owned()),
    }
}

fn check_adapter(position: usize, adapter: &l2::L2AdapterConfig, tag: &str, report: &mut Report) {
    if adapter.affinity_tag != tag {
        report.problem(format!(
            "--l2-adapter #{position}: Unknown L1 affinity_tag: '{}', L1 has the tag '{tag}'",
            adapter.affinity_tag
        ));
    }
    for warning in adapter.warnings() {
        report.warning(format!("--l2-adapter #{position}: {warning}"));
    }
}

fn liveness(settings: &Settings, report: &mut Report) -> LivenessConfig {
    let default = LivenessConfig::default();
    let reap = settings.number("worker-reap-timeout-seconds").unwrap_or(120.0);
    let grace = seconds(settings, "worker-registration-grace-seconds", default.worker_registration_grace);
    if grace.as_secs_f64() < reap {
        report.problem(format!(
            "{}: must not be below --worker-reap-timeout-seconds, which is {reap}",
            settings.subject("worker-registration-grace-seconds")
        ));
    }
    LivenessConfig {
        worker_reap_timeout: (reap > 0.0).then(|| Duration::from_secs_f64(reap)),
        worker_registration_grace: grace,
        session_ttl: seconds(settings, "session-ttl-seconds", default.session_ttl),
    }
}

fn http(settings: &Settings, report: &mut Report) -> HttpConfig {
    let default = HttpConfig::default();
    HttpConfig {
        host: host(settings, "http-host", "--http-port", default.host, report),
        port: whole(settings, "http-port", default.port),
        auth_token: auth_token(settings, report),
        debug_endpoints: settings.on("enable-debug-endpoints"),
        access_log: settings.on("access-log"),
    }
}

fn auth_token(settings: &Settings, report: &mut Report) -> Option<Secret> {
    let path = settings.text("http-auth-token-file")?;
    let subject = settings.subject("http-auth-token-file");
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => {
            report.problem(format!("{subject}: is empty, it must hold the token"))
        }
        Ok(text) if text.trim().contains(char::is_whitespace) => {
            report.problem(format!("{subject}: must hold one token and nothing else"));
        }
        Ok(text) => return Some(Secret::new(text.trim())),
        Err(error) => report.problem(format!("{subject}: cannot be read, {error}")),
    }
    None
}

fn metrics(settings: &Settings, rpc: &RpcConfig, http: &HttpConfig, report: &mut Report) -> MetricsConfig {
    let default = MetricsConfig::default();
    let observability = !settings.on("disable-observability");
    if http.port == rpc.port && may_meet(&http.host, &rpc.host) {
        report.problem(format!(
            "{}: is the port of requests (--port), choose another",
            settings.subject("http-port")
        ));
    }
    let prometheus_port = settings
        .whole("prometheus-port")
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != http.port);
    if prometheus_port == Some(rpc.port) && may_meet(&http.host, &rpc.host) {
        report.problem(format!(
            "{}: is the port of requests (--port), choose another",
            settings.subject("prometheus-port")
        ));
    }
    MetricsConfig {
        observability,
        enabled: observability && !settings.on("disable-metrics"),
        prometheus_port,
        sample_rate: settings.number("metrics-sample-rate").unwrap_or(default.sample_rate),
        instance_label: settings.on("metrics-instance-label"),
    }
}

/// Whether two hosts to bind may stand for the same interface.
fn may_meet(one: &str, other: &str) -> bool {
    let plain = |host: &str| if host == "localhost" { "127.0.0.1".to_owned() } else { host.to_owned() };
    let everywhere = |host: &str| matches!(host, "0.0.0.0" | "::" | "*");
    plain(one) == plain(other) || everywhere(one) || everywhere(other)
}

fn logging(settings: &Settings, metrics: &MetricsConfig, report: &mut Report) -> LoggingConfig {
    let default = LoggingConfig::default();
    let extra = settings.on("enable-extra-logging");
    if extra && !metrics.observability {
        report.problem("--enable-extra-logging: needs observability, leave --disable-observability out");
    }
    LoggingConfig {
        level: chosen(settings, "log-level", LogLevel::from_name, default.level),
        format: chosen(settings, "log-format", LogFormat::from_name, default.format),
        requests: !settings.on("disable-logging"),
        extra_interval: extra.then(|| seconds(settings, "extra-logging-interval", Duration::from_secs(10))),
    }
}

fn lookup_hash_log(
    settings: &Settings,
    metrics: &MetricsConfig,
    report: &mut Report,
) -> Option<LookupHashLogConfig> {
    let dir = some_text(settings, "lookup-hash-log-dir").map(PathBuf::from)?;
    if !metrics.observability {
        report.problem("--lookup-hash-log-dir: needs observability, leave --disable-observability out");
    }
    Some(LookupHashLogConfig {
        dir,
        rotation_interval: seconds(
            settings,
            "lookup-hash-log-rotation-interval",
            Duration::from_secs(21_600),
        ),
        rotation_max_bytes: whole(settings, "lookup-hash-log-rotation-max-size", 100 << 20),
        max_files: whole(settings, "lookup-hash-log-max-files", 100),
    })
}

fn coordinator(settings: &Settings, metrics: &MetricsConfig, report: &mut Report) -> CoordinatorConfig {
    let default = CoordinatorConfig::default();
    let url = some_text(settings, "coordinator-url");
    if url.as_deref().is_some_and(|url| !url.starts_with("http://")) {
        let subject = settings.subject("coordinator-url");
        report.problem(format!("{subject}: must begin with http://; TLS is left to a proxy on this node"));
    }
    let event_reporting = settings.on("coordinator-event-reporting");
    if event_reporting && !metrics.observability {
        report
            .problem("--coordinator-event-reporting: needs observability, leave --disable-observability out");
    }
    CoordinatorConfig {
        url,
        advertise_ip: some_text(settings, "coordinator-advertise-ip"),
        heartbeat_interval: seconds(settings, "coordinator-heartbeat-interval", default.heartbeat_interval),
        event_reporting,
        event_flush_interval: seconds(
            settings,
            "coordinator-event-flush-interval",
            default.event_flush_interval,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scan::scan;

    const MACHINE: Machine = Machine { memory_available: 64 * GIB, shm_free: 8 * GIB, hugepages_free: 0 };

    fn resolved(words: &[&str], machine: Machine) -> (Config, Settings, Report) {
        let mut report = Report::default();
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let layer = scan(&words, &mut report);
        let mut settings = Settings::merge(&[layer], &mut report);
        let config = resolve(&mut settings, |_| machine, &mut report);
        (config, settings, report)
    }

    #[test]
    fn the_tables_defaults_are_the_types_defaults() {
        let (config, _, report) = resolved(&[], MACHINE);
        assert_eq!(report, Report::default());
        let mut default = Config::default();
        default.instance_id.clone_from(&config.instance_id);
        default.l1.bytes = 4 * GIB;
        assert_eq!(config, default);
    }

    #[test]
    fn what_nobody_chose_is_filled_in() {
        let (_, settings, _) = resolved(&["--port", "7000"], MACHINE);
        assert_eq!(settings.text("shm-name"), Some("larder_7000"));
        assert_eq!(settings.number("l1-size-gb"), Some(4.0));
        assert!(!settings.given("l1-size-gb") && settings.given("port"));
    }

    #[test]
    fn a_small_dev_shm_is_refused_with_the_remedies_or_done_without() {
        let small = Machine { shm_free: 64 << 20, ..MACHINE };
        let (_, _, report) = resolved(&["--l1-size-gb", "2"], small);
        assert_eq!(report.problems.len(), 1);
        assert!(report.problems[0].starts_with("--l1-size-gb 2: /dev/shm has 64 MiB free"), "{report:?}");
        let (_, _, report) = resolved(&[], small);
        assert_eq!(report.problems.len(), 1, "an unchosen size does not fit either");
        for way in [&["--shm-name", ""][..], &["--shm-fallback"]] {
            let (config, settings, report) = resolved(way, small);
            assert_eq!((config.l1.shm_name, report.problems), (None, vec![]));
            assert_eq!(settings.text("shm-name"), Some(""));
            assert_eq!(config.l1.bytes, 20 * GIB, "without shared memory its size does not matter");
        }
    }

    #[test]
    fn huge_pages_turn_unchosen_shared_memory_off() {
        let roomy = Machine { hugepages_free: 1 << 20, ..MACHINE };
        let (config, _, report) = resolved(&["--l1-use-hugepages", "--l1-size-gb", "2"], roomy);
        assert_eq!((config.l1.hugepages, config.l1.shm_name, report.problems), (true, None, vec![]));
        let (_, _, report) = resolved(&["--l1-use-hugepages", "--shm-name", "x"], roomy);
        assert!(
            report.problems[0].contains("l1-use-hugepages is incompatible with shared memory"),
            "{report:?}"
        );
        let (_, _, report) = resolved(&["--l1-use-hugepages"], MACHINE);
        assert!(report.problems[0].contains("Insufficient hugepages: 0 free"), "{report:?}");
    }

    #[test]
    fn a_pool_in_json_means_the_same_as_the_flags() {
        let pool = r#"{"type":"DRAM","tag":"_default","size_gb":2,"shm_name":"x","read_ttl_seconds":7}"#;
        let (json, _, report) = resolved(&["--l1-manager", pool], MACHINE);
        assert_eq!(report.problems, Vec::<String>::new());
        let words = ["--l1-size-gb", "2", "--shm-name", "x", "--l1-read-ttl-seconds", "7"];
        assert_eq!(json.l1, resolved(&words, MACHINE).0.l1);
    }

    #[test]
    fn endpoints_get_a_light_check() {
        for good in ["tcp://0.0.0.0:1", "tcp://[::1]:5555", "tcp://host:65535", "ipc:///tmp/a.sock"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in
            ["", "host:1", "tcp://host", "tcp://:1", "tcp://h:0", "tcp://h:70000", "ipc://", "tcp://::1:5"]
        {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
        assert!(check_endpoint(&format!("ipc:///{}", "x".repeat(200))).is_err());
    }
}
