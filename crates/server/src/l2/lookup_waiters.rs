//! Clients that wait for a lookup to end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_types::ConnectionId;
use tokio::sync::Notify;

/// How many requests of one connection may wait.
const CONNECTION_MAX: u32 = 1024;
/// How many requests may wait.
const TOTAL_MAX: usize = 1 << 14;

/// The requests that clients wait for, each with what wakes them.
#[derive(Debug, Default)]
pub struct LookupWaiters {
    table: Mutex<Table>,
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    by_request: HashMap<Arc<str>, Arc<Notify>>,
    by_connection: HashMap<ConnectionId, u32>,
    total: usize,
}

impl LookupWaiters {
    /// Registers a waiter, unless too many wait. Call it before checking whether the lookup has ended, and
    /// [`leave`](Self::leave) afterwards.
    pub fn join(&self, connection: ConnectionId, request_id: &Arc<str>) -> Option<Arc<Notify>> {
        let mut table = self.lock();
        let Table { by_request, by_connection, total } = &mut *table;
        let own = by_connection.entry(connection).or_default();
        if *own >= CONNECTION_MAX || *total >= TOTAL_MAX {
            if *own == 0 {
                by_connection.remove(&connection);
            }
            return None;
        }
        *own += 1;
        *total += 1;
        Some(by_request.entry(request_id.clone()).or_default().clone())
    }

    /// Wakes all that wait for a lookup of that request id. Each finds out whether it was that of its own
    /// connection.
    pub fn wake(&self, request_id: &str) {
        if let Some(ended) = self.lock().by_request.get(request_id) {
            ended.notify_waiters();
        }
    }

    /// Wakes all waiters, because the server stops.
    pub fn close(&self) {
        // Before they are woken: those that join later see it.
        self.is_closed.store(true, Ordering::SeqCst);
        self.lock().by_request.values().for_each(|ended| ended.notify_waiters());
    }

    /// Whether nothing is to be waited for any more.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Removes a waiter.
    pub fn leave(&self, connection: ConnectionId, request_id: &str, ended: Arc<Notify>) {
        let mut table = self.lock();
        drop(ended);
        table.total -= 1;
        if table.by_request.get(request_id).is_some_and(|ended| Arc::strong_count(ended) == 1) {
            table.by_request.remove(request_id);
        }
        if let Some(own) = table.by_connection.get_mut(&connection) {
            *own -= 1;
            if *own == 0 {
                table.by_connection.remove(&connection);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_bounded_for_each_connection_and_in_all() {
        let waiters = LookupWaiters::default();
        let request: Arc<str> = "r".into();
        let mut joined = Vec::new();
        for connection in (0..).map(ConnectionId) {
            let own =
                std::iter::from_fn(|| waiters.join(connection, &request)).map(|ended| (connection, ended));
            let before = joined.len();
            joined.extend(own);
            assert!(joined.len() - before <= CONNECTION_MAX as usize);
            if joined.len() == before {
                break;
            }
        }
        assert_eq!(joined.len(), TOTAL_MAX);
        assert_eq!(waiters.lock().by_request.len(), 1);
        joined.into_iter().for_each(|(connection, ended)| waiters.leave(connection, &request, ended));
        let table = waiters.lock();
        assert!(table.by_request.is_empty() && table.by_connection.is_empty() && table.total == 0);
    }
}
