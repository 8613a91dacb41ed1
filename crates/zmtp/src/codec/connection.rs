//! One side of one connection as a state machine.

use bytes::buf::Limit;
use bytes::{BufMut, Bytes};

use super::command::{self, COMMAND_BYTES_MAX, Command, PeerProperties};
use super::frame::{FrameHeader, FrameKind, HEADER_BYTES_MAX};
use super::frame_buffers;
use super::greeting::{self, GREETING_BYTES};
use super::{Message, ProtocolError, SocketType};

/// Capacity of the read buffer once the handshake is over, in bytes.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Capacity of the read buffer during the handshake, in bytes: half-open connections stay cheap.
const HANDSHAKE_BUFFER_BYTES: usize = 512;

/// Frames with a body up to this size (bytes) are waited for in the read buffer.
const BUFFERED_BODY_BYTES_MAX: usize = READ_BUFFER_BYTES / 2 - HEADER_BYTES_MAX;

/// How far the buffer of a large frame may be ahead of what has arrived, in bytes.
const GROWTH_BYTES: usize = 1024 * 1024;

/// With more than this many bytes of answers (PONG) unsent, the caller should not feed further bytes,
/// because the peer does not read them.
pub const CONTROL_BYTES_HIGH: usize = 4096;

const _: () = assert!(COMMAND_BYTES_MAX <= BUFFERED_BODY_BYTES_MAX, "a command is parsed in the read buffer");

/// Options of a [`Connection`].
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// Our kind of socket.
    pub socket_type: SocketType,
    /// Our identity, sent in READY; at most 255 bytes, empty for none.
    pub identity: Bytes,
    /// Longest frame accepted, in bytes.
    pub frame_bytes_max: usize,
    /// Most parts accepted in one message.
    pub message_parts_max: usize,
    /// Most bytes accepted in all parts of one message.
    pub message_bytes_max: usize,
    /// Send READY only at [`Connection::accept`], so that a refused peer has not sent its messages yet.
    pub hold_ready: bool,
}

/// An event on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's READY arrived and fits. With `hold_ready`, nothing further is read until
    /// [`Connection::accept`].
    Ready(PeerProperties),
    /// A complete message.
    Message(Message),
    /// The peer sent PING; the PONG is in the output already.
    Ping {
        /// Tenths of a second within which the peer promises further traffic; 0 promises nothing.
        ttl_deciseconds: u16,
    },
    /// The peer answered a PING of ours.
    Pong,
}

#[derive(Clone, Debug)]
enum Phase {
    Greeting,
    Handshake,
    Held,
    Open,
    Failed(ProtocolError),
}

/// One side of a connection.
///
/// ```text
/// greeting -> handshake -> (held until accepted ->) open
///     any of these -> failed, on the first error; the error stays
/// ```
///
/// Received bytes go into [`space`](Self::space), in amounts of the caller's choice; then
/// [`poll_event`](Self::poll_event) is called until it has nothing more. Small frames arrive in a read
/// buffer that is reused for the whole connection, and each is copied out into a buffer of its own size: a
/// retained one-byte part must not keep a whole read buffer alive. A frame that does not fit there gets its
/// own buffer at once, and the rest of it is received directly into that. Such a buffer is never more than
/// 1 MiB or the bytes already received (whichever is more) ahead of what has arrived, so a header that
/// claims a gigabyte costs nothing.
#[derive(Debug)]
pub struct Connection {
    options: ConnectionOptions,
    phase: Phase,
    /// Minor version of ZMTP 3 that the peer announced.
    peer_minor: u8,
    buffer: ReadBuffer,
    /// The large frame being received, if any.
    body: Option<Body>,
    /// Complete parts of the message being received.
    parts: Message,
    /// Bytes in `parts`.
    parts_bytes: u64,
    output: Vec<u8>,
}

impl Connection {
    /// A new connection. Our greeting is in the output at once.
    #[must_use]
    pub fn new(options: ConnectionOptions) -> Connection {
        Connection {
            options,
            phase: Phase::Greeting,
            peer_minor: 0,
            buffer: ReadBuffer::default(),
            body: None,
            parts: Message::new(),
            parts_bytes: 0,
            output: greeting::ours().to_vec(),
        }
    }

    /// The buffer for received bytes. It has space for at least one byte if the caller took all events
    /// after the previous bytes.
    pub fn space(&mut self) -> Limit<&mut Vec<u8>> {
        if let Some(body) = &mut self.body {
            return body.space();
        }
        self.buffer.space(if matches!(self.phase, Phase::Open) {
            READ_BUFFER_BYTES
        } else {
            HANDSHAKE_BUFFER_BYTES
        })
    }

