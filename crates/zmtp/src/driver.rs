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
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::budget::{Share, Usage};
use crate::codec::{
    CONTROL_BYTES_HIGH, Connection, ConnectionOptions, Encoder, Event, Message, PeerProperties, ProtocolError,
};
use crate::limits::Limits;
use crate::peer::{Ask, Peer, Queued};
use crate::progress::{PROGRESS_CHECKS, Progress};

/// Turns before other tasks get a chance.
const TURNS_MAX: usize = 32;

/// Bytes read before other tasks get a chance.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Queued messages are encoded in batches of about this many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// Pieces handed to the system in one write.
const SLICES_MAX: usize = 32;

/// Bytes of an unfinished message that a peer may hold without being counted over all peers.
const UNCOUNTED_BYTES: usize = 16 * 1024;

/// A connection that waits for room to receive looks again after this time.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// With too much waiting to be sent to all peers, one that takes nothing for this long is closed.
const WRITE_STALL_IF_TIGHT: Duration = Duration::from_secs(10);

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
    /// The peer did not get on with a message for the time allowed.
    #[error("peer stopped within a message")]
    MessageStalled,
    /// There was no room for the peer's message for the time allowed.
    #[error("no room for the message: others are being received")]
    NoRoom,
    /// The peer was refused.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// It begins with another protocol than those that are served.
    #[error("another protocol than those of --transport")]
    OtherProtocol,
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
    stall_timeout: Duration,
    write_stall_timeout: Duration,
    linger: Duration,
    ping_interval: Option<Duration>,
    ping_timeout: Duration,
}

/// Deadlines of one connection.
#[derive(Debug, Default)]
struct Deadlines {
    handshake: Option<Instant>,
    /// The unfinished message must have got on.
    message: Option<Instant>,
    /// There may be room to receive more.
    room: Option<Instant>,
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
        [self.handshake, self.message, self.room, self.write, self.silence, self.ping, self.linger]
            .into_iter()
            .flatten()
            .min()
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
    /// Room for what is being received, and for the message that the peer is paused for.
    room: Share,
    usage: Arc<Usage>,
    progress: Progress,
    /// Read since the task was last scheduled.
    read_bytes: usize,
    /// Since when there has been no room.
    roomless_since: Option<Instant>,
    /// Since when the peer has taken nothing.
    blocked_since: Option<Instant>,
    alarm: Alarm,
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
        usage: &Arc<Usage>,
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
                stall_timeout: limits.stall_timeout,
                write_stall_timeout: limits.write_stall_timeout,
                linger: limits.linger,
                ping_interval: limits.ping_interval,
                ping_timeout: limits.ping_timeout,
            },
            deadlines,
            room: Share::new(usage.receiving.clone()),
            usage: usage.clone(),
            progress: Progress::default(),
            read_bytes: 0,
            roomless_since: None,
            blocked_since: None,
            alarm: Alarm::default(),
            is_open: false,
            is_shut: false,
        }
    }

    /// Drives the connection to its end.
    pub(crate) async fn run(mut self) {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        self.usage.count_end(&reason);
        tracing::debug!(peer = %self.peer.id(), remote = self.peer.remote(), %reason, "connection ended");
        self.inlet.ended(&reason);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.read_bytes = 0;
        for _ in 0..TURNS_MAX {
            if self.read_bytes >= READ_BYTES_MAX {
                break;
            }
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
            self.not_reading();
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
                    self.peer.note_message();
                    self.deadlines.message = None;
                    self.progress = Progress::default();
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

    /// The peer's messages wait for this side, so their progress does not count.
    fn not_reading(&mut self) {
        self.deadlines.message = None;
        self.deadlines.room = None;
        self.roomless_since = None;
        self.progress = Progress::default();
        if !self.peer.is_paused() {
            self.room.shrink_to(counted(self.connection.held_bytes()));
        }
    }

    /// Whether there is room for what is to be received. If not, it is asked for again after a while.
    fn has_room(&mut self) -> Result<bool, CloseReason> {
        if self.room.resize(counted(self.connection.held_bytes())) {
            self.deadlines.room = None;
            self.roomless_since = None;
            return Ok(true);
        }
        let now = Instant::now();
        let since = *self.roomless_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.timing.stall_timeout {
            return Err(CloseReason::NoRoom);
        }
        self.deadlines.message = None;
        self.deadlines.room = now.checked_add(ROOM_RETRY);
        Ok(false)
    }

    /// Watches the progress of a message while it is unfinished.
    fn watch_message(&mut self) {
        if !self.is_open || !self.connection.is_amid_message() {
            if self.deadlines.message.take().is_some() {
                self.progress = Progress::default();
            }
        } else if self.deadlines.message.is_none() {
            self.deadlines.message = Instant::now().checked_add(self.timing.stall_timeout / PROGRESS_CHECKS);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, CloseReason> {
        if !self.has_room()? {
            return Ok(Poll::Pending);
        }
        let mut space = self.connection.space();
        debug_assert!(bytes::BufMut::has_remaining_mut(&space), "no space although all events were taken");
        // Dropping this future loses nothing: it has no state of its own between polls.
        match pin!(self.stream.read_buf(&mut space)).poll(cx) {
            Poll::Pending => {
                self.watch_message();
                Ok(Poll::Pending)
            }
            Poll::Ready(Ok(0)) if self.connection.is_amid_message() => {
                Err(CloseReason::PeerClosedAmidMessage)
            }
            Poll::Ready(Ok(0)) => Err(CloseReason::PeerClosed),
            Poll::Ready(Ok(bytes)) => {
                self.heard();
                self.progress.add(bytes);
                self.read_bytes += bytes;
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
                    self.blocked_since = None;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {
                    if self.deadlines.write.is_none() {
                        let now = Instant::now();
                        self.blocked_since = Some(now);
                        let check = WRITE_STALL_IF_TIGHT.min(self.timing.write_stall_timeout);
                        self.deadlines.write = now.checked_add(check);
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
            let now = ready!(self.alarm.poll(next, cx));
            if let Some(reason) = self.expire(now) {
                return Poll::Ready(reason);
            }
            let may_have_room = self.deadlines.room.take_if(|retry| *retry <= now).is_some();
            if may_have_room || !self.connection.output().is_empty() {
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
            let end = self.blocked_since.and_then(|since| since.checked_add(self.timing.write_stall_timeout));
            if end.is_some_and(|end| end <= now) || self.peer.sending().is_tight() {
                return Some(CloseReason::Stalled);
            }
            self.deadlines.write = now.checked_add(WRITE_STALL_IF_TIGHT).min(end);
        }
        if is_due(self.deadlines.message) {
            if !self.progress.check(self.room.budget().is_tight()) {
                return Some(CloseReason::MessageStalled);
            }
            self.deadlines.message = now.checked_add(self.timing.stall_timeout / PROGRESS_CHECKS);
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

/// What a peer that holds `bytes` of messages counts in the sum of all peers.
fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(UNCOUNTED_BYTES)
}

/// Capacity for messages that is kept between batches.
const BATCH_KEEP_MESSAGES: usize = 256;

impl<T, I> Drop for Driver<T, I> {
    fn drop(&mut self) {
        // Before the inlet is dropped, so that sends fail by the time `gone` is called.
        self.peer.end();
    }
}
