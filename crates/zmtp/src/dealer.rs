//! The DEALER: one connection, a queue in each direction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::budget::Usage;
use crate::codec::command::IDENTITY_BYTES_MAX;
use crate::codec::{Message, PeerProperties, SocketType};
use crate::driver::{CloseReason, Driver, Inlet, Refusal};
use crate::endpoint::Endpoint;
use crate::handover::Stream;
use crate::limits::Limits;
use crate::listener;
use crate::peer::{Ask, Peer, Queued, SendError};
use crate::router::{connection_options, new_peer};

/// Options of a [`Dealer`].
#[derive(Clone, Debug)]
pub struct DealerOptions {
    /// Routing id, up to 255 bytes. Default: empty, and the ROUTER chooses one.
    pub identity: Bytes,
    /// Time to connect and shake hands. Default: 5 s.
    pub connect_timeout: Duration,
    /// Reading pauses while this many messages wait to be received. Default: 1000.
    pub receive_queue_messages_max: usize,
    /// Reading pauses while this many bytes wait to be received. Default: 64 MiB.
    pub receive_queue_bytes_max: usize,
    /// Limits for the other side, and pings. `peers_max`, `half_open_max` and `handshake_timeout`
    /// do not apply.
    pub limits: Limits,
}

impl Default for DealerOptions {
    fn default() -> Self {
        DealerOptions {
            identity: Bytes::new(),
            connect_timeout: Duration::from_secs(5),
            receive_queue_messages_max: 1000,
            receive_queue_bytes_max: 64 * 1024 * 1024,
            limits: Limits::default(),
        }
    }
}

/// A [`Dealer`] could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The identity is longer than 255 bytes.
    #[error("identity of {bytes} bytes, limit 255")]
    IdentityTooLong {
        /// Its size in bytes.
        bytes: usize,
    },
    /// The connection could not be made.
    #[error("cannot connect to {endpoint}")]
    Io {
        /// The endpoint.
        endpoint: Endpoint,
        /// The system's error.
        source: std::io::Error,
    },
    /// The connection ended within the handshake.
    #[error("handshake with {endpoint} failed")]
    Handshake {
        /// The endpoint.
        endpoint: Endpoint,
        /// The reason for its end.
        source: CloseReason,
    },
    /// It took too long.
    #[error("no handshake with {endpoint} within {timeout:?}")]
    Timeout {
        /// The endpoint.
        endpoint: Endpoint,
        /// The time allowed.
        timeout: Duration,
    },
}

/// The connection is over, and every message that had arrived has been received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is over: {0}")]
pub struct RecvError(#[from] pub CloseReason);

/// A connected DEALER socket. It does not reconnect; connect a new one instead.
///
/// When it is dropped, queued messages are still sent for up to [`Limits::linger`] in the background;
/// [`close`](Self::close) waits for that.
#[derive(Debug)]
pub struct Dealer {
    peer: Peer,
    inbox: Arc<Inbox>,
    task: Option<JoinHandle<()>>,
}

impl Dealer {
    /// Connects to a ROUTER, REP or DEALER and completes the handshake.
    ///
    /// # Errors
    /// See [`ConnectError`]. There is one attempt.
    pub async fn connect(endpoint: &Endpoint, options: DealerOptions) -> Result<Dealer, ConnectError> {
        let bytes = options.identity.len();
        if bytes > IDENTITY_BYTES_MAX {
            return Err(ConnectError::IdentityTooLong { bytes });
        }
        let timeout = options.connect_timeout;
        let connecting = tokio::time::timeout(timeout, connect(endpoint, options));
        connecting
            .await
            .unwrap_or_else(|_| Err(ConnectError::Timeout { endpoint: endpoint.clone(), timeout }))
    }

    /// Queues a message and returns at once, as [`Peer::send`] does.
    ///
    /// # Errors
    /// `Full` or `Gone`.
    pub fn try_send(&self, parts: impl Into<Message>) -> Result<(), SendError> {
        self.peer.send(parts)
    }

    /// Queues a message, waiting while the queue is full.
    ///
    /// # Errors
    /// `Gone`.
    pub async fn send(&self, parts: impl Into<Message>) -> Result<(), SendError> {
        let mut message = parts.into();
        loop {
            match self.peer.try_send(message) {
                Ok(()) => return Ok(()),
                Err((SendError::Gone, _)) => return Err(SendError::Gone),
                Err((SendError::Full, returned)) => message = returned,
            }
            self.peer.wait_for_room().await;
        }
    }

    /// The next message. Dropping the future loses none.
    ///
    /// # Errors
    /// The connection is over and there is no further message.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        loop {
            if let Some(outcome) = self.inbox.pop(&self.peer) {
                return outcome;
            }
            self.inbox.arrived.notified().await;
        }
    }

    /// The connection, to send from other tasks.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Sends queued messages for up to [`Limits::linger`], and ends the connection.
    pub async fn close(mut self) {
        self.peer.ask(Ask::Drain);
        if let Some(task) = self.task.take() {
            // It ends by itself; a panic in it has been reported where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        self.peer.ask(Ask::Drain);
    }
}

