//! Reporting to a fleet's coordinator (`operations.md` 7): who this server is, that it lives, and what it holds.
//!
//! Best effort, in a task of its own. A coordinator that is gone costs one line of log, then one when it is back,
//! and holds up nobody: what is to be reported waits in the core's bounded log, and what falls out of it shows as
//! a gap in the numbers of the batches. A report whose answer did not come is sent again as it was; the
//! coordinator knows it by its numbers.
//!
//! Calls block, so they are made on threads for blocking work; each ends by a deadline.

mod client;
mod reports;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use self::client::{Client, Failure, Identity};
use self::reports::{Compartment, Reports};
use crate::state::State;

/// Object events that wait to be reported, at most.
const EVENTS_WAITING_MAX: usize = 1 << 16;

/// Object events in one call, at most: about a megabyte of JSON.
const EVENTS_PER_CALL: usize = 4096;

/// Calls with events before anything else is looked at again.
const CALLS_PER_FLUSH: usize = EVENTS_WAITING_MAX / EVENTS_PER_CALL;

/// How the reporting stands, for metrics.
#[derive(Debug, Default)]
pub struct Standing {
    registered: AtomicBool,
    failures: AtomicU64,
    reported: AtomicU64,
    lost: AtomicU64,
}

/// [`Standing`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Whether the coordinator knows this server, as far as is known here.
    pub registered: bool,
    /// Calls that were not answered, or refused.
    pub failures: u64,
    /// Object events that it has.
    pub reported: u64,
    /// Object events that it will never have.
    pub lost: u64,
}

