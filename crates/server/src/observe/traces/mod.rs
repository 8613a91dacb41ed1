//! Traces of requests, for `--enable-tracing`: what each was asked and how long it took.
//!
//! One tree for each request, with LMCache's names: `request` from its lookup to its end, and under it
//! `mp.lookup_prefetch`, `mp.store` and `mp.retrieve`. The protocol carries no trace context, so every request is a
//! trace of its own; `session_id` is what finds it beside an engine's.
//!
//! A request costs a few moments of one lock, and never waits: what is open and what waits to be sent are bounded
//! ([`book`]), and what does not fit is dropped and counted. Who sends it is `otlp`, behind the feature of that name.

pub mod book;
mod ids;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_core::{Copied, Hit, TransferSpec};
use larder_types::ConnectionId;
use tokio::sync::Notify;

use self::book::{Book, CopyKey};
use super::bus::Subscriber;
use super::event::{Direction, LookupEnd, RequestEvent};

/// Ended spans that make it worth to send them before the next regular time.
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
    /// The span it belongs to; `None`: it is a request.
    pub parent: Option<[u8; 8]>,
    /// What it is about.
    pub name: &'static str,
    /// When it began.
    pub began: UnixTime,
    /// When it ended; not before it began.
    pub ended: UnixTime,
    /// What there is to tell, by name.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it did not come to its proper end.
    pub error: Option<&'static str>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A name, shared with whom it came from.
    Text(Arc<str>),
    /// A word of this program.
    Word(&'static str),
    /// A count.
    Count(u64),
    /// A share.
    Share(f64),
    /// A number that the protocol may make negative.
    Number(i64),
}

/// The traces of all requests. The lock is a leaf, held for moments.
#[derive(Debug)]
pub struct Traces {
    chunk_tokens: u64,
    book: Mutex<Book>,
    many: Notify,
}

impl Traces {
    /// Nothing yet, for a server with so many tokens in a chunk.
    pub fn new(chunk_tokens: u32) -> Self {
        Self { chunk_tokens: u64::from(chunk_tokens), book: Mutex::default(), many: Notify::new() }
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
        self.book().lookup_begins(at, request, connection, attributes);
    }

    pub(crate) fn lookup_ends(&self, request: &str, end: LookupEnd<'_>) {
        let told = match end {
            LookupEnd::Looked { requested_chunks, hit } => {
                Ok(looked(requested_chunks, hit, "", self.chunk_tokens))
            }
            LookupEnd::Early(why) => Ok(looked(0, &Hit::default(), why.reason(), self.chunk_tokens)),
            LookupEnd::Cancelled => Err("cancelled"),
        };
        self.change(|book, now| book.lookup_ends(now, request, told));
    }

    fn copy_begins(&self, at: UnixTime, direction: Direction, spec: &TransferSpec<'_>) {
        let attributes = vec![
            ("device", Value::Word(crate::metrics::family::DEVICE)),
            ("engine_id", Value::Number(spec.instance.0)),
            ("model_name", Value::Text(spec.model.clone())),
            ("cache_salt", Value::Text(spec.salt.clone())),
        ];
        let key = CopyKey::new(direction, spec);
        self.change(|book, _| book.copy_begins(at, key, spec.connection, attributes));
    }

    fn copy_ends(&self, direction: Direction, spec: &TransferSpec<'_>, copied: Option<Copied>) {
        let told = copied.ok_or("nothing was copied").map(|Copied { objects, bytes }| {
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
        self.change(|book, now| book.copy_ends(now, &CopyKey::new(direction, spec), told));
    }

    pub(crate) fn request_ends(&self, request: &str) {
        self.change(|book, now| book.request_ends(now, request));
    }

    fn connection_lost(&self, connection: ConnectionId) {
        self.change(|book, now| book.connection_lost(now, connection));
    }

    /// Ends requests that nobody has used for so long.
    pub fn expire(&self, unused: Duration) {
        self.change(|book, now| book.expire(now, unused));
    }

    /// Ends everything: the server goes.
    pub fn end_all(&self) {
        self.change(|book, now| book.end_all(now, "the server has ended"));
    }

    /// The first ended spans, at most so many.
    pub fn take(&self, spans_max: usize) -> Vec<Span> {
        self.book().take(spans_max)
    }

    /// So many spans that were taken will never arrive.
    pub fn lost(&self, spans: u64) {
        self.book().lost(spans);
    }

    /// Spans that nobody will ever see.
    pub fn dropped(&self) -> u64 {
        self.book().dropped()
    }

    /// Completes once [`BATCH`] ended spans wait.
    pub async fn many_wait(&self) {
        self.many.notified().await;
    }

    fn change(&self, change: impl FnOnce(&mut Book, UnixTime)) {
        let mut book = self.book();
        let before = book.waiting();
        change(&mut book, UnixTime::now());
        let after = book.waiting();
        drop(book);
        if before < BATCH && after >= BATCH {
            self.many.notify_one();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Traces are for looking at: those of a book whose last change was cut short are better than none.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
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
