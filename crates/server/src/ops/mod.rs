//! Operations: from a decoded request to its answer. One file per operation and one line in `dispatch!`.
//!
//! A request is served where it arrives, on its connection's task, so the requests of one client are executed in
//! order and a short one never waits for a thread. A request that copies many bytes, or is so long that decoding and
//! hashing it would keep others waiting, runs on a [`CopyPool`](crate::app::copy_pool::CopyPool), and its client's next
//! request waits for it. A failed request is
//! answered with the failure value of its operation, because silence costs an engine its five-minute timeout; only a
//! message that names no operation gets no answer, or one whose operation has no failure.

mod clear;
mod commit_retrieve;
mod commit_store;
mod context;
mod end_session;
mod free_lookup_locks;
mod lookup;
mod not_understood;
mod peer_to_peer;
mod ping;
mod prepare_retrieve;
mod prepare_store;
mod query_prefetch_status;
mod register_engine_driven;
mod reply;
mod server_info;
mod subscribe_kv_events;
mod transfer;
mod unregister_engine_driven;
mod unserved;
mod wait_prefetch_status;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use larder_core::LostConnection;
use larder_types::ConnectionId;
use larder_wire::error::DecodeError;
use larder_wire::message::StreamControl;
use larder_wire::operation::Operation;
use larder_wire::request::Request;
use larder_wire::response::Response;

pub use self::context::{Caller, Context};
pub use self::not_understood::NotUnderstood;

use self::context::Call;
use self::not_understood::Reason;
use self::reply::{Answer, Failure, Reply};
use crate::app::refusals::Refused;
use crate::observe::event::{Outcome, RequestEvent};
use crate::responder::{NoValue, Responder};

macro_rules! dispatch {
    ($($operation:ident => $handler:path,)+) => {
        /// Calls the handler of the request's operation.
        fn dispatch(cx: &Arc<Context>, call: &Call<'_>, request: Request) -> Reply<Response> {
            match request {
                $(Request::$operation(request) => {
                    Reply::from($handler(cx, call, request)).map(Response::$operation)
                })+
            }
        }
    };
}

dispatch! {
    Lookup => lookup::serve,
    QueryPrefetchStatus => query_prefetch_status::serve,
    WaitPrefetchStatus => wait_prefetch_status::serve,
    FreeLookupLocks => free_lookup_locks::serve,
    EndSession => end_session::serve,
    RegisterEngineDriven => register_engine_driven::serve,
    UnregisterEngineDriven => unregister_engine_driven::serve,
    PrepareStore => prepare_store::serve,
    CommitStore => commit_store::serve,
    PrepareRetrieve => prepare_retrieve::serve,
    CommitRetrieve => commit_retrieve::serve,
    Clear => clear::serve,
    Ping => ping::serve,
    SubscribeKvEvents => subscribe_kv_events::serve,
    P2pLookupAndLock => peer_to_peer::lookup,
    P2pQueryLookupResults => peer_to_peer::query,
    P2pUnlockObjects => peer_to_peer::unlock,
    QueryPrefetchLookupHits => query_prefetch_status::peek,
    GetChunkSize => server_info::chunk_size,
    NegotiateChunkSize => server_info::negotiate_chunk_size,
    GetExperimental => server_info::features,
    Noop => server_info::noop,
    ReportBlockAllocation => unserved::ignore,
    CbRegisterRope => unserved::ignore,
    CbProtocolHandshake => unserved::handshake,
    RegisterKvCache => unserved::register_kv_cache,
    RegisterQCache => unserved::register_q_cache,
    UnregisterKvCache => unserved::refuse,
    UnregisterQCache => unserved::refuse,
    Store => unserved::refuse,
    StoreQ => unserved::refuse,
    Retrieve => unserved::refuse,
    CbUnregisterRope => unserved::refuse,
    CbRetrievePreComputed => unserved::refuse,
    CbUnifiedLookup => unserved::refuse,
    CbReorderPlan => unserved::refuse,
    ServerModuleCall => unserved::refuse,
    ServerModuleAffinityCall => unserved::refuse,
}

/// A request of more bytes than this is decoded and hashed on another thread than that of its connection: it has more
/// than 200,000 tokens, which take milliseconds.
const LONG_REQUEST_BYTES: usize = 1 << 20;

/// Serves the requests of all transports.
#[derive(Debug)]
pub struct Operations {
    cx: Arc<Context>,
    last_connection: AtomicU64,
}

impl Operations {
    /// Operations on these parts.
    pub fn new(cx: Context) -> Self {
        Self { cx: Arc::new(cx), last_connection: AtomicU64::new(0) }
    }

