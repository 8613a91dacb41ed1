//! Stops asking a backend that does not answer, and finds out by itself when it is back.
//!
//! ```text
//!           N failures in a row                pause over: one call goes through
//!  closed ----------------------->  open  ----------------------------------------> half open
//!    ^                               ^  |  pause doubles, up to a bound                |  |
//!    |                               +--+---------------- it fails --------------------+  |
//!    +---------------------------------------------------- it succeeds -------------------+
//! ```
//!
//! Only failures of the backend count, not those of a key: an absent object is an answer.
//! Questions, loads and stores are judged apart, so that a disk that cannot be written to is still read,
//! and one whose files cannot be read does not look well because it knows their names. What did not
//! reach the disk tells nothing, such as the store of an object that is there.
//!
//! Engines keep asking and loading, and so find out when reading works again. They may have nothing new to
//! store for long, so while writes fail a small object of our own is written from time to time (`probe`).
//!
//! Health is stricter than the circuit: it shows from the first call that failed until the next one that
//! did not. A full backend shows too, although it is not left alone: it answers at once, and space comes
//! back without notice.

mod probe;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;
use tokio::time::Instant;

use crate::adapter::{Adapter, BoxFuture, Circuit, Cursor, Health, Page, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error, Retry};

/// When to open, and how long to stay so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open the circuit. At least 1.
    pub failures: u32,
    /// The pause before the first call that tries the backend again; it doubles with each that fails.
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
    questions: Gate,
    loads: Gate,
    writes: Arc<Gate>,
}

/// One kind of call.
#[derive(Debug)]
struct Gate {
    name: &'static str,
    config: BreakerConfig,
    state: Mutex<State>,
    /// Somebody sees to it that it closes again.
    watched: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `failing`: the last call did not do what was asked of the backend.
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

/// A call that was let through.
struct Pass<'a> {
    gate: &'a Gate,
    is_probe: bool,
}

impl Breaker {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: BreakerConfig) -> Self {
        let gate =
            |name| Gate { name, config, state: Mutex::new(State::WELL), watched: AtomicBool::new(false) };
        Self { inner, questions: gate("lookups"), loads: gate("loads"), writes: Arc::new(gate("stores")) }
    }

    async fn each<T>(
        &self,
        gate: &Gate,
        count: usize,
        call: BoxFuture<'_, Results<T>>,
        told: impl Fn(&T) -> bool,
    ) -> Results<T> {
        if count == 0 {
            // Nothing was asked, so nothing would be learnt.
            return call.await;
        }
        let pass = match gate.enter() {
            Ok(pass) => pass,
            Err(error) => return std::iter::repeat_with(|| Err(error.clone())).take(count).collect(),
        };
        let results = call.await;
        pass.leave(results.iter().map(|result| match result {
            Ok(value) if told(value) => Sign::Answered,
            Ok(_) => Sign::Nothing,
            Err(error) => Sign::of(error),
        }));
        results
    }

    /// Has failing writes tried until they succeed, unless that goes on already.
    fn watch_writes(&self) {
        if self.writes.begins_watch() {
            tokio::spawn(probe::until_well(Arc::downgrade(&self.inner), Arc::downgrade(&self.writes)));
        }
    }
}

/// Whether a store has come to the backend.
fn was_written(stored: &Stored) -> bool {
    stored.written_bytes > 0
}

/// What the result for one key tells of the backend.
#[derive(Clone, Copy, Debug)]
enum Sign<'e> {
    Answered,
    /// It never came to the backend.
    Nothing,
    /// It answers, and takes nothing more.
    Full(&'e L2Error),
    /// The backend is to blame, not the key or the state of the object.
    Failed(&'e L2Error),
}

impl<'e> Sign<'e> {
    fn of(error: &'e L2Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::WrongSize | ErrorKind::Corrupt => Self::Answered,
            ErrorKind::Busy | ErrorKind::BadKey | ErrorKind::Unsupported | ErrorKind::Closed => Self::Nothing,
            ErrorKind::Full => Self::Full(error),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Io => Self::Failed(error),
        }
    }

    /// What shows on the adapter's health.
    fn complaint(self) -> Option<&'e L2Error> {
        match self {
            Self::Full(error) | Self::Failed(error) => Some(error),
            Self::Answered | Self::Nothing => None,
        }
    }
}

impl State {
    const WELL: Self = Self::Closed { failures: 0, failing: false };
}

