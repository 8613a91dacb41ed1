//! Event streams: subscribers follow what can be found in the cache (`protocol.md` 14).
//!
//! The core records what becomes visible and what ceases to be, in a bounded log, from the first
//! subscription to the end of the last; before and after that nothing is recorded at all. A recording begins
//! with the chunks that are there already and whose tokens a recent request has brought.
//!
//! A subscriber is sent a batch for each credit: one at once, which may be empty, then as there is something to
//! tell. One task writes all batches ([`publish`]), woken by a subscription, a credit, or the core's log. A
//! subscriber that reads slowly falls behind in the log, and is told so (`lost`) when its place has been given
//! away; it holds up nobody. Its subscription ends with its connection, by its own word, or when its instance
//! subscribes anew.
//!
//! Locks: the table, then the core or the bindings; never both of these. Nothing is encoded under any of them.

mod batch;
mod bindings;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_types::ids::InstanceId;
use larder_types::object::ChunkHash;
use larder_wire::message::{Envelope, StreamControl};
use larder_wire::ops::subscribe_kv_events::EventBatch;
use larder_wire::response::ResultFrame;
use larder_zmtp::{Peer, PeerId};
use tokio::sync::Notify;

use self::bindings::Bindings;
use crate::app::state::State;

/// Subscriptions at one time. Each needs an instance id of its own.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// Batches that a subscriber may be owed. Stock clients ask for one at a time.
const CREDITS_MAX: u32 = 1024;

/// Records that are read under the core's lock at once.
const RECORDS_READ: usize = 4096;

/// What an instance follows.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Who follows.
    pub peer: Peer,
    /// What every batch repeats.
    pub envelope: Envelope,
    /// Which model's events.
    pub model: Arc<str>,
    /// The last record it knows, 0 for none.
    pub cursor: u64,
    /// Events in a batch, at most.
    pub events_max: u16,
}

/// All subscriptions, and what they need.
#[derive(Debug)]
pub struct EventStreams {
    /// Records kept; 0: there are no streams.
    capacity: usize,
    /// Differs from one run of the server to the next.
    incarnation: u64,
    table: Mutex<Table>,
    bindings: Mutex<Bindings>,
    /// Whether the core records. Changes under the table's lock.
    recording: AtomicBool,
    unbound: AtomicU64,
    work: Notify,
}

#[derive(Debug, Default)]
struct Table {
    streams: BTreeMap<InstanceId, Stream>,
    /// The recording has begun and nothing was told of what was there before.
    starts: bool,
    next_id: u64,
}

#[derive(Debug)]
struct Stream {
    /// Tells it from later ones of the same instance.
    id: u64,
    follows: Subscription,
    credits: u32,
    /// Its first batch is on its way.
    has_begun: bool,
}

/// How the streams stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Subscriptions.
    pub subscribers: u64,
    /// Stored chunks that were not told of, for nobody remembered their tokens.
    pub unbound: u64,
}

