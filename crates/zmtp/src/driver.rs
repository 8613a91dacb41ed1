//! The task that owns one connection: reads, delivers messages, writes queued ones.
//!
//! One turn reads what has arrived, delivers every complete message to the [`Inlet`], and then writes the
//! answers that were queued meanwhile, all in the same task: a request answered at once costs one wake,
//! one read and one write. Messages queued by other tasks wake this one through the [`Peer`].
//!
//! Nothing is read while the peer's queue is over half full, so a peer that sends without reading is
//! slowed down by its own socket.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::codec::{
    CONTROL_BYTES_HIGH, Connection, ConnectionOptions, Encoder, Event, Message, PeerProperties, ProtocolError,
};
use crate::limits::Limits;
use crate::peer::{Ask, Peer, Queued};

/// Turns before other tasks get a chance.
const TURNS_MAX: usize = 32;

/// Queued messages are encoded in batches of about this many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// Pieces handed to the system in one write.
const SLICES_MAX: usize = 32;

#[cfg(test)]
mod tests;

/// Receiver of a connection's messages and events.
pub(crate) trait Inlet: Send {
    /// The handshake is over. An error closes the connection before it sent its own READY.
    fn admit(&mut self, peer: &Peer, properties: PeerProperties) -> Result<(), Refusal>;
    /// A complete message.
    fn message(&mut self, peer: &Peer, message: Message);
    /// No further message can be taken now; [`Peer::wake`] is called when one can.
    fn is_congested(&self) -> bool {
        false
    }
    /// The connection is over. Not called if the task is dropped or panics.
    fn ended(&mut self, reason: &CloseReason) {
        let _ = reason;
    }
}

/// A peer was refused because of other peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many peers as allowed are connected.
    #[error("too many peers")]
    TooManyPeers,
    /// Another connected peer has the same routing id.
    #[error("another peer has the same routing id")]
    DuplicateIdentity,
    /// More connections than allowed were within their handshake, and this was the oldest of them.
    #[error("too many half-open connections")]
    TooManyHalfOpen,
}

/// The reason for the end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by peer")]
    PeerClosed,
    /// The peer closed it within a message.
    #[error("closed by peer within a message")]
    PeerClosedAmidMessage,
    /// Reading or writing failed.
    #[error("connection failed: {0}")]
    Io(io::ErrorKind),
    /// The peer violated the protocol or a limit.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// No READY within the time allowed.
    #[error("handshake timed out")]
    HandshakeTimeout,
    /// The peer sent nothing within the TTL it promised, or did not answer a PING.
    #[error("peer sent nothing within the promised time")]
    Silent,
    /// The peer took no bytes for the time allowed.
    #[error("peer stopped reading")]
    Stalled,
    /// The peer was refused.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// This side closed it.
    #[error("closed here")]
    ClosedHere,
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseReason::PeerClosed,
            kind => CloseReason::Io(kind),
        }
    }
}

/// Timeouts of one connection.
#[derive(Clone, Debug)]
struct Timing {
    write_stall_timeout: Duration,
    linger: Duration,
    ping_interval: Option<Duration>,
    ping_timeout: Duration,
}

/// Deadlines of one connection.
#[derive(Debug, Default)]
struct Deadlines {
    handshake: Option<Instant>,
    /// The peer must have taken some bytes.
    write: Option<Instant>,
    /// The peer must have sent some bytes.
    silence: Option<Instant>,
    /// A PING is to be sent.
    ping: Option<Instant>,
    /// The end of draining.
    linger: Option<Instant>,
}

impl Deadlines {
    fn next(&self) -> Option<Instant> {
        [self.handshake, self.write, self.silence, self.ping, self.linger].into_iter().flatten().min()
    }
}

pub(crate) struct Driver<T, I> {
    stream: T,
    connection: Connection,
    encoder: Encoder,
    /// Messages moved from the queue to the encoder; empty in between, kept for its capacity.
    batch: Vec<Message>,
    /// What the encoder holds of the peer's queue.
    in_flight: Queued,
    peer: Peer,
    inlet: I,
    timing: Timing,
    deadlines: Deadlines,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The handshake is over.
    is_open: bool,
    /// This side has closed its half and awaits the end of the peer's.
    is_shut: bool,
}

