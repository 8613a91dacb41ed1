//! How full the file system is, as it was found at the last look.
//!
//! Looking may take for ever (a network file system whose server is gone), so nobody who wants to know waits
//! for it: they get what was found last, and at most one thread is looking.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::adapter::Space;

/// What was found longer ago is looked at again.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// What was found, and when.
#[derive(Debug)]
pub(super) struct LastLook(Mutex<Look>);

#[derive(Clone, Copy, Debug)]
struct Look {
    /// `None`: the last look failed.
    space: Option<Space>,
    at: Instant,
    /// Somebody is looking again.
    again: bool,
}

impl LastLook {
    /// The first look, now.
    pub(super) fn at(path: &Path) -> Self {
        Self(Mutex::new(Look { space: measure(path).ok(), at: Instant::now(), again: false }))
    }

    /// What was found last.
    pub(super) fn space(&self) -> Option<Space> {
        self.lock().space
    }

    /// Whether the caller is to have somebody [look](Self::look) again, or to [give up](Self::give_up).
    pub(super) fn is_old(&self, now: Instant) -> bool {
        let mut last = self.lock();
        let is_due = !last.again && now.saturating_duration_since(last.at) >= FRESH_FOR;
        last.again |= is_due;
        is_due
    }

    /// Looks again. Blocks for as long as the file system does.
    pub(super) fn look(&self, path: &Path, now: Instant) {
        let space = measure(path).ok();
        *self.lock() = Look { space, at: now, again: false };
    }

    /// Nobody can look.
    pub(super) fn give_up(&self) {
        self.lock().again = false;
    }

    fn lock(&self) -> MutexGuard<'_, Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn measure(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    // Free for us, not for root: those blocks are what a write finds.
    Ok(Space { free_bytes: bytes(stat.f_bavail), size_bytes: bytes(stat.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_repeated_once_it_is_old_and_by_one_at_a_time() {
        let path = std::env::temp_dir();
        let last = LastLook::at(&path);
        let begun = last.lock().at;
        let space = last.space().expect("a directory lies in a file system");
        assert!(space.size_bytes > 0 && space.free_bytes <= space.size_bytes, "{space:?}");
        assert!(!last.is_old(begun + FRESH_FOR / 2));
        let later = begun + FRESH_FOR;
        assert!(last.is_old(later));
        assert!(!last.is_old(later), "somebody is looking");
        last.look(&path, later);
        assert!(!last.is_old(later) && last.is_old(later + FRESH_FOR));
        last.give_up();
        assert!(last.is_old(later + FRESH_FOR), "nobody has looked");
    }

    #[test]
    fn what_is_no_longer_known_is_not_told() {
        let last = LastLook::at(&std::env::temp_dir());
        last.look(Path::new("/nowhere/at/all"), Instant::now());
        assert_eq!(last.space(), None);
    }
}
