//! Event streams: subscribers follow which chunks can be found in the cache (`docs/protocol.md`, Event stream).
//!
//! The core records chunks that become visible or cease to be, in a bounded log, from the first subscription to the end
//! of the last; otherwise nothing is recorded. A recording begins with the chunks that are there already and whose
//! tokens a recent request has brought.
//!
//! A subscriber gets one batch for each credit: one at once, which may be empty, then as there are events. One task
//! writes all batches ([`publish`]), woken by a subscription, a credit, or the core's log. A subscriber that reads slowly
//! falls behind in the log; a batch says so (`lost`) when records that it has not read are dropped. It delays no other.
//! A subscription ends with its connection, by a cancel, or when its instance subscribes again.
//!
//! Lock order: the table, then the core or the bindings; never both of these. Nothing is encoded under any of them.

mod batch;
mod bindings;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_core::index::VisibleChunk;
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_wire::message::StreamControl;
use larder_wire::ops::subscribe_kv_events::EventBatch;
use larder_wire::response::Response;
use tokio::sync::Notify;

pub use self::bindings::TokenBindings;

use crate::app::core_handle::CoreHandle;
use crate::app::tasks::Task;
use crate::prefix_hashes::PrefixHashCache;
use crate::responder::Responder;

/// Subscriptions at one time. Each needs an instance id of its own.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// Subscriptions of one connection.
const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 64;

/// Credits of a subscriber, at most. Stock clients use one at a time.
const CREDITS_MAX: u32 = 1024;

/// Records that are read under the core's lock at once.
const RECORDS_READ: usize = 4096;

/// Prompts with tokens that are bound at once.
const PROMPTS_READ: usize = 64;

/// Chunks that are published under the core's lock at once.
const CHUNKS_PUBLISHED: usize = 512;

/// A request for a stream.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The subscriber's connection.
    pub connection: ConnectionId,
    /// Sends the batches.
    pub responder: Arc<dyn Responder>,
    /// The model whose events are sent.
    pub model: Arc<str>,
    /// The last record that the subscriber has, 0 for none.
    pub cursor: u64,
    /// Events in a batch, at most.
    pub events_max: u16,
}

/// All subscriptions.
#[derive(Debug)]
pub struct EventStreams {
    /// Records kept; 0: there are no streams.
    capacity: usize,
    /// Start time of the server, which distinguishes its runs.
    incarnation: u64,
    core: Arc<CoreHandle>,
    hashes: Arc<PrefixHashCache>,
    table: Mutex<Table>,
    /// On while the core records. Switched under the table's lock.
    bindings: Arc<TokenBindings>,
    unbound: AtomicU64,
    work: Notify,
}

#[derive(Debug, Default)]
struct Table {
    streams: BTreeMap<InstanceId, Stream>,
    /// The recording has begun, and the chunks that were there before are not in it yet.
    starts: bool,
    next_id: u64,
}

#[derive(Debug)]
struct Stream {
    /// Unique in the table.
    id: u64,
    follows: Subscription,
    credits: u32,
    /// The first batch is sent.
    has_begun: bool,
}

/// Counts of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Subscriptions.
    pub subscribers: u64,
    /// Stored chunks that were not sent, because their tokens are not known.
    pub unbound: u64,
}

impl EventStreams {
    /// No subscription yet. Keeps at most `records` records; with 0 there are no streams.
    pub fn new(
        records: usize,
        core: Arc<CoreHandle>,
        hashes: Arc<PrefixHashCache>,
        bindings: Arc<TokenBindings>,
    ) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            capacity: records,
            incarnation: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            core,
            hashes,
            table: Mutex::default(),
            bindings,
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

    /// A number that names this run of the server.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Current counts.
    pub fn gauges(&self) -> Gauges {
        let subscribers = self.table().streams.len() as u64;
        Gauges { subscribers, unbound: self.unbound.load(Ordering::Relaxed) }
    }

    /// Begins a stream. The instance's previous one ends. False if there are too many.
    pub fn subscribe(&self, instance: InstanceId, follows: Subscription) -> bool {
        let mut table = self.table();
        let (connection, request_id) = (follows.connection, follows.responder.request_id());
        let same = |(_, stream): &(&InstanceId, &Stream)| stream.is(connection, request_id);
        // A client that uses a request id twice has given up its earlier stream.
        let known = table.streams.iter().find(same).map(|(instance, _)| *instance);
        for previous in [Some(instance), known].into_iter().flatten() {
            table.end(previous);
        }
        let own = table.streams.values().filter(|stream| stream.follows.connection == connection).count();
        if table.streams.len() == SUBSCRIPTIONS_MAX || own == SUBSCRIPTIONS_PER_CONNECTION_MAX {
            return false;
        }
        if !self.are_served() {
            // The only batch says so. The stream ends with the next credit, because a client drops unread batches
            // when a stream ends.
            let (incarnation, next_cursor, lost, events) = (self.incarnation, 0, false, Vec::new());
            let batch = EventBatch { enabled: false, incarnation, next_cursor, lost, events };
            follows.responder.answer(&Response::SubscribeKvEvents(Some(batch)));
        } else if !self.bindings.set_on(true) {
            drop(self.core.with(|core, _| core.record_chunk_events(self.capacity)));
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

    /// A client controls one of its streams. Unknown ones are ignored.
    pub fn control(&self, connection: ConnectionId, request_id: &[u8], control: StreamControl) {
        let mut table = self.table();
        let Some((instance, stream)) =
            table.streams.iter_mut().find(|(_, stream)| stream.is(connection, request_id))
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
                self.stop_if_unused(&mut table);
            }
        }
    }

