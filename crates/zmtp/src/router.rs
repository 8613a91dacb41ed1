//! The ROUTER: accepts connections and serves each in a task of its own.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::budget::Usage;
use crate::codec::{ConnectionOptions, Message, PeerProperties, SocketType};
use crate::driver::{CloseReason, Driver, Inlet, Refusal};
use crate::endpoint::Endpoint;
use crate::handover::Stream;
use crate::handover::{Beginning, Handover, Place, Protocols, beginning};
use crate::limits::Limits;
use crate::listener::{BindError, Listener};
use crate::peer::{Peer, PeerId, Queued};
use crate::registry::Registry;

/// Pause after a failed accept. The system is short of something, usually of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The same warning is not repeated within this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Callbacks of a server, called in the connections' own tasks.
pub trait Service: Send + Sync + 'static {
    /// A peer has completed its handshake.
    fn connected(&self, peer: &Peer) {
        let _ = peer;
    }

    /// A complete message. Called in the order of arrival and never concurrently for one peer, inline in
    /// the connection's task: it must be quick (microseconds, at most a few milliseconds). Answers given
    /// with [`Peer::send`] before it returns are written at once. Work that takes longer goes to another thread,
    /// with a [`Peer::pause`] that keeps the order.
    ///
    /// A panic here ends this connection, not the server.
    fn message(&self, peer: &Peer, parts: Message);

    /// The connection is over. Called exactly once for each peer that was
    /// [`connected`](Self::connected), after its last message. Must not panic.
    fn gone(&self, peer: &Peer);
}

/// A bound ROUTER socket that does not serve yet.
///
/// Unlike a ROUTER of libzmq, it does not put the peer's routing id in front of each message; peers are
/// [`Peer`] values.
#[derive(Debug)]
pub struct Router {
    listeners: Vec<Listener>,
    endpoints: Vec<Endpoint>,
    limits: Limits,
    usage: Arc<Usage>,
}

impl Router {
    /// Binds every one of `endpoints`, a host at each of its addresses.
    ///
    /// # Errors
    /// The first endpoint that cannot be bound. Those bound before it are released.
    pub async fn bind(endpoints: &[Endpoint], limits: Limits) -> Result<Router, BindError> {
        if endpoints.is_empty() {
            return Err(BindError::NoEndpoint);
        }
        let usage = Usage::new(&limits);
        let mut router = Router { listeners: Vec::new(), endpoints: Vec::new(), limits, usage };
        for endpoint in endpoints {
            for listener in Listener::bind(endpoint).await? {
                let local = listener.local_endpoint();
                let local = local.map_err(|source| BindError::Io { endpoint: endpoint.clone(), source })?;
                router.listeners.push(listener);
                router.endpoints.push(local);
            }
        }
        Ok(router)
    }

    /// The endpoints that are really bound: addresses instead of names, real ports instead of 0.
    #[must_use]
    pub fn local_endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What its connections hold and were refused, for reports.
    #[must_use]
    pub fn usage(&self) -> Arc<Usage> {
        self.usage.clone()
    }

    /// Serves until `shutdown` completes; then accepts and reads nothing further, sends queued messages for
    /// at most [`Limits::linger`], and closes. When it returns, every `gone` has been delivered.
    pub async fn serve<S: Service>(self, service: Arc<S>, shutdown: impl Future<Output = ()>) {
        self.serve_all(service, Protocols { zmtp: true, http2: None }, shutdown).await;
    }

    /// The same with other protocols on the same sockets.
    pub async fn serve_all<S: Service>(
        self,
        service: Arc<S>,
        protocols: Protocols,
        shutdown: impl Future<Output = ()>,
    ) {
        let protocols = Arc::new(protocols);
        let Router { listeners, endpoints: _, limits, usage } = self;
        let registry = Arc::new(Registry::new(limits.peers_max, limits.half_open_max, usage.clone()));
        let limits = Arc::new(limits);
        let mut acceptor = Acceptor {
            listeners,
            registry: registry.clone(),
            turn: 0,
            resume_at: None,
            warn: Seldom::default(),
        };
        let mut crowded = Seldom::default();
        let mut tasks = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let (stream, remote) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = tasks.join_next() => {
                    report_panic(ended);
                    continue;
                }
                accepted = acceptor.accept() => accepted,
            };
            let peer = new_peer(remote, &limits, &usage);
            if let Some(evicted) = registry.begin(peer.clone()) {
                crowded.warn(|| {
                    tracing::warn!(
                        remote = evicted.remote(),
                        "too many half-open connections, closed the oldest"
                    );
                });
            }
            let place =
                Place { registry: registry.clone(), peer, limits: limits.clone(), usage: usage.clone() };
            tasks.spawn(serve_connection(stream, place, protocols.clone(), service.clone()));
        }
        drop(acceptor);
        registry.drain();
        while let Some(ended) = tasks.join_next().await {
            report_panic(ended);
        }
    }
}

