//! Committing the arena's memory ahead of its use.
//!
//! The first touch of fresh memory is many times slower than any later one, and it would be a
//! store that pays for it. So once a worker has registered, a thread keeps memory beyond the last
//! slot handed out ready, in steps of one huge page; then it sleeps until more is used. A server that
//! nobody registers with commits nothing, and one that stays small commits no more than 4 GiB too
//! much: a second or less of work, before the first prompt has been computed.
//!
//! A slot is handed out only when its memory is committed, so workers never meet a full `/dev/shm`.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use larder_arena::Arena;

/// Memory kept ready beyond what is used, at most, in bytes.
const AHEAD_BYTES_MAX: u64 = 4 << 30;

/// How far the arena should be committed.
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
    /// Nothing is committed yet.
    pub fn new(arena: Arc<Arena>) -> Self {
        let ahead = arena.size().min(AHEAD_BYTES_MAX);
        Self { arena, ahead, wanted: Mutex::default(), more: Condvar::new() }
    }

    /// Commits everything below `end` now and has more made ready behind it.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub fn need(&self, end: u64) -> io::Result<()> {
        self.prepare(end);
        self.arena.commit(end)
    }

    /// Has memory behind `end` made ready in the background.
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

    /// Makes memory ready until [`stop`](Self::stop). For a thread of its own, which says when it `woke`.
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
            // In steps, so that a store that needs memory now waits for one step at most, and a
            // shutdown too.
            let next = (self.arena.committed() + larder_arena::COMMIT_STEP).min(target);
            done = match self.arena.commit(next) {
                Ok(()) if next < target => done,
                Ok(()) => target,
                // The store that needs it will report it.
                Err(error) => {
                    tracing::debug!(%error, "no memory to make ready ahead");
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
