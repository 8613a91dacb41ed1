//! Stops calling a backend that fails, and detects on its own when it has recovered.
//!
//! ```text
//!           N failures in a row                pause over: one call passes      
//!  closed ----------------------->  open  ----------------------------------------> half open
//!    ^                               ^  |  pause doubles, up to a bound                |  |
//!    |                               +--+---------------- it fails --------------------+  |
//!    +---------------------------------------------------- it succeeds -------------------+
//! ```
//!
//! Only failures of the backend count, not those of a key: an absent object is a valid answer, and so is one that
//! cannot be read because of its own file. An object that the medium fails to read counts only when
//! many others failed likewise with no success in between.
//! Lookups, loads and stores have separate circuits, so that a disk that cannot be written to is still read,
//! and one whose files cannot be read does not seem healthy because its directory can. Calls that did not
//! reach the disk do not count, such as the store of an object that is there already.
//!
//! Engines keep looking up and loading, which probes reads, and storing, which probes writes. They may have nothing to
//! store for a long time, or be kept away because this server is not ready; so what fails is tried with a small
//! object from time to time (`probe`): writes at once, reads after a time without calls.
//!
//! Health is stricter than the circuit: it is bad from the first failed call until the next successful one. A
//! full backend is unhealthy too, although calls still pass: it answers at once, and space may become free at any
//! time.

mod probe;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;
use tokio::time::Instant;

use self::probe::Probe;
use crate::adapter::{
    Adapter, BoxFuture, Circuit, Cursor, Failures, Health, Page, Results, Stored, Transfer,
};
use crate::error::{ErrorKind, L2Error, Retry};

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open the circuit. At least 1.
    pub failures: u32,
    /// The pause before the first probe; it doubles with each probe that fails.
    pub first_pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Failing reads are probed after this time without a call.
    pub idle_before_probe: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            first_pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(30),
            idle_before_probe: Duration::from_secs(5),
        }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Breaker {
    inner: Arc<dyn Adapter>,
    lookups: Arc<CircuitState>,
    loads: Arc<CircuitState>,
    writes: Arc<CircuitState>,
    hasher: RandomState,
}

/// The circuit of one kind of call.
#[derive(Debug)]
struct CircuitState {
    name: &'static str,
    config: BreakerConfig,
    state: Mutex<State>,
    /// What made it fail last.
    cause: Mutex<Option<L2Error>>,
    /// Objects that the medium failed to read or write, since the last success.
    damaged: Mutex<HashSet<u64>>,
    last_call: Mutex<Instant>,
    /// A task probes until the circuit closes.
    probed: AtomicBool,
}

/// That many damaged objects, with no success in between, are a damaged backend.
const DAMAGED_OBJECTS: usize = 20;

#[derive(Clone, Copy, Debug)]
enum State {
    /// `failing`: the last call failed, or the backend was full.
    Closed {
        failures: u32,
        failing: bool,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    HalfOpen {
        pause: Duration,
    },
}

/// Permission for one call.
struct Permit<'a> {
    circuit: &'a CircuitState,
    is_probe: bool,
}

impl Breaker {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: BreakerConfig) -> Self {
        let circuit = |name| {
            Arc::new(CircuitState {
                name,
                config,
                state: Mutex::new(State::HEALTHY),
                cause: Mutex::default(),
                damaged: Mutex::default(),
                last_call: Mutex::new(Instant::now()),
                probed: AtomicBool::new(false),
            })
        };
        let (lookups, loads, writes) = (circuit("lookups"), circuit("loads"), circuit("stores"));
        Self { inner, lookups, loads, writes, hasher: RandomState::new() }
    }

    /// Numbers that distinguish objects.
    fn ids<'k>(&self, keys: impl Iterator<Item = &'k ObjectKey>) -> Vec<u64> {
        keys.map(|key| self.hasher.hash_one(key)).collect()
    }

    async fn each<T>(
        &self,
        circuit: &CircuitState,
        ids: Vec<u64>,
        call: BoxFuture<'_, Results<T>>,
        reached_backend: impl Fn(&T) -> bool,
    ) -> Results<T> {
        if ids.is_empty() {
            // An empty batch does not reach the backend.
            return call.await;
        }
        let permit = match circuit.permit() {
            Ok(permit) => permit,
            Err(error) => return error.for_all(ids.len()),
        };
        let results = call.await;
        let outcome = |(result, id): (&Result<T, L2Error>, &u64)| match result {
            Ok(value) if reached_backend(value) => circuit.succeeded(),
            Ok(_) => Outcome::Unknown,
            Err(error) if error.kind() == ErrorKind::Damaged && circuit.damage(*id) => {
                Outcome::Failed(error.clone())
            }
            Err(error) => Outcome::of(error),
        };
        permit.record(results.iter().zip(&ids).map(outcome));
        results
    }

    /// Starts a task that probes a failing circuit until it recovers, unless one is running.
    fn probe(&self, circuit: &Arc<CircuitState>, what: Probe) {
        if circuit.claim_probing() {
            tokio::spawn(probe::until_recovered(Arc::downgrade(&self.inner), Arc::downgrade(circuit), what));
        }
    }

    /// Both directions with their circuits.
    fn directions(&self) -> [(&'static str, &CircuitState); 3] {
        [("reads", &self.lookups), ("reads", &self.loads), ("writes", &self.writes)]
    }
}

