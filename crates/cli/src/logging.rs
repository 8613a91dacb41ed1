//! Writes `tracing` events to stderr, one line each, without ever waiting for it or failing with it (see
//! [`log_queue`](crate::log_queue)).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use larder_server::app::log_control::{LogControl, LogSink};
use larder_server::config::{LogFormat, LogLevel, LoggingConfig};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::log_queue::LogQueue;

/// How long a panic waits for its line to be written: the process may end with it.
const PANIC_PATIENCE: Duration = Duration::from_millis(200);

/// Starts logging, and returns the control of its level. Colour is for terminals, unless `NO_COLOR` is set. Panics are
/// logged too.
pub(crate) fn start(config: LoggingConfig) -> LogControl {
    let queue = LogQueue::start(io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(config.level))
        .with_writer(queue.clone())
        .log_internal_errors(false)
        .with_target(false);
    let control = match config.format {
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
    };
    log_panics(queue.clone());
    control.with_sink(Arc::new(queue))
}

/// Other libraries log warnings and errors only.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,larder={level}"))
}

fn control<S: Subscriber + 'static>(level: LogLevel, handle: Handle<EnvFilter, S>) -> LogControl {
    LogControl::new(level, move |level| handle.reload(filter(level)).map_err(|error| error.to_string()))
}

/// Writes panics into the log instead of to stderr.
fn log_panics(queue: LogQueue) {
    panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload_as_str().unwrap_or("(no message)");
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        let thread = thread::current();
        let name = thread.name().unwrap_or("(no name)");
        // With RUST_BACKTRACE set.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(%backtrace, "thread '{name}' panicked{place}: {payload}");
        } else {
            tracing::error!("thread '{name}' panicked{place}: {payload}");
        }
        queue.flush(PANIC_PATIENCE);
    }));
}
