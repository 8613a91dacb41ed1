//! Converts the merged settings into the server's [`Config`].
//!
//! Each value is already valid for its own flag. This checks values against each other and the machine, and computes
//! those that are not given.

use std::io::Read as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use larder_server::config::{
    Config, CoordinatorConfig, HttpConfig, L2Config, LivenessConfig, LoggingConfig, LookupHashLogConfig,
    MetricsConfig, RpcConfig, Secret, WorkerThreads, bytes_from_gib, l2, random_instance_id,
};

use super::flag::{Flag, FlagSpec};
use super::flags;
use super::l1::l1;
use super::machine::Machine;
use super::otlp::otlp;
use super::settings::Settings;
use crate::report::Report;

/// The longest path that a Unix socket can have.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest token file.
const TOKEN_BYTES_MAX: u64 = 4096;

/// The configuration that `settings` mean on the machine that `measure` measures. Adds computed values to `settings`.
/// If it reports an error, the configuration must not be used.
pub(crate) fn resolve(
    settings: &mut Settings,
    measure: impl FnOnce(Option<&str>) -> Machine,
    report: &mut Report,
) -> Config {
    let rpc = rpc(settings, report);
    let (l1, eviction) = l1(settings, rpc.port, measure, report);
    let l2 = l2(settings, &l1.tag, report);
    let http = http(settings, report);
    let metrics = metrics(settings, &rpc, &http, report);
    let chunk_tokens = settings.get(&flags::CHUNK_SIZE);
    if !chunk_tokens.is_power_of_two() {
        let subject = settings.subject(&flags::CHUNK_SIZE);
        report.warn(format!("{subject}: is not a power of two, as the block sizes of engines are"));
    }
    Config {
        instance_id: settings.get_or_set(&flags::INSTANCE_ID, || (random_instance_id(), "random")),
        chunk_tokens,
        quota_default_bytes: settings.get(&flags::QUOTA_DEFAULT_GB).map(bytes_from_gib),
        null_block_id: settings.get(&flags::NULL_BLOCK_ID),
        hash_algorithm: settings.get(&flags::HASH_ALGORITHM),
        separate_object_groups: settings.get(&flags::SEPARATE_OBJECT_GROUPS),
        liveness: liveness(settings, report),
        kv_event_log_records: settings.get(&flags::KV_EVENT_LOG_SIZE),
        logging: logging(settings, &metrics, report),
        otlp: otlp(settings, &metrics, report),
        lookup_hash_log: lookup_hash_log(settings, &metrics, report),
        state_dir: settings.get(&flags::STATE_DIR),
        record: settings.get(&flags::RECORD),
        whatif: !settings.get(&flags::DISABLE_WHATIF),
        coordinator: coordinator(settings, &metrics, report),
        shutdown_timeout: settings.get(&flags::SHUTDOWN_TIMEOUT),
        exit_when_idle: settings.get(&flags::EXIT_WHEN_IDLE_SECONDS),
        rpc,
        l1,
        eviction,
        l2,
        http,
        metrics,
    }
}

