//! The task of one connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method as HttpMethod, Request};
use larder_wire::grpc::{self, Method};
use larder_wire::message::StreamControl;
use larder_wire::operation::Operation;
use larder_zmtp::{Alarm, Ask, CloseReason, Handover, Place, Progress, Share};
use tokio::time::{Instant, timeout};

use super::GrpcService;
use super::clients::{Client, Clients, Lane};
use super::message::Message;
use super::responder::{Call, Flow, GrpcResponder, Outgoing, Parts};
use super::socket::Socket;
use super::status::{Code, Status, not_grpc};
use super::waker::TaskWaker;
use crate::app::refusals::Refused;
use crate::transport::uses_cache;

/// The header by which a client names itself.
const CLIENT_ID: &str = "lmcache-client-id-bin";

/// The longest such name. Stock clients' are 24 characters.
const CLIENT_ID_MAX: usize = 128;

/// Bytes of one stream that a client may send ahead.
const STREAM_WINDOW: u32 = 1 << 20;

/// Bytes of a connection that a client may send ahead without being counted over all connections.
const WINDOW: u32 = 64 * 1024 - 1;

/// The same while long messages are under way, at most. What exceeds [`WINDOW`] is counted.
const WINDOW_MAX: u32 = 4 << 20;

/// Calls of one connection that are not answered. More wait in the client.
const CALLS_MAX: u32 = 1024;

/// What a call takes besides its message, about.
const CALL_BYTES: usize = 1024;

/// Bytes of requests that a connection may hold without being counted over all connections.
const UNCOUNTED_BYTES: usize = 16 * 1024;

/// Bytes of all headers of one call.
const HEADERS_MAX: u32 = 16 * 1024;

/// Turns before other tasks get a chance.
const TURNS_MAX: usize = 32;

/// A connection that waits for room looks again after this time.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// How often it is looked at whether a client takes its answers.
const WRITE_CHECK: Duration = Duration::from_secs(10);

/// Serves a connection to its end.
pub(super) async fn serve(service: Arc<GrpcService>, connection: Handover) {
    let (stream, place) = connection.into_parts();
    let flow = Arc::<Flow>::default();
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(CALLS_MAX)
        .max_header_list_size(HEADERS_MAX);
    let handshake = builder.handshake(Socket::new(stream, flow.clone()));
    let shaken = tokio::select! {
        biased;
        () = place.peer().asked_to_end() => return place.count_end(&CloseReason::ClosedHere),
        shaken = timeout(place.limits().handshake_timeout, handshake) => shaken,
    };
    let reason = match (shaken, place.admit()) {
        (Err(_), _) => CloseReason::HandshakeTimeout,
        (Ok(Err(error)), _) => reason(&error),
        (_, Err(refusal)) => refusal.into(),
        (Ok(Ok(h2)), Ok(())) => {
            let mut connection = Connection::new(service, &place, flow, h2);
            poll_fn(|cx| connection.poll(cx)).await
        }
    };
    place.count_end(&reason);
}

/// Why HTTP/2 has ended.
fn reason(error: &h2::Error) -> CloseReason {
    match error.get_io() {
        Some(error) => CloseReason::Io(error.kind()),
        None => {
            tracing::debug!(%error, "HTTP/2 failed");
            CloseReason::PeerClosed
        }
    }
}

/// A call that is not served yet.
struct Incoming {
    call: Arc<Call>,
    lane: Option<Lane>,
    client: Client,
    body: RecvStream,
    message: Message,
    is_whole: bool,
}

/// When something is to be looked at.
#[derive(Default)]
struct Deadlines {
    /// Unfinished messages must have got on.
    message: Option<Instant>,
    /// There may be room to receive more.
    room: Option<Instant>,
    /// The client must have taken some bytes.
    write: Option<Instant>,
    /// The end of draining.
    linger: Option<Instant>,
}

impl Deadlines {
    fn next(&self) -> Option<Instant> {
        [self.message, self.room, self.write, self.linger].into_iter().flatten().min()
    }
}

