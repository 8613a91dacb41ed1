//! The whole server in this process, over real sockets.

mod api;
mod dashboard;
mod events;
mod http;
mod lookup_log;
mod metrics;
#[cfg(feature = "otel")]
mod otlp;
mod page;
mod quotas;
mod record;
mod serve;
mod support;
mod whatif;
