//! Reports to a fleet's coordinator: registration, heartbeats, and which objects this server holds.
//!
//! Best effort, in a task of its own. A coordinator that does not answer costs one line of log, then one when it answers
//! again, and delays nothing: events wait in the core's bounded log, and those that drop out of it show as a gap in the
//! numbers of the batches. A report without an answer is sent again unchanged; the coordinator recognises it by its
//! numbers.
//!
//! A coordinator may have lost its state, or gone back to an older copy, before a registration. So each registration but
//! the first begins a new incarnation, which voids what the coordinator has of L1, and after each one all objects
//! (`inventory`) are reported again, slowly.
//!
//! Calls block, so they are made on threads for blocking work; each has a deadline.

mod client;
mod inventory;
mod reports;
pub mod status;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_core::stats::events::ObjectEvent;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use self::client::{Client, Failure, Identity};
use self::inventory::Inventory;
use self::reports::{Compartment, Reports};
use self::status::ReporterStatus;
use crate::app::core_handle::CoreHandle;
use crate::app::state::State;
use crate::app::tasks::Tasks;
use crate::config::Config;
use crate::l2::L2;

/// Object events that wait to be reported, at most.
const EVENTS_WAITING_MAX: usize = 1 << 16;

/// Object events in one call, at most: about a megabyte of JSON.
const EVENTS_PER_CALL: usize = 4096;

/// Calls with events before anything else is looked at again.
const CALLS_PER_FLUSH: usize = EVENTS_WAITING_MAX / EVENTS_PER_CALL;

/// Object events that are read under the core's lock at once.
const EVENTS_READ: usize = 512;

/// Objects reported again in one flush, or a page more: a coordinator serves other servers too.
const RESENT_PER_FLUSH: usize = 8192;

