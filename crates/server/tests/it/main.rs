//! The whole server in this process, over real sockets.

mod api;
mod coordinator;
mod dashboard;
mod dialects;
mod events;
mod groups;
mod grpc;
mod http;
mod identity;
mod l2_health;
mod log_watch;
mod lookup_log;
mod metrics;
#[cfg(feature = "otel")]
mod otlp;
mod page;
mod quotas;
mod record;
mod refusals;
mod restart;
mod security;
mod serve;
mod support;
mod whatif;
