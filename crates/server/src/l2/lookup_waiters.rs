//! Clients that wait for a lookup to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// One bell per request that somebody waits for.
#[derive(Debug, Default)]
pub struct Waiting {
    bells: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
}

impl Waiting {
    /// The bell of a request. Get it before looking whether the lookup has ended.
    pub fn bell(&self, request_id: &Arc<str>) -> Arc<Notify> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry(request_id.clone()).or_default().clone()
    }

    /// The lookup of a request has ended.
    pub fn wake(&self, request_id: &str) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.remove(request_id) {
            bell.notify_waiters();
        }
    }

    /// Somebody has stopped waiting. The bell goes with the last one.
    pub fn leave(&self, request_id: &str, bell: Arc<Notify>) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        drop(bell);
        if bells.get(request_id).is_some_and(|b| Arc::strong_count(b) == 1) {
            bells.remove(request_id);
        }
    }
}
