//! Connections that begin like HTTP/2 instead of ZMTP. A router accepts and counts them like its own, and hands them
//! over: one port serves both.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::budget::{Share, Usage};
use crate::driver::{CloseReason, Refusal};
use crate::limits::Limits;
use crate::peer::Peer;
use crate::registry::Registry;

/// The first byte of `PRI * HTTP/2.0`.
const HTTP2: u8 = b'P';

/// Serves the connections of another protocol.
pub trait OtherProtocol: Send + Sync + 'static {
    /// Serves one connection to its end, which it must bring about when the peer is [asked](Peer::poll_ask) for it.
    fn serve(self: Arc<Self>, connection: Handover) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What the connections of a router may speak.
pub struct Protocols {
    /// Whether ZMTP is served.
    pub zmtp: bool,
    /// What serves HTTP/2.
    pub http2: Option<Arc<dyn OtherProtocol>>,
}

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protocols").field("zmtp", &self.zmtp).field("http2", &self.http2.is_some()).finish()
    }
}

/// A socket of either kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Ipc(UnixStream),
}

/// A connection, and its place among all connections of the router.
#[derive(Debug)]
pub struct Handover {
    stream: Stream,
    place: Place,
}

impl Handover {
    pub(crate) fn new(stream: Stream, place: Place) -> Handover {
        Handover { stream, place }
    }

    /// The socket, and the place, which is left when it is dropped.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Place) {
        (self.stream, self.place)
    }
}

/// The place of a connection among all connections of a router.
#[derive(Debug)]
pub struct Place {
    pub(crate) registry: Arc<Registry>,
    pub(crate) peer: Peer,
    pub(crate) limits: Arc<Limits>,
    pub(crate) usage: Arc<Usage>,
}

impl Place {
    /// The handle on the connection. Its queue of messages is not used.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The router's limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What all connections hold together.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Room for unfinished and unserved messages, of the sum of all connections.
    #[must_use]
    pub fn room(&self) -> Share {
        Share::new(self.usage.receiving.clone())
    }

    /// The handshake is over.
    ///
    /// # Errors
    /// There is no room for another connection.
    pub fn admit(&self) -> Result<(), Refusal> {
        self.registry.admit(self.peer.id(), bytes::Bytes::new())
    }

    /// Counts the end of the connection by its reason.
    pub fn count_end(&self, reason: &CloseReason) {
        self.usage.count_end(reason);
        tracing::debug!(peer = %self.peer.id(), remote = self.peer.remote(), %reason, "connection ended");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peer.end();
        self.registry.remove(self.peer.id());
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    Http2,
    /// ZMTP or anything else.
    Other,
    Closed,
}

/// Looks at the first byte, which stays unread.
pub(crate) async fn beginning(stream: &Stream) -> io::Result<Beginning> {
    let mut first = [0];
    loop {
        let peeked = match stream {
            Stream::Tcp(stream) => {
                stream.readable().await?;
                stream.try_io(Interest::READABLE, || peek(stream, &mut first))
            }
            Stream::Ipc(stream) => {
                stream.readable().await?;
                stream.try_io(Interest::READABLE, || peek(stream, &mut first))
            }
        };
        match peeked {
            Ok(0) => return Ok(Beginning::Closed),
            Ok(_) => return Ok(if first == [HTTP2] { Beginning::Http2 } else { Beginning::Other }),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn peek(socket: impl std::os::fd::AsFd, first: &mut [u8; 1]) -> io::Result<usize> {
    let (_, bytes) = rustix::net::recv(socket, &mut first[..], rustix::net::RecvFlags::PEEK)?;
    Ok(bytes)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Ipc(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Ipc(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Ipc(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Ipc(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Ipc(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