/// Serves one connection in the protocol that it begins with.
async fn serve_connection<S: Service>(
    stream: Stream,
    place: Place,
    protocols: Arc<Protocols>,
    service: Arc<S>,
) {
    if let Some(http2) = &protocols.http2 {
        let known = tokio::select! {
            biased;
            () = place.peer.asked_to_end() => return place.count_end(&CloseReason::ClosedHere),
            known = timeout(place.limits.handshake_timeout, beginning(&stream)) => known,
        };
        match known {
            Err(_) => return place.count_end(&CloseReason::HandshakeTimeout),
            Ok(Err(error)) => return place.count_end(&error.into()),
            Ok(Ok(Beginning::Closed)) => return place.count_end(&CloseReason::PeerClosed),
            Ok(Ok(Beginning::Http2)) => return http2.clone().serve(Handover::new(stream, place)).await,
            Ok(Ok(Beginning::Other)) => {}
        }
    }
    if !protocols.zmtp {
        return place.count_end(&CloseReason::OtherProtocol);
    }
    let options = connection_options(SocketType::Router, Bytes::new(), &place.limits);
    let (limits, usage, peer) = (place.limits.clone(), place.usage.clone(), place.peer.clone());
    let inlet = ServiceInlet { service, place, connected: false };
    match stream {
        Stream::Tcp(stream) => Driver::new(stream, options, &limits, &usage, peer, inlet).run().await,
        Stream::Ipc(stream) => Driver::new(stream, options, &limits, &usage, peer, inlet).run().await,
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

/// A peer with a new id.
pub(crate) fn new_peer(remote: String, limits: &Limits, usage: &Arc<Usage>) -> Peer {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = PeerId(NEXT.fetch_add(1, Ordering::Relaxed));
    let limit =
        Queued { messages: limits.send_queue_messages_max.max(1), bytes: limits.send_queue_bytes_max };
    Peer::new(id, remote, limit, usage.clone())
}

pub(crate) fn connection_options(
    socket_type: SocketType,
    identity: Bytes,
    limits: &Limits,
) -> ConnectionOptions {
    ConnectionOptions {
        socket_type,
        identity,
        frame_bytes_max: limits.frame_bytes_max,
        message_parts_max: limits.message_parts_max,
        message_bytes_max: limits.message_bytes_max,
        // A peer sends no messages before it is admitted, so a refused peer loses none.
        hold_ready: socket_type == SocketType::Router,
    }
}

/// Delivers one connection's messages to the service, and calls `gone` when it is dropped.
struct ServiceInlet<S: Service> {
    service: Arc<S>,
    place: Place,
    connected: bool,
}

impl<S: Service> Inlet for ServiceInlet<S> {
    fn admit(&mut self, peer: &Peer, properties: PeerProperties) -> Result<(), Refusal> {
        self.place.registry.admit(peer.id(), properties.identity)?;
        tracing::debug!(peer = %peer.id(), remote = peer.remote(), socket_type = %properties.socket_type, "connected");
        self.connected = true;
        self.service.connected(peer);
        Ok(())
    }

    fn message(&mut self, peer: &Peer, message: Message) {
        self.service.message(peer, message);
    }
}

impl<S: Service> Drop for ServiceInlet<S> {
    fn drop(&mut self) {
        self.place.registry.remove(self.place.peer.id());
        if self.connected {
            self.service.gone(&self.place.peer);
        }
    }
}

/// All listening sockets of a router, each in turn.
struct Acceptor {
    listeners: Vec<Listener>,
    registry: Arc<Registry>,
    turn: usize,
    resume_at: Option<Instant>,
    warn: Seldom,
}

impl Acceptor {
    /// The next connection. Dropping the future loses none.
    async fn accept(&mut self) -> (Stream, String) {
        loop {
            if let Some(resume_at) = self.resume_at {
                tokio::time::sleep_until(resume_at).await;
                self.resume_at = None;
            }
            match self.accept_once().await {
                Ok(accepted) => return accepted,
                // The client closed the connection while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.warn.warn(|| tracing::warn!(%error, "cannot accept connections; retrying"));
                    self.registry.make_room();
                    self.resume_at = Some(Instant::now() + ACCEPT_BACKOFF);
                }
            }
        }
    }

    async fn accept_once(&mut self) -> io::Result<(Stream, String)> {
        poll_fn(|cx| {
            for _ in 0..self.listeners.len() {
                self.turn = (self.turn + 1) % self.listeners.len();
                if let Poll::Ready(accepted) = self.listeners[self.turn].poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Limits the rate of one kind of warning.
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    fn warn(&mut self, emit: impl FnOnce()) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last >= WARN_INTERVAL) {
            self.last = Some(now);
            emit();
        }
    }
}
