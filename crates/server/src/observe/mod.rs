//! What watches requests: recordings, logs, traces, estimates, event streams and reports to a coordinator.

pub mod coordinator;
pub mod kv_events;
pub mod lookup_log;
pub mod recorder;
pub mod traces;
pub mod whatif;
