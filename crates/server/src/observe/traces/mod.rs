//! Traces of requests, for `--enable-tracing`: the steps of each and how long they took.
//!
//! One tree for each request, with LMCache's names: `request` from its lookup to its end, and under it
//! `mp.lookup_prefetch`, `mp.store` and `mp.retrieve`. The protocol carries no trace context, so every request is a
//! trace of its own; `session_id` is what finds it beside an engine's.
//!
//! A request costs a few moments of one lock, and never waits: what is open and what waits to be sent are bounded
//! ([`span_table`]), and what does not fit is dropped and counted. `otlp`, behind the feature `otel`, sends it.

mod ids;
pub mod span_table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_core::{Copied, Hit, TransferSpec};
use larder_types::ConnectionId;
use tokio::sync::Notify;

use self::span_table::{CopyKey, SpanTable};
use super::bus::Subscriber;
use super::event::{Direction, LookupEnd, RequestEvent};

/// So many ended spans are sent before the next regular time.
pub const BATCH: usize = 512;

/// A moment, in nanoseconds since 1970, as traces carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The wall clock's time.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall clock's time at `instant`, which has passed.
    pub fn at(instant: Instant) -> Self {
        let elapsed = u64::try_from(instant.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Self(Self::now().0.saturating_sub(elapsed))
    }

    /// How long before it `earlier` was; nothing if the clock has been set back between them.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The request's trace.
    pub trace: [u8; 16],
    /// The span itself.
    pub id: [u8; 8],
    /// The parent span; `None` for a request.
    pub parent: Option<[u8; 8]>,
    /// Its name, LMCache's.
    pub name: &'static str,
    /// When it began.
    pub began: UnixTime,
    /// When it ended; not before it began.
    pub ended: UnixTime,
    /// Attributes by name.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it did not finish.
    pub error: Option<&'static str>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(Arc<str>),
    /// A constant text.
    Word(&'static str),
    /// A count.
    Count(u64),
    /// A fraction.
    Share(f64),
    /// A number that the protocol may make negative.
    Number(i64),
}

/// The traces of all requests. The lock is a leaf, held for moments.
#[derive(Debug)]
pub struct Traces {
    chunk_tokens: u64,
    table: Mutex<SpanTable>,
    many: Notify,
}

impl Traces {
    /// No spans yet, for chunks of so many tokens.
    pub fn new(chunk_tokens: u32) -> Self {
        Self { chunk_tokens: u64::from(chunk_tokens), table: Mutex::default(), many: Notify::new() }
    }

    pub(crate) fn lookup_begins(
        &self,
        at: UnixTime,
        request: &Arc<str>,
        connection: ConnectionId,
        (model, salt): (&Arc<str>, &Arc<str>),
    ) {
        let attributes =
            vec![("model_name", Value::Text(model.clone())), ("cache_salt", Value::Text(salt.clone()))];
        self.table().lookup_begins(at, request, connection, attributes);
    }

    pub(crate) fn lookup_ends(&self, request: &str, end: LookupEnd<'_>) {
        let outcome = match end {
            LookupEnd::Looked { requested_chunks, hit } => {
                Ok(looked(requested_chunks, hit, "", self.chunk_tokens))
            }
            LookupEnd::Early(why) => Ok(looked(0, &Hit::default(), why.reason(), self.chunk_tokens)),
            LookupEnd::Cancelled => Err("cancelled"),
        };
        self.change(|table, now| table.lookup_ends(now, request, outcome));
    }

    fn copy_begins(&self, at: UnixTime, direction: Direction, spec: &TransferSpec<'_>) {
        let attributes = vec![
            ("device", Value::Word(crate::metrics::family::DEVICE)),
            ("engine_id", Value::Number(spec.instance.0)),
            ("model_name", Value::Text(spec.model.clone())),
            ("cache_salt", Value::Text(spec.salt.clone())),
        ];
        let key = CopyKey::new(direction, spec);
        self.change(|table, _| table.copy_begins(at, key, spec.connection, attributes));
    }

    fn copy_ends(&self, direction: Direction, spec: &TransferSpec<'_>, copied: Option<Copied>) {
        let outcome = copied.ok_or("nothing was copied").map(|Copied { objects, bytes }| {
            let name = match direction {
                Direction::Store => "stored_count",
                Direction::Retrieve => "retrieved_count",
            };
            let tokens = u64::from(spec.end - spec.start) * self.chunk_tokens;
            vec![
                (name, Value::Count(objects)),
                ("total_bytes", Value::Count(bytes)),
                ("num_tokens", Value::Count(tokens)),
            ]
        });
        self.change(|table, now| table.copy_ends(now, &CopyKey::new(direction, spec), outcome));
    }

    pub(crate) fn request_ends(&self, request: &str) {
        self.change(|table, now| table.request_ends(now, request));
    }

    fn connection_lost(&self, connection: ConnectionId) {
        self.change(|table, now| table.connection_lost(now, connection));
    }

    /// Ends requests that have not been used for `unused`.
    pub fn expire(&self, unused: Duration) {
        self.change(|table, now| table.expire(now, unused));
    }

    /// Ends all spans at the end of the server.
    pub fn end_all(&self) {
        self.change(|table, now| table.end_all(now, "the server has ended"));
    }

    /// Takes the first ended spans, at most `spans_max`.
    pub fn take(&self, spans_max: usize) -> Vec<Span> {
        self.table().take(spans_max)
    }

    /// Counts spans as dropped that were taken and not delivered.
    pub fn lost(&self, spans: u64) {
        self.table().lost(spans);
    }

    /// Spans that were dropped.
    pub fn dropped(&self) -> u64 {
        self.table().dropped()
    }

    /// Completes once [`BATCH`] ended spans wait.
    pub async fn many_wait(&self) {
        self.many.notified().await;
    }

    fn change(&self, change: impl FnOnce(&mut SpanTable, UnixTime)) {
        let mut table = self.table();
        let before = table.waiting();
        change(&mut table, UnixTime::now());
        let after = table.waiting();
        drop(table);
        if before < BATCH && after >= BATCH {
            self.many.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, SpanTable> {
        // A panic costs at most the spans of one change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Traces {
    fn on_event(&self, event: &RequestEvent<'_>) {
        match event {
            RequestEvent::LookupStarted { started, connection, request_id, model, salt } => {
                self.lookup_begins(UnixTime::at(*started), request_id, *connection, (model, salt));
            }
            RequestEvent::Looked(looked) => {
                if let Some(end) = looked.end() {
                    self.lookup_ends(looked.spec.request_id, end);
                }
            }
            RequestEvent::LookupEnded(report) => {
                self.lookup_ends(&report.request_id, LookupEnd::of_report(report));
            }
            RequestEvent::TransferStarted { started, direction, spec } => {
                self.copy_begins(UnixTime::at(*started), *direction, spec);
            }
            RequestEvent::TransferEnded { direction, spec, copied } => {
                self.copy_ends(*direction, spec, *copied);
            }
            RequestEvent::Ended { request_id, .. } => self.request_ends(request_id),
            RequestEvent::ConnectionLost { connection } => self.connection_lost(*connection),
            _ => {}
        }
    }
}

/// The attributes of a lookup, in LMCache's words.
fn looked(
    requested_chunks: u64,
    hit: &Hit,
    early_exit: &'static str,
    chunk_tokens: u64,
) -> Vec<(&'static str, Value)> {
    let tokens = |chunks: u32| u64::from(chunks) * chunk_tokens;
    let requested = requested_chunks * chunk_tokens;
    let l2_chunks = hit.chunks.saturating_sub(hit.l1_chunks);
    let share = |tokens: u64| Value::Share(tokens as f64 / requested.max(1) as f64);
    vec![
        ("found_count", Value::Count(u64::from(hit.chunks))),
        ("requested_tokens", Value::Count(requested)),
        ("hit_tokens", Value::Count(tokens(hit.chunks))),
        ("hit_rate", share(tokens(hit.chunks))),
        ("l1_hit_tokens", Value::Count(tokens(hit.l1_chunks))),
        ("l2_hit_tokens", Value::Count(tokens(l2_chunks))),
        ("l1_hit_rate", share(tokens(hit.l1_chunks))),
        ("l2_hit_rate", share(tokens(l2_chunks))),
        ("l1_hit_keys", Value::Count(u64::from(hit.l1_objects))),
        ("l2_hit_keys", Value::Count(u64::from(hit.l2_objects))),
        ("early_exit_reason", Value::Word(early_exit)),
    ]
}
