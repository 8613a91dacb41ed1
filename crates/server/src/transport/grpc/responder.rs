//! Answers of one call.

use std::any::Any;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::SendStream;
use h2::server::SendResponse;
use larder_types::ConnectionId;
use larder_wire::operation::Operation;
use larder_wire::response::Response;
use larder_zmtp::{Pause, Peer, Sending, Usage};

use super::clients::{Lane, Lanes};
use super::status::{Code, Status, head, success};
use crate::responder::{Encoded, NoValue, Responder};

/// What an answer takes besides its bytes, about.
const ANSWER_BYTES: usize = 256;

/// Bytes of answers that may wait on one connection without being counted over all.
const UNCOUNTED_BYTES: usize = 32 * 1024;

/// What passes through one connection.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes of answers that wait to be sent.
    waiting: AtomicUsize,
    /// Bytes that the system has taken.
    written: AtomicU64,
    /// Bytes of requests that are being executed on other threads.
    running: AtomicUsize,
    /// Streams that have sent their last batch.
    batches_written: Mutex<Vec<u32>>,
}

impl Flow {
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn running_bytes(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn note_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The streams that have sent their last batch since the last call of this.
    pub(super) fn take_batches_written(&self) -> Vec<u32> {
        std::mem::take(&mut *self.batches_written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes on their way to the client. Counted until they are written or dropped.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: Bytes,
    length: usize,
    flow: Arc<Flow>,
    _counted: Option<Sending>,
    /// The stream that they are a batch of.
    batch_of: Option<u32>,
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.flow.waiting.fetch_sub(self.length, Ordering::Relaxed);
        if let Some(stream) = self.batch_of {
            self.flow.batches_written.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    }
}

/// How far an answer is.
enum State {
    /// Nothing is sent.
    Fresh(SendResponse<Outgoing>),
    /// Of a stream: there may be more messages.
    Begun(SendStream<Outgoing>),
    Ended,
}

/// What the answers of one call need.
pub(super) struct Parts {
    pub(super) connection: ConnectionId,
    pub(super) operation: Operation,
    pub(super) peer: Peer,
    pub(super) usage: Arc<Usage>,
    pub(super) flow: Arc<Flow>,
    pub(super) lanes: Arc<Lanes>,
    /// Bytes of all waiting answers of the connection, at most.
    pub(super) waiting_max: usize,
}

/// One call. A call that is dropped without an answer ends with an error.
pub(super) struct Call {
    parts: Parts,
    stream: u32,
    name: [u8; 4],
    request_bytes: AtomicUsize,
    state: Mutex<State>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { connection, operation, .. } = &self.parts;
        let mut debug = f.debug_struct("Call");
        debug.field("connection", connection).field("operation", operation);
        debug.field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Call {
    pub(super) fn new(parts: Parts, respond: SendResponse<Outgoing>) -> Arc<Self> {
        let stream = respond.stream_id().as_u32();
        Arc::new(Self {
            parts,
            stream,
            name: stream.to_be_bytes(),
            request_bytes: AtomicUsize::new(0),
            state: Mutex::new(State::Fresh(respond)),
        })
    }

    pub(super) fn operation(&self) -> Operation {
        self.parts.operation
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.parts.connection
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.parts.lanes
    }

    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    /// The request is there, with so many bytes.
    pub(super) fn note_request(&self, bytes: usize) {
        self.request_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Ends the call with an error, if it has not ended.
    pub(super) fn fail(&self, status: &Status) {
        match std::mem::replace(&mut *self.state(), State::Ended) {
            // Sending fails if the client is gone.
            State::Fresh(mut respond) => drop(respond.send_response(status.response(), true)),
            State::Begun(mut stream) => drop(stream.send_trailers(status.trailers())),
            State::Ended => {}
        }
    }

    /// Ready when the call is over, with whether the client has ended it.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut *self.state() {
            State::Fresh(respond) => respond.poll_reset(cx).map(|_| true),
            State::Begun(stream) => stream.poll_reset(cx).map(|_| true),
            State::Ended => Poll::Ready(false),
        }
    }

    fn is_stream(&self) -> bool {
        self.parts.operation == Operation::SubscribeKvEvents
    }

    /// Counts a message that is to be sent. `None` if too much waits.
    fn outgoing(&self, bytes: Bytes) -> Option<Outgoing> {
        let Parts { usage, flow, waiting_max, .. } = &self.parts;
        let length = bytes.len() + ANSWER_BYTES;
        let waiting = flow.waiting.fetch_add(length, Ordering::Relaxed);
        let batch_of = self.is_stream().then_some(self.stream);
        let mut outgoing = Outgoing { bytes, length, flow: flow.clone(), _counted: None, batch_of: None };
        if waiting > 0 && waiting.saturating_add(length) > *waiting_max {
            usage.answer_refused();
            return None;
        }
        if waiting + length > UNCOUNTED_BYTES {
            outgoing._counted = Some(usage.take_to_send(length)?);
        }
        outgoing.batch_of = batch_of;
        Some(outgoing)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the only message of a call.
    fn send_only(&self, message: Outgoing) -> bool {
        let State::Fresh(mut respond) = std::mem::replace(&mut *self.state(), State::Ended) else {
            return false;
        };
        let sent = respond.send_response(head(), false).and_then(|mut stream| {
            stream.send_data(message, false)?;
            stream.send_trailers(success())
        });
        self.note_sent(sent)
    }

    /// Sends a message of a stream.
    fn send_one(&self, message: Outgoing) -> bool {
        let mut state = self.state();
        if let State::Fresh(respond) = &mut *state {
            match respond.send_response(head(), false) {
                Ok(stream) => *state = State::Begun(stream),
                Err(error) => return self.note_sent(Err(error)),
            }
        }
        let State::Begun(stream) = &mut *state else { return false };
        self.note_sent(stream.send_data(message, false))
    }

    fn note_sent(&self, sent: Result<(), h2::Error>) -> bool {
        if let Err(error) = &sent {
            tracing::debug!(connection = self.parts.connection.0, %error, "answer not sent");
        }
        sent.is_ok()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.fail(&Status::new(Code::Internal, "the request failed"));
    }
}

/// The answers of a call, for as long as it is needed.
#[derive(Debug)]
pub(super) struct GrpcResponder(pub(super) Arc<Call>);

impl Responder for GrpcResponder {
    fn encode(&self, response: &Response) -> Encoded {
        Encoded(larder_wire::grpc::encode(response))
    }

    fn send(&self, answer: Encoded) -> bool {
        let call = &self.0;
        let Some(bytes) = answer.0 else {
            if call.is_stream() {
                self.end_stream();
                return true;
            }
            call.fail(&Status::new(Code::Internal, "the answer is too long for a message"));
            return false;
        };
        let Some(message) = call.outgoing(bytes) else {
            if !call.is_stream() {
                call.fail(&Status::new(Code::ResourceExhausted, "too many answers wait to be read"));
            }
            return false;
        };
        if call.is_stream() { call.send_one(message) } else { call.send_only(message) }
    }

    fn refuse(&self, why: NoValue, reason: &dyn Display) -> bool {
        let code = match why {
            NoValue::Undecodable => Code::InvalidArgument,
            NoValue::Failed => Code::Unknown,
        };
        self.0.fail(&Status::new(code, reason));
        true
    }

    fn end_stream(&self) {
        let mut state = self.0.state();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Fresh(mut respond) => {
                let ended = respond.send_response(head(), false);
                drop(ended.and_then(|mut stream| stream.send_trailers(success())));
            }
            State::Begun(mut stream) => drop(stream.send_trailers(success())),
            State::Ended => {}
        }
    }

    fn request_id(&self) -> &[u8] {
        &self.0.name
    }

    fn detach(&self) -> Arc<dyn Responder> {
        Arc::new(Self(self.0.clone()))
    }

    fn pause(&self) -> Box<dyn Any + Send> {
        let call = &self.0;
        let lane = Lane::of(call.operation());
        let bytes = call.request_bytes.load(Ordering::Relaxed);
        lane.inspect(|lane| call.parts.lanes.begin(*lane));
        call.parts.flow.running.fetch_add(bytes, Ordering::Relaxed);
        let (lanes, flow) = (call.parts.lanes.clone(), call.parts.flow.clone());
        Box::new(Running { lane, bytes, lanes, flow, _pause: call.parts.peer.pause() })
    }
}

/// A request that is executed on another thread.
struct Running {
    lane: Option<Lane>,
    bytes: usize,
    lanes: Arc<Lanes>,
    flow: Arc<Flow>,
    /// Wakes the connection's task when it is dropped, which is last.
    _pause: Pause,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lane.inspect(|lane| self.lanes.end(*lane));
        self.flow.running.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
