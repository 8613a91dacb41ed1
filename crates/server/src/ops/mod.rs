//! Requests: from a peer's message to its answer. One file per operation.
//!
//! A request is served where it arrives, on its connection's task, so the requests of one client
//! are executed in their order and a short one never waits for a thread. What fails is answered with
//! the failure value of its operation, because silence costs an engine its five-minute timeout; only
//! what cannot be decoded is dropped, as nothing sensible can be said to it.

mod clear;
mod commit_retrieve;
mod commit_store;
mod end_session;
mod free_lookup_locks;
mod lookup;
mod peer_to_peer;
mod ping;
mod prepare_retrieve;
mod prepare_store;
mod query_prefetch_status;
mod register_engine_driven;
mod subscribe_kv_events;
mod transfer;
mod unregister_engine_driven;
mod unserved;
mod wait_prefetch_status;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use larder_types::ConnectionId;
use larder_wire::codec::Value;
use larder_wire::key::KeyError;
use larder_wire::message::{Envelope, Incoming};
use larder_wire::operation::Operation;
use larder_wire::request::Request;
use larder_wire::response::ResultFrame;
use larder_zmtp::{Peer, PeerId, Service};

use crate::app::state::State;
use crate::metrics::Outcome;

/// The optional feature that this server has.
const EVENT_STREAM: &str = "kv_event_stream";

