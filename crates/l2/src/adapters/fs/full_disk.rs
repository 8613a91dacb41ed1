//! A file system that is full before the capacity is: the oldest objects make room, as they do at the capacity.
//!
//! The same is done when inodes or a quota of the file system run out. Others may be filling the disk, or removed files
//! may still take space (snapshots), so eviction is bounded: after a few rounds in vain it pauses.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::object_dir::ObjectDir;
use crate::error::{ErrorKind, L2Error};

/// A store is tried again this often, each time after an eviction.
const ROUNDS: u32 = 4;

/// Each eviction removes at least this many objects, and twice the bytes of the one to be stored.
const OBJECTS_MIN: u32 = 4;

/// At most this many victims are tried in one eviction.
const VICTIMS_MAX: u32 = 256;

/// Nothing is evicted for this long after it was in vain.
const PAUSE: Duration = Duration::from_secs(30);

/// A full file system is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(600);

/// What is known of a full file system.
#[derive(Debug, Default)]
pub(super) struct FullDisk(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    paused_until: Option<Instant>,
    logged_at: Option<Instant>,
}

impl FullDisk {
    fn may_evict(&self, now: Instant) -> bool {
        self.lock().paused_until.is_none_or(|until| until <= now)
    }

    fn pause(&self, now: Instant) {
        self.lock().paused_until = Some(now + PAUSE);
    }

    fn claim_log(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let is_due = state.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY);
        if is_due {
            state.logged_at = Some(now);
        }
        is_due
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectDir {
    /// Runs `write`, which needs `bytes` for an object of `salt`. While the file system is full, evicts and tries again.
    pub(super) fn with_space<T>(
        &self,
        salt: &str,
        bytes: u64,
        write: impl Fn() -> Result<T, L2Error>,
    ) -> Result<T, L2Error> {
        let mut written = write();
        for _ in 0..ROUNDS {
            let is_full = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full);
            if !is_full || !self.full_disk().may_evict(Instant::now()) || !self.evict_for_space(salt, bytes) {
                return written;
            }
            written = write();
        }
        if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full) {
            self.full_disk().pause(Instant::now());
        }
        written
    }

    /// Evicts the oldest objects. Whether there were any.
    fn evict_for_space(&self, salt: &str, bytes: u64) -> bool {
        let before = self.tracker().usage(false);
        let evicted = || {
            let now = self.tracker().usage(false);
            (now.evicted_objects - before.evicted_objects, now.evicted_bytes - before.evicted_bytes)
        };
        for _ in 0..VICTIMS_MAX {
            let (objects, freed) = evicted();
            if objects >= u64::from(OBJECTS_MIN) && freed >= bytes.saturating_mul(2) {
                break;
            }
            // The tracker is unlocked before `evict`, which locks it again.
            let victim = self.tracker().next_for_space(salt);
            let Some(victim) = victim else { break };
            if let Err(error) = self.evict(&victim) {
                tracing::debug!(%error, "could not evict for space");
                break;
            }
        }
        let any = evicted().0 > 0;
        if any && self.full_disk().claim_log(Instant::now()) {
            let (path, used_bytes) = (self.base().display(), before.used_bytes);
            tracing::warn!(
                %path,
                used_bytes,
                "the file system of the L2 directory is full: its oldest objects are evicted to store new ones; free space, or set \
                 max_capacity_gb to what is there"
            );
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_evictions_in_vain() {
        let (disk, now) = (FullDisk::default(), Instant::now());
        assert!(disk.may_evict(now));
        disk.pause(now);
        assert!(!disk.may_evict(now) && disk.may_evict(now + PAUSE));
        assert!(disk.claim_log(now) && !disk.claim_log(now + PAUSE) && disk.claim_log(now + LOG_EVERY));
    }
}
