//! What watches requests: recordings, logs, traces, estimates, event streams and reports to a coordinator.

mod bounded_writer;
pub mod bus;
pub mod coordinator;
pub mod event;
pub mod kv_events;
pub mod lookup_log;
pub mod recorder;
pub mod request_metrics;
pub mod traces;
pub mod whatif;