async fn connect(endpoint: &Endpoint, options: DealerOptions) -> Result<Dealer, ConnectError> {
    let stream = listener::connect(endpoint).await;
    let stream = stream.map_err(|source| ConnectError::Io { endpoint: endpoint.clone(), source })?;
    // The time to connect covers the handshake.
    let limits = Limits { handshake_timeout: Duration::MAX, ..options.limits };
    let usage = Usage::new(&limits);
    let peer = new_peer(endpoint.to_string(), &limits, &usage);
    let limit =
        Queued { messages: options.receive_queue_messages_max, bytes: options.receive_queue_bytes_max };
    let inbox = Arc::new(Inbox { limit, state: Mutex::default(), arrived: Notify::new() });
    let (ready, is_ready) = oneshot::channel();
    let inlet = InboxInlet { inbox: inbox.clone(), ready: Some(ready) };
    let options = connection_options(SocketType::Dealer, options.identity, &limits);
    let task = match stream {
        Stream::Tcp(stream) => {
            tokio::spawn(Driver::new(stream, options, &limits, &usage, peer.clone(), inlet).run())
        }
        Stream::Ipc(stream) => {
            tokio::spawn(Driver::new(stream, options, &limits, &usage, peer.clone(), inlet).run())
        }
    };
    // From here on, an early end of this future closes the connection.
    let mut dealer = Dealer { peer, inbox, task: Some(task) };
    match is_ready.await {
        Ok(()) => Ok(dealer),
        Err(_) => match dealer.recv().await {
            Err(RecvError(source)) => Err(ConnectError::Handshake { endpoint: endpoint.clone(), source }),
            Ok(_) => unreachable!("no message before the handshake is over"),
        },
    }
}

/// Messages received and not yet taken by the caller.
#[derive(Debug)]
struct Inbox {
    limit: Queued,
    state: Mutex<InboxState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct InboxState {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Reading has paused; the next receive resumes it.
    is_paused: bool,
    ended: Option<CloseReason>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        // Nothing under this lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, peer: &Peer) -> Option<Result<Message, RecvError>> {
        let mut state = self.lock();
        let Some(message) = state.messages.pop_front() else {
            return state.ended.clone().map(|reason| Err(RecvError(reason)));
        };
        state.bytes -= size(&message);
        let resumes = state.is_paused && !self.is_full(&state);
        state.is_paused &= !resumes;
        drop(state);
        if resumes {
            peer.wake();
        }
        Some(Ok(message))
    }

    fn is_full(&self, state: &InboxState) -> bool {
        state.messages.len() >= self.limit.messages.max(1) || state.bytes >= self.limit.bytes.max(1)
    }

    fn end(&self, reason: CloseReason) {
        self.lock().ended.get_or_insert(reason);
        self.arrived.notify_one();
    }
}

fn size(message: &[Bytes]) -> usize {
    message.iter().map(Bytes::len).sum()
}

struct InboxInlet {
    inbox: Arc<Inbox>,
    ready: Option<oneshot::Sender<()>>,
}

impl Inlet for InboxInlet {
    fn admit(&mut self, _peer: &Peer, _properties: PeerProperties) -> Result<(), Refusal> {
        if let Some(ready) = self.ready.take() {
            // The receiver is gone if connecting timed out; the connection is about to be closed then.
            let _ = ready.send(());
        }
        Ok(())
    }

    fn message(&mut self, _peer: &Peer, message: Message) {
        let mut state = self.inbox.lock();
        state.bytes += size(&message);
        state.messages.push_back(message);
        drop(state);
        self.inbox.arrived.notify_one();
    }

    fn is_congested(&self) -> bool {
        let mut state = self.inbox.lock();
        state.is_paused = self.inbox.is_full(&state);
        state.is_paused
    }

    fn ended(&mut self, reason: &CloseReason) {
        self.inbox.end(reason.clone());
    }
}

impl Drop for InboxInlet {
    fn drop(&mut self) {
        // Does nothing if `ended` was called; the task may also be dropped with its runtime.
        self.inbox.end(CloseReason::ClosedHere);
    }
}