    /// A client has connected. Returns the connection's id, which no other connection of this server has.
    pub fn connected(&self, remote: &str) -> ConnectionId {
        self.cx.bus.emit(&RequestEvent::Connected);
        let connection = ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1);
        self.cx.processes.connected(connection, remote);
        self.cx.not_understood.connected(connection, remote);
        connection
    }

    /// Serves one request of `bytes` bytes, which `decode` decodes: its answer goes to `responder`, now or later.
    pub fn serve(
        &self,
        caller: &Caller,
        operation: Operation,
        bytes: usize,
        decode: impl FnOnce() -> Result<Request, DecodeError> + Send + 'static,
        responder: &dyn Responder,
    ) {
        let started = Instant::now();
        if bytes <= LONG_REQUEST_BYTES {
            return serve(&self.cx, operation, decode, Call::new(caller, started, responder));
        }
        let (cx, caller) = (self.cx.clone(), *caller);
        let (responder, pause) = (responder.detach(), responder.pause());
        self.cx.long_requests.run(move || {
            serve(&cx, operation, decode, Call::new(&caller, started, &*responder));
            drop(pause);
        });
    }

    /// A client controls a stream that it has opened by an earlier request.
    pub fn control_stream(&self, connection: ConnectionId, request_id: &[u8], control: StreamControl) {
        self.cx.streams.control(connection, request_id, control);
    }

    /// A message names no operation, so there is no way to answer it.
    pub fn message_dropped(&self, caller: &Caller, error: &dyn Error) {
        let text = not_understood::no_operation(caller.dialect, error);
        self.cx.not_understood.warn(caller.connection, Reason::Message, text);
        message_dropped(&self.cx, caller.connection, error);
    }

    /// The same, but the client has got an error with the reason.
    pub fn message_refused(&self, caller: &Caller, error: &dyn Error) {
        message_dropped(&self.cx, caller.connection, error);
    }

    /// The server stops: what waits is answered now.
    pub fn stopping(&self) {
        self.cx.waiters.close();
    }

    /// A connection is over. Called once, after its last message.
    pub fn connection_lost(&self, connection: ConnectionId) {
        if !self.cx.core.is_poisoned() {
            self.cx.streams.connection_lost(connection);
            let lost = self.cx.core.with(|core, now| {
                let mut lost = core.begin_connection_lost(now, connection);
                core.connection_lost_step(now, &mut lost);
                lost
            });
            self.release_rest(lost);
        }
        self.cx.processes.connection_lost(connection);
        self.cx.not_understood.connection_lost(connection);
        self.cx.bus.emit(&RequestEvent::ConnectionLost { connection });
    }
}

impl Operations {
    /// Releases what a lost connection still owns, elsewhere if that takes long.
    fn release_rest(&self, mut lost: LostConnection) {
        if !lost.is_done() {
            let core = self.cx.core.clone();
            self.cx.copies.run(move || {
                core.in_steps(|core, now| {
                    core.connection_lost_step(now, &mut lost);
                    lost.is_done()
                });
            });
        }
    }
}

/// Serves one request on the current thread.
fn serve(
    cx: &Arc<Context>,
    operation: Operation,
    decode: impl FnOnce() -> Result<Request, DecodeError>,
    mut call: Call<'_>,
) {
    let Call { connection, started, responder, .. } = call;
    if !call.dialect.is_served() {
        let text = not_understood::too_old(call.dialect);
        cx.not_understood.warn(connection, Reason::Version(call.dialect), text);
        return finish(cx, operation, &call, unserved::answer_of_old_client(cx, operation));
    }
    let request = match decode() {
        Ok(request) => call.recognise(request),
        Err(error) if error.is_limit() => {
            cx.refusals.warn(Refused::RequestSize, format_args!("{operation}: {error}"));
            return finish(cx, operation, &call, Err(error.into()));
        }
        Err(error) => return undecodable(cx, operation, &call, &error),
    };
    match dispatch(cx, &call, request) {
        Reply::Now(answer) => finish(cx, operation, &call, answer),
        // It is counted as waiting, not as work.
        Reply::Later => {}
        Reply::Copy(job) => {
            let (own, responder, pause) = (cx.clone(), responder.detach(), responder.pause());
            let caller = call.caller();
            cx.copies.run(move || {
                let answer = job();
                finish(&own, operation, &Call::new(&caller, started, &*responder), answer);
                drop(pause);
            });
        }
    }
}

/// The payloads are not those of the operation. If its transport has no errors, the operation's failure is an answer
/// with which an engine goes on.
fn undecodable(cx: &Context, operation: Operation, call: &Call<'_>, error: &DecodeError) {
    let has_error = call.responder.refuse(NoValue::Undecodable, error);
    if !has_error {
        let text = not_understood::bad_payloads(call.dialect, operation, error);
        cx.not_understood.warn(call.connection, Reason::Payloads(operation), text);
    }
    match unserved::answer_of_undecodable(operation).filter(|_| !has_error) {
        Some(response) if call.responder.answer(&response) => {}
        Some(_) => cx.bus.emit(&RequestEvent::AnswerNotSent),
        None => message_dropped(cx, call.connection, error),
    }
    let outcome = Outcome::Undecodable;
    cx.bus.emit(&RequestEvent::Answered { operation, outcome, started: call.started });
}

fn message_dropped(cx: &Context, connection: ConnectionId, error: &dyn Error) {
    tracing::debug!(connection = connection.0, %error, "message dropped");
    cx.bus.emit(&RequestEvent::MessageDropped);
}

/// Sends an answer, or the failure value of the operation, and counts the request.
fn finish(cx: &Context, operation: Operation, call: &Call<'_>, answer: Answer<Response>) {
    let (response, outcome) = match answer {
        Ok(response) => (Some(response), Outcome::Ok),
        Err(failure) => {
            let (connection, operation_name) = (call.connection.0, operation.name());
            match &failure {
                Failure::Memory(_) => tracing::error!(operation = operation_name, "{failure}"),
                _ => tracing::debug!(connection, operation = operation_name, "{failure}"),
            }
            let value = operation.failure();
            if value.is_none() {
                call.responder.refuse(NoValue::Failed, &failure);
            }
            (value, Outcome::Failed)
        }
    };
    if let Some(response) = response
        && !call.responder.answer(&response)
    {
        cx.bus.emit(&RequestEvent::AnswerNotSent);
    }
    cx.bus.emit(&RequestEvent::Answered { operation, outcome, started: call.started });
}
