//! Writes `tracing` events to stderr, one line each.

use std::io::{self, IsTerminal};

use larder_server::app::log_control::LogControl;
use larder_server::config::{LogFormat, LogLevel, LoggingConfig};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

/// Starts logging, and returns the control of its level. Colour is for terminals, unless `NO_COLOR` is set.
pub(crate) fn start(config: LoggingConfig) -> LogControl {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(config.level))
        .with_writer(io::stderr)
        .with_target(false);
    match config.format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let builder = builder.with_ansi(colour).with_filter_reloading();
            let control = control(config.level, builder.reload_handle());
            builder.init();
            control
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let control = control(config.level, builder.reload_handle());
            builder.init();
            control
        }
    }
}

/// Other libraries log warnings and errors only.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,larder={level}"))
}

fn control<S: Subscriber + 'static>(level: LogLevel, handle: Handle<EnvFilter, S>) -> LogControl {
    LogControl::new(level, move |level| handle.reload(filter(level)).map_err(|error| error.to_string()))
}
