//! Counts what a backend could not do, by call and [`ErrorKind`], and logs each combination.
//!
//! A combination is logged when it first occurs and then at most once a minute, with the number of failures since: a
//! backend that fails must not fill the log. The line has the path, the reason and the remedy, which the errors
//! contain. An absent object is no failure of the backend: it is counted, but not logged.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;
use tokio::time::Instant;

use crate::adapter::{Adapter, BoxFuture, Call, Cursor, Failures, Page, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error};

/// Lines about one call and kind are at least this far apart.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The layer.
#[derive(Debug)]
pub struct Reporting {
    inner: Arc<dyn Adapter>,
    counts: Mutex<BTreeMap<(Call, ErrorKind), Count>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    total: u64,
    logged: u64,
    logged_at: Option<Instant>,
}

/// One line of log.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    call: Call,
    kind: ErrorKind,
    /// Failures since the last such line.
    count: u64,
    error: String,
}

impl Reporting {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>) -> Self {
        Self { inner, counts: Mutex::default() }
    }

    fn report<'e>(&self, call: Call, errors: impl Iterator<Item = &'e L2Error>) {
        for Line { call, kind, count, error } in self.count(call, errors) {
            let (adapter, call) = (self.inner.kind(), call.as_str());
            tracing::warn!(adapter, call, %kind, count, "{call} in L2 failed: {error}");
        }
    }

    /// Counts the errors. Returns the lines to log.
    fn count<'e>(&self, call: Call, errors: impl Iterator<Item = &'e L2Error>) -> Vec<Line> {
        let mut errors = errors.peekable();
        if errors.peek().is_none() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut examples = BTreeMap::new();
        for error in errors {
            counts.entry((call, error.kind())).or_default().total += 1;
            examples.entry(error.kind()).or_insert(error);
        }
        let mut lines = Vec::new();
        for (kind, error) in examples.into_iter().filter(|(kind, _)| is_logged(*kind)) {
            let count = counts.entry((call, kind)).or_default();
            if count.logged_at.is_none_or(|at| now.duration_since(at) >= LOG_EVERY) {
                lines.push(Line { call, kind, count: count.total - count.logged, error: error.explained() });
                (count.logged, count.logged_at) = (count.total, Some(now));
            }
        }
        lines
    }

    async fn each<T>(&self, call: Call, results: BoxFuture<'_, Results<T>>) -> Results<T> {
        let results = results.await;
        self.report(call, results.iter().filter_map(|result| result.as_ref().err()));
        results
    }
}

fn is_logged(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::NotFound | ErrorKind::Closed | ErrorKind::Unsupported)
}

impl Adapter for Reporting {
    forward!(inner: kind, capabilities, usage, usage_by_salt, set_quota, health, close);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(self.each(Call::Lookup, self.inner.lookup(keys)))
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(self.each(Call::Load, self.inner.load(transfers)))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(self.each(Call::Store, self.inner.store(transfers)))
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(self.each(Call::Delete, self.inner.delete(keys)))
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            let page = self.inner.list(cursor, limit).await;
            self.report(Call::List, page.as_ref().err().into_iter());
            page
        })
    }

    fn failures(&self) -> Failures {
        let mut failures = self.inner.failures();
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        failures.counts.extend(counts.iter().map(|((call, kind), count)| (*call, *kind, count.total)));
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::mock::{Mock, MockConfig};
    use crate::layers::fault::{Fault, FaultConfig};
    use crate::testing::{TestArena, key};

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_failure_is_counted_and_logged_once_a_minute() {
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
        let fault = Fault::new(Arc::new(mock), FaultConfig { error: 1.0, ..FaultConfig::default() });
        let layer = Reporting::new(Arc::new(fault));
        let arena = TestArena::new(1 << 20);
        assert!(layer.store(vec![arena.object(1, 64), arena.object(2, 64)]).await.iter().all(Result::is_err));
        assert!(layer.lookup(vec![key(1)]).await[0].is_err());
        let counts = [(Call::Lookup, ErrorKind::Unavailable, 1), (Call::Store, ErrorKind::Unavailable, 2)];
        assert_eq!(layer.failures().counts, counts);

        let full = L2Error::permanent(ErrorKind::Full, "write /kv/a");
        let absent = L2Error::not_found();
        let lines = || layer.count(Call::Store, [&full, &absent].into_iter());
        let line = |count| Line { call: Call::Store, kind: ErrorKind::Full, count, error: full.explained() };
        assert_eq!(lines(), [line(1)]);
        tokio::time::advance(LOG_EVERY / 2).await;
        assert_eq!((lines(), lines()), (vec![], vec![]));
        tokio::time::advance(LOG_EVERY / 2).await;
        assert_eq!(lines(), [line(3)]);
        assert!(layer.failures().counts.contains(&(Call::Store, ErrorKind::NotFound, 4)));
    }
}