/// Whether a store reached the backend.
fn was_written(stored: &Stored) -> bool {
    stored.written_bytes > 0
}

/// What the result for one key shows about the backend.
#[derive(Clone, Debug)]
enum Outcome {
    Answered,
    /// The call did not reach the backend.
    Unknown,
    /// The backend, or this process, is at a limit: full, or without file descriptors.
    Limited(L2Error),
    /// The backend failed, not just this key or object.
    Failed(L2Error),
}

impl Outcome {
    fn of(error: &L2Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::WrongSize | ErrorKind::Corrupt | ErrorKind::Unreadable => {
                Self::Answered
            }
            ErrorKind::Busy
            | ErrorKind::Damaged
            | ErrorKind::OverLimit
            | ErrorKind::BadKey
            | ErrorKind::Unsupported
            | ErrorKind::Closed => Self::Unknown,
            ErrorKind::Full | ErrorKind::TooManyFiles => Self::Limited(error.clone()),
            ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Denied
            | ErrorKind::ReadOnly
            | ErrorKind::Stale
            | ErrorKind::Io => Self::Failed(error.clone()),
        }
    }

    /// The error that makes the adapter unhealthy.
    fn unhealthy(&self) -> Option<&L2Error> {
        match self {
            Self::Limited(error) | Self::Failed(error) => Some(error),
            Self::Answered | Self::Unknown => None,
        }
    }
}

impl State {
    const HEALTHY: Self = Self::Closed { failures: 0, failing: false };
}

impl CircuitState {
    fn succeeded(&self) -> Outcome {
        lock(&self.damaged).clear();
        Outcome::Answered
    }

    /// Records an object that the medium failed to read or write. Whether there are so many that the backend fails.
    fn damage(&self, id: u64) -> bool {
        let mut damaged = lock(&self.damaged);
        if damaged.len() < DAMAGED_OBJECTS {
            damaged.insert(id);
        }
        damaged.len() >= DAMAGED_OBJECTS
    }

