//! The storage core behind its lock, and everything that follows from a call into it.
//!
//! The lock is held while the core computes (microseconds), never across I/O, hashing, copying or a call into
//! anything else. After each call, with the lock released, the effects that the core asks for are handed to
//! the [`EffectSink`] and the timers learn of an earlier deadline.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use larder_core::Core;
use larder_core::Effect;
use larder_core::index::Clearing;
use larder_types::Time;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::clock::Clock;
use super::tasks::Task;

/// The problem that `/readyz` reports after a failed assertion in the core.
pub const CORE_POISONED: &str = "the storage core has stopped after an internal error; restart the server";

/// Between two steps of long work the lock stays free for this long, so that those who wait for it get it: the lock
/// is not fair.
const STEP_PAUSE: Duration = Duration::from_micros(100);

/// Executes what the core asks for.
pub trait EffectSink: fmt::Debug + Send + Sync {
    /// Starts each effect, without waiting for any. Called without the core's lock.
    fn execute(&self, effects: Vec<Effect>);
}

/// The core, its lock and its clock.
#[derive(Debug)]
pub struct CoreHandle {
    core: Mutex<Core>,
    clock: Clock,
    sink: Box<dyn EffectSink>,
    /// When the timers run next, in milliseconds of the clock.
    next_timer: AtomicU64,
    earlier_timer: Notify,
    written_back: Notify,
    /// The number of the last chunk event that waiters were notified of.
    last_chunk_event: AtomicU64,
    new_chunk_events: Notify,
}

impl CoreHandle {
    /// Takes the core; `sink` executes its effects.
    pub fn new(core: Core, sink: Box<dyn EffectSink>) -> Self {
        Self {
            core: Mutex::new(core),
            clock: Clock::start(),
            sink,
            next_timer: AtomicU64::new(u64::MAX),
            earlier_timer: Notify::new(),
            written_back: Notify::new(),
            last_chunk_event: AtomicU64::new(0),
            new_chunk_events: Notify::new(),
        }
    }

    /// The current time of the core's clock.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Runs `call` on the locked core, then executes the effects. `call` must not use this handle: the lock is
    /// not reentrant.
    ///
    /// # Panics
    /// If an earlier call has panicked: the core may be half changed and could serve wrong bytes.
    pub fn with<R>(&self, call: impl FnOnce(&mut Core, Time) -> R) -> R {
        let mut core = self.core.lock().expect("the core failed an assertion; see the first panic");
        let result = call(&mut core, self.clock.now());
        let effects = core.take_effects();
        let deadline = core.next_deadline();
        let last_chunk_event = core.stats().chunk_events().last();
        let is_written_back = core.write_back_pending() == 0;
        drop(core);
        if is_written_back {
            self.written_back.notify_waiters();
        }
        if self.last_chunk_event.load(Ordering::Relaxed) != last_chunk_event {
            self.last_chunk_event.store(last_chunk_event, Ordering::Relaxed);
            self.new_chunk_events.notify_one();
        }
        if !effects.is_empty() {
            self.sink.execute(effects);
        }
        if let Some(deadline) = deadline.map(Time::as_millis)
            && deadline < self.next_timer.load(Ordering::Relaxed)
        {
            self.next_timer.store(deadline, Ordering::Relaxed);
            self.earlier_timer.notify_one();
        }
        result
    }

    /// Runs the steps of work that would take too long under the lock at once, until one returns true. Other calls come
    /// between them. Blocks this thread.
    ///
    /// # Panics
    /// See [`with`](Self::with).
    pub fn in_steps(&self, mut step: impl FnMut(&mut Core, Time) -> bool) {
        while !self.with(&mut step) {
            thread::sleep(STEP_PAUSE);
        }
    }

    /// Empties L1: of objects without pins, or with `force` of all. What becomes readable meanwhile stays. Returns how
    /// many objects were removed. Blocks this thread.
    ///
    /// # Panics
    /// See [`with`](Self::with).
    pub fn clear(&self, force: bool) -> u64 {
        let mut clearing = self.begin_clear(force);
        self.finish_clear(&mut clearing);
        clearing.removed()
    }

    /// The first step of [`clear`](Self::clear), which is all of it if there is little in L1.
    ///
    /// # Panics
    /// See [`with`](Self::with).
    pub fn begin_clear(&self, force: bool) -> Clearing {
        self.with(|core, now| {
            let mut clearing = core.begin_clear(now, force);
            core.clear_step(now, &mut clearing);
            clearing
        })
    }

    /// All further steps. Blocks this thread.
    ///
    /// # Panics
    /// See [`with`](Self::with).
    pub fn finish_clear(&self, clearing: &mut Clearing) {
        if !clearing.is_done() {
            self.in_steps(|core, now| {
                core.clear_step(now, clearing);
                clearing.is_done()
            });
        }
    }

    /// Runs `report` on the locked core, to look at it only. Works on a poisoned core too.
    pub fn read<R>(&self, report: impl FnOnce(&Core, Time) -> R) -> R {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        report(&core, self.clock.now())
    }

    /// Whether a call into the core has panicked.
    pub fn is_poisoned(&self) -> bool {
        self.core.is_poisoned()
    }

    /// Completes once nothing waits to be written to L2 any more. Poll it before checking.
    pub fn written_back(&self) -> Notified<'_> {
        self.written_back.notified()
    }

    /// Completes once the core has logged chunk events since the last call. For one waiter.
    pub fn new_chunk_events(&self) -> Notified<'_> {
        self.new_chunk_events.notified()
    }

    /// Ends what has expired, when it expires, for ever. Sleeps while nothing can expire.
    pub async fn run_timers(&self, task: &Task) {
        let _running = task.begin();
        loop {
            let next = self.with(|core, now| {
                task.woke(now);
                core.advance(now);
                let next = core.next_deadline();
                self.next_timer.store(next.map_or(u64::MAX, Time::as_millis), Ordering::Relaxed);
                next
            });
            let earlier = self.earlier_timer.notified();
            match next {
                Some(time) => {
                    let at = tokio::time::Instant::from_std(self.clock.instant(time));
                    tokio::select! { () = tokio::time::sleep_until(at) => {} () = earlier => {} }
                }
                None => earlier.await,
            }
        }
    }
}