    /// Ends the streams of a lost connection.
    pub fn connection_lost(&self, connection: ConnectionId) {
        let mut table = self.table();
        table.streams.retain(|_, stream| stream.follows.connection != connection);
        self.stop_if_unused(&mut table);
    }

    fn stop_if_unused(&self, table: &mut Table) {
        if table.streams.is_empty() && self.bindings.set_on(false) {
            table.starts = false;
            drop(self.core.with(|core, _| core.record_chunk_events(0)));
        }
    }

    /// Adds the chunks that were there before the recording began to the core's log, in the order of their positions.
    /// Requests are served meanwhile: no lock is held for longer than a step, and those that become visible are in the
    /// log already.
    async fn begin_recording(&self) {
        if !std::mem::take(&mut self.table().starts) {
            return;
        }
        self.bind_recent_prompts().await;
        let mut visible = self.bound_visible_chunks().await;
        visible.sort_unstable_by_key(|(place, _)| *place);
        for step in visible.chunks(CHUNKS_PUBLISHED) {
            let seen: Vec<VisibleChunk> = step.iter().map(|(_, chunk)| *chunk).collect();
            self.core.with(|core, _| core.publish_seen(&seen));
            tokio::task::yield_now().await;
        }
    }

    /// Binds the tokens of the prompts that requests have brought before the recording began.
    async fn bind_recent_prompts(&self) {
        let chunk_tokens = self.bindings.chunk_tokens();
        let (mut used, last) = (0, self.hashes.last_use());
        while used < last {
            let prompts = self.hashes.used_after(used, PROMPTS_READ);
            for (_, prompt) in &prompts {
                let mut bindings = self.bindings.lock();
                // Bound chunks keep their place: a chunk must not come after those that follow it.
                let known =
                    prompt.chunk_hashes.iter().take_while(|hash| bindings.get(hash).is_some()).count();
                bindings.bind(&prompt.chunk_hashes, prompt.tokens(), chunk_tokens, known);
            }
            used = prompts.last().map_or(last, |(used, _)| *used);
            tokio::task::yield_now().await;
        }
    }

    /// The chunks in L1 with known tokens, and their positions.
    async fn bound_visible_chunks(&self) -> Vec<(u64, VisibleChunk)> {
        let (mut bound, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = self.add_bound(from, &mut bound);
            tokio::task::yield_now().await;
        }
        bound
    }

    /// Adds the chunks from one id on, as many as one step looks at. Returns where to go on.
    fn add_bound(&self, from: u32, bound: &mut Vec<(u64, VisibleChunk)>) -> Option<u32> {
        let (visible, next) = self.core.read(|core, _| core.index().visible_chunks(from));
        let bindings = self.bindings.lock();
        bound.extend(visible.into_iter().filter_map(|chunk| Some((bindings.place(&chunk.hash)?, chunk))));
        next
    }

    /// Sends what is due and can be sent.
    async fn write(&self) {
        self.begin_recording().await;
        let instances: Vec<InstanceId> = self.table().streams.keys().copied().collect();
        for instance in instances {
            while self.write_batch(instance) {}
        }
    }

    /// Reads on for one stream, and sends a batch if there is one. True if there may be more.
    fn write_batch(&self, instance: InstanceId) -> bool {
        let (id, follows, is_first) = match self.table().streams.get(&instance) {
            Some(stream) if stream.credits > 0 => (stream.id, stream.follows.clone(), !stream.has_begun),
            _ => return false,
        };
        let page = self.core.read(|core, _| core.stats().chunk_events().after(follows.cursor, RECORDS_READ));
        let bindings = self.bindings.lock();
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
        let answer = is_due.then(|| follows.responder.encode(&Response::SubscribeKvEvents(Some(batch))));
        let mut table = self.table();
        let Some(stream) = table.streams.get_mut(&instance).filter(|stream| stream.id == id) else {
            return true;
        };
        if let Some(answer) = answer {
            if !follows.responder.send(answer) {
                // Gone: its end follows. Full: it is tried again with the next event or credit.
                return false;
            }
            stream.credits -= 1;
            stream.has_begun = true;
        }
        stream.follows.cursor = read.next_cursor;
        read.next_cursor != follows.cursor
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is one step, so a panic leaves the table valid.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends an instance's stream, if it has one.
    fn end(&mut self, instance: InstanceId) {
        if let Some(Stream { follows, .. }) = self.streams.remove(&instance) {
            follows.responder.end_stream();
        }
    }
}

impl Stream {
    fn is(&self, connection: ConnectionId, request_id: &[u8]) -> bool {
        self.follows.connection == connection && self.follows.responder.request_id() == request_id
    }
}

/// Sends events for as long as it is polled. Sleeps while there is nothing to send.
pub async fn publish(streams: Arc<EventStreams>, task: &Task) {
    let _running = task.begin();
    loop {
        tokio::select! {
            () = streams.work.notified() => {}
            () = streams.core.new_chunk_events() => {}
        }
        task.woke(streams.core.now());
        if streams.core.is_poisoned() {
            return;
        }
        streams.write().await;
    }
}
