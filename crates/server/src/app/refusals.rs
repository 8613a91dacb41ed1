//! What was refused to keep a limit: counted by kind, and one warning for each kind within some seconds.

use std::array;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same kind is not logged again within this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)+) => {
        /// The limit that was met.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refused {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl Refused {
            /// Every kind with its label.
            pub const ALL: &[(Self, &str)] = &[$((Self::$kind, $name),)+];
        }
    };
}

kinds! {
    /// A request with too many tokens, keys or entries, or with too long a name.
    RequestSize = "request_size",
    /// A registration of a worker.
    Registrations = "registrations",
    /// A subscription of cache events.
    Subscriptions = "subscriptions",
    /// A request that waits for a lookup.
    WaitingLookups = "waiting_lookups",
    /// A client of a connection that has too many.
    GrpcClients = "grpc_clients",
    /// An HTTP connection; an older one is closed if one gives way.
    HttpConnections = "http_connections",
}

const KINDS: usize = Refused::ALL.len();

/// Counts of all kinds.
#[derive(Debug)]
pub struct Refusals {
    counts: [AtomicU64; KINDS],
    warned: Mutex<[Option<Instant>; KINDS]>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { counts: array::from_fn(|_| AtomicU64::new(0)), warned: Mutex::new([None; KINDS]) }
    }
}

impl Refusals {
    /// Counts a refusal.
    pub fn count(&self, kind: Refused) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refusal, and logs it unless one of its kind was logged just now.
    pub fn warn(&self, kind: Refused, reason: impl fmt::Display) {
        if self.count_and_log(kind) {
            let limit = Refused::ALL[kind as usize].1;
            let refused = self.of(kind);
            tracing::warn!(limit, refused, "refused: {reason} (docs/limits.md)");
        }
    }

    /// Counts a refusal. Returns whether it is to be logged: none of its kind was logged just now.
    pub fn count_and_log(&self, kind: Refused) -> bool {
        self.count(kind);
        self.is_due(kind, Instant::now())
    }

    /// How many were refused.
    pub fn of(&self, kind: Refused) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }

    fn is_due(&self, kind: Refused, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut warned[kind as usize];
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= WARN_INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_logged_once_in_a_while_and_always_counted() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert!(refusals.is_due(Refused::RequestSize, now));
        assert!(!refusals.is_due(Refused::RequestSize, now));
        assert!(refusals.is_due(Refused::Registrations, now));
        assert!(refusals.is_due(Refused::RequestSize, now + WARN_INTERVAL));
        (0..5).for_each(|_| refusals.count(Refused::RequestSize));
        assert_eq!(refusals.of(Refused::RequestSize), 5);
        for (at, (kind, _)) in Refused::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at);
        }
    }
}
