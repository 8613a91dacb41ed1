//! Winding down: one deadline for all of it, taken when the end is asked for.
//!
//! The phases come in the order of what depends on them: L2 gets what was stored, and ends its I/O; the
//! coordinator, which is to hear of that, is told goodbye, and a collector the last numbers; HTTP answers that are under way go out; the
//! recording and the lookup log are closed. Whoever takes long leaves less to those after it. But the goodbye has a little time
//! of its own, so that a disk that hangs does not leave a dead server in the coordinator's books.
//!
//! What was not done in time is counted, and told in one line.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::app::state::State;
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;

/// How long replies that are waiting may take to reach peers that do not read, at most.
const REPLIES_MAX: Duration = Duration::from_secs(1);

/// What is kept for the coordinator and the collector, at most.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// How long a client may take to read the HTTP answer that is under way. One that only keeps its connection
/// open must not keep the server alive.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// When everything has to be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// So long from now on. A time that no clock reaches is none.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// How long it is until then.
    pub(crate) fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Earlier than this one, by `reserve` or by a quarter of what is left, whichever is less.
    fn keeping(self, reserve: Duration) -> Self {
        let reserve = reserve.min(self.left() / 4);
        Self(self.0.and_then(|at| at.checked_sub(reserve)))
    }

    /// Not later than this one, and not later than so long from now on.
    fn within(self, time: Duration) -> Self {
        Self::after(time.min(self.left()))
    }

    /// Does `work` for as long as there is time. `None` if it was not done by then.
    async fn limit<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            Some(at) => timeout_at(at, work).await.ok(),
            None => Some(work.await),
        }
    }
}

/// How long replies that wait may take at the end: a part of the whole, for the peers are read from no longer.
pub(crate) fn replies_linger(shutdown_timeout: Duration) -> Duration {
    REPLIES_MAX.min(shutdown_timeout / 4)
}

/// What was not done when time was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Undone {
    /// Objects that are not in L2, and lost.
    objects: u64,
    /// L2 adapters that still work on something.
    adapters: u64,
    /// Object events that the coordinator has not been told of.
    events: u64,
    /// Last pushes to a collector that it has not taken.
    pushes: u64,
    /// HTTP listeners with answers under way.
    answers: u64,
    /// Recordings and lookup logs that are not closed.
    recordings: u64,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, adapters, events, pushes, answers, recordings } = *self;
        let parts = [
            (objects, "objects not in L2 and lost"),
            (adapters, "L2 adapters still at work"),
            (events, "events that the coordinator has not heard of"),
            (pushes, "last pushes to a collector cut off"),
            (answers, "HTTP ports with answers under way"),
            (recordings, "recordings cut off"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        for (i, (count, what)) in parts.enumerate() {
            write!(f, "{}{count} {what}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What is to be ended, besides the state.
pub(crate) struct Running<G, P> {
    /// Reports what is left to the coordinator and leaves it; `None` without one.
    pub(crate) goodbye: Option<G>,
    /// Pushes what is left to a collector; `None` without one.
    pub(crate) last_push: Option<P>,
    /// Ends HTTP: no more calls.
    pub(crate) close_http: tokio::sync::watch::Sender<bool>,
    /// Done when the calls under way are.
    pub(crate) https: Vec<JoinHandle<()>>,
}

/// Ends everything that requests have left behind, by the deadline. No request comes any more.
pub(crate) async fn wind_down<G, P>(state: &Arc<State>, running: Running<G, P>, deadline: Deadline) -> Undone
where
    G: Future<Output = ()>,
    P: Future<Output = ()>,
{
    let Running { goodbye, last_push, close_http, https } = running;
    let mut undone = Undone::default();
    let others_wait = goodbye.is_some() || last_push.is_some();
    let for_l2 = if others_wait { deadline.keeping(GOODBYE_MAX) } else { deadline };
    // A core that has found a bug in itself stores nothing any more.
    if !state.core().is_poisoned() {
        state.core().with(|core, now| core.flush_deferred(now));
        if for_l2.limit(written_back(state)).await.is_none() {
            undone.objects = state.core().read(|core, _| core.write_back_pending());
        }
        for (_, adapter) in state.l2.adapters() {
            undone.adapters += u64::from(for_l2.limit(adapter.close()).await.is_none());
        }
    }
    // One that does not answer is given up by whoever reports or pushes, and has had its line of log.
    let (told, pushed) = tokio::join!(in_time(goodbye, deadline), in_time(last_push, deadline));
    if !told {
        undone.events =
            state.reporting.untold(state.core().read(|core, _| core.stats().object_events().last()));
    }
    undone.pushes = u64::from(!pushed);
    let _ = close_http.send(true);
    let answers = deadline.within(ANSWERS_MAX);
    for task in https {
        undone.answers += u64::from(answers.limit(task).await.is_none());
    }
    if state.recorder.is_some() || state.lookup_log.is_some() {
        let recorded = state.clone();
        let close = move || {
            recorded.recorder.iter().for_each(Recorder::close);
            recorded.lookup_log.iter().for_each(LookupLog::close);
        };
        let closed = deadline.limit(tokio::task::spawn_blocking(close)).await;
        undone.recordings = u64::from(closed.is_none());
    }
    undone
}

/// Whether this, if there is anything to do, is done by the deadline.
async fn in_time(work: Option<impl Future<Output = ()>>, deadline: Deadline) -> bool {
    match work {
        Some(work) => deadline.limit(work).await.is_some(),
        None => true,
    }
}

/// Completes when everything that was stored is where it is to be.
async fn written_back(state: &State) {
    loop {
        let written = state.core().written_back();
        if state.core().read(|core, _| core.write_back_pending()) == 0 {
            return;
        }
        written.await;
    }
}

#[cfg(test)]
mod tests;