impl EventStreams {
    /// No subscription yet. Keeps at most `records` records; with 0 there are no streams.
    pub fn new(records: usize) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            capacity: records,
            incarnation: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            table: Mutex::default(),
            bindings: Mutex::default(),
            recording: AtomicBool::new(false),
            unbound: AtomicU64::new(0),
            work: Notify::new(),
        }
    }

    /// Whether there are streams at all.
    pub fn are_served(&self) -> bool {
        self.capacity > 0
    }

    /// Records kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Names this run of the server.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// How the streams stand.
    pub fn gauges(&self) -> Gauges {
        let subscribers = self.table().streams.len() as u64;
        Gauges { subscribers, unbound: self.unbound.load(Ordering::Relaxed) }
    }

    /// A request that may make chunks `start..` of a prompt visible has brought their tokens. Costs nothing
    /// while nobody subscribes.
    pub fn bind(&self, chain: &[ChunkHash], tokens: &[u32], chunk_tokens: usize, start: usize) {
        if self.recording.load(Ordering::Relaxed) {
            self.bindings().bind(chain, tokens, chunk_tokens, start);
        }
    }

    /// Begins a stream. The instance's previous one ends. False if there are too many.
    pub fn subscribe(&self, state: &State, instance: InstanceId, follows: Subscription) -> bool {
        let mut table = self.table();
        let asked_as = (follows.peer.id(), &follows.envelope.uid);
        let same = |(_, stream): &(&InstanceId, &Stream)| stream.is(asked_as.0, asked_as.1);
        // A client that uses a number twice has given up what it meant before.
        let known = table.streams.iter().find(same).map(|(instance, _)| *instance);
        for previous in [Some(instance), known].into_iter().flatten() {
            table.end(previous);
        }
        if table.streams.len() == SUBSCRIPTIONS_MAX {
            return false;
        }
        if !self.are_served() {
            // The one batch there is says so. Its end waits for the next credit, for a client that has not read a
            // batch forgets it when the stream ends.
            let (incarnation, next_cursor, lost, events) = (self.incarnation, 0, false, Vec::new());
            let batch = EventBatch { enabled: false, incarnation, next_cursor, lost, events };
            let _ = follows.peer.send(follows.envelope.response(ResultFrame::encode(&Some(batch))));
        } else if !self.recording.swap(true, Ordering::Relaxed) {
            state.core().with(|core, _| core.record_chunk_events(self.capacity));
            table.starts = true;
        }
        table.next_id += 1;
        let has_begun = !self.are_served();
        let stream = Stream { id: table.next_id, follows, credits: u32::from(!has_begun), has_begun };
        table.streams.insert(instance, stream);
        drop(table);
        self.work.notify_one();
        true
    }

    /// A client says something about one of its streams. Of others it cannot speak.
    pub fn control(&self, state: &State, peer: PeerId, uid: &[u8], control: StreamControl) {
        let mut table = self.table();
        let Some((instance, stream)) = table.streams.iter_mut().find(|(_, stream)| stream.is(peer, uid))
        else {
            return;
        };
        match control {
            StreamControl::Ack if self.are_served() => {
                stream.credits = (stream.credits + 1).min(CREDITS_MAX);
                self.work.notify_one();
            }
            StreamControl::Ack | StreamControl::Cancel => {
                let instance = *instance;
                table.end(instance);
                self.stop_if_unused(state, &mut table);
            }
        }
    }

    /// A connection is gone, and its streams with it.
    pub fn gone(&self, state: &State, peer: PeerId) {
        let mut table = self.table();
        table.streams.retain(|_, stream| stream.follows.peer.id() != peer);
        self.stop_if_unused(state, &mut table);
    }

    fn stop_if_unused(&self, state: &State, table: &mut Table) {
        if table.streams.is_empty() && self.recording.swap(false, Ordering::Relaxed) {
            table.starts = false;
            state.core().with(|core, _| core.record_chunk_events(0));
            self.bindings().clear();
        }
    }

    /// Tells the core's log of what was there before the recording began.
    fn begin_recording(&self, state: &State) {
        if !std::mem::take(&mut self.table().starts) {
            return;
        }
        let chunk_tokens = state.chains.chunk_tokens();
        for prompt in state.chains.recent() {
            let mut bindings = self.bindings();
            // What is bound stays where it is: a chunk must not come after those that follow it.
            let known = prompt.chain.iter().take_while(|hash| bindings.get(hash).is_some()).count();
            bindings.bind(&prompt.chain, &prompt.tokens, chunk_tokens, known);
        }
        let places = self.bindings().places();
        state.core().with(|core, _| core.publish_snapshot(|hash| places.get(hash).copied()));
    }

    /// Sends what is due and can be sent.
    fn write(&self, state: &State) {
        self.begin_recording(state);
        let instances: Vec<InstanceId> = self.table().streams.keys().copied().collect();
        for instance in instances {
            while self.write_batch(state, instance) {}
        }
    }

    /// Reads on for one stream, and sends a batch if there is one. Whether there may be more.
    fn write_batch(&self, state: &State, instance: InstanceId) -> bool {
        let (id, follows, is_first) = match self.table().streams.get(&instance) {
            Some(stream) if stream.credits > 0 => (stream.id, stream.follows.clone(), !stream.has_begun),
            _ => return false,
        };
        let page =
            state.core().read(|core, _| core.stats().chunk_events().after(follows.cursor, RECORDS_READ));
        let bindings = self.bindings();
        let read = batch::events(&page, &follows.model, usize::from(follows.events_max), &bindings);
        drop(bindings);
        self.unbound.fetch_add(read.unbound, Ordering::Relaxed);
        let is_due = is_first || page.lost || !read.events.is_empty();
        let batch = EventBatch {
            enabled: true,
            incarnation: self.incarnation,
            next_cursor: read.next_cursor,
            lost: page.lost,
            events: read.events,
        };
        let frames = is_due.then(|| follows.envelope.response(ResultFrame::encode(&Some(batch))));
        let mut table = self.table();
        let Some(stream) = table.streams.get_mut(&instance).filter(|stream| stream.id == id) else {
            return true;
        };
        if let Some(frames) = frames {
            if let Err(error) = follows.peer.send(frames) {
                // Gone: its end is on its way. Full: it is tried again with the next event or credit.
                tracing::debug!(peer = %follows.peer.id(), %error, "events not sent");
                return false;
            }
            stream.credits -= 1;
            stream.has_begun = true;
        }
        stream.follows.cursor = read.next_cursor;
        read.next_cursor != follows.cursor
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of it is one step, so a panic elsewhere has left it whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bindings(&self) -> MutexGuard<'_, Bindings> {
        // What a panic may have left half bound is not told of.
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends an instance's stream, if it has one, and says so.
    fn end(&mut self, instance: InstanceId) {
        if let Some(Stream { follows, .. }) = self.streams.remove(&instance) {
            // A peer that is gone or does not read will not miss it.
            let _ = follows.peer.send(follows.envelope.response(ResultFrame(None)));
        }
    }
}

impl Stream {
    fn is(&self, peer: PeerId, uid: &[u8]) -> bool {
        self.follows.peer.id() == peer && self.follows.envelope.uid == *uid
    }
}

/// Sends events for as long as it is polled. Sleeps while there is nothing to send.
pub async fn publish(state: Arc<State>) {
    let _running = state.tasks.publisher.begin();
    loop {
        tokio::select! {
            () = state.events.work.notified() => {}
            () = state.core().new_chunk_events() => {}
        }
        state.tasks.publisher.woke(state.core().now());
        // A core that has found a bug in itself has nothing to tell.
        if state.core().is_poisoned() {
            return;
        }
        state.events.write(&state);
    }
}