/// Why a request could not be done. The peer gets its operation's failure value, the log this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The key cannot be used as asked.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its tokens cannot be hashed.
    #[error(transparent)]
    Tokens(#[from] larder_wire::tokens::TokenError),
    /// The worker has not registered, or for another model.
    #[error(transparent)]
    NotRegistered(#[from] larder_core::NotRegistered),
    /// The chunks that a worker sent, or would be sent, are not what a pickle of them is.
    #[error(transparent)]
    Pickle(#[from] larder_wire::pickle::PickleError),
    /// A slot outside the arena; a bug, but no reason to serve wrong bytes.
    #[error(transparent)]
    OutOfRange(#[from] larder_arena::OutOfRange),
    /// The machine has no memory to back the slots.
    #[error("no memory to back more of L1, which stays as large as it is: {0}")]
    Memory(#[from] std::io::Error),
    /// This server does not do that.
    #[error("{0}")]
    Unserved(&'static str),
}

/// What a served request gives.
type Answer<T> = Result<T, Failure>;

/// Serves the requests of all peers.
#[derive(Debug)]
pub struct Rpc {
    state: Arc<State>,
}

impl Rpc {
    /// A service on `state`.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    fn request(&self, peer: &Peer, envelope: &Envelope, payloads: &[Bytes]) {
        let started = Instant::now();
        let operation = match envelope.operation() {
            Ok(operation) => operation,
            Err(error) => return self.dropped(peer, &error),
        };
        let request = match Request::decode(operation, payloads) {
            Ok(request) => request,
            Err(error) => {
                self.state.metrics.request(operation, Outcome::Undecodable, started);
                return self.dropped(peer, &error);
            }
        };
        let answer = match &request {
            Request::WaitPrefetchStatus(r) => {
                wait_prefetch_status::serve(&self.state, peer, envelope, &r.request_id, r.timeout).map(encode)
            }
            Request::SubscribeKvEvents(subscription) => {
                let ended = subscribe_kv_events::serve(&self.state, peer, envelope, subscription);
                ended.map(|ended| Ok(ResultFrame::encode(&ended)))
            }
            _ => Some(self.serve(connection(peer.id()), request)),
        };
        // An answer that comes later is counted as waiting, not as work.
        let Some(answer) = answer else { return };
        let (result, outcome) = match answer {
            Ok(result) => (Some(result), Outcome::Ok),
            Err(failure) => {
                report(peer, operation, &failure);
                (operation.failure(), Outcome::Failed)
            }
        };
        if let Some(result) = result {
            self.answer(peer, envelope, result);
        }
        self.state.metrics.request(operation, outcome, started);
    }

    fn serve(&self, connection: ConnectionId, request: Request) -> Answer<ResultFrame> {
        let state = &*self.state;
        match request {
            Request::Lookup(r) => encode(lookup::serve(state, connection, &r.key, r.tp_size)),
            Request::QueryPrefetchStatus(r) => encode(query_prefetch_status::serve(state, &r.request_id)),
            Request::FreeLookupLocks(r) => encode(free_lookup_locks::serve(state, &r.key)),
            Request::EndSession(r) => encode(end_session::serve(state, &r.request_id)),
            Request::RegisterEngineDriven(r) => encode(register_engine_driven::serve(state, &r)),
            Request::UnregisterEngineDriven(r) => {
                encode(unregister_engine_driven::serve(state, r.instance_id))
            }
            Request::PrepareStore(r) => {
                encode(prepare_store::serve(state, connection, &r.key, r.instance_id))
            }
            Request::CommitStore(r) => {
                encode(commit_store::serve(state, connection, &r.key, r.instance_id, &r.data))
            }
            Request::PrepareRetrieve(r) => {
                encode(prepare_retrieve::serve(state, connection, &r.key, r.instance_id))
            }
            Request::CommitRetrieve(r) => {
                encode(commit_retrieve::serve(state, connection, &r.key, r.instance_id))
            }
            Request::Clear(r) => encode(clear::serve(state, r.force)),
            Request::Ping(r) => encode(ping::serve(state, r.instance_id)),
            Request::GetChunkSize(_) => encode(Ok(i64::from(state.config.chunk_tokens))),
            Request::GetExperimental(_) => {
                let stream = state.events.are_served().then(|| EVENT_STREAM.to_owned());
                encode(Ok(stream.into_iter().collect::<Vec<_>>()))
            }
            Request::Noop(_) => encode(Ok("OK".to_owned())),
            Request::ReportBlockAllocation(_) | Request::CbRegisterRope(_) => encode(Ok(())),
            Request::P2pLookupAndLock(r) => encode(peer_to_peer::lookup(state, connection, &r.keys)),
            Request::P2pQueryLookupResults(r) => encode(peer_to_peer::query(state, r.lookup_id)),
            Request::P2pUnlockObjects(r) => encode(peer_to_peer::unlock(state, connection, &r.keys)),
            Request::RegisterKvCache(r) => encode(unserved::register(state, &r)),
            Request::RegisterQCache(r) => encode(unserved::register(state, &r.0)),
            Request::CbProtocolHandshake(_) => encode(unserved::handshake()),
            _ => encode(unserved::refuse()),
        }
    }

    fn answer(&self, peer: &Peer, envelope: &Envelope, result: ResultFrame) {
        let frames = envelope.response(result);
        if let Err(error) = peer.send(frames) {
            self.state.metrics.count(|counters| counters.unsent_replies += 1);
            tracing::debug!(peer = %peer.id(), %error, "reply not sent");
        }
    }

    /// A message that nothing can be answered to.
    fn dropped(&self, peer: &Peer, error: &dyn std::error::Error) {
        self.state.metrics.count(|counters| counters.dropped_messages += 1);
        tracing::debug!(peer = %peer.id(), remote = peer.remote(), %error, "message dropped");
    }
}

impl Service for Rpc {
    fn connected(&self, peer: &Peer) {
        self.state.metrics.connections.inc();
        self.state.presence.arrived();
        tracing::debug!(peer = %peer.id(), remote = peer.remote(), "peer connected");
    }

    fn message(&self, peer: &Peer, parts: larder_zmtp::Message) {
        match Incoming::from_frames(parts) {
            Ok(Incoming::Request { envelope, payloads }) => self.request(peer, &envelope, &payloads),
            Ok(Incoming::Stream { uid, control }) => {
                self.state.events.control(&self.state, peer.id(), &uid, control);
            }
            Err(error) => self.dropped(peer, &error),
        }
    }

    fn gone(&self, peer: PeerId) {
        self.state.metrics.connections.dec();
        self.state.presence.left();
        tracing::debug!(%peer, "peer gone");
        // A core that has found a bug in itself serves nobody any more.
        if !self.state.core().is_poisoned() {
            self.state.events.gone(&self.state, peer);
            self.state.core().with(|core, now| core.connection_lost(now, connection(peer)));
            if let Some(traces) = &self.state.traces {
                traces.connection_lost(connection(peer));
            }
        }
    }
}

fn connection(peer: PeerId) -> ConnectionId {
    ConnectionId(peer.get())
}

/// Encodes the result of a served request.
fn encode<T: Value>(answer: Answer<T>) -> Answer<ResultFrame> {
    answer.map(|result| ResultFrame::encode(&result))
}

fn report(peer: &Peer, operation: Operation, failure: &Failure) {
    match failure {
        Failure::Memory(_) => tracing::error!(operation = operation.name(), "{failure}"),
        _ => tracing::debug!(peer = %peer.id(), operation = operation.name(), "{failure}"),
    }
}