fn rpc(settings: &mut Settings, report: &mut Report) -> RpcConfig {
    let host = host(settings, &flags::HOST, &flags::PORT, report);
    let listen = settings.get(&flags::LISTEN);
    for endpoint in &listen {
        if let Err(error) = check_endpoint(endpoint) {
            report.error(format!("--listen {endpoint}: {error}"));
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let base = settings.get_or_set(&flags::MAX_WORKERS, || (cores, "one for each core"));
    let worker_threads = WorkerThreads {
        base,
        gpu: settings.get_or_set(&flags::MAX_GPU_WORKERS, || (base, "max-workers")),
        cpu: settings.get_or_set(&flags::MAX_CPU_WORKERS, || (base, "max-workers")),
    };
    RpcConfig {
        host,
        port: settings.get(&flags::PORT),
        listen,
        worker_threads,
        transport: settings.get(&flags::TRANSPORT),
        grpc_message_bytes_max: settings.get(&flags::GRPC_MAX_MESSAGE_MB) << 20,
        transfer_mode: settings.get(&flags::SUPPORTED_TRANSFER_MODE),
    }
}

/// A host name or address to bind, without a port.
fn host(settings: &Settings, flag: &Flag<String>, port: &Flag<u16>, report: &mut Report) -> String {
    let host = settings.get(flag);
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_ipv6 = bare.parse::<Ipv6Addr>().is_ok();
    let subject = settings.subject(flag);
    if let Some((_, bare)) = host.rsplit_once("://") {
        report.error(format!("{subject}: leave out the scheme, {} {bare}", flag.dashed()));
    } else if host.contains(':') && !is_ipv6 {
        report.error(format!("{subject}: must be a host alone, the port goes to {}", port.dashed()));
    } else if host.contains(|c: char| c.is_whitespace() || c == '/') {
        report.error(format!("{subject}: must be a host name or an address"));
    }
    if is_ipv6 { bare } else { host }
}

/// Checks the form of an endpoint. Whether it can be bound shows at the start.
fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be tcp://HOST:PORT or ipc:///PATH";
    if let Some(path) = endpoint.strip_prefix("ipc://") {
        return match path.len() {
            0 => Err(FORM),
            length if length > SOCKET_PATH_BYTES_MAX => Err("the path of a socket has at most 107 bytes"),
            _ => Ok(()),
        };
    }
    let address = endpoint.strip_prefix("tcp://").ok_or(FORM)?;
    let (host, port) = address.rsplit_once(':').ok_or(FORM)?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_name = !host.is_empty() && !host.contains(['/', ':']);
    if is_port && (is_name || address.parse::<SocketAddr>().is_ok()) { Ok(()) } else { Err(FORM) }
}

fn l2(settings: &Settings, l1_tag: &str, report: &mut Report) -> L2Config {
    let mut adapters = Vec::new();
    for (position, text) in (1..).zip(settings.get(&flags::L2_ADAPTER)) {
        match read_adapter(&text).map(|json| l2::parse_adapter(position, &json)) {
            Ok(Ok(adapter)) => {
                if adapter.affinity_tag != l1_tag {
                    report.error(format!(
                        "--l2-adapter #{position}: Unknown L1 affinity_tag: '{}', L1 has the tag '{l1_tag}'",
                        adapter.affinity_tag
                    ));
                }
                for warning in adapter.warnings() {
                    report.warn(format!("--l2-adapter #{position}: {warning}"));
                }
                adapters.push(adapter);
            }
            Ok(Err(errors)) => errors.iter().for_each(|error| report.error(error.to_string())),
            Err(error) => {
                report.error(format!("--l2-adapter #{position} {text}: cannot be read, {error}"));
            }
        }
    }
    L2Config {
        adapters,
        store_policy: settings.get(&flags::L2_STORE_POLICY),
        prefetch_policy: settings.get(&flags::L2_PREFETCH_POLICY),
        prefetch_jobs_max: settings.get(&flags::L2_PREFETCH_MAX_IN_FLIGHT),
    }
}

/// The adapter's JSON: `text` itself, or the file that it names as `@FILE`.
fn read_adapter(text: &str) -> io::Result<String> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), fs::read_to_string)
}

fn liveness(settings: &Settings, report: &mut Report) -> LivenessConfig {
    let reap = settings.get(&flags::WORKER_REAP_TIMEOUT_SECONDS);
    let grace = settings.get(&flags::WORKER_REGISTRATION_GRACE_SECONDS);
    if grace < reap {
        report.error(format!(
            "{}: must not be below --worker-reap-timeout-seconds, which is {}",
            settings.subject(&flags::WORKER_REGISTRATION_GRACE_SECONDS),
            reap.as_secs_f64()
        ));
    }
    let disconnect = settings.get(&flags::WORKER_DISCONNECT_GRACE_SECONDS);
    if !reap.is_zero() && disconnect > reap {
        report.error(format!(
            "{}: must not be above --worker-reap-timeout-seconds, which is {}",
            settings.subject(&flags::WORKER_DISCONNECT_GRACE_SECONDS),
            reap.as_secs_f64()
        ));
    }
    LivenessConfig {
        worker_disconnect_grace: (!disconnect.is_zero()).then_some(disconnect),
        late_write_timeout: settings.get(&flags::LATE_WRITE_TIMEOUT_SECONDS),
        worker_reap_timeout: (!reap.is_zero()).then_some(reap),
        worker_registration_grace: grace,
        session_ttl: settings.get(&flags::SESSION_TTL_SECONDS),
    }
}