/// The running task.
#[derive(Debug)]
pub struct Reporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Reporting {
    /// Starts it, if a coordinator is configured. `http_port` is this server's.
    pub fn start(state: &State, http_port: u16) -> Option<Self> {
        let config = &state.config.coordinator;
        let url = config.url.as_deref()?;
        if config.event_reporting {
            state.core.with(|core, _| core.record_object_events(EVENTS_WAITING_MAX));
        }
        let identity = Identity {
            instance_id: state.config.instance_id.clone(),
            advertise_ip: config.advertise_ip.clone(),
            http_port,
        };
        let reporter = Reporter {
            core: state.core.clone(),
            l2: state.l2.clone(),
            config: state.config.clone(),
            status: state.reporting.clone(),
            tasks: state.tasks.clone(),
            client: Arc::new(Client::new(url, identity)),
            reports: Reports::new(&state.config.instance_id, seconds_since_epoch() as u64),
            is_up: None,
            has_registered: false,
            sends_capacity: false,
            cursor: 0,
            inventory: None,
            may_resend: 0,
            unanswered: None,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(reporter.run(stopped));
        Some(Self { stop, task })
    }

    /// Reports the last events and deregisters. Call it after L2 is drained: a coordinator would keep later events of a
    /// deregistered server for ever.
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
    reported_again: u64,
}

struct Reporter {
    core: Arc<CoreHandle>,
    l2: Arc<L2>,
    config: Arc<Config>,
    status: Arc<ReporterStatus>,
    tasks: Arc<Tasks>,
    client: Arc<Client>,
    reports: Reports,
    /// Whether the last call was answered; `None` before the first.
    is_up: Option<bool>,
    /// There was a registration before.
    has_registered: bool,
    /// The sizes of the tiers are to be reported.
    sends_capacity: bool,
    /// The last object event in a report.
    cursor: u64,
    /// Objects still to be reported again.
    inventory: Option<Inventory>,
    /// How many of them in this flush.
    may_resend: usize,
    unanswered: Option<Unanswered>,
}

impl Reporter {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let tasks = self.tasks.clone();
        let task = tasks.reporter.as_ref().expect("there is one if there is a coordinator");
        let _running = task.begin();
        let every = |period: Duration| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let config = self.config.coordinator.clone();
        let (mut beats, mut flushes) = (every(config.heartbeat_interval), every(config.event_flush_interval));
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                _ = beats.tick() => self.beat().await,
                _ = flushes.tick(), if config.event_reporting => self.flush().await,
            }
            task.woke(self.core.now());
        }
        // The rest of the inventory would describe a server that has ended.
        self.inventory = None;
        self.flush().await;
        if self.is_registered() && self.is_up == Some(true) {
            let _ = self.call(|client| client.deregister()).await;
            self.set_registered(false);
        }
    }

    /// Sends a heartbeat; registers the server if it is not registered.
    async fn beat(&mut self) {
        if self.is_registered() {
            match self.call(|client| client.heartbeat()).await {
                Some(Err(Failure::Unknown)) => self.set_registered(false),
                _ => return,
            }
        }
        if let Some(Ok(())) = self.call(|client| client.register()).await {
            self.set_registered(true);
            let reports = self.config.coordinator.event_reporting;
            self.sends_capacity = reports;
            self.inventory = reports.then(Inventory::new);
            if std::mem::replace(&mut self.has_registered, true) {
                self.reports.begin_incarnation(seconds_since_epoch() as u64);
            }
        }
    }

    /// Reports what has happened since the last time. While the coordinator does not answer, it waits.
    async fn flush(&mut self) {
        if !self.is_registered() || self.is_up == Some(false) {
            return;
        }
        self.may_resend = RESENT_PER_FLUSH;
        for _ in 0..CALLS_PER_FLUSH {
            let waiting = match self.unanswered.take() {
                Some(unanswered) => Some(unanswered),
                None => self.next_report().await,
            };
            let Some(report) = waiting else { return };
            let sent = report.body.clone();
            let answer = self.call(move |client| client.report(&sent)).await;
            let status = &self.status;
            match answer {
                Some(Ok(())) => {
                    status.reported.fetch_add(report.events, Ordering::Relaxed);
                    status.reported_again.fetch_add(report.reported_again, Ordering::Relaxed);
                }
                // It would be refused again.
                Some(Err(Failure::Refused { .. })) => {
                    status.lost.fetch_add(report.events, Ordering::Relaxed);
                }
                _ => {
                    self.unanswered = Some(report);
                    return;
                }
            }
        }
    }

    /// The next report: sizes of tiers, events and, behind the last event, the inventory.
    async fn next_report(&mut self) -> Option<Unanswered> {
        let now = seconds_since_epoch();
        let capacity = if std::mem::take(&mut self.sends_capacity) {
            compartments(&self.config, &self.l2)
        } else {
            Vec::new()
        };
        let (mut entries, mut events) = (Vec::new(), 0);
        while entries.len() < EVENTS_PER_CALL {
            let happened = self.read_log();
            if !happened.is_empty() {
                events += happened.len() as u64;
                entries.extend(happened);
                continue;
            }
            let Some(inventory) = self.inventory.as_mut().filter(|_| self.may_resend > 0) else { break };
            match inventory.next(&self.core, &self.l2).await {
                Some(page) => {
                    self.may_resend = self.may_resend.saturating_sub(page.len());
                    entries.extend(page);
                }
                None => self.inventory = None,
            }
        }
        if capacity.is_empty() && entries.is_empty() {
            return None;
        }
        let backends: Vec<_> = self.l2.adapters().map(|(_, adapter)| adapter.kind()).collect();
        let shared: Vec<bool> = self.config.l2.adapters.iter().map(|adapter| adapter.shared).collect();
        let places: Vec<_> = backends.into_iter().zip(shared).collect();
        let body = self.reports.body(&capacity, &entries, &places, now);
        Some(Unanswered { body: body.into(), events, reported_again: entries.len() as u64 - events })
    }

    /// The next events of the core's log; none at its end.
    fn read_log(&mut self) -> Vec<ObjectEvent> {
        let page = self.core.read(|core, _| core.stats().object_events().after(self.cursor, EVENTS_READ));
        if page.lost {
            let first = page.records.first().map_or(page.next_cursor, |(number, _)| number - 1);
            self.status.lost.fetch_add(first.saturating_sub(self.cursor), Ordering::Relaxed);
            self.reports.skip();
        }
        self.cursor = page.next_cursor;
        page.records.into_iter().map(|(_, event)| event).collect()
    }

    /// One call; `None` if it could not be made. Logs when calls begin or cease to be answered.
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
            self.status.failures.fetch_add(1, Ordering::Relaxed);
            if self.is_up != Some(false) {
                tracing::warn!(coordinator = self.client.name(), %failure, "the coordinator cannot be reached; retrying with every heartbeat");
            }
        } else if self.is_up == Some(false) {
            tracing::info!(coordinator = self.client.name(), "the coordinator answers again");
        }
        self.is_up = Some(is_up);
        Some(result)
    }

    fn is_registered(&self) -> bool {
        self.status.registered.load(Ordering::Relaxed)
    }

    fn set_registered(&self, registered: bool) {
        tracing::info!(coordinator = self.client.name(), registered, "registration with the coordinator");
        self.status.registered.store(registered, Ordering::Relaxed);
    }
}

/// The size of each tier.
fn compartments(config: &Config, l2: &L2) -> Vec<Compartment> {
    let memory =
        Compartment { tier: "l1", backend: reports::L1_BACKEND, shared: false, bytes: config.l1.bytes };
    let adapters = l2.adapters().zip(&config.l2.adapters).map(|((_, adapter), config)| Compartment {
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
