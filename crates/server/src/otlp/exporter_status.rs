//! The state of the exporter, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The state of the exporter, for metrics.
#[derive(Debug, Default)]
pub struct ExporterStatus {
    is_up: AtomicBool,
    failures: AtomicU64,
    spans: AtomicU64,
}

/// [`ExporterStatus`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Whether the collector answered the last call.
    pub is_up: bool,
    /// Calls that failed or were refused.
    pub failures: u64,
    /// Spans delivered.
    pub spans: u64,
}

impl ExporterStatus {
    /// The counts now.
    pub fn counts(&self) -> Counts {
        Counts {
            is_up: self.is_up.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            spans: self.spans.load(Ordering::Relaxed),
        }
    }

    /// Notes the result of a call.
    pub(super) fn update(&self, is_up: bool, has_failed: bool) {
        self.failures.fetch_add(u64::from(has_failed), Ordering::Relaxed);
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    /// Counts delivered spans.
    pub(super) fn add_spans(&self, delivered: u64) {
        self.spans.fetch_add(delivered, Ordering::Relaxed);
    }
}
