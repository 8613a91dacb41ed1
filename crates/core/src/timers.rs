//! Deadlines. Each has one owner, which keeps its token and moves or disarms the timer by it.

use std::collections::BTreeSet;

use larder_types::{InstanceId, Time};

use crate::ids::{IoId, JobId, PeerLeaseId, PrefetchId, RetrieveId, SessionId, StoreId, TaskId};

/// What a timer is for. Timers that are due at the same time fire in the order of this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKind {
    /// The lease of a lookup expires.
    LookupLease(SessionId),
    /// A session has reached its maximal age.
    Session(SessionId),
    /// A retrieve has taken too long, or its memory has been kept long enough after that.
    Retrieve(RetrieveId),
    /// A store has taken too long, or its memory has been kept long enough after that.
    Store(StoreId),
    /// A worker may have gone silent.
    Worker(InstanceId),
    /// The lease of a peer expires.
    PeerLease(PeerLeaseId),
    /// A lookup that asks L2 is answered with what is there.
    Job(JobId),
    /// The result of a load did not follow the end of its I/O.
    Load(IoId),
    /// The result of a batch of stores did not follow the end of its I/O.
    StoreTask(TaskId),
    /// The result of a prefetch request is forgotten.
    PrefetchResult(PrefetchId),
    /// L1 is trimmed further.
    Trim {
        /// Until so many bytes are used.
        target: u64,
    },
}

/// The token of an armed timer. It cannot be copied, so a timer has one owner. After the timer has fired, the
/// token is still the means to arm it again.
#[derive(Debug)]
#[must_use = "a timer without its token cannot be disarmed"]
pub(crate) struct Timer {
    at: Time,
    kind: TimerKind,
}

impl Timer {
    /// When it fires, or fired.
    pub(crate) fn at(&self) -> Time {
        self.at
    }
}

/// All armed timers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Time, TimerKind)>,
}

impl Timers {
    /// Arms a timer.
    pub(crate) fn arm(&mut self, at: Time, kind: TimerKind) -> Timer {
        let new = self.queue.insert((at, kind));
        debug_assert!(new, "{kind:?} is armed twice");
        Timer { at, kind }
    }

    /// Disarms a timer that may have fired.
    pub(crate) fn disarm(&mut self, timer: &Timer) {
        self.queue.remove(&(timer.at, timer.kind));
    }

    /// Moves a timer; arms it again if it has fired.
    pub(crate) fn move_to(&mut self, timer: &mut Timer, at: Time) {
        self.queue.remove(&(timer.at, timer.kind));
        timer.at = at;
        self.queue.insert((at, timer.kind));
    }

    /// When the next timer fires.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the next timer that is due by `now`.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(Time, TimerKind)> {
        self.queue.first().filter(|(at, _)| *at <= now)?;
        self.queue.pop_first()
    }

    /// Armed timers.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn timers_fire_in_order_and_once() {
        let mut timers = Timers::default();
        let late = timers.arm(at(9), TimerKind::Session(SessionId(1)));
        let mut early = timers.arm(at(3), TimerKind::Store(StoreId(2)));
        assert_eq!((timers.next(), timers.pop_due(at(2))), (Some(at(3)), None));
        timers.move_to(&mut early, at(5));
        assert_eq!(timers.pop_due(at(5)), Some((at(5), TimerKind::Store(StoreId(2)))));
        assert_eq!((timers.pop_due(at(8)), timers.len()), (None, 1));
        timers.disarm(&late);
        timers.disarm(&early);
        assert_eq!((timers.next(), timers.len()), (None, 0));
    }

    #[test]
    fn moving_a_timer_that_has_fired_arms_it_again() {
        let mut timers = Timers::default();
        let mut timer = timers.arm(at(1), TimerKind::Job(JobId(1)));
        assert!(timers.pop_due(at(1)).is_some());
        timers.move_to(&mut timer, at(4));
        assert_eq!((timer.at(), timers.len()), (at(4), 1));
    }
}
