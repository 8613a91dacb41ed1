//! The clients of one connection, and the order of their requests.
//!
//! Clients of one process share its connection; each names itself in every call. A client is what a connection is over
//! ZMTP: its sessions and leases end with the connection, and after a reconnect it is a new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use larder_types::ConnectionId;
use larder_wire::dialect::Dialect;
use larder_wire::grpc::TokenForm;
use larder_wire::operation::Operation;

use crate::ops::{Caller, Operations};

/// Clients of one connection. One more displaces the one that has been idle longest.
const CLIENTS_MAX: usize = 256;

/// Requests of one client that are executed in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Of a worker.
    Transfers,
    /// Of a scheduler.
    Lookups,
}

/// Lanes of a client.
const LANES: usize = 2;

impl Lane {
    /// The lane of an operation; `None` if it may overtake everything.
    pub(super) fn of(operation: Operation) -> Option<Self> {
        match operation {
            Operation::PrepareStore
            | Operation::CommitStore
            | Operation::PrepareRetrieve
            | Operation::CommitRetrieve
            | Operation::Store
            | Operation::Retrieve
            | Operation::RegisterEngineDriven
            | Operation::UnregisterEngineDriven
            | Operation::RegisterKvCache
            | Operation::UnregisterKvCache => Some(Self::Transfers),
            Operation::Lookup
            | Operation::QueryPrefetchStatus
            | Operation::WaitPrefetchStatus
            | Operation::FreeLookupLocks
            | Operation::EndSession => Some(Self::Lookups),
            _ => None,
        }
    }
}

/// What holds the lanes of a client up.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Requests that are being executed on other threads.
    running: [AtomicUsize; LANES],
    /// The last look at the waiting requests in which one of the lane had to wait.
    waits: [AtomicU64; LANES],
}

impl Lanes {
    /// Whether a request must wait, in this `look` at all that wait, in the order in which they were sent.
    pub(super) fn is_held_up(&self, lane: Lane, look: u64) -> bool {
        // Pairs with the release at the end of a run: what was done in it is visible.
        self.running[lane as usize].load(Ordering::Acquire) > 0
            || self.waits[lane as usize].load(Ordering::Relaxed) == look
    }

    /// A request waits, and so must those behind it.
    pub(super) fn wait(&self, lane: Lane, look: u64) {
        self.waits[lane as usize].store(look, Ordering::Relaxed);
    }

    /// A request goes on on another thread.
    pub(super) fn begin(&self, lane: Lane) {
        self.running[lane as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended.
    pub(super) fn end(&self, lane: Lane) {
        self.running[lane as usize].fetch_sub(1, Ordering::Release);
    }
}

/// One client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) connection: ConnectionId,
    /// Shared by the calls of the client that are not over.
    pub(super) lanes: Arc<Lanes>,
    pub(super) form: TokenForm,
    last_use: u64,
}

impl Client {
    /// What asks, in a call of this client.
    pub(super) fn caller(&self) -> Caller {
        let dialect = match self.form {
            TokenForm::Numbers => Dialect::default(),
            TokenForm::Bytes => Dialect::V0_5_7,
        };
        Caller { dialect, ..Caller::new(self.connection) }
    }
}

/// All clients of a connection.
#[derive(Debug)]
pub(super) struct Clients {
    operations: Arc<Operations>,
    remote: String,
    by_id: HashMap<Bytes, Client>,
    uses: u64,
}

impl Clients {
    pub(super) fn new(operations: Arc<Operations>, remote: &str) -> Self {
        Self { operations, remote: remote.to_owned(), by_id: HashMap::new(), uses: 0 }
    }

    /// The client of an id, perhaps a new one. `form` is what its call says about its tokens. `None` if there are too
    /// many, all of them with calls.
    pub(super) fn client(&mut self, id: &[u8], form: Option<TokenForm>) -> Option<Client> {
        self.uses += 1;
        if let Some(client) = self.by_id.get_mut(id) {
            client.last_use = self.uses;
            client.form = form.unwrap_or(client.form);
            return Some(client.clone());
        }
        if self.by_id.len() == CLIENTS_MAX {
            let idle = self.by_id.iter().filter(|(_, client)| Arc::strong_count(&client.lanes) == 1);
            let (oldest, _) = idle.min_by_key(|(_, client)| client.last_use)?;
            let oldest = oldest.clone();
            self.by_id.remove(&oldest).inspect(|client| self.operations.connection_lost(client.connection));
        }
        let connection = self.operations.connected(&self.remote);
        tracing::debug!(connection = connection.0, remote = self.remote, "client connected");
        let (lanes, form) = (Arc::default(), form.unwrap_or_default());
        let client = Client { connection, lanes, form, last_use: self.uses };
        self.by_id.insert(Bytes::copy_from_slice(id), client.clone());
        Some(client)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for client in self.by_id.values() {
            tracing::debug!(connection = client.connection.0, remote = self.remote, "client disconnected");
            self.operations.connection_lost(client.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_waits_for_what_runs_or_waits_in_it() {
        let lanes = Lanes::default();
        lanes.begin(Lane::Transfers);
        assert!(lanes.is_held_up(Lane::Transfers, 1) && !lanes.is_held_up(Lane::Lookups, 1));
        lanes.end(Lane::Transfers);
        assert!(!lanes.is_held_up(Lane::Transfers, 1));
        lanes.wait(Lane::Lookups, 1);
        assert!(lanes.is_held_up(Lane::Lookups, 1) && !lanes.is_held_up(Lane::Lookups, 2));
    }
}