struct Connection<'a> {
    h2: h2::server::Connection<Socket, Outgoing>,
    service: Arc<GrpcService>,
    place: &'a Place,
    flow: Arc<Flow>,
    /// In the order in which they were opened.
    incoming: Vec<Incoming>,
    /// Streams that are not over.
    subscriptions: Vec<Arc<Call>>,
    /// Looks at all of `incoming`.
    looks: u64,
    window: u32,
    room: Share,
    roomless_since: Option<Instant>,
    progress: Progress,
    /// The bytes that the client had taken at the last look, and when that was.
    taken: (u64, Option<Instant>),
    deadlines: Deadlines,
    alarm: Alarm,
    wakes: Arc<TaskWaker>,
    /// Last, so that nothing is sent any more when it is dropped.
    clients: Clients,
}

impl<'a> Connection<'a> {
    fn new(
        service: Arc<GrpcService>,
        place: &'a Place,
        flow: Arc<Flow>,
        h2: h2::server::Connection<Socket, Outgoing>,
    ) -> Self {
        Self {
            h2,
            clients: Clients::new(service.operations.clone(), place.peer().remote()),
            service,
            place,
            flow,
            incoming: Vec::new(),
            subscriptions: Vec::new(),
            looks: 0,
            window: WINDOW,
            room: place.room(),
            roomless_since: None,
            progress: Progress::default(),
            taken: (0, None),
            deadlines: Deadlines::default(),
            alarm: Alarm::default(),
            wakes: Arc::default(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.wakes.begin(cx.waker());
        let waker = Waker::from(self.wakes.clone());
        let own = &mut Context::from_waker(&waker);
        for _ in 0..TURNS_MAX {
            self.wakes.look();
            match self.place.peer().poll_ask(own) {
                Ask::Run => {}
                Ask::Drain => self.drain(),
                _ => return Poll::Ready(CloseReason::ClosedHere),
            }
            match self.turn(own) {
                Ok(true) => {}
                Ok(false) => match self.poll_deadlines(own) {
                    Poll::Pending if self.wakes.rest() => return Poll::Pending,
                    Poll::Pending => {}
                    ended => return ended,
                },
                Err(reason) => return Poll::Ready(reason),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Receives, serves and sends what is possible now. False if there was nothing to do.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut is_busy = false;
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.open(request, respond);
                    is_busy = true;
                }
                Poll::Ready(Some(Err(error))) => return Err(reason(&error)),
                Poll::Ready(None) if self.is_draining() => return Err(CloseReason::ClosedHere),
                Poll::Ready(None) => return Err(CloseReason::PeerClosed),
                Poll::Pending => break,
            }
        }
        self.follow_subscriptions(cx);
        self.receive(cx)?;
        Ok(self.serve_ready() || is_busy)
    }

    /// A call has begun. It takes its place in the order of its client.
    fn open(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Outgoing>) {
        let (head, body) = request.into_parts();
        if head.method != HttpMethod::POST || !is_grpc(&head.headers) {
            // Sending fails if the client is gone.
            drop(respond.send_response(not_grpc(), true));
            return;
        }
        let method = grpc::find(head.uri.path());
        let id = head.headers.get(CLIENT_ID).map_or(&[][..], |id| id.as_bytes());
        let client = match id.len() {
            ..=CLIENT_ID_MAX => self.clients.client(id, method.and_then(|method| method.form)),
            _ => None,
        };
        let Some(client) = client else {
            self.service.refusals.count(Refused::GrpcClients);
            let status = Status::new(Code::ResourceExhausted, "too many clients over one connection");
            drop(respond.send_response(status.response(), true));
            return;
        };
        let refused = match method {
            None => Some(Status::new(Code::Unimplemented, "Method not found!")),
            Some(Method { operation, is_served: false, .. }) => {
                Some(Status::new(Code::Unimplemented, format!("{operation} is not enabled on this server")))
            }
            Some(_) => None,
        };
        let Some(Method { operation, .. }) = method.filter(|method| method.is_served) else {
            if let Some(status) = refused {
                self.service.operations.message_refused(&client.caller(), &status);
                drop(respond.send_response(status.response(), true));
            }
            return;
        };
        let parts = Parts {
            connection: client.connection,
            operation,
            peer: self.place.peer().clone(),
            usage: self.place.usage().clone(),
            flow: self.flow.clone(),
            lanes: client.lanes.clone(),
            waiting_max: self.place.limits().send_queue_bytes_max,
        };
        let call = Call::new(parts, respond);
        let (lane, message) = (Lane::of(operation), Message::default());
        self.incoming.push(Incoming { call, lane, client, body, message, is_whole: false });
    }

    /// Takes what has arrived of unfinished messages.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let is_congested = self.flow.waiting_bytes() > self.place.limits().send_queue_bytes_max / 2;
        if is_congested || !self.has_room()? {
            self.deadlines.message = None;
            self.progress = Progress::default();
            return Ok(());
        }
        let bytes_max = self.service.message_bytes_max;
        let (progress, refusals) = (&mut self.progress, &self.service.refusals);
        self.incoming.retain_mut(|one| match one.receive(cx, bytes_max, progress) {
            Ok(()) => true,
            Err(None) => false,
            Err(Some(status)) => {
                if status.code == Code::ResourceExhausted {
                    refusals.warn(Refused::RequestSize, &status.message);
                }
                one.call.fail(&status);
                false
            }
        });
        // Of a long message the length is known now.
        self.has_room()?;
        if self.incoming.iter().all(|one| one.is_whole) {
            self.deadlines.message = None;
            self.progress = Progress::default();
        } else if self.deadlines.message.is_none() {
            self.deadlines.message = Instant::now().checked_add(Progress::interval(self.place.limits()));
        }
        Ok(())
    }

