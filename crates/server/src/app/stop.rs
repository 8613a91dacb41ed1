//! Winding down after the last request, with one deadline for all of it.
//!
//! The phases are in the order of their dependencies: L2 gets what was stored, and ends its I/O; then the coordinator
//! gets the last events and a goodbye, and a collector the last numbers; HTTP answers in progress are sent; the recording
//! and the lookup log are closed. A slow phase leaves less time to later ones, but the goodbye has a little time of its
//! own, so that a disk that hangs does not leave a dead server registered with the coordinator.
//!
//! What was not done in time is counted and logged in one line.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::app::state::State;

/// Time to send the answers that wait for clients that do not read, at most.
const REPLIES_MAX: Duration = Duration::from_secs(1);

/// Time reserved for the coordinator and the collector, at most.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Time for HTTP answers in progress, at most. An idle connection must not delay the end.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// When the shutdown must be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// `time` from now. Without a deadline if no clock reaches that.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// The time left.
    pub(crate) fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Earlier than this one, by `reserve` or by a quarter of what is left, whichever is less.
    fn keeping(self, reserve: Duration) -> Self {
        let reserve = reserve.min(self.left() / 4);
        Self(self.0.and_then(|at| at.checked_sub(reserve)))
    }

    /// The earlier one of this and `time` from now.
    fn within(self, time: Duration) -> Self {
        Self::after(time.min(self.left()))
    }

    /// Runs `work` until the deadline; `None` if it was not done by then.
    pub(crate) async fn limit<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            Some(at) => timeout_at(at, work).await.ok(),
            None => Some(work.await),
        }
    }
}

/// Time for answers that wait: a part of the whole, as no request is read any more.
pub(crate) fn replies_linger(shutdown_timeout: Duration) -> Duration {
    REPLIES_MAX.min(shutdown_timeout / 4)
}

/// What was not done by the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Undone {
    /// Objects that were to be in L2 and are lost.
    objects: u64,
    /// L2 adapters with I/O in progress.
    adapters: u64,
    /// Object events that the coordinator did not get.
    events: u64,
    /// Last pushes to a collector that were not accepted.
    pushes: u64,
    /// HTTP listeners with answers in progress.
    answers: u64,
    /// Recordings and lookup logs that are not closed.
    recordings: u64,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, adapters, events, pushes, answers, recordings } = *self;
        let parts = [
            (objects, "objects not in L2 and lost"),
            (adapters, "L2 adapters with I/O in progress"),
            (events, "events that the coordinator did not get"),
            (pushes, "last pushes to a collector cut off"),
            (answers, "HTTP ports with answers in progress"),
            (recordings, "recordings cut off"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        for (i, (count, what)) in parts.enumerate() {
            write!(f, "{}{count} {what}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What runs, besides the state.
pub(crate) struct Running<G, P> {
    /// Reports what is left to the coordinator and leaves it; `None` without one.
    pub(crate) goodbye: Option<G>,
    /// Pushes what is left to a collector; `None` without one.
    pub(crate) last_push: Option<P>,
    /// Ends HTTP: no more calls.
    pub(crate) close_http: tokio::sync::watch::Sender<bool>,
    /// Each ends with the calls in progress.
    pub(crate) https: Vec<JoinHandle<()>>,
}

/// Ends the work that requests have left, by the deadline. No request is read any more.
pub(crate) async fn wind_down<G, P>(state: &Arc<State>, running: Running<G, P>, deadline: Deadline) -> Undone
where
    G: Future<Output = ()>,
    P: Future<Output = ()>,
{
    let Running { goodbye, last_push, close_http, https } = running;
    let mut undone = Undone::default();
    let others_wait = goodbye.is_some() || last_push.is_some();
    let for_l2 = if others_wait { deadline.keeping(GOODBYE_MAX) } else { deadline };
    if !state.core().is_poisoned() {
        state.core().with(|core, now| core.flush_deferred(now));
        if for_l2.limit(written_back(state)).await.is_none() {
            undone.objects = state.core().read(|core, _| core.write_back_pending());
        }
        for (_, adapter) in state.l2.adapters() {
            undone.adapters += u64::from(for_l2.limit(adapter.close()).await.is_none());
        }
    }
    let (reported, pushed) = tokio::join!(in_time(goodbye, deadline), in_time(last_push, deadline));
    if !reported {
        undone.events =
            state.reporting.pending(state.core().read(|core, _| core.stats().object_events().last()));
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
            recorded.recorder.iter().for_each(|recorder| recorder.close());
            recorded.lookup_log.iter().for_each(|log| log.close());
        };
        let closed = deadline.limit(tokio::task::spawn_blocking(close)).await;
        undone.recordings = u64::from(closed.is_none());
    }
    undone
}

/// Whether the work, if any, is done by the deadline.
async fn in_time(work: Option<impl Future<Output = ()>>, deadline: Deadline) -> bool {
    match work {
        Some(work) => deadline.limit(work).await.is_some(),
        None => true,
    }
}

/// Completes when all stored objects are written to L2.
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