    /// Bytes that this side will hold of unfinished messages after a call of [`space`](Self::space).
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let body = self.body.as_ref().map_or(0, Body::next_capacity);
        usize::try_from(self.parts_bytes).unwrap_or(usize::MAX).saturating_add(body)
    }

    /// Copies as many of `bytes` as fit into [`space`](Self::space) and returns their number.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut space = self.space();
        let taken = bytes.len().min(space.remaining_mut());
        space.put_slice(&bytes[..taken]);
        taken
    }

    /// The next event in the bytes received so far, or `None` if they hold no further one.
    ///
    /// # Errors
    /// The first violation of the protocol or of a limit; the same error again on later calls.
    pub fn poll_event(&mut self) -> Result<Option<Event>, ProtocolError> {
        let outcome = match &self.phase {
            Phase::Greeting => self.read_greeting(),
            Phase::Handshake => self.read_handshake(),
            Phase::Held => return Ok(None),
            Phase::Open => self.read_traffic(),
            Phase::Failed(error) => return Err(error.clone()),
        };
        outcome.inspect_err(|error| self.phase = Phase::Failed(error.clone()))
    }

    /// Accepts a peer after its READY was reported, if [`ConnectionOptions::hold_ready`] is set.
    pub fn accept(&mut self) {
        if matches!(self.phase, Phase::Held) {
            command::write_ready(&mut self.output, self.options.socket_type, &self.options.identity);
            self.phase = Phase::Open;
        }
    }

    /// Bytes that the protocol itself has to send, between two messages. The caller takes them out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether the handshake is over, so that messages may be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether received bytes are waiting for more to make a message or a command.
    #[must_use]
    pub fn is_amid_message(&self) -> bool {
        self.body.is_some() || !self.parts.is_empty() || !self.buffer.bytes().is_empty()
    }

    /// Puts a PING into the output, if the peer understands it (ZMTP 3.1). Returns whether it did.
    ///
    /// `ttl_deciseconds` promises the peer more traffic within that time (tenths of a second; 0: nothing).
    pub fn ping(&mut self, ttl_deciseconds: u16) -> bool {
        let understood = self.is_open() && self.peer_minor >= 1;
        if understood {
            command::write_ping(&mut self.output, ttl_deciseconds);
        }
        understood
    }

    fn read_greeting(&mut self) -> Result<Option<Event>, ProtocolError> {
        let Some(greeting) = greeting::parse(self.buffer.bytes())? else { return Ok(None) };
        self.buffer.consume(GREETING_BYTES);
        self.peer_minor = greeting.minor;
        self.phase = Phase::Handshake;
        if !self.options.hold_ready {
            command::write_ready(&mut self.output, self.options.socket_type, &self.options.identity);
        }
        self.read_handshake()
    }

    fn read_handshake(&mut self) -> Result<Option<Event>, ProtocolError> {
        let Some(header) = FrameHeader::parse(self.buffer.bytes())? else { return Ok(None) };
        if header.kind != FrameKind::Command {
            return Err(ProtocolError::OutOfOrder("message before READY"));
        }
        let Some(body) = self.buffer.command(header)? else { return Ok(None) };
        let properties = match Command::parse(body)? {
            Command::Ready(properties) => properties,
            Command::Error(reason) => return Err(ProtocolError::PeerError(reason)),
            _ => return Err(ProtocolError::OutOfOrder("command before READY")),
        };
        self.buffer.consume_frame(header);
        let (ours, theirs) = (self.options.socket_type, properties.socket_type);
        if !ours.accepts(theirs) {
            let error = ProtocolError::IncompatibleSocketType { ours, theirs };
            // A mistake in a configuration: the ERROR command makes the peer stop retrying.
            command::write_error(&mut self.output, "Invalid socket type");
            return Err(error);
        }
        self.phase = if self.options.hold_ready { Phase::Held } else { Phase::Open };
        Ok(Some(Event::Ready(properties)))
    }

    fn read_traffic(&mut self) -> Result<Option<Event>, ProtocolError> {
        loop {
            if let Some(body) = self.body.take() {
                if !body.is_complete() {
                    self.body = Some(body);
                    return Ok(None);
                }
                if let Some(event) = self.end_part(body.is_last, frame_buffers::share(body.received)) {
                    return Ok(Some(event));
                }
                continue;
            }
            let Some(header) = FrameHeader::parse(self.buffer.bytes())? else { return Ok(None) };
            if header.kind == FrameKind::Command {
                match self.read_command(header)? {
                    CommandOutcome::Incomplete => return Ok(None),
                    CommandOutcome::Ignored => continue,
                    CommandOutcome::Event(event) => return Ok(Some(event)),
                }
            }
            let body_bytes = self.check_limits(header)?;
            let is_last = header.kind == FrameKind::LastPart;
            let waiting = self.buffer.bytes().len() - header.header_bytes;
            if waiting >= body_bytes {
                let from = header.header_bytes;
                let part = Bytes::copy_from_slice(&self.buffer.bytes()[from..from + body_bytes]);
                self.buffer.consume(from + body_bytes);
                if let Some(event) = self.end_part(is_last, part) {
                    return Ok(Some(event));
                }
            } else if body_bytes <= BUFFERED_BODY_BYTES_MAX {
                return Ok(None);
            } else {
                let begun = &self.buffer.bytes()[header.header_bytes..];
                self.body = Some(Body::begin(body_bytes, is_last, begun));
                self.buffer.clear();
            }
        }
    }

    fn read_command(&mut self, header: FrameHeader) -> Result<CommandOutcome, ProtocolError> {
        let Some(body) = self.buffer.command(header)? else { return Ok(CommandOutcome::Incomplete) };
        let outcome = match Command::parse(body)? {
            Command::Ready(_) => return Err(ProtocolError::OutOfOrder("second READY")),
            Command::Error(reason) => return Err(ProtocolError::PeerError(reason)),
            Command::Ping { ttl_deciseconds, context } => {
                command::write_pong(&mut self.output, context);
                CommandOutcome::Event(Event::Ping { ttl_deciseconds })
            }
            Command::Pong => CommandOutcome::Event(Event::Pong),
            Command::Unknown => CommandOutcome::Ignored,
        };
        self.buffer.consume_frame(header);
        Ok(outcome)
    }

    /// Checks the announced frame against the limits, before anything is allocated for it.
    fn check_limits(&self, header: FrameHeader) -> Result<usize, ProtocolError> {
        let ConnectionOptions { frame_bytes_max, message_parts_max, message_bytes_max, .. } = self.options;
        if self.parts.len() >= message_parts_max {
            return Err(ProtocolError::TooManyParts { parts_max: message_parts_max });
        }
        let bytes = header.body_bytes;
        let body_bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes <= frame_bytes_max);
        let body_bytes =
            body_bytes.ok_or(ProtocolError::FrameTooLarge { bytes, bytes_max: frame_bytes_max })?;
        let total = self.parts_bytes.saturating_add(bytes);
        if total > message_bytes_max as u64 {
            return Err(ProtocolError::MessageTooLarge { bytes: total, bytes_max: message_bytes_max });
        }
        Ok(body_bytes)
    }

    fn end_part(&mut self, is_last: bool, part: Bytes) -> Option<Event> {
        self.parts_bytes += part.len() as u64;
        self.parts.push(part);
        if !is_last {
            return None;
        }
        self.parts_bytes = 0;
        Some(Event::Message(std::mem::take(&mut self.parts)))
    }
}

