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
//! Only failures of the backend count, not those of a key: an absent object is a valid answer.
//! Lookups, loads and stores have separate circuits, so that a disk that cannot be written to is still read,
//! and one whose files cannot be read does not seem healthy because its directory can. Calls that did not
//! reach the disk do not count, such as the store of an object that is there already.
//!
//! Engines keep looking up and loading, which probes reads. They may have nothing new to store for a long time, so
//! while writes fail a small object is written from time to time (`probe`).
//!
//! Health is stricter than the circuit: it is bad from the first failed call until the next successful one. A
//! full backend is unhealthy too, although calls still pass: it answers at once, and space may become free at any
//! time.

mod probe;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;
use tokio::time::Instant;

use crate::adapter::{Adapter, BoxFuture, Circuit, Cursor, Health, Page, Results, Stored, Transfer};
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
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, first_pause: Duration::from_secs(1), pause_max: Duration::from_secs(30) }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Breaker {
    inner: Arc<dyn Adapter>,
    lookups: CircuitState,
    loads: CircuitState,
    writes: Arc<CircuitState>,
}

/// The circuit of one kind of call.
#[derive(Debug)]
struct CircuitState {
    name: &'static str,
    config: BreakerConfig,
    state: Mutex<State>,
    /// A task probes until the circuit closes.
    probed: AtomicBool,
}

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
        let circuit = |name| CircuitState {
            name,
            config,
            state: Mutex::new(State::HEALTHY),
            probed: AtomicBool::new(false),
        };
        let (lookups, loads, writes) = (circuit("lookups"), circuit("loads"), Arc::new(circuit("stores")));
        Self { inner, lookups, loads, writes }
    }

    async fn each<T>(
        &self,
        circuit: &CircuitState,
        count: usize,
        call: BoxFuture<'_, Results<T>>,
        reached_backend: impl Fn(&T) -> bool,
    ) -> Results<T> {
        if count == 0 {
            // An empty batch does not reach the backend.
            return call.await;
        }
        let permit = match circuit.permit() {
            Ok(permit) => permit,
            Err(error) => return error.for_all(count),
        };
        let results = call.await;
        permit.record(results.iter().map(|result| match result {
            Ok(value) if reached_backend(value) => Outcome::Answered,
            Ok(_) => Outcome::Unknown,
            Err(error) => Outcome::of(error),
        }));
        results
    }

    /// Starts a task that probes failing writes until they succeed, unless one is running.
    fn probe_writes(&self) {
        if self.writes.claim_probing() {
            tokio::spawn(probe::until_recovered(Arc::downgrade(&self.inner), Arc::downgrade(&self.writes)));
        }
    }
}

/// Whether a store reached the backend.
fn was_written(stored: &Stored) -> bool {
    stored.written_bytes > 0
}

/// What the result for one key shows about the backend.
#[derive(Clone, Copy, Debug)]
enum Outcome<'e> {
    Answered,
    /// The call did not reach the backend.
    Unknown,
    /// The backend answered that it is full.
    Full(&'e L2Error),
    /// The backend failed, not just this key or object.
    Failed(&'e L2Error),
}

impl<'e> Outcome<'e> {
    fn of(error: &'e L2Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::WrongSize | ErrorKind::Corrupt => Self::Answered,
            ErrorKind::Busy | ErrorKind::BadKey | ErrorKind::Unsupported | ErrorKind::Closed => Self::Unknown,
            ErrorKind::Full => Self::Full(error),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Io => Self::Failed(error),
        }
    }

    /// The error that makes the adapter unhealthy.
    fn unhealthy(self) -> Option<&'e L2Error> {
        match self {
            Self::Full(error) | Self::Failed(error) => Some(error),
            Self::Answered | Self::Unknown => None,
        }
    }
}

impl State {
    const HEALTHY: Self = Self::Closed { failures: 0, failing: false };
}

impl CircuitState {
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
    fn record_call<'e>(&self, outcomes: impl Iterator<Item = Outcome<'e>>) {
        let mut state = self.lock();
        // Another call may have opened it meanwhile; then only the probe counts.
        let State::Closed { mut failures, failing: failed_before } = *state else { return };
        let (mut unhealthy, mut reached) = (None, false);
        for outcome in outcomes {
            unhealthy = unhealthy.or(outcome.unhealthy());
            reached |= !matches!(outcome, Outcome::Unknown);
            failures = match outcome {
                Outcome::Failed(_) => failures + 1,
                Outcome::Answered | Outcome::Full(_) => 0,
                Outcome::Unknown => failures,
            };
            if failures >= self.config.failures.max(1) {
                *state = self.open(self.config.first_pause);
                drop(state);
                let error = unhealthy.map(tracing::field::display);
                tracing::warn!(error, "{} of the L2 backend fail repeatedly and are paused", self.name);
                return;
            }
        }
        let failing = unhealthy.is_some() || failed_before && !reached;
        *state = State::Closed { failures, failing };
        drop(state);
        match unhealthy {
            Some(error) if !failed_before => tracing::warn!(%error, "{} of the L2 backend fail", self.name),
            None if failed_before && !failing => {
                tracing::info!("{} of the L2 backend recovered", self.name)
            }
            _ => {}
        }
    }

    /// Records the probe, the one call that passed while the circuit was half open.
    fn record_probe<'e>(&self, outcomes: impl Iterator<Item = Outcome<'e>>) {
        let mut state = self.lock();
        let State::HalfOpen { pause } = *state else { return };
        let (mut answered, mut failed, mut failing) = (false, false, false);
        for outcome in outcomes {
            answered |= matches!(outcome, Outcome::Answered | Outcome::Full(_));
            failed |= matches!(outcome, Outcome::Failed(_));
            failing |= outcome.unhealthy().is_some();
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

impl Permit<'_> {
    fn record<'e>(mut self, outcomes: impl Iterator<Item = Outcome<'e>>) {
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
        Box::pin(async move { self.each(&self.lookups, keys.len(), self.inner.lookup(keys), |_| true).await })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(async move {
            self.each(&self.loads, transfers.len(), self.inner.load(transfers), |()| true).await
        })
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(async move {
            let stored =
                self.each(&self.writes, transfers.len(), self.inner.store(transfers), was_written).await;
            self.probe_writes();
            stored
        })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(async move {
            self.each(&self.writes, keys.len(), self.inner.delete(keys), |deleted| *deleted).await
        })
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            let permit = self.lookups.permit()?;
            let page = self.inner.list(cursor, limit).await;
            permit.record(std::iter::once(page.as_ref().map_or_else(Outcome::of, |_| Outcome::Answered)));
            page
        })
    }

    fn health(&self) -> Health {
        let reads = self.lookups.circuit().max(self.loads.circuit());
        Health { reads, writes: self.writes.circuit() }
    }
}

#[cfg(test)]
mod tests;
