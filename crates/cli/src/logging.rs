//! Where the program's `tracing` events go: stderr, one line each.

use std::io::{self, IsTerminal};

use larder_server::config::{LogFormat, LoggingConfig};
use tracing_subscriber::EnvFilter;

/// Starts logging. Colour is for terminals that did not ask to be spared it.
pub(crate) fn start(config: LoggingConfig) {
    // Libraries below us have little to say to an operator.
    let filter = EnvFilter::new(format!("warn,larder={}", config.level));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match config.format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