fn http(settings: &Settings, report: &mut Report) -> HttpConfig {
    let auth_token = auth_token(settings, report);
    let auth_reads = settings.get(&flags::HTTP_AUTH_READS);
    if auth_reads && !settings.is_given(&flags::HTTP_AUTH_TOKEN_FILE) {
        let subject = settings.subject(&flags::HTTP_AUTH_READS);
        report.error(format!("{subject}: needs a token, give --http-auth-token-file"));
    }
    let allowed_hosts = settings.get(&flags::HTTP_ALLOWED_HOSTS);
    for name in &allowed_hosts {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | ',')) {
            report
                .error(format!("--http-allowed-hosts {name}: must be a host name, without scheme and port"));
        }
    }
    let uds = settings.get(&flags::HTTP_UDS);
    if uds.as_ref().is_some_and(|path| path.as_os_str().len() > SOCKET_PATH_BYTES_MAX) {
        let subject = settings.subject(&flags::HTTP_UDS);
        report.error(format!("{subject}: the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes"));
    }
    HttpConfig {
        host: host(settings, &flags::HTTP_HOST, &flags::HTTP_PORT, report),
        port: settings.get(&flags::HTTP_PORT),
        auth_token,
        auth_reads,
        allowed_hosts,
        uds,
        debug_endpoints: settings.get(&flags::ENABLE_DEBUG_ENDPOINTS),
        access_log: settings.get(&flags::ACCESS_LOG),
    }
}

fn auth_token(settings: &Settings, report: &mut Report) -> Option<Secret> {
    let path = settings.get(&flags::HTTP_AUTH_TOKEN_FILE)?;
    let subject = settings.subject(&flags::HTTP_AUTH_TOKEN_FILE);
    match read_token(&path) {
        Ok((text, _)) if text.trim().is_empty() => {
            report.error(format!("{subject}: is empty, it must hold the token"));
        }
        Ok((text, _)) if text.trim().contains(char::is_whitespace) => {
            report.error(format!("{subject}: must hold one token and nothing else"));
        }
        Ok((_, mode)) if mode & 0o022 != 0 => {
            report.error(format!("{subject}: other users may change it (mode {mode:o}), chmod 600 it"));
        }
        Ok((text, mode)) => {
            if mode & 0o004 != 0 {
                report
                    .warn(format!("{subject}: every user may read the token (mode {mode:o}), chmod 600 it"));
            }
            return Some(Secret::new(text.trim()));
        }
        Err(error) => report.error(format!("{subject}: cannot be read, {error}")),
    }
    None
}

/// The text of a token file, and the permissions of the file.
fn read_token(path: &Path) -> io::Result<(String, u32)> {
    let file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    let mut text = String::new();
    file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {TOKEN_BYTES_MAX} bytes")));
    }
    Ok((text, mode))
}

fn metrics(settings: &Settings, rpc: &RpcConfig, http: &HttpConfig, report: &mut Report) -> MetricsConfig {
    let observability = !settings.get(&flags::DISABLE_OBSERVABILITY);
    let prometheus_port = settings.get(&flags::PROMETHEUS_PORT).filter(|port| *port != http.port);
    for (port, flag) in
        [(Some(http.port), flags::HTTP_PORT.spec), (prometheus_port, flags::PROMETHEUS_PORT.spec)]
    {
        if port == Some(rpc.port) && hosts_may_overlap(&http.host, &rpc.host) {
            let subject = settings.subject(flag);
            report.error(format!("{subject}: is the port of requests (--port), choose another"));
        }
    }
    MetricsConfig {
        observability,
        enabled: observability && !settings.get(&flags::DISABLE_METRICS),
        prometheus_port,
        sample_rate: settings.get(&flags::METRICS_SAMPLE_RATE),
        instance_label: settings.get(&flags::METRICS_INSTANCE_LABEL),
    }
}

