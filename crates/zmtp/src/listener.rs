//! Listening sockets and outgoing connections.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::bind::{BACKLOG, BindTcpError, BoundTcp, bind_tcp};
use crate::endpoint::Endpoint;
use crate::handover::Stream;

/// A TCP peer on a machine that vanished is noticed after this time plus three probes 10 s apart.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// An endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// No endpoint was given.
    #[error("no endpoint to bind")]
    NoEndpoint,
    /// The host has no address.
    #[error("cannot resolve {endpoint}")]
    Resolve {
        /// The endpoint.
        endpoint: Endpoint,
        /// The resolver's error.
        source: io::Error,
    },
    /// A running server listens there.
    #[error("{endpoint} is in use by another process")]
    InUse {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// The path of an `ipc` endpoint is taken by something that is not a socket.
    #[error("{endpoint}: a file that is not a socket is in the way")]
    NotASocket {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// The system refused.
    #[error("cannot bind {endpoint}")]
    Io {
        /// The endpoint.
        endpoint: Endpoint,
        /// The system's error.
        source: io::Error,
    },
}

/// A listening socket of either kind.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Ipc(IpcListener),
}

impl Listener {
    /// One for each address of the endpoint's host.
    pub(crate) async fn bind(endpoint: &Endpoint) -> Result<Vec<Listener>, BindError> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let bound = bind_tcp(host, *port).await.and_then(BoundTcp::listen);
                let bound = bound.map_err(|error| tcp_error(endpoint, error))?;
                Ok(bound.into_iter().map(Listener::Tcp).collect())
            }
            Endpoint::Ipc(path) => Ok(vec![Listener::Ipc(IpcListener::bind(path)?)]),
        }
    }

    /// The endpoint that is really bound, with its port.
    pub(crate) fn local_endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Listener::Tcp(listener) => {
                let address = listener.local_addr()?;
                Ok(Endpoint::Tcp { host: address.ip().to_string(), port: address.port() })
            }
            Listener::Ipc(listener) => Ok(Endpoint::Ipc(listener.path.clone())),
        }
    }

    /// The next connection, and where it comes from.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, String)>> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                tune(&stream);
                Poll::Ready(Ok((Stream::Tcp(stream), format!("tcp://{address}"))))
            }
            Listener::Ipc(listener) => {
                let (stream, _) = ready!(listener.listener.poll_accept(cx))?;
                let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
                let remote = pid.map_or_else(|| "ipc".to_owned(), |pid| format!("ipc:pid {pid}"));
                Poll::Ready(Ok((Stream::Ipc(stream), remote)))
            }
        }
    }
}

fn tcp_error(endpoint: &Endpoint, error: BindTcpError) -> BindError {
    let endpoint = endpoint.clone();
    match error {
        BindTcpError::Resolve(source) => BindError::Resolve { endpoint, source },
        BindTcpError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            BindError::InUse { endpoint }
        }
        BindTcpError::Bind { source, .. } => BindError::Io { endpoint, source },
    }
}

/// Sends small messages at once, and notices a vanished machine. A failure is not an error.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let keepalive = keepalive.with_retries(3);
    let tuned = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "cannot set TCP options");
    }
}

/// Connects to `endpoint`; a name is tried at each of its addresses, IPv4 first.
pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let mut addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
            addresses.sort_by_key(|address| !address.is_ipv4());
            let stream = TcpStream::connect(addresses.as_slice()).await?;
            tune(&stream);
            Ok(Stream::Tcp(stream))
        }
        Endpoint::Ipc(path) => Ok(Stream::Ipc(UnixStream::connect(path).await?)),
    }
}

/// A Unix socket that is removed when it is dropped, if its path still leads to it.
#[derive(Debug)]
pub struct IpcListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file. The inode cannot be given to another file while the socket
    /// is open.
    file: (u64, u64),
}

impl IpcListener {
    /// Binds a socket. It gets mode 0600 before it listens, so no other user can connect in between. A socket on which
    /// no process listens any more is replaced.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(path: &Path) -> Result<IpcListener, BindError> {
        let endpoint = &Endpoint::Ipc(path.to_owned());
        let io_error = |source| BindError::Io { endpoint: endpoint.clone(), source };
        let in_use = || BindError::InUse { endpoint: endpoint.clone() };
        let address = SockAddr::unix(path).map_err(io_error)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io_error)?;
        let bound = match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(endpoint, path, &address)?;
                socket.bind(&address)
            }
            bound => bound,
        };
        bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => in_use(),
            _ => io_error(source),
        })?;
        let file = file_of(path).map_err(io_error)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io_error)?;
        socket.set_nonblocking(true).map_err(io_error)?;
        socket.listen(BACKLOG).map_err(io_error)?;
        // Another server that started at the same time may have taken this socket for a stale one.
        if file_of(path).ok() != Some(file) {
            return Err(in_use());
        }
        let listener = UnixListener::from_std(socket.into()).map_err(io_error)?;
        Ok(IpcListener { listener, path: path.to_owned(), file })
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's, as when there are no descriptors left.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for IpcListener {
    fn drop(&mut self) {
        if file_of(&self.path).ok() == Some(self.file)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes the socket at `path` if no process listens there.
fn remove_stale(endpoint: &Endpoint, path: &Path, address: &SockAddr) -> Result<(), BindError> {
    let io_error = |source| BindError::Io { endpoint: endpoint.clone(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(io_error)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket { endpoint: endpoint.clone() });
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io_error)?;
    // Nonblocking: a full backlog means that a server is running.
    probe.set_nonblocking(true).map_err(io_error)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(io_error(error)),
        _ => return Err(BindError::InUse { endpoint: endpoint.clone() }),
    }
    if file_of(path).ok() != Some((metadata.dev(), metadata.ino())) {
        return Err(BindError::InUse { endpoint: endpoint.clone() });
    }
    tracing::info!(path = %path.display(), "removing the stale socket of a server that has ended");
    std::fs::remove_file(path).map_err(io_error)
}
