//! `subscribe_kv_events`: a stream of batches of what was stored and removed.

use std::sync::Arc;

use larder_types::InstanceId;
use larder_types::object::ChunkHash;

use crate::codec::{Entry, structure};
use crate::ops::{operation, samples};
use crate::text_enum::text_enum;
use crate::tokens::Tokens;

/// The most events a batch may be asked to hold.
pub const BATCH_EVENTS_MAX: u16 = 1024;

/// The medium of what is in host memory. Stock clients read events of no other.
pub const MEDIUM_CPU: &str = "CPU";

/// The medium of what is in L2, by vLLM's name for it. The reference sends no such events.
pub const MEDIUM_STORAGE: &str = "STORAGE";

/// Subscribes to the events of one model. Each result is a batch; nil ends the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeKvEvents {
    /// The worker that subscribes.
    pub instance_id: InstanceId,
    /// The model.
    pub model_name: Arc<str>,
    /// Sequence number of the last event the worker has seen, 0 for none.
    pub cursor: i64,
    /// Events per batch.
    pub max_events: i64,
}

impl SubscribeKvEvents {
    /// The cursor and the events per batch; `None` if one of them is not allowed.
    pub fn window(&self) -> Option<(u64, u16)> {
        let cursor = u64::try_from(self.cursor).ok()?;
        let max_events = u16::try_from(self.max_events).ok()?;
        (1..=BATCH_EVENTS_MAX).contains(&max_events).then_some((cursor, max_events))
    }
}

text_enum! {
    /// The kind of a change.
    EventKind {
        /// A chunk was stored; the event has one hash, the hash before it, and the tokens.
        Stored = "stored",
        /// Chunks were evicted or cleared; the event has their hashes only.
        Removed = "removed",
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Position in the log, from 1 over all models.
    pub seq: u64,
    /// The kind of change.
    pub kind: EventKind,
    /// [`MEDIUM_CPU`] or [`MEDIUM_STORAGE`].
    pub medium: Arc<str>,
    /// The model.
    pub model_name: Arc<str>,
    /// The chunks.
    pub block_hashes: Vec<ChunkHash>,
    /// The chunk before a stored one; `None` for the first.
    pub parent_block_hash: Option<ChunkHash>,
    /// Tokens of a stored chunk.
    pub tokens: Tokens,
}

structure!(Event {
    seq,
    kind,
    medium,
    model_name,
    block_hashes,
    parent_block_hash,
    tokens as "token_ids",
});

impl Entry for Event {
    /// More than clients ask for.
    const LIST_MAX: usize = 1 << 16;
}

/// Events after a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// Whether there is a log at all; if not, the stream ends after this batch.
    pub enabled: bool,
    /// Differs from one run of the server to the next.
    pub incarnation: u64,
    /// Cursor to continue with.
    pub next_cursor: u64,
    /// Whether events between the cursor and these were dropped.
    pub lost: bool,
    /// The events.
    pub events: Vec<Event>,
}

structure!(EventBatch { enabled, incarnation, next_cursor, lost, events });

operation!(
    SubscribeKvEvents = None, "subscribe_kv_events",
    { instance_id, model_name, cursor, max_events } -> Option<EventBatch>, failure: Some(None)
);

samples!(SubscribeKvEvents: vec![Self {
    instance_id: INSTANCE,
    model_name: "org/model".into(),
    cursor: 0,
    max_events: 1024,
}] => {
    let event = |seq, kind| Event {
        seq,
        kind,
        medium: MEDIUM_CPU.into(),
        model_name: "org/model".into(),
        block_hashes: vec![ChunkHash::from_digest([1; 32])],
        parent_block_hash: (seq > 1).then(|| ChunkHash::from_digest([2; 32])),
        tokens: vec![1, 70_000].into(),
    };
    let batch = EventBatch {
        enabled: true,
        incarnation: 1_795_339_904_836_733_593,
        next_cursor: 2,
        lost: false,
        events: vec![event(1, EventKind::Stored), event(2, EventKind::Removed)],
    };
    vec![None, Some(batch)]
});