impl Standing {
    /// How it stands now.
    pub fn counts(&self) -> Counts {
        Counts {
            registered: self.registered.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            reported: self.reported.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

/// The running task.
#[derive(Debug)]
pub struct Reporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Reporting {
    /// Begins, if a coordinator is configured. `http_port` is where it reaches this server.
    pub fn start(state: &Arc<State>, http_port: u16) -> Option<Self> {
        let config = &state.config.coordinator;
        let url = config.url.as_deref()?;
        if config.event_reporting {
            state.core().follow_objects(EVENTS_WAITING_MAX);
        }
        let identity = Identity {
            instance_id: state.config.instance_id.clone(),
            advertise_ip: config.advertise_ip.clone(),
            http_port,
        };
        let reporter = Reporter {
            state: state.clone(),
            client: Arc::new(Client::new(url, identity)),
            reports: Reports::new(&state.config.instance_id, seconds_since_epoch() as u64),
            is_up: None,
            tells_capacity: false,
            cursor: 0,
            unanswered: None,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(reporter.run(stopped));
        Some(Self { stop, task })
    }

    /// Reports what is left, and says goodbye. After L2 has been drained: what a coordinator hears of a server
    /// that has left it would keep for ever.
    pub async fn end(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

/// A report that was sent, and may have arrived.
#[derive(Debug)]
struct Unanswered {
    body: Arc<[u8]>,
    events: u64,
}

struct Reporter {
    state: Arc<State>,
    client: Arc<Client>,
    reports: Reports,
    /// Whether the last call was answered; `None` before the first.
    is_up: Option<bool>,
    /// The coordinator has to be told how large the tiers are.
    tells_capacity: bool,
    /// The last object event in a report.
    cursor: u64,
    unanswered: Option<Unanswered>,
}

impl Reporter {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let every = |period: Duration| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let config = self.state.config.coordinator.clone();
        let (mut beats, mut flushes) = (every(config.heartbeat_interval), every(config.event_flush_interval));
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                _ = beats.tick() => self.beat().await,
                _ = flushes.tick(), if config.event_reporting => self.flush().await,
            }
        }
        self.flush().await;
        if self.is_registered() && self.is_up == Some(true) {
            let _ = self.call(|client| client.deregister()).await;
            self.set_registered(false);
        }
    }

    /// Says that this server lives; registers it where it is not known.
    async fn beat(&mut self) {
        if self.is_registered() {
            match self.call(|client| client.heartbeat()).await {
                Some(Err(Failure::Unknown)) => self.set_registered(false),
                _ => return,
            }
        }
        if let Some(Ok(())) = self.call(|client| client.register()).await {
            self.set_registered(true);
            self.tells_capacity = self.state.config.coordinator.event_reporting;
        }
    }

    /// Reports what has happened since the last time. While the coordinator does not answer, it waits.
    async fn flush(&mut self) {
        if !self.is_registered() || self.is_up == Some(false) {
            return;
        }
        for _ in 0..CALLS_PER_FLUSH {
            let Some(Unanswered { body, events }) = self.unanswered.take().or_else(|| self.next_report())
            else {
                return;
            };
            let sent = body.clone();
            match self.call(move |client| client.report(&sent)).await {
                Some(Ok(())) => drop(self.state.reporting.reported.fetch_add(events, Ordering::Relaxed)),
                // It will not like it any better the next time.
                Some(Err(Failure::Refused { .. })) => {
                    self.state.reporting.lost.fetch_add(events, Ordering::Relaxed);
                }
                _ => {
                    self.unanswered = Some(Unanswered { body, events });
                    return;
                }
            }
        }
    }

    fn next_report(&mut self) -> Option<Unanswered> {
        let now = seconds_since_epoch();
        let capacity =
            if std::mem::take(&mut self.tells_capacity) { compartments(&self.state) } else { Vec::new() };
        let page = self.state.core_for_report().object_events().after(self.cursor, EVENTS_PER_CALL);
        if page.lost {
            let first = page.records.first().map_or(page.next_cursor, |(number, _)| number - 1);
            self.state.reporting.lost.fetch_add(first.saturating_sub(self.cursor), Ordering::Relaxed);
            self.reports.skip();
        }
        self.cursor = page.next_cursor;
        if capacity.is_empty() && page.records.is_empty() {
            return None;
        }
        let backends: Vec<_> = self.state.l2.adapters().map(|(_, adapter)| adapter.kind()).collect();
        let shared: Vec<bool> = self.state.config.l2.adapters.iter().map(|adapter| adapter.shared).collect();
        let places: Vec<_> = backends.into_iter().zip(shared).collect();
        let events: Vec<_> = page.records.into_iter().map(|(_, event)| event).collect();
        let body = self.reports.body(&capacity, &events, &places, now);
        Some(Unanswered { body: body.into(), events: events.len() as u64 })
    }

    /// One call. `None` if it could not even be made. A change of whether it is answered is logged.
    async fn call<F>(&mut self, call: F) -> Option<Result<(), Failure>>
    where
        F: FnOnce(&Client) -> Result<(), Failure> + Send + 'static,
    {
        let client = self.client.clone();
        // It fails if the process is ending, or the call has panicked.
        let result = tokio::task::spawn_blocking(move || call(&client)).await.ok()?;
        let failure = result.as_ref().err().filter(|failure| !matches!(failure, Failure::Unknown));
        let is_up = failure.is_none();
        if let Some(failure) = failure {
            self.state.reporting.failures.fetch_add(1, Ordering::Relaxed);
            if self.is_up != Some(false) {
                tracing::warn!(coordinator = self.client.name(), %failure, "the coordinator cannot be reached; trying on");
            }
        } else if self.is_up == Some(false) {
            tracing::info!(coordinator = self.client.name(), "the coordinator answers again");
        }
        self.is_up = Some(is_up);
        Some(result)
    }

    fn is_registered(&self) -> bool {
        self.state.reporting.registered.load(Ordering::Relaxed)
    }

    fn set_registered(&self, registered: bool) {
        tracing::info!(coordinator = self.client.name(), registered, "registration with the coordinator");
        self.state.reporting.registered.store(registered, Ordering::Relaxed);
    }
}

/// How large each tier is.
fn compartments(state: &State) -> Vec<Compartment> {
    let memory =
        Compartment { tier: "l1", backend: reports::L1_BACKEND, shared: false, bytes: state.config.l1.bytes };
    let adapters =
        state.l2.adapters().zip(&state.config.l2.adapters).map(|((_, adapter), config)| Compartment {
            tier: "l2",
            backend: adapter.kind(),
            shared: config.shared,
            bytes: adapter.usage().capacity_bytes.unwrap_or(0),
        });
    std::iter::once(memory).chain(adapters).collect()
}

fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