enum Turn {
    Again,
    /// Nothing to do until woken. `wants_messages` unless the socket is full.
    Wait {
        wants_messages: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flushed {
    All,
    Blocked,
}

impl<T, I> Driver<T, I>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
    I: Inlet,
{
    /// Must be called within a tokio runtime: the time for the handshake starts here.
    pub(crate) fn new(
        stream: T,
        options: ConnectionOptions,
        limits: &Limits,
        peer: Peer,
        inlet: I,
    ) -> Driver<T, I> {
        let deadlines = Deadlines {
            handshake: Instant::now().checked_add(limits.handshake_timeout),
            ..Deadlines::default()
        };
        Driver {
            stream,
            connection: Connection::new(options),
            encoder: Encoder::new(),
            batch: Vec::new(),
            in_flight: Queued::default(),
            peer,
            inlet,
            timing: Timing {
                write_stall_timeout: limits.write_stall_timeout,
                linger: limits.linger,
                ping_interval: limits.ping_interval,
                ping_timeout: limits.ping_timeout,
            },
            deadlines,
            sleep: None,
            is_open: false,
            is_shut: false,
        }
    }

    /// Drives the connection to its end.
    pub(crate) async fn run(mut self) {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(peer = %self.peer.id(), remote = self.peer.remote(), %reason, "connection ended");
        self.inlet.ended(&reason);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        for _ in 0..TURNS_MAX {
            let ask = self.peer.attend(cx.waker());
            let turn = match ask {
                Ask::Run => self.turn(cx),
                Ask::Drain => self.drain(cx),
                Ask::Close => Err(CloseReason::ClosedHere),
            };
            match turn {
                Ok(Turn::Again) => {}
                Ok(Turn::Wait { wants_messages }) => {
                    if self.peer.rest(ask, wants_messages) {
                        return self.poll_deadlines(cx);
                    }
                }
                Err(reason) => {
                    if matches!(reason, CloseReason::Protocol(_)) {
                        // An ERROR command may be waiting. Best effort: the connection ends anyway.
                        let _ = self.flush(cx);
                    }
                    return Poll::Ready(reason);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, CloseReason> {
        let all_handled = self.handle_received()?;
        let flushed = self.flush(cx)?;
        let wants_messages = flushed == Flushed::All;
        if self.must_not_read() {
            // Silence does not count while this side does not read.
            self.heard();
            return Ok(Turn::Wait { wants_messages });
        }
        if !all_handled {
            return Ok(Turn::Again);
        }
        match self.poll_read(cx)? {
            Poll::Ready(()) => Ok(Turn::Again),
            Poll::Pending => Ok(Turn::Wait { wants_messages }),
        }
    }

    fn must_not_read(&mut self) -> bool {
        self.peer.is_congested()
            || self.peer.is_paused()
            || self.inlet.is_congested()
            || self.connection.output().len() > CONTROL_BYTES_HIGH
    }

    /// Delivers what has been received. False if some of it must wait.
    fn handle_received(&mut self) -> Result<bool, CloseReason> {
        loop {
            if self.must_not_read() {
                return Ok(false);
            }
            match self.connection.poll_event()? {
                None => return Ok(true),
                Some(Event::Message(message)) => {
                    tracing::trace!(peer = %self.peer.id(), parts = message.len(), "message");
                    self.inlet.message(&self.peer, message);
                }
                Some(Event::Ready(properties)) => self.admit(properties)?,
                Some(Event::Ping { ttl_deciseconds }) => {
                    if ttl_deciseconds > 0 {
                        let ttl = Duration::from_millis(100) * u32::from(ttl_deciseconds);
                        self.deadlines.silence = Instant::now().checked_add(ttl);
                    }
                }
                Some(Event::Pong) => {}
            }
        }
    }

    fn admit(&mut self, properties: PeerProperties) -> Result<(), CloseReason> {
        self.peer.set_identity(properties.identity.clone());
        self.inlet.admit(&self.peer, properties)?;
        self.connection.accept();
        self.is_open = true;
        self.deadlines.handshake = None;
        self.heard();
        Ok(())
    }

    /// The peer has just sent something, or may have: restarts the time of its silence.
    fn heard(&mut self) {
        self.deadlines.silence = None;
        if let Some(interval) = self.timing.ping_interval
            && self.is_open
        {
            self.deadlines.ping = Instant::now().checked_add(interval);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, CloseReason> {
        let mut space = self.connection.space();
        debug_assert!(bytes::BufMut::has_remaining_mut(&space), "no space although all events were taken");
        // Dropping this future loses nothing: it has no state of its own between polls.
        match pin!(self.stream.read_buf(&mut space)).poll(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) if self.connection.is_amid_message() => {
                Err(CloseReason::PeerClosedAmidMessage)
            }
            Poll::Ready(Ok(0)) => Err(CloseReason::PeerClosed),
            Poll::Ready(Ok(_)) => {
                self.heard();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(error.into()),
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<Flushed, CloseReason> {
        loop {
            if self.encoder.is_empty() {
                self.encode_batch();
                if self.encoder.is_empty() {
                    return Ok(Flushed::All);
                }
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = self.encoder.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let written = match &slices[..filled] {
                [only] => stream.poll_write(cx, only),
                slices => stream.poll_write_vectored(cx, slices),
            };
            match written {
                Poll::Ready(Ok(0)) => return Err(CloseReason::Io(io::ErrorKind::WriteZero)),
                Poll::Ready(Ok(bytes)) => {
                    self.encoder.advance(bytes);
                    self.deadlines.write = None;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {
                    if self.deadlines.write.is_none() {
                        self.deadlines.write = Instant::now().checked_add(self.timing.write_stall_timeout);
                    }
                    return Ok(Flushed::Blocked);
                }
            }
        }
    }

    /// Refills the empty encoder from the protocol's output and the peer's queue.
    fn encode_batch(&mut self) {
        self.encoder.push_raw(self.connection.output());
        if self.is_open && !self.is_shut {
            let sent = std::mem::take(&mut self.in_flight);
            self.in_flight = self.peer.take_batch(sent, &mut self.batch, BATCH_BYTES);
            for message in self.batch.drain(..) {
                self.encoder.push(message);
            }
            if self.batch.capacity() > BATCH_KEEP_MESSAGES {
                self.batch.shrink_to(BATCH_KEEP_MESSAGES);
            }
        }
    }

    /// A turn while draining: sends queued messages, closes this half, waits for the peer to close its own.
    ///
    /// What still arrives is discarded; if it were left in the socket, closing it would reset the
    /// connection and destroy answers that the peer has not read yet.
    fn drain(&mut self, cx: &mut Context<'_>) -> Result<Turn, CloseReason> {
        if !self.is_open {
            return Err(CloseReason::ClosedHere);
        }
        if self.deadlines.linger.is_none() {
            let linger = Instant::now().checked_add(self.timing.linger);
            self.deadlines = Deadlines { linger, ..Deadlines::default() };
        }
        if !self.is_shut {
            // Before the flush: an answer is queued before its pause ends.
            let is_paused = self.peer.is_paused();
            if self.flush(cx)? == Flushed::Blocked {
                return Ok(Turn::Wait { wants_messages: false });
            }
            if is_paused {
                return Ok(Turn::Wait { wants_messages: true });
            }
            if Pin::new(&mut self.stream).poll_shutdown(cx)?.is_pending() {
                return Ok(Turn::Wait { wants_messages: false });
            }
            self.is_shut = true;
            self.peer.end();
        }
        let mut discarded = Vec::with_capacity(4096);
        match pin!(self.stream.read_buf(&mut discarded)).poll(cx)? {
            Poll::Ready(0) => Err(CloseReason::ClosedHere),
            Poll::Ready(_) => Ok(Turn::Again),
            Poll::Pending => Ok(Turn::Wait { wants_messages: false }),
        }
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let Some(next) = self.deadlines.next() else { return Poll::Pending };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(next)));
            // A timer that is set too early stays: one needless wake costs less than moving it with each
            // message.
            if sleep.deadline() > next || sleep.is_elapsed() {
                sleep.as_mut().reset(next);
            }
            ready!(sleep.as_mut().poll(cx));
            if let Some(reason) = self.expire(Instant::now()) {
                return Poll::Ready(reason);
            }
            if !self.connection.output().is_empty() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn expire(&mut self, now: Instant) -> Option<CloseReason> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.deadlines.handshake) {
            return Some(CloseReason::HandshakeTimeout);
        }
        if is_due(self.deadlines.write) {
            return Some(CloseReason::Stalled);
        }
        if is_due(self.deadlines.silence) {
            return Some(CloseReason::Silent);
        }
        if is_due(self.deadlines.linger) {
            return Some(CloseReason::ClosedHere);
        }
        if is_due(self.deadlines.ping) {
            self.deadlines.ping = None;
            if self.connection.ping(0) {
                let silence = now.checked_add(self.timing.ping_timeout);
                // An earlier TTL of the peer stays in force.
                self.deadlines.silence = self.deadlines.silence.or(silence);
            } else {
                self.timing.ping_interval = None;
            }
        }
        None
    }
}

/// Capacity for messages that is kept between batches.
const BATCH_KEEP_MESSAGES: usize = 256;

impl<T, I> Drop for Driver<T, I> {
    fn drop(&mut self) {
        // Before the inlet is dropped, so that sends fail by the time `gone` is called.
        self.peer.end();
    }
}
