//! State of the reporting to a coordinator.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// State of the reporting, for metrics.
#[derive(Debug, Default)]
pub struct ReporterStatus {
    pub(super) registered: AtomicBool,
    pub(super) failures: AtomicU64,
    pub(super) reported: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) reported_again: AtomicU64,
}

/// A [`ReporterStatus`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Whether this server is registered, as far as it knows.
    pub registered: bool,
    /// Calls that were not answered, or refused.
    pub failures: u64,
    /// Object events delivered.
    pub reported: u64,
    /// Object events that the coordinator will not get.
    pub lost: u64,
    /// Objects reported again after a registration.
    pub reported_again: u64,
}

impl ReporterStatus {
    /// The current counts.
    pub fn counts(&self) -> Counts {
        Counts {
            registered: self.registered.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            reported: self.reported.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            reported_again: self.reported_again.load(Ordering::Relaxed),
        }
    }

    /// Of `events` object events, those that are still to be delivered.
    pub(crate) fn pending(&self, events: u64) -> u64 {
        let counts = self.counts();
        events.saturating_sub(counts.reported + counts.lost)
    }
}
