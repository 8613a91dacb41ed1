//! Reporting to a fleet's coordinator (`operations.md` 7): who this server is, that it lives, and what it holds.
//!
//! Best effort, in a task of its own. A coordinator that is gone costs one line of log, then one when it is back,
//! and holds up nobody: what is to be reported waits in the core's bounded log, and what falls out of it shows as
//! a gap in the numbers of the batches. A report whose answer did not come is sent again as it was; the
//! coordinator knows it by its numbers.
//!
//! A registration may be one with a coordinator that has forgotten everything, or has gone back to a copy of
//! what it once knew. So each but the first begins a new incarnation, which voids what it may still have of L1,
//! and after each all that is there (`inventory`) is told anew, slowly.
//!
//! Calls block, so they are made on threads for blocking work; each ends by a deadline.

mod client;
mod inventory;
mod reports;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_core::stats::events::ObjectEvent;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use self::client::{Client, Failure, Identity};
use self::inventory::Inventory;
use self::reports::{Compartment, Reports};
use crate::app::state::State;

/// Object events that wait to be reported, at most.
const EVENTS_WAITING_MAX: usize = 1 << 16;

/// Object events in one call, at most: about a megabyte of JSON.
const EVENTS_PER_CALL: usize = 4096;

/// Calls with events before anything else is looked at again.
const CALLS_PER_FLUSH: usize = EVENTS_WAITING_MAX / EVENTS_PER_CALL;

/// Object events that are read under the core's lock at once.
const EVENTS_READ: usize = 512;

/// Objects told anew in one flush, or a page more: a coordinator has other servers to listen to.
const RETOLD_PER_FLUSH: usize = 8192;

/// How the reporting stands, for metrics.
#[derive(Debug, Default)]
pub struct Standing {
    registered: AtomicBool,
    failures: AtomicU64,
    reported: AtomicU64,
    lost: AtomicU64,
    retold: AtomicU64,
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
    /// Objects that it was told of anew, after a registration.
    pub retold: u64,
}

impl Standing {
    /// How it stands now.
    pub fn counts(&self) -> Counts {
        Counts {
            registered: self.registered.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            reported: self.reported.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            retold: self.retold.load(Ordering::Relaxed),
        }
    }

    /// Of `events` object events, how many the coordinator has not been told of and might yet be.
    pub(crate) fn untold(&self, events: u64) -> u64 {
        let counts = self.counts();
        events.saturating_sub(counts.reported + counts.lost)
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
            state.core().with(|core, _| core.record_object_events(EVENTS_WAITING_MAX));
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
            has_registered: false,
            tells_capacity: false,
            cursor: 0,
            inventory: None,
            may_retell: 0,
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
    retold: u64,
}

struct Reporter {
    state: Arc<State>,
    client: Arc<Client>,
    reports: Reports,
    /// Whether the last call was answered; `None` before the first.
    is_up: Option<bool>,
    /// It was registered before.
    has_registered: bool,
    /// The coordinator has to be told how large the tiers are.
    tells_capacity: bool,
    /// The last object event in a report.
    cursor: u64,
    /// What is still to be told anew.
    inventory: Option<Inventory>,
    /// How much of it in this flush.
    may_retell: usize,
    unanswered: Option<Unanswered>,
}

impl Reporter {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let state = self.state.clone();
        let task = state.tasks.reporter.as_ref().expect("there is one if there is a coordinator");
        let _running = task.begin();
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
            task.woke(state.core().now());
        }
        // What was not told anew by now would be told of a server that is gone.
        self.inventory = None;
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
            let reports = self.state.config.coordinator.event_reporting;
            self.tells_capacity = reports;
            self.inventory = reports.then(Inventory::new);
            if std::mem::replace(&mut self.has_registered, true) {
                self.reports.begin_anew(seconds_since_epoch() as u64);
            }
        }
    }

    /// Reports what has happened since the last time. While the coordinator does not answer, it waits.
    async fn flush(&mut self) {
        if !self.is_registered() || self.is_up == Some(false) {
            return;
        }
        self.may_retell = RETOLD_PER_FLUSH;
        for _ in 0..CALLS_PER_FLUSH {
            let waiting = match self.unanswered.take() {
                Some(unanswered) => Some(unanswered),
                None => self.next_report().await,
            };
            let Some(report) = waiting else { return };
            let sent = report.body.clone();
            let answer = self.call(move |client| client.report(&sent)).await;
            let standing = &self.state.reporting;
            match answer {
                Some(Ok(())) => {
                    standing.reported.fetch_add(report.events, Ordering::Relaxed);
                    standing.retold.fetch_add(report.retold, Ordering::Relaxed);
                }
                // It will not like it any better the next time.
                Some(Err(Failure::Refused { .. })) => {
                    standing.lost.fetch_add(report.events, Ordering::Relaxed);
                }
                _ => {
                    self.unanswered = Some(report);
                    return;
                }
            }
        }
    }

    /// What there is to report next: sizes, what happened, and, when all of that is told, what is there.
    async fn next_report(&mut self) -> Option<Unanswered> {
        let now = seconds_since_epoch();
        let capacity =
            if std::mem::take(&mut self.tells_capacity) { compartments(&self.state) } else { Vec::new() };
        let (mut told, mut events) = (Vec::new(), 0);
        while told.len() < EVENTS_PER_CALL {
            let happened = self.read_log();
            if !happened.is_empty() {
                events += happened.len() as u64;
                told.extend(happened);
                continue;
            }
            let Some(inventory) = self.inventory.as_mut().filter(|_| self.may_retell > 0) else { break };
            match inventory.next(&self.state).await {
                Some(page) => {
                    self.may_retell = self.may_retell.saturating_sub(page.len());
                    told.extend(page);
                }
                None => self.inventory = None,
            }
        }
        if capacity.is_empty() && told.is_empty() {
            return None;
        }
        let backends: Vec<_> = self.state.l2.adapters().map(|(_, adapter)| adapter.kind()).collect();
        let shared: Vec<bool> = self.state.config.l2.adapters.iter().map(|adapter| adapter.shared).collect();
        let places: Vec<_> = backends.into_iter().zip(shared).collect();
        let body = self.reports.body(&capacity, &told, &places, now);
        Some(Unanswered { body: body.into(), events, retold: told.len() as u64 - events })
    }

    /// The next events of the core's log; none at its end.
    fn read_log(&mut self) -> Vec<ObjectEvent> {
        let page =
            self.state.core().read(|core, _| core.stats().object_events().after(self.cursor, EVENTS_READ));
        if page.lost {
            let first = page.records.first().map_or(page.next_cursor, |(number, _)| number - 1);
            self.state.reporting.lost.fetch_add(first.saturating_sub(self.cursor), Ordering::Relaxed);
            self.reports.skip();
        }
        self.cursor = page.next_cursor;
        page.records.into_iter().map(|(_, event)| event).collect()
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
