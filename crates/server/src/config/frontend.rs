//! The admin API, metrics, logs, and the coordinator of a fleet.

use std::path::PathBuf;
use std::time::Duration;

use super::{Secret, named_choice};

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Host name or address to bind.
    pub host: String,
    /// TCP port to bind.
    pub port: u16,
    /// The bearer token that calls which change something must carry; `None`: no token needed.
    pub auth_token: Option<Secret>,
    /// Whether calls that only read must carry it as well; probes need not.
    pub auth_reads: bool,
    /// Names by which clients may address the server, besides its addresses, `localhost` and [`HttpConfig::host`]. One
    /// that begins with a dot stands for all names that end so, `*` for all.
    pub allowed_hosts: Vec<String>,
    /// Path of a Unix socket on which the API is served to this server's user and root, without a token; `None`: none.
    pub uds: Option<PathBuf>,
    /// Whether the endpoints that show or change the process itself are served.
    pub debug_endpoints: bool,
    /// Whether each request is logged.
    pub access_log: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            auth_token: None,
            auth_reads: false,
            allowed_hosts: Vec::new(),
            uds: None,
            debug_endpoints: false,
            access_log: false,
        }
    }
}

/// Metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// Whether anything is collected: metrics, traces, reports to a coordinator.
    pub observability: bool,
    /// Whether counters and histograms are kept. Implies [`MetricsConfig::observability`].
    pub enabled: bool,
    /// A second port for `/metrics`, beside the admin API's; `None`: no second port.
    pub prometheus_port: Option<u16>,
    /// Fraction of chunks whose residency is measured in histograms, in (0, 1].
    pub sample_rate: f64,
    /// Whether each series carries this server's instance id as a label.
    pub instance_label: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            observability: true,
            enabled: true,
            prometheus_port: None,
            sample_rate: 0.01,
            instance_label: false,
        }
    }
}

/// Logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggingConfig {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// Format of log lines.
    pub format: LogFormat,
    /// Whether requests are logged (at debug), with a summary (at info).
    pub requests: bool,
    /// Time between log lines that summarize throughput and memory use; `None`: off.
    pub extra_interval: Option<Duration>,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text, requests: true, extra_interval: None }
    }
}

named_choice! {
    /// The least severe level that is logged.
    LogLevel {
        /// Everything.
        Trace = "trace",
        /// Each request.
        Debug = "debug",
        /// Changes of state.
        Info = "info",
        /// Unexpected and handled.
        Warn = "warn",
        /// A person must look at it.
        Error = "error",
    }
}

named_choice! {
    /// Format of log lines.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

/// Log files with the hashes of every lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupHashLogConfig {
    /// Directory of the files.
    pub dir: PathBuf,
    /// A file is closed after this time.
    pub rotation_interval: Duration,
    /// A file is closed at this size.
    pub rotation_max_bytes: u64,
    /// Maximum number of files; the oldest is deleted.
    pub max_files: usize,
}

/// The coordinator of the fleet, and the reports to it.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Base address; `None`: no coordinator.
    pub url: Option<String>,
    /// Address at which it reaches this server; `None`: the outbound address.
    pub advertise_ip: Option<String>,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Whether stores, accesses and deletions are reported.
    pub event_reporting: bool,
    /// Time between two batches of reports.
    pub event_flush_interval: Duration,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            url: None,
            advertise_ip: None,
            heartbeat_interval: Duration::from_secs(5),
            event_reporting: false,
            event_flush_interval: Duration::from_secs(1),
        }
    }
}
