//! What an operator's tools see: the admin API, metrics, logs, and the coordinator of a fleet.

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
    /// The bearer token that destructive calls must carry; `None` asks for none.
    pub auth_token: Option<Secret>,
    /// Whether the endpoints that show or change the insides of the process are served.
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
            debug_endpoints: false,
            access_log: false,
        }
    }
}

/// What is counted, and where it can be scraped.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// Whether anything is observed at all: counters, traces, reports to a coordinator.
    pub observability: bool,
    /// Whether counters and histograms are kept. Implies [`MetricsConfig::observability`].
    pub enabled: bool,
    /// A port of its own for `/metrics`, beside the one of the admin API; `None` unless asked for.
    pub prometheus_port: Option<u16>,
    /// Share of chunks whose life is followed in histograms, in (0, 1].
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

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggingConfig {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Whether requests leave lines (at debug) and a summary (at info).
    pub requests: bool,
    /// How often throughput and memory use are summed up in a line; `None` when off.
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
        /// What each request does.
        Debug = "debug",
        /// Changes of state.
        Info = "info",
        /// What was unexpected, and handled.
        Warn = "warn",
        /// What a person must look at.
        Error = "error",
    }
}

named_choice! {
    /// How a log line looks.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// The files that keep the hashes of every lookup, for analysis later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupHashLogConfig {
    /// The directory the files go to.
    pub dir: PathBuf,
    /// A file is closed after this long.
    pub rotation_interval: Duration,
    /// A file is closed at this size.
    pub rotation_max_bytes: u64,
    /// Files kept; beyond this the oldest is deleted.
    pub max_files: usize,
}

/// The fleet coordinator and what it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Its base address; `None` when there is none.
    pub url: Option<String>,
    /// The address it should reach this server at; `None`: the outbound one.
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
