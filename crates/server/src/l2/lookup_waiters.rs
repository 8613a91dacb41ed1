//! Clients that wait for a lookup to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The requests that clients wait for, each with what wakes them.
#[derive(Debug, Default)]
pub struct LookupWaiters {
    by_request: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
}

impl LookupWaiters {
    /// Registers a waiter. Call it before checking whether the lookup has ended.
    pub fn join(&self, request_id: &Arc<str>) -> Arc<Notify> {
        self.lock().entry(request_id.clone()).or_default().clone()
    }

    /// Wakes all that wait for a lookup of that request id. Each finds out whether it was that of its own
    /// connection.
    pub fn wake(&self, request_id: &str) {
        if let Some(ended) = self.lock().get(request_id) {
            ended.notify_waiters();
        }
    }

    /// Removes a waiter.
    pub fn leave(&self, request_id: &str, ended: Arc<Notify>) {
        let mut waiters = self.lock();
        drop(ended);
        if waiters.get(request_id).is_some_and(|ended| Arc::strong_count(ended) == 1) {
            waiters.remove(request_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Notify>>> {
        self.by_request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
