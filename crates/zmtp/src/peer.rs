//! The handle on a connected peer: an id and a bounded queue of messages to it.
//!
//! The queue is drained by the task that owns the connection. Lock order: the outbox lock is a leaf; no
//! other lock is taken and no foreign code is run under it (wakers are woken after it is released).

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::budget::{Budget, Usage};
use crate::codec::Message;

/// Capacity that an empty queue keeps, in messages.
const KEEP_MESSAGES: usize = 256;

/// What a message in a queue takes besides its bytes, about.
const MESSAGE_BYTES: usize = 256;

/// Bytes that may wait for one peer without being counted over all peers.
const UNCOUNTED_BYTES: usize = 32 * 1024;

/// Identifies one connection. Ids are unique within the process and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u64);

impl PeerId {
    /// The id as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection is over; no message will ever reach this peer again.
    #[error("the peer is gone")]
    Gone,
    /// The peer does not read fast enough: its queue is at a limit.
    #[error("the peer's send queue is full")]
    Full,
}

/// Messages that wait to be sent to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Messages.
    pub messages: usize,
    /// Bytes in their parts.
    pub bytes: usize,
}

/// A handle on a connected peer. Clones are cheap and refer to the same connection; they do not keep it
/// open.
#[derive(Clone)]
pub struct Peer(Arc<Shared>);

struct Shared {
    id: PeerId,
    remote: String,
    identity: OnceLock<Bytes>,
    limit: Queued,
    usage: Arc<Usage>,
    outbox: Mutex<Outbox>,
    /// Over half of a limit is queued: the connection's task should not read further requests.
    is_congested: AtomicBool,
    /// Set by the service.
    state: OnceLock<Box<dyn Any + Send + Sync>>,
    /// [`Pause`]s that exist.
    pauses: AtomicUsize,
    /// It is not closed to make room for another one.
    is_kept: AtomicBool,
    /// When it was accepted.
    since: Instant,
    /// Seconds from then to its last message; 0 before the first.
    last_message: AtomicU64,
    /// Notified when a full queue has space again, and at the end.
    room: Notify,
}

#[derive(Default)]
struct Outbox {
    messages: VecDeque<Message>,
    /// Queued or being written.
    queued: Queued,
    /// What of it counts in the sum of all peers, in bytes.
    counted: usize,
    ask: Ask,
    waker: Option<Waker>,
    /// The connection's task sleeps and would not notice a new message by itself.
    wake_on_send: bool,
    is_gone: bool,
    /// A send was refused since the queue last had space.
    refused: bool,
}

/// The request to the connection's task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Ask {
    /// Go on.
    #[default]
    Run,
    /// Stop reading, send what is queued, end.
    Drain,
    /// End at once.
    Close,
}

impl Peer {
    pub(crate) fn new(id: PeerId, remote: String, limit: Queued, usage: Arc<Usage>) -> Peer {
        Peer(Arc::new(Shared {
            id,
            remote,
            identity: OnceLock::new(),
            limit,
            usage,
            outbox: Mutex::default(),
            is_congested: AtomicBool::new(false),
            state: OnceLock::new(),
            pauses: AtomicUsize::new(0),
            is_kept: AtomicBool::new(false),
            since: Instant::now(),
            last_message: AtomicU64::new(0),
            room: Notify::new(),
        }))
    }