/// Whether two hosts to bind may be the same interface.
fn hosts_may_overlap(one: &str, other: &str) -> bool {
    let is_any = |host| matches!(host, "0.0.0.0" | "::" | "*");
    let is_local = |name, address| name == "localhost" && matches!(address, "127.0.0.1" | "::1");
    one == other || is_local(one, other) || is_local(other, one) || is_any(one) || is_any(other)
}

fn logging(settings: &Settings, metrics: &MetricsConfig, report: &mut Report) -> LoggingConfig {
    let extra = settings.get(&flags::ENABLE_EXTRA_LOGGING);
    needs_observability(extra, &flags::ENABLE_EXTRA_LOGGING, metrics, report);
    LoggingConfig {
        level: settings.get(&flags::LOG_LEVEL),
        format: settings.get(&flags::LOG_FORMAT),
        requests: !settings.get(&flags::DISABLE_LOGGING),
        extra_interval: extra.then(|| settings.get(&flags::EXTRA_LOGGING_INTERVAL)),
    }
}

fn lookup_hash_log(
    settings: &Settings,
    metrics: &MetricsConfig,
    report: &mut Report,
) -> Option<LookupHashLogConfig> {
    let dir: PathBuf = settings.get(&flags::LOOKUP_HASH_LOG_DIR)?;
    needs_observability(true, &flags::LOOKUP_HASH_LOG_DIR, metrics, report);
    Some(LookupHashLogConfig {
        dir,
        rotation_interval: settings.get(&flags::LOOKUP_HASH_LOG_ROTATION_INTERVAL),
        rotation_max_bytes: settings.get(&flags::LOOKUP_HASH_LOG_ROTATION_MAX_SIZE),
        max_files: settings.get(&flags::LOOKUP_HASH_LOG_MAX_FILES),
    })
}

fn coordinator(settings: &Settings, metrics: &MetricsConfig, report: &mut Report) -> CoordinatorConfig {
    let url = settings.get(&flags::COORDINATOR_URL).filter(|url| !url.is_empty());
    if url.as_deref().is_some_and(|url| !url.starts_with("http://")) {
        let subject = settings.subject(&flags::COORDINATOR_URL);
        report.error(format!("{subject}: must begin with http://; for TLS use a proxy on this node"));
    }
    let event_reporting = settings.get(&flags::COORDINATOR_EVENT_REPORTING);
    needs_observability(event_reporting, &flags::COORDINATOR_EVENT_REPORTING, metrics, report);
    CoordinatorConfig {
        url,
        advertise_ip: settings.get(&flags::COORDINATOR_ADVERTISE_IP).filter(|ip| !ip.is_empty()),
        heartbeat_interval: settings.get(&flags::COORDINATOR_HEARTBEAT_INTERVAL),
        event_reporting,
        event_flush_interval: settings.get(&flags::COORDINATOR_EVENT_FLUSH_INTERVAL),
    }
}

/// Reports a flag that is `on` although `--disable-observability` is given.
pub(super) fn needs_observability(on: bool, flag: &FlagSpec, metrics: &MetricsConfig, report: &mut Report) {
    if on && !metrics.observability {
        let flag = flag.dashed();
        report.error(format!("{flag}: needs observability, leave --disable-observability out"));
    }
}

#[cfg(test)]
mod tests {
    use larder_server::config::GIB;

    use super::*;
    use crate::server::command_line;

    const MACHINE: Machine =
        Machine { memory_available: 64 * GIB, shm_size: 8 * GIB, shm_free: 8 * GIB, hugepages_free: 0 };

    fn resolved(args: &[&str], machine: Machine) -> (Config, Settings, Report) {
        let mut report = Report::default();
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let layer = command_line::parse(&args, &mut report);
        let mut settings = Settings::merge(&[layer], &mut report);
        let config = resolve(&mut settings, |_| machine, &mut report);
        (config, settings, report)
    }