enum CommandOutcome {
    Incomplete,
    Ignored,
    Event(Event),
}

/// A large frame, partly received.
#[derive(Debug)]
struct Body {
    received: Vec<u8>,
    body_bytes: usize,
    is_last: bool,
}

impl Body {
    /// `begun` is what the read buffer held of the body: less than all of it.
    fn begin(body_bytes: usize, is_last: bool, begun: &[u8]) -> Body {
        debug_assert!(begun.len() < body_bytes);
        let mut received = frame_buffers::take(body_bytes.min(GROWTH_BYTES));
        received.extend_from_slice(begun);
        Body { received, body_bytes, is_last }
    }

    fn is_complete(&self) -> bool {
        self.received.len() == self.body_bytes
    }

    /// The capacity of the buffer, once it has space for more.
    fn next_capacity(&self) -> usize {
        let received = self.received.len();
        match received == self.received.capacity() {
            true => received + (self.body_bytes - received).min(received.max(GROWTH_BYTES)),
            false => self.received.capacity(),
        }
    }

    fn space(&mut self) -> Limit<&mut Vec<u8>> {
        let received = self.received.len();
        let left = self.body_bytes - received;
        self.received.reserve_exact(self.next_capacity() - received);
        let space = left.min(self.received.capacity() - received);
        (&mut self.received).limit(space)
    }
}

/// Bytes received and not yet parsed.
#[derive(Debug, Default)]
struct ReadBuffer {
    bytes: Vec<u8>,
    /// Everything before this has been consumed.
    start: usize,
}

impl ReadBuffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    fn consume_frame(&mut self, header: FrameHeader) {
        // The body has been in this buffer, so its size is within a `usize`.
        self.consume(header.header_bytes + header.body_bytes as usize);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// The body of the command at the front, if all of it is here.
    fn command(&self, header: FrameHeader) -> Result<Option<&[u8]>, ProtocolError> {
        let bytes = header.body_bytes;
        let body_bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes <= COMMAND_BYTES_MAX);
        let body_bytes =
            body_bytes.ok_or(ProtocolError::FrameTooLarge { bytes, bytes_max: COMMAND_BYTES_MAX })?;
        Ok(self.bytes().get(header.header_bytes..header.header_bytes + body_bytes))
    }

    /// Space for more, in a buffer of `capacity` bytes or, if the unparsed bytes fill that, twice theirs.
    fn space(&mut self, capacity: usize) -> Limit<&mut Vec<u8>> {
        let waiting = self.bytes.len() - self.start;
        let capacity = capacity.max(waiting * 2);
        if self.bytes.capacity() < capacity || self.bytes.capacity() - self.bytes.len() < capacity / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
            if self.bytes.capacity() < capacity {
                self.bytes.reserve_exact(capacity - waiting);
            }
        }
        let space = self.bytes.capacity() - self.bytes.len();
        (&mut self.bytes).limit(space)
    }
}
