//! The protocol without sockets or clocks: bytes in, events and bytes out.
//!
//! [`Connection`] takes received bytes and yields [`Event`]s and the bytes that the protocol itself has to
//! send (greeting, READY, PONG). [`Encoder`] writes messages. Neither blocks, spawns or reads a clock, so
//! both are tested and fuzzed by feeding them bytes.

pub mod command;
mod connection;
mod encoder;
pub mod frame;
mod frame_buffers;
pub mod greeting;

pub use command::PeerProperties;
pub use connection::{CONTROL_BYTES_HIGH, Connection, ConnectionOptions, Event};
pub use encoder::Encoder;

/// One multipart message: its parts in order, at least one.
pub type Message = Vec<bytes::Bytes>;

/// A violation of the protocol or of a limit, after which the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The first bytes are not a ZMTP greeting of version 2 or later.
    #[error("not a ZMTP greeting (another protocol, or ZMTP 1.0, which is not supported)")]
    NotZmtp,
    /// The peer speaks ZMTP 2.0 or older.
    #[error("peer speaks an unsupported old ZMTP revision ({revision}); 3.0 and later are supported")]
    UnsupportedVersion {
        /// The revision byte of its greeting.
        revision: u8,
    },
    /// The peer wants authentication or encryption.
    #[error("peer wants security mechanism \"{name}\"; only NULL is supported")]
    UnsupportedMechanism {
        /// The mechanism, with unprintable bytes escaped.
        name: String,
    },
    /// A frame has reserved flags, or flags that exclude each other.
    #[error("bad frame flags {flags:#04x}")]
    BadFlags {
        /// The flags byte.
        flags: u8,
    },
    /// A frame claims to be longer than allowed.
    #[error("frame of {bytes} bytes, limit {bytes_max}")]
    FrameTooLarge {
        /// Its claimed size in bytes.
        bytes: u64,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// The parts of a message together are larger than allowed.
    #[error("message of at least {bytes} bytes, limit {bytes_max}")]
    MessageTooLarge {
        /// Size so far in bytes, with the frame just announced.
        bytes: u64,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// A message has more parts than allowed.
    #[error("message of more than {parts_max} parts")]
    TooManyParts {
        /// The limit.
        parts_max: usize,
    },
    /// A command is malformed.
    #[error("malformed command: {0}")]
    BadCommand(&'static str),
    /// READY names a kind of socket that does not exist.
    #[error("unknown socket type")]
    UnknownSocketType,
    /// READY carries an identity of more than 255 bytes.
    #[error("identity of {bytes} bytes, limit 255")]
    IdentityTooLong {
        /// Its size in bytes.
        bytes: usize,
    },
    /// The peer's kind of socket is not compatible with this one.
    #[error("socket type {theirs} cannot talk to {ours}")]
    IncompatibleSocketType {
        /// Our kind of socket.
        ours: SocketType,
        /// The peer's.
        theirs: SocketType,
    },
    /// A message before READY, or a second READY.
    #[error("{0} at the wrong time")]
    OutOfOrder(&'static str),
    /// The peer sent ERROR.
    #[error("peer sent ERROR: {0}")]
    PeerError(String),
}

/// Kinds of sockets in ZMTP 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the whole story")]
pub enum SocketType {
    Req,
    Rep,
    Dealer,
    Router,
    Pub,
    XPub,
    Sub,
    XSub,
    Push,
    Pull,
    Pair,
}

impl SocketType {
    const NAMES: [(SocketType, &'static str); 11] = [
        (SocketType::Req, "REQ"),
        (SocketType::Rep, "REP"),
        (SocketType::Dealer, "DEALER"),
        (SocketType::Router, "ROUTER"),
        (SocketType::Pub, "PUB"),
        (SocketType::XPub, "XPUB"),
        (SocketType::Sub, "SUB"),
        (SocketType::XSub, "XSUB"),
        (SocketType::Push, "PUSH"),
        (SocketType::Pull, "PULL"),
        (SocketType::Pair, "PAIR"),
    ];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    fn parse(name: &[u8]) -> Result<SocketType, ProtocolError> {
        let found = Self::NAMES.iter().find(|(_, known)| known.as_bytes() == name);
        found.map(|(kind, _)| *kind).ok_or(ProtocolError::UnknownSocketType)
    }

    /// Whether a socket of this kind may talk to one of kind `peer`. Only ROUTER and DEALER are
    /// implemented here.
    #[must_use]
    pub fn accepts(self, peer: SocketType) -> bool {
        match self {
            SocketType::Router => matches!(peer, SocketType::Dealer | SocketType::Req | SocketType::Router),
            SocketType::Dealer => matches!(peer, SocketType::Router | SocketType::Rep | SocketType::Dealer),
            _ => false,
        }
    }
}

impl std::fmt::Display for SocketType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