    /// Whether there is room for what is received. Lets clients send long messages ahead if there is room for that.
    fn has_room(&mut self) -> Result<bool, CloseReason> {
        let messages: usize = self.incoming.iter().map(|one| one.message.len() + CALL_BYTES).sum();
        let held = (messages + self.flow.running_bytes()).saturating_sub(UNCOUNTED_BYTES);
        let missing: usize = self.incoming.iter().map(|one| one.message.missing()).sum();
        let wanted = u32::try_from(missing).unwrap_or(u32::MAX).clamp(WINDOW, WINDOW_MAX);
        let has_all = self.room.resize(held + (wanted - WINDOW) as usize);
        let window = if has_all { wanted } else { WINDOW };
        if self.window != window {
            self.window = window;
            self.h2.set_target_window_size(window);
        }
        if has_all || self.room.resize(held) {
            self.deadlines.room = None;
            self.roomless_since = None;
            return Ok(true);
        }
        let now = Instant::now();
        let since = *self.roomless_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.place.limits().stall_timeout {
            return Err(CloseReason::NoRoom);
        }
        self.deadlines.room = now.checked_add(ROOM_RETRY);
        Ok(false)
    }

    /// Serves whole messages, those of a lane in their order.
    fn serve_ready(&mut self) -> bool {
        self.looks += 1;
        let (mut at, mut has_served) = (0, false);
        while let Some(one) = self.incoming.get(at) {
            let lanes = one.call.lanes();
            let is_held_up = one.lane.is_some_and(|lane| lanes.is_held_up(lane, self.looks));
            if one.is_whole && !is_held_up {
                let one = self.incoming.remove(at);
                self.serve_one(one);
                has_served = true;
            } else {
                one.lane.inspect(|lane| lanes.wait(*lane, self.looks));
                at += 1;
            }
        }
        has_served
    }

    fn serve_one(&mut self, one: Incoming) {
        let Incoming { call, client, message, .. } = one;
        let operation = call.operation();
        let body = match message.finish() {
            Ok(body) => body,
            Err(status) => return call.fail(&status),
        };
        self.place.peer().note_message();
        if uses_cache(operation) {
            self.place.peer().keep();
        }
        if operation == Operation::SubscribeKvEvents {
            self.subscriptions.push(call.clone());
        }
        let (bytes, form) = (body.len(), client.form);
        call.note_request(bytes);
        let decode = move || grpc::decode(operation, body, form);
        self.service.operations.serve(&client.caller(), operation, bytes, decode, &GrpcResponder(call));
    }