    #[test]
    fn defaults_of_the_table_equal_config_default() {
        let (config, _, report) = resolved(&[], MACHINE);
        assert_eq!(report, Report::default());
        let mut default = Config::default();
        default.instance_id.clone_from(&config.instance_id);
        default.l1.bytes = 4 * GIB;
        assert_eq!(config, default);
    }

    #[test]
    fn computes_values_that_are_not_given() {
        let (_, settings, _) = resolved(&["--port", "7000"], MACHINE);
        assert_eq!(settings.get(&flags::SHM_NAME).as_deref(), Some("larder_7000"));
        assert_eq!(settings.get(&flags::L1_SIZE_GB), Some(4.0));
        assert!(!settings.is_given(&flags::L1_SIZE_GB) && settings.is_given(&flags::PORT));
    }

    #[test]
    fn small_dev_shm_is_an_error_unless_shared_memory_is_off() {
        let small = Machine { shm_size: 64 << 20, shm_free: 64 << 20, ..MACHINE };
        let (_, _, report) = resolved(&["--l1-size-gb", "2"], small);
        assert_eq!(report.errors.len(), 1);
        assert!(report.errors[0].starts_with("--l1-size-gb 2: /dev/shm has 64 MiB free"), "{report:?}");
        let (_, _, report) = resolved(&[], small);
        assert_eq!(report.errors.len(), 1, "an automatic size does not fit either");
        for remedy in [&["--shm-name", ""][..], &["--shm-fallback"]] {
            let (config, settings, report) = resolved(remedy, small);
            assert_eq!((config.l1.shm_name, report.errors), (None, vec![]));
            assert_eq!(settings.get(&flags::SHM_NAME).as_deref(), Some(""));
            assert_eq!(config.l1.bytes, 20 * GIB, "without shared memory its size does not matter");
        }
    }

    #[test]
    fn dev_shm_that_others_use_now_is_a_warning() {
        let in_use = Machine { shm_free: 64 << 20, ..MACHINE };
        for args in [&["--l1-size-gb", "2"][..], &[]] {
            let (config, _, report) = resolved(args, in_use);
            assert_eq!((config.l1.shm_name.as_deref(), &report.errors[..]), (Some("larder_5555"), &[][..]));
            assert!(report.warnings[0].contains("/dev/shm has 64 MiB free"), "{report:?}");
        }
        let (config, _, _) = resolved(&["--l1-size-gb", "2", "--shm-fallback"], in_use);
        assert_eq!(config.l1.shm_name, None);
    }

    #[test]
    fn huge_pages_turn_default_shared_memory_off() {
        let with_reserve = Machine { hugepages_free: 1 << 20, ..MACHINE };
        let (config, _, report) = resolved(&["--l1-use-hugepages", "--l1-size-gb", "2"], with_reserve);
        assert_eq!((config.l1.hugepages, config.l1.shm_name, report.errors), (true, None, vec![]));
        let (_, _, report) = resolved(&["--l1-use-hugepages", "--shm-name", "x"], with_reserve);
        assert!(
            report.errors[0].contains("l1-use-hugepages is incompatible with shared memory"),
            "{report:?}"
        );
        let (_, _, report) = resolved(&["--l1-use-hugepages"], MACHINE);
        assert!(report.errors[0].contains("Insufficient hugepages: 0 free"), "{report:?}");
    }

    #[test]
    fn l1_manager_is_equivalent_to_the_flags() {
        let pool = r#"{"type":"DRAM","tag":"_default","size_gb":2,"shm_name":"x","read_ttl_seconds":7}"#;
        let (json, _, report) = resolved(&["--l1-manager", pool], MACHINE);
        assert_eq!(report.errors, Vec::<String>::new());
        let args = ["--l1-size-gb", "2", "--shm-name", "x", "--l1-read-ttl-seconds", "7"];
        assert_eq!(json.l1, resolved(&args, MACHINE).0.l1);
    }

    #[test]
    fn checks_the_form_of_endpoints() {
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
