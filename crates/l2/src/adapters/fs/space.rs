//! Cached size and free space of the file system.
//!
//! Measuring may block for ever (a network file system whose server is gone). So callers get the last
//! result, and at most one thread measures.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::adapter::Space;

/// Older results are measured again.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The last measurement.
#[derive(Debug)]
pub(super) struct SpaceMonitor(Mutex<Measurement>);

#[derive(Clone, Copy, Debug)]
struct Measurement {
    /// `None`: the last measurement failed.
    space: Option<Space>,
    at: Instant,
    refreshing: bool,
}

impl SpaceMonitor {
    /// Measures once, now.
    pub(super) fn new(path: &Path) -> Self {
        Self(Mutex::new(Measurement { space: measure(path).ok(), at: Instant::now(), refreshing: false }))
    }

    /// The last result.
    pub(super) fn last(&self) -> Option<Space> {
        self.lock().space
    }

    /// Whether the result is old and no thread refreshes it. If so, the caller must [refresh](Self::refresh)
    /// it or [abandon](Self::abandon_refresh) the refresh.
    pub(super) fn claim_refresh(&self, now: Instant) -> bool {
        let mut last = self.lock();
        let is_due = !last.refreshing && now.saturating_duration_since(last.at) >= FRESH_FOR;
        last.refreshing |= is_due;
        is_due
    }

    /// Measures. Blocks for as long as the file system does.
    pub(super) fn refresh(&self, path: &Path, now: Instant) {
        let space = measure(path).ok();
        *self.lock() = Measurement { space, at: now, refreshing: false };
    }

    /// Gives up a claimed refresh.
    pub(super) fn abandon_refresh(&self) {
        self.lock().refreshing = false;
    }

    fn lock(&self) -> MutexGuard<'_, Measurement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn measure(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    // Available to unprivileged users: what a write can use.
    Ok(Space { free_bytes: bytes(stat.f_bavail), size_bytes: bytes(stat.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refreshes_old_results_from_one_thread_at_a_time() {
        let path = std::env::temp_dir();
        let monitor = SpaceMonitor::new(&path);
        let started = monitor.lock().at;
        let space = monitor.last().expect("a directory lies in a file system");
        assert!(space.size_bytes > 0 && space.free_bytes <= space.size_bytes, "{space:?}");
        assert!(!monitor.claim_refresh(started + FRESH_FOR / 2));
        let later = started + FRESH_FOR;
        assert!(monitor.claim_refresh(later));
        assert!(!monitor.claim_refresh(later), "a refresh is claimed");
        monitor.refresh(&path, later);
        assert!(!monitor.claim_refresh(later) && monitor.claim_refresh(later + FRESH_FOR));
        monitor.abandon_refresh();
        assert!(monitor.claim_refresh(later + FRESH_FOR), "the refresh was abandoned");
    }

    #[test]
    fn failed_measurement_reports_nothing() {
        let monitor = SpaceMonitor::new(&std::env::temp_dir());
        monitor.refresh(Path::new("/nowhere/at/all"), Instant::now());
        assert_eq!(monitor.last(), None);
    }
}
