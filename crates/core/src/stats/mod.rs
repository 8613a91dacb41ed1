//! What happened since the start: counters, residency statistics and event logs. Nothing is decided by them.

pub mod counters;
pub mod events;
pub mod labelled;
pub mod residency;

pub use self::counters::{AdapterCounters, Counters, Exposed, L1Counters, L2Counters};
pub use self::labelled::{Labelled, LabelledCounters, ModelCounters, NAMES_MAX, SaltCounters};