    /// Why it fails, in words.
    fn problem(&self) -> Option<String> {
        let state = match self.circuit() {
            Circuit::Closed => return None,
            Circuit::Failing => "fail",
            Circuit::Open | Circuit::HalfOpen => "have failed too often and are refused for a while",
        };
        let cause = lock(&self.cause).as_ref().map(|error| format!(": {}", error.explained()));
        Some(format!("{state}{}", cause.unwrap_or_default()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuit(&self) -> Circuit {
        match *self.lock() {
            State::Closed { failing: false, .. } => Circuit::Closed,
            State::Closed { failing: true, .. } => Circuit::Failing,
            State::Open { .. } => Circuit::Open,
            State::HalfOpen { .. } => Circuit::HalfOpen,
        }
    }

    /// Whether it is unhealthy and no task probes it. If so, the caller must start one.
    fn claim_probing(&self) -> bool {
        self.circuit() != Circuit::Closed && !self.probed.swap(true, Ordering::AcqRel)
    }

    fn permit(&self) -> Result<Permit<'_>, L2Error> {
        *lock(&self.last_call) = Instant::now();
        let mut state = self.lock();
        match *state {
            State::Closed { .. } => Ok(Permit { circuit: self, is_probe: false }),
            State::Open { until, pause } if until <= Instant::now() => {
                *state = State::HalfOpen { pause };
                Ok(Permit { circuit: self, is_probe: true })
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                let text = "the circuit breaker is open after repeated failures";
                Err(L2Error::permanent(ErrorKind::Unavailable, text).with_retry(Retry::Persistent))
            }
        }
    }

    fn open(&self, pause: Duration) -> State {
        let pause = pause.min(self.config.pause_max);
        State::Open { until: Instant::now() + pause, pause }
    }

    /// Records a call that passed while the circuit was closed.
    fn record_call(&self, outcomes: impl Iterator<Item = Outcome>) {
        let mut state = self.lock();
        // Another call may have opened it meanwhile; then only the probe counts.
        let State::Closed { mut failures, failing: failed_before } = *state else { return };
        let (mut unhealthy, mut reached) = (None, false);
        for outcome in outcomes {
            if unhealthy.is_none() {
                unhealthy = outcome.unhealthy().cloned();
            }
            reached |= !matches!(outcome, Outcome::Unknown);
            failures = match outcome {
                Outcome::Failed(_) => failures + 1,
                Outcome::Answered | Outcome::Limited(_) => 0,
                Outcome::Unknown => failures,
            };
            if failures >= self.config.failures.max(1) {
                *state = self.open(self.config.first_pause);
                drop(state);
                let error = unhealthy.as_ref().map(tracing::field::display);
                tracing::warn!(error, "{} of the L2 backend fail repeatedly and are paused", self.name);
                self.set_cause(unhealthy);
                return;
            }
        }
        let failing = unhealthy.is_some() || failed_before && !reached;
        *state = State::Closed { failures, failing };
        drop(state);
        match &unhealthy {
            Some(error) if !failed_before => tracing::debug!(%error, "{} of the L2 backend fail", self.name),
            None if failed_before && !failing => {
                tracing::info!("{} of the L2 backend recovered", self.name)
            }
            _ => {}
        }
        self.set_cause(unhealthy);
    }

    fn set_cause(&self, error: Option<L2Error>) {
        if error.is_some() {
            *lock(&self.cause) = error;
        }
    }

    /// Records the probe, the one call that passed while the circuit was half open.
    fn record_probe(&self, outcomes: impl Iterator<Item = Outcome>) {
        let mut state = self.lock();
        let State::HalfOpen { pause } = *state else { return };
        let (mut answered, mut failed, mut failing) = (false, false, false);
        for outcome in outcomes {
            answered |= matches!(outcome, Outcome::Answered | Outcome::Limited(_));
            failed |= matches!(outcome, Outcome::Failed(_));
            failing |= outcome.unhealthy().is_some();
            self.set_cause(outcome.unhealthy().cloned());
        }
        *state = match (answered, failed) {
            // One key that does not fail shows that the backend answers.
            (true, _) => State::Closed { failures: 0, failing },
            (false, true) => self.open(pause.saturating_mul(2)),
            // The next call is a probe, without a pause.
            (false, false) => State::Open { until: Instant::now(), pause },
        };
        drop(state);
        if answered {
            tracing::info!("{} of the L2 backend recovered", self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Permit<'_> {
    fn record(mut self, outcomes: impl Iterator<Item = Outcome>) {
        if self.is_probe {
            self.is_probe = false;
            self.circuit.record_probe(outcomes);
        } else {
            self.circuit.record_call(outcomes);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            // The caller dropped the probe before it had a result. The next call is a probe, without a pause.
            let mut state = self.circuit.lock();
            if let State::HalfOpen { pause } = *state {
                *state = State::Open { until: Instant::now(), pause };
            }
        }
    }
}

impl Adapter for Breaker {
    forward!(inner: kind, capabilities, usage, usage_by_salt, set_quota, close);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(async move {
            let ids = self.ids(keys.iter());
            let found = self.each(&self.lookups, ids, self.inner.lookup(keys), |_| true).await;
            self.probe(&self.lookups, Probe::Lookup);
            found
        })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(async move {
            let ids = self.ids(transfers.iter().map(|transfer| &transfer.key));
            let loaded = self.each(&self.loads, ids, self.inner.load(transfers), |()| true).await;
            self.probe(&self.loads, Probe::Load);
            loaded
        })
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(async move {
            let ids = self.ids(transfers.iter().map(|transfer| &transfer.key));
            let stored = self.each(&self.writes, ids, self.inner.store(transfers), was_written).await;
            self.probe(&self.writes, Probe::Store);
            stored
        })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(async move {
            let ids = self.ids(keys.iter());
            let deleted = self.each(&self.writes, ids, self.inner.delete(keys), |deleted| *deleted).await;
            self.probe(&self.writes, Probe::Store);
            deleted
        })
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            let permit = self.lookups.permit()?;
            let page = self.inner.list(cursor, limit).await;
            permit.record(std::iter::once(page.as_ref().map_or_else(Outcome::of, |_| Outcome::Answered)));
            self.probe(&self.lookups, Probe::Lookup);
            page
        })
    }

    fn health(&self) -> Health {
        let inner = self.inner.health();
        let reads = self.lookups.circuit().max(self.loads.circuit()).max(inner.reads);
        Health { reads, writes: self.writes.circuit().max(inner.writes) }
    }

    fn failures(&self) -> Failures {
        let mut failures = self.inner.failures();
        for (what, circuit) in self.directions() {
            failures.problems.extend(circuit.problem().map(|problem| format!("{what} {problem}")));
        }
        failures
    }
}

#[cfg(test)]
mod tests;
