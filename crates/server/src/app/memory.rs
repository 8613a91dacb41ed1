//! Commits L1's memory ahead of its use.
//!
//! The first touch of fresh memory is many times slower than any later one, and would slow down a store. So once a
//! worker has registered, a thread commits memory beyond the last slot handed out, in steps of one huge page, and
//! then sleeps until more is used. A server without workers commits nothing, and one that stays small commits at most
//! 4 GiB too much: a second or less of work, before the first prompt has been computed.
//!
//! A slot is handed out only when its memory is committed, so workers never meet a full `/dev/shm`.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use larder_arena::Arena;

/// Memory that is committed beyond what is used, at most, in bytes.
const AHEAD_BYTES_MAX: u64 = 4 << 30;

/// Commits the arena's memory.
#[derive(Debug)]
pub struct Memory {
    arena: Arc<Arena>,
    ahead: u64,
    wanted: Mutex<Wanted>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    end: u64,
    stop: bool,
}

impl Memory {
    /// A committer that has nothing to do yet.
    pub fn new(arena: Arc<Arena>) -> Self {
        let ahead = arena.size().min(AHEAD_BYTES_MAX);
        Self { arena, ahead, wanted: Mutex::default(), more: Condvar::new() }
    }

    /// Whether everything below `end` is committed. Has more committed beyond it.
    pub fn is_committed(&self, end: u64) -> bool {
        self.prepare(end);
        self.arena.committed() >= end
    }

    /// Commits everything below `end`. Blocks while the system makes the pages.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn commit(&self, end: u64) -> io::Result<()> {
        self.arena.commit(end)
    }

    /// Has the thread commit memory beyond `end`.
    pub fn prepare(&self, end: u64) {
        let target = end.saturating_add(self.ahead).min(self.arena.size());
        // Called for every store: cheap while at least half of the reserve is left.
        if self.arena.committed() >= target.saturating_sub(self.ahead / 2).max(1) {
            return;
        }
        let mut wanted = self.lock();
        if wanted.end < target {
            wanted.end = target;
            self.more.notify_one();
        }
    }

    /// Commits memory until [`stop`](Self::stop), on a thread of its own. Calls `woke` before each step.
    pub fn run(&self, woke: impl Fn()) {
        let mut done = 0;
        loop {
            let mut wanted = self.lock();
            while wanted.end <= done && !wanted.stop {
                wanted = self.more.wait(wanted).unwrap_or_else(PoisonError::into_inner);
            }
            if wanted.stop {
                return;
            }
            let target = wanted.end;
            drop(wanted);
            woke();
            // In steps: a store that needs memory now, and a shutdown, wait for one step at most.
            let next = (self.arena.committed() + larder_arena::COMMIT_STEP).min(target);
            done = match self.arena.commit(next) {
                Ok(()) if next < target => done,
                Ok(()) => target,
                // The store that needs it will report it.
                Err(error) => {
                    tracing::debug!(%error, "no memory to commit ahead of its use");
                    target
                }
            };
        }
    }

    /// Ends [`run`](Self::run).
    pub fn stop(&self) {
        self.lock().stop = true;
        self.more.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
