//! Warnings about clients that are not understood or not served: one for each connection and reason.
//!
//! Where an engine hangs or runs uncached, an operator looks here first, so the lines name the client's versions and what
//! to do. They are bounded: a client that sends garbage, or many that do, must not fill the log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_types::ConnectionId;
use larder_wire::dialect::Dialect;
use larder_wire::error::DecodeError;
use larder_wire::operation::Operation;

/// Reasons that are logged for one connection.
const REASONS_MAX: usize = 8;
/// Lines within [`INTERVAL`] for all connections.
const LINES_MAX: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);

/// Why a client is not served as it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is too old.
    Version(Dialect),
    /// Its message names no operation.
    Message,
    /// A request with payloads that this operation does not have.
    Payloads(Operation),
    /// Its KV blocks do not fit into chunks.
    ChunkSize,
}

/// What was logged.
#[derive(Debug, Default)]
pub struct NotUnderstood(Mutex<Logged>);

#[derive(Debug, Default)]
struct Logged {
    connections: HashMap<ConnectionId, Client>,
    /// Lines since when, and how many were left out.
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

#[derive(Debug)]
struct Client {
    remote: Box<str>,
    reasons: Vec<Reason>,
}

impl NotUnderstood {
    pub(super) fn connected(&self, connection: ConnectionId, remote: &str) {
        let client = Client { remote: remote.into(), reasons: Vec::new() };
        self.lock().connections.insert(connection, client);
    }

    pub(super) fn connection_lost(&self, connection: ConnectionId) {
        self.lock().connections.remove(&connection);
    }

    /// Logs the reason, unless it was logged for this connection or there are too many lines.
    pub(super) fn warn(&self, connection: ConnectionId, reason: Reason, text: impl fmt::Display) {
        let due = self.lock().due(connection, reason, Instant::now());
        if let Some((remote, left_out)) = due {
            let connection = connection.0;
            tracing::warn!(connection, remote = &*remote, left_out, "client not served: {text}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Logged> {
        // A panic costs at most a line.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logged {
    /// The client's address, and how many lines were left out since the last one, if this one is to be logged.
    fn due(&mut self, connection: ConnectionId, reason: Reason, now: Instant) -> Option<(Box<str>, u64)> {
        let client = self.connections.get_mut(&connection)?;
        if client.reasons.contains(&reason) || client.reasons.len() == REASONS_MAX {
            return None;
        }
        client.reasons.push(reason);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= INTERVAL) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some((client.remote.clone(), std::mem::take(&mut self.left_out)))
    }
}

/// What clients of these versions send is read.
const SERVED: &str = "this server serves LMCache 0.4.7 to 0.5.7";

/// For clients that are too old.
pub(super) fn too_old(dialect: Dialect) -> String {
    format!(
        "it speaks LMCache {dialect}, which this server does not serve, so its engine runs without the cache; upgrade \
         its LMCache to 0.4.7 or later"
    )
}

/// For messages that name no operation that is known.
pub(super) fn no_operation(dialect: Dialect, error: &dyn std::error::Error) -> String {
    format!(
        "{error}; it is newer than what is known here, or no LMCache client (read as LMCache {dialect}); {SERVED}: use \
         one of these, or a later server"
    )
}

/// For payloads that cannot be decoded.
pub(super) fn bad_payloads(dialect: Dialect, operation: Operation, error: &DecodeError) -> String {
    if operation == Operation::RegisterKvCache {
        return format!(
            "{operation}: {error}; an engine asks the server to copy (lmcache_driven), in the form of LMCache 0.5.5 or \
             earlier; it runs without the cache unless lmcache.mp.mp_transfer_mode is engine_driven in vLLM's extra config"
        );
    }
    format!("{operation}: {error} (read as LMCache {dialect}); {SERVED}: use one of these, or a later server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_logged_once_for_a_connection() {
        let mut logged = Logged::default();
        let client = || Client { remote: "here".into(), reasons: Vec::new() };
        let (one, other) = (ConnectionId(1), ConnectionId(2));
        logged.connections.extend([(one, client()), (other, client())]);
        let now = Instant::now();
        let ping = Reason::Payloads(Operation::Ping);
        assert_eq!(logged.due(one, ping, now), Some(("here".into(), 0)));
        assert_eq!(logged.due(one, ping, now + INTERVAL), None);
        assert!(logged.due(other, ping, now).is_some());
        assert!(logged.due(one, Reason::Message, now).is_some());
        for operation in &Operation::ALL[..20] {
            let _ = logged.due(one, Reason::Payloads(*operation), now + INTERVAL);
        }
        assert_eq!(logged.connections[&one].reasons.len(), REASONS_MAX);
        assert_eq!(logged.due(ConnectionId(3), ping, now), None, "it is gone");
    }

    #[test]
    fn lines_of_many_connections_are_bounded() {
        let mut logged = Logged::default();
        let now = Instant::now();
        let mut lines = 0;
        for id in 0..100 {
            let client = Client { remote: "here".into(), reasons: Vec::new() };
            logged.connections.insert(ConnectionId(id), client);
            lines += u32::from(logged.due(ConnectionId(id), Reason::Message, now).is_some());
        }
        assert_eq!(lines, LINES_MAX);
        let (_, left_out) = logged.due(ConnectionId(0), Reason::ChunkSize, now + INTERVAL).expect("a line");
        assert_eq!(left_out, 80);
    }
}