impl Gate {
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

    /// Whether it is not well and nobody watches it yet. The caller does from now on.
    fn begins_watch(&self) -> bool {
        self.circuit() != Circuit::Closed && !self.watched.swap(true, Ordering::AcqRel)
    }

    fn enter(&self) -> Result<Pass<'_>, L2Error> {
        let mut state = self.lock();
        match *state {
            State::Closed { .. } => Ok(Pass { gate: self, is_probe: false }),
            State::Open { until, pause } if until <= Instant::now() => {
                *state = State::HalfOpen { pause };
                Ok(Pass { gate: self, is_probe: true })
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                let text = "the backend has failed too often, it is left alone for a while";
                Err(L2Error::permanent(ErrorKind::Unavailable, text).with_retry(Retry::Persistent))
            }
        }
    }

    fn open(&self, pause: Duration) -> State {
        let pause = pause.min(self.config.pause_max);
        State::Open { until: Instant::now() + pause, pause }
    }

    /// A call that went through while the circuit was closed.
    fn note<'e>(&self, signs: impl Iterator<Item = Sign<'e>>) {
        let mut state = self.lock();
        // Others may have opened it meanwhile; then only the probe counts.
        let State::Closed { mut failures, failing: failed_before } = *state else { return };
        let (mut complaint, mut told) = (None, false);
        for sign in signs {
            complaint = complaint.or(sign.complaint());
            told |= !matches!(sign, Sign::Nothing);
            failures = match sign {
                Sign::Failed(_) => failures + 1,
                Sign::Answered | Sign::Full(_) => 0,
                Sign::Nothing => failures,
            };
            if failures >= self.config.failures.max(1) {
                *state = self.open(self.config.first_pause);
                drop(state);
                let error = complaint.map(tracing::field::display);
                tracing::warn!(error, "{} of the L2 backend fail, they are left out for a while", self.name);
                return;
            }
        }
        let failing = complaint.is_some() || failed_before && !told;
        *state = State::Closed { failures, failing };
        drop(state);
        match complaint {
            Some(error) if !failed_before => tracing::warn!(%error, "{} of the L2 backend fail", self.name),
            None if failed_before && !failing => {
                tracing::info!("{} of the L2 backend go well again", self.name)
            }
            _ => {}
        }
    }

    /// The one call that went through while the circuit was half open.
    fn conclude<'e>(&self, signs: impl Iterator<Item = Sign<'e>>) {
        let mut state = self.lock();
        let State::HalfOpen { pause } = *state else { return };
        let (mut answered, mut failed, mut failing) = (false, false, false);
        for sign in signs {
            answered |= matches!(sign, Sign::Answered | Sign::Full(_));
            failed |= matches!(sign, Sign::Failed(_));
            failing |= sign.complaint().is_some();
        }
        *state = match (answered, failed) {
            // One that does not fail shows that the backend answers.
            (true, _) => State::Closed { failures: 0, failing },
            (false, true) => self.open(pause.saturating_mul(2)),
            // The next one may try, at once.
            (false, false) => State::Open { until: Instant::now(), pause },
        };
        drop(state);
        if answered {
            tracing::info!("{} of the L2 backend are back", self.name);
        }
    }
}

impl Pass<'_> {
    fn leave<'e>(mut self, signs: impl Iterator<Item = Sign<'e>>) {
        if self.is_probe {
            self.is_probe = false;
            self.gate.conclude(signs);
        } else {
            self.gate.note(signs);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            // The caller went away before there was an answer. The next one may try, at once.
            let mut state = self.gate.lock();
            if let State::HalfOpen { pause } = *state {
                *state = State::Open { until: Instant::now(), pause };
            }
        }
    }
}

impl Adapter for Breaker {
    forward!(inner: kind, capabilities, usage, usage_by_salt, set_quota, close);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(
            async move { self.each(&self.questions, keys.len(), self.inner.lookup(keys), |_| true).await },
        )
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
            self.watch_writes();
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
            let pass = self.questions.enter()?;
            let page = self.inner.list(cursor, limit).await;
            pass.leave(std::iter::once(page.as_ref().map_or_else(Sign::of, |_| Sign::Answered)));
            page
        })
    }

    fn health(&self) -> Health {
        let reads = self.questions.circuit().max(self.loads.circuit());
        Health { reads, writes: self.writes.circuit() }
    }
}

#[cfg(test)]
mod tests;