    /// The id of this connection.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.0.id
    }

    /// The other end's address, for logs.
    #[must_use]
    pub fn remote(&self) -> &str {
        &self.0.remote
    }

    /// The routing id that the peer announced; empty if none.
    #[must_use]
    pub fn identity(&self) -> &[u8] {
        self.0.identity.get().map_or(&[], |identity| identity)
    }

    /// What the service keeps for this connection, if that is of this type.
    #[must_use]
    pub fn state<T: Any>(&self) -> Option<&T> {
        self.0.state.get()?.downcast_ref()
    }

    /// Keeps something of the service's own for this connection, once: later calls change nothing. Call it from
    /// [`Service::connected`](crate::Service::connected).
    pub fn set_state<T: Any + Send + Sync>(&self, state: T) {
        let _ = self.0.state.set(Box::new(state));
    }

    /// Marks a peer that is in use: it is never closed to make room for another one.
    pub fn keep(&self) {
        self.0.is_kept.store(true, Ordering::Relaxed);
    }

    /// Stops the delivery of messages from this peer until the result is dropped. Messages to it are sent, and the
    /// connection does not drain before. Call it from [`Service::message`](crate::Service::message).
    #[must_use = "dropping it ends the pause"]
    pub fn pause(&self) -> Pause {
        self.0.pauses.fetch_add(1, Ordering::Relaxed);
        Pause(self.clone())
    }

    /// Queues a message of these parts. Never blocks; may be called from any thread.
    ///
    /// Messages arrive in the order in which they were queued, until the connection ends: `Ok` does not
    /// promise delivery. A message without parts has no form on the wire; it is dropped.
    ///
    /// # Errors
    /// `Gone` if the connection is over, `Full` if the queue is at a limit (see
    /// [`Limits`](crate::Limits)); a message larger than the limit in bytes passes if nothing is waiting.
    pub fn send(&self, parts: impl Into<Message>) -> Result<(), SendError> {
        self.try_send(parts.into()).map_err(|(error, _)| error)
    }

    /// As [`send`](Self::send), but the message comes back with the error.
    pub(crate) fn try_send(&self, message: Message) -> Result<(), (SendError, Message)> {
        let bytes = message.iter().map(Bytes::len).sum::<usize>();
        let mut outbox = self.lock();
        if outbox.is_gone {
            return Err((SendError::Gone, message));
        }
        if message.is_empty() {
            return Ok(());
        }
        let Queued { messages: queued_messages, bytes: queued_bytes } = outbox.queued;
        let limit = self.0.limit;
        let is_over = queued_bytes.saturating_add(bytes) > limit.bytes && queued_messages > 0;
        if queued_messages >= limit.messages || is_over || !self.count(&mut outbox, bytes) {
            outbox.refused = true;
            Usage::count(&self.0.usage.answers_refused);
            return Err((SendError::Full, message));
        }
        outbox.queued.messages += 1;
        outbox.queued.bytes += bytes;
        outbox.messages.push_back(message);
        self.note_congestion(outbox.queued);
        let waker = if outbox.wake_on_send { outbox.waker.take() } else { None };
        drop(outbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Ends the connection soon. Queued messages are dropped.
    pub fn close(&self) {
        self.ask(Ask::Close);
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.lock().is_gone
    }

    /// Messages and bytes that wait to be sent to this peer.
    #[must_use]
    pub fn queued(&self) -> Queued {
        self.lock().queued
    }

    /// Counts one more message of `bytes` in the sum of all peers. False if there is no room.
    fn count(&self, outbox: &mut Outbox, bytes: usize) -> bool {
        let Queued { messages, bytes: queued } = outbox.queued;
        let counted = counted(Queued { messages: messages + 1, bytes: queued.saturating_add(bytes) });
        let fits = counted == 0 || self.sending().take_if_any(counted - outbox.counted);
        if fits {
            outbox.counted = counted;
        }
        fits
    }

    fn note_congestion(&self, queued: Queued) {
        let limit = self.0.limit;
        let is_congested = queued.messages > limit.messages / 2 || queued.bytes > limit.bytes / 2;
        self.0.is_congested.store(is_congested, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        // Nothing under this lock leaves the outbox half changed, so a panic elsewhere does not matter.
        self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ask(&self, ask: Ask) {
        let mut outbox = self.lock();
        outbox.ask = outbox.ask.max(ask);
        let waker = outbox.waker.take();
        drop(outbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the connection's task, whatever it waits for.
    pub(crate) fn wake(&self) {
        self.ask(Ask::Run);
    }

    /// Completes when a send might succeed that was refused as `Full`, or fail for good.
    pub(crate) async fn wait_for_room(&self) {
        let room = self.0.room.notified();
        {
            let mut outbox = self.lock();
            let is_full = outbox.queued.messages > 0;
            if outbox.is_gone || !is_full {
                return;
            }
            outbox.refused = true;
        }
        room.await;
    }

    // The methods below are for the connection's task.

    pub(crate) fn set_identity(&self, identity: Bytes) {
        // Set once, at the handshake; a second READY is a protocol error.
        let _ = self.0.identity.set(identity);
    }

    /// The sum of what waits for all peers.
    pub(crate) fn sending(&self) -> &Budget {
        &self.0.usage.sending
    }

    /// A message has arrived: the peer is in use.
    pub fn note_message(&self) {
        let seconds = self.0.since.elapsed().as_secs().max(1);
        self.0.last_message.store(seconds, Ordering::Relaxed);
    }

    /// Since when a peer that may be closed for another one has been silent, and whether it ever sent a message.
    /// `None` for one that is to be kept.
    pub(crate) fn idle(&self) -> Option<Idle> {
        if self.0.is_kept.load(Ordering::Relaxed) || self.is_paused() {
            return None;
        }
        let last_message = self.0.last_message.load(Ordering::Relaxed);
        let since = self.0.since + Duration::from_secs(last_message);
        Some(Idle { has_asked: last_message > 0, since })
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.0.is_congested.load(Ordering::Relaxed)
    }

    pub(crate) fn is_paused(&self) -> bool {
        // Pairs with the release of the last pause: what was done before it is visible.
        self.0.pauses.load(Ordering::Acquire) > 0
    }

    /// What the task of a connection that was [handed over](crate::Handover) is to do. A change wakes the task.
    pub fn poll_ask(&self, cx: &Context<'_>) -> Ask {
        self.attend(cx.waker())
    }

    /// Completes when the connection is to end.
    pub async fn asked_to_end(&self) {
        let is_asked = |cx: &mut Context<'_>| self.poll_ask(cx) > Ask::Run;
        poll_fn(|cx| if is_asked(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// The task is awake: it will check the outbox before it sleeps.
    pub(crate) fn attend(&self, waker: &Waker) -> Ask {
        let mut outbox = self.lock();
        outbox.wake_on_send = false;
        match &mut outbox.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        outbox.ask
    }

    /// The task is about to sleep. False if there is something to do first.
    ///
    /// `wants_messages`: it could send messages at once, so a new one must wake it.
    pub(crate) fn rest(&self, seen: Ask, wants_messages: bool) -> bool {
        let mut outbox = self.lock();
        let has_work = wants_messages && !outbox.messages.is_empty();
        let is_idle = outbox.ask == seen && !has_work;
        outbox.wake_on_send = is_idle && wants_messages;
        is_idle
    }

    /// Accounts for `sent`, then moves queued messages into `batch` (empty), at least one if there is
    /// one, up to about `bytes_max`. Returns what was moved.
    pub(crate) fn take_batch(&self, sent: Queued, batch: &mut Vec<Message>, bytes_max: usize) -> Queued {
        let mut outbox = self.lock();
        outbox.queued.messages -= sent.messages;
        outbox.queued.bytes -= sent.bytes;
        let counted = counted(outbox.queued).min(outbox.counted);
        self.sending().give_back(std::mem::replace(&mut outbox.counted, counted) - counted);
        let mut taken = Queued::default();
        while taken.bytes < bytes_max
            && let Some(message) = outbox.messages.pop_front()
        {
            taken.messages += 1;
            taken.bytes += message.iter().map(Bytes::len).sum::<usize>();
            batch.push(message);
        }
        if outbox.messages.is_empty() && outbox.messages.capacity() > KEEP_MESSAGES {
            outbox.messages.shrink_to(KEEP_MESSAGES);
        }
        self.note_congestion(outbox.queued);
        let has_room = outbox.refused && !self.is_congested();
        outbox.refused &= !has_room;
        drop(outbox);
        if has_room {
            self.0.room.notify_waiters();
        }
        taken
    }

    /// The connection is over: later sends fail, queued messages are dropped.
    pub(crate) fn end(&self) {
        let mut outbox = self.lock();
        outbox.is_gone = true;
        outbox.queued = Queued::default();
        self.sending().give_back(std::mem::take(&mut outbox.counted));
        let dropped = (std::mem::take(&mut outbox.messages), outbox.waker.take());
        drop(outbox);
        drop(dropped);
        self.0.room.notify_waiters();
    }
}

/// How long a peer has been silent. Ordered: the first one is closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Idle {
    pub(crate) has_asked: bool,
    pub(crate) since: Instant,
}

/// What a queue counts in the sum of all peers, in bytes.
fn counted(queued: Queued) -> usize {
    queued.bytes.saturating_add(queued.messages * MESSAGE_BYTES).saturating_sub(UNCOUNTED_BYTES)
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.0.id).field("remote", &self.0.remote).finish_non_exhaustive()
    }
}

/// While it exists, no message of the peer is delivered. See [`Peer::pause`].
#[derive(Debug)]
pub struct Pause(Peer);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.0.pauses.fetch_sub(1, Ordering::Release);
        if std::thread::panicking() {
            // As after a panic in the service: this request has no answer.
            self.0.close();
        } else {
            self.0.wake();
        }
    }
}