    /// Asks for the next batch of the streams that have sent their last one, and ends those that clients have ended.
    fn follow_subscriptions(&mut self, cx: &mut Context<'_>) {
        let control = |call: &Call, control| {
            let operations = &self.service.operations;
            operations.control_stream(call.connection(), &call.stream().to_be_bytes(), control);
        };
        for stream in self.flow.take_batches_written() {
            let written = self.subscriptions.iter().filter(|call| call.stream() == stream);
            written.for_each(|call| control(call, StreamControl::Ack));
        }
        self.subscriptions.retain(|call| match call.poll_over(cx) {
            Poll::Pending => true,
            Poll::Ready(by_client) => {
                if by_client {
                    control(call, StreamControl::Cancel);
                }
                false
            }
        });
    }

    fn is_draining(&self) -> bool {
        self.deadlines.linger.is_some()
    }

    /// Takes no new calls, answers those that are there, ends streams.
    fn drain(&mut self) {
        if self.is_draining() {
            return;
        }
        self.h2.graceful_shutdown();
        let now = Instant::now();
        self.deadlines.linger = Some(now.checked_add(self.place.limits().linger).unwrap_or(now));
        for call in &self.subscriptions {
            let name = call.stream().to_be_bytes();
            self.service.operations.control_stream(call.connection(), &name, StreamControl::Cancel);
        }
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if self.flow.waiting_bytes() == 0 {
            self.deadlines.write = None;
            self.taken.1 = None;
        } else if self.deadlines.write.is_none() {
            let now = Instant::now();
            self.taken = (self.flow.written_bytes(), Some(now));
            self.deadlines.write = now.checked_add(WRITE_CHECK);
        }
        loop {
            let Some(next) = self.deadlines.next() else { return Poll::Pending };
            let now = ready!(self.alarm.poll(next, cx));
            if let Some(reason) = self.expire(now) {
                return Poll::Ready(reason);
            }
            if self.deadlines.room.take_if(|retry| *retry <= now).is_some() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn expire(&mut self, now: Instant) -> Option<CloseReason> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.deadlines.linger) {
            return Some(CloseReason::ClosedHere);
        }
        if is_due(self.deadlines.message) {
            if !self.progress.check(self.room.is_tight()) {
                return Some(CloseReason::MessageStalled);
            }
            self.deadlines.message = now.checked_add(Progress::interval(self.place.limits()));
        }
        if is_due(self.deadlines.write) {
            let written = self.flow.written_bytes();
            if written != self.taken.0 {
                self.taken = (written, Some(now));
            }
            let stalled = self.taken.1.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            let is_tight = self.place.usage().is_sending_tight();
            if stalled >= self.place.limits().write_stall_timeout || is_tight && stalled >= WRITE_CHECK {
                return Some(CloseReason::Stalled);
            }
            self.deadlines.write = now.checked_add(WRITE_CHECK);
        }
        None
    }
}

impl Incoming {
    /// Takes what has arrived. An error ends the call; `None`: the client has ended it.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        bytes_max: usize,
        progress: &mut Progress,
    ) -> Result<(), Option<Status>> {
        let bytes_max = grpc::message_bytes_max(self.call.operation()).unwrap_or(bytes_max).min(bytes_max);
        while !self.is_whole {
            match self.body.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.is_whole = true,
                Poll::Ready(Some(Err(_))) => return Err(None),
                Poll::Ready(Some(Ok(piece))) => {
                    progress.add(piece.len());
                    // What is taken is held here now, and counted.
                    let _ = self.body.flow_control().release_capacity(piece.len());
                    self.message.push(piece, bytes_max)?;
                    self.is_whole = self.body.is_end_stream();
                }
            }
        }
        Ok(())
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    value
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
