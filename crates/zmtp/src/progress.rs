//! How an unfinished message gets on.

use crate::limits::Limits;
use std::time::Duration;

/// An unfinished message gets on if it gains this many bytes within [`Limits::stall_timeout`].
const PROGRESS_BYTES: usize = 64 * 1024;

/// The same within a quarter of that time, while another connection waits for room.
const PROGRESS_BYTES_IF_TIGHT: usize = 16 * 1024 * 1024;

/// Parts of [`Limits::stall_timeout`] after which the progress of a message is looked at.
pub(crate) const PROGRESS_CHECKS: u32 = 4;

/// What has come of the unfinished messages of a connection, by checks at [`Progress::interval`].
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes since the last check.
    bytes: usize,
    /// Bytes since checks began that did not suffice, and how many of them there were.
    slow_bytes: usize,
    slow_checks: u32,
}

impl Progress {
    /// The time between two checks.
    #[must_use]
    pub fn interval(limits: &Limits) -> Duration {
        limits.stall_timeout / PROGRESS_CHECKS
    }

    /// Bytes have come.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Whether the messages have got on, at a check; `tight`: another connection waits for room.
    pub fn check(&mut self, tight: bool) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        if tight && bytes < PROGRESS_BYTES_IF_TIGHT {
            return false;
        }
        self.slow_bytes += bytes;
        self.slow_checks += 1;
        if self.slow_bytes >= PROGRESS_BYTES {
            *self = Progress::default();
        }
        self.slow_checks < PROGRESS_CHECKS
    }
}
