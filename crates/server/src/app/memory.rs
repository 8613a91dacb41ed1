//! Commits L1's memory ahead of its use.
//!
//! The first touch of fresh memory is many times slower than any later one, and would slow down a store. So once a
//! worker has registered, a thread commits memory beyond the last slot handed out, in steps of one huge page, and
//! then sleeps until more is used. A server without workers commits nothing, and one that stays small commits at most
//! 4 GiB too much: a second or less of work, before the first prompt has been computed.
//!
//! A slot is handed out only when its memory is committed, so workers never meet a full `/dev/shm`. If the system has
//! none, L1 becomes as small as what is committed, and the thread tries from time to time whether there is more: after a
//! restart, engines keep the memory of the server before until they have registered again.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use larder_arena::Arena;

/// Memory that is committed beyond what is used, at most, in bytes.
const AHEAD_BYTES_MAX: u64 = 4 << 30;

/// Time between two attempts to get memory that the system did not have.
const RETRY: Duration = Duration::from_secs(1);

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
    /// L1 is smaller than the arena for want of memory.
    short: bool,
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

    /// The system had no memory, and L1 is as small as what is committed: has the thread try to get more.
    pub fn ran_out(&self) {
        self.lock().short = true;
        self.more.notify_one();
    }

    /// Commits memory until [`stop`](Self::stop), on a thread of its own. Calls `woke` before each step, and `grown` when
    /// there is memory again after [`ran_out`](Self::ran_out), with the end of what is committed.
    pub fn run(&self, woke: impl Fn(), grown: impl Fn(u64)) {
        let mut done = 0;
        loop {
            let mut wanted = self.lock();
            while wanted.end <= done && !wanted.stop && !wanted.short {
                wanted = self.more.wait(wanted).unwrap_or_else(PoisonError::into_inner);
            }
            if wanted.stop {
                return;
            }
            if wanted.short {
                // Only the end of the server is worth an earlier return.
                let stopped = self.more.wait_timeout_while(wanted, RETRY, |wanted| !wanted.stop);
                drop(stopped.unwrap_or_else(PoisonError::into_inner));
                woke();
                self.try_to_grow(&grown);
                continue;
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

    /// Commits as much as the system has by now.
    fn try_to_grow(&self, grown: &impl Fn(u64)) {
        let (size, before) = (self.arena.size(), self.arena.committed());
        while self.arena.committed() < size
            && !self.lock().stop
            && self.arena.commit(self.arena.committed() + larder_arena::COMMIT_STEP).is_ok()
        {}
        let committed = self.arena.committed();
        if committed > before {
            tracing::info!(bytes = committed, of = size, "there is memory again, L1 has grown");
            grown(committed);
        }
        self.lock().short &= committed < size;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn takes_what_the_system_has_again() {
        let size = 3 * larder_arena::COMMIT_STEP;
        let memory = Arc::new(Memory::new(Arc::new(Arena::private(size).unwrap())));
        memory.commit(1).unwrap();
        memory.ran_out();
        let (sender, grown) = channel();
        let running = memory.clone();
        let thread = std::thread::spawn(move || {
            running.run(|| {}, |end| sender.send(end).unwrap());
        });
        assert_eq!(grown.recv(), Ok(size));
        memory.stop();
        thread.join().unwrap();
        assert!(!memory.lock().short);
    }
}
