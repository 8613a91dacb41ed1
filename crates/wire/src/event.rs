//! The stream of what was stored and removed (`protocol.md` 14).

use std::sync::Arc;

use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer, required};
use crate::p2p::decode_hash;
use crate::text_enum::text_enum;
use crate::tokens::Tokens;
use larder_types::object::ChunkHash;

/// Hashes of one event.
pub const EVENT_HASHES_MAX: usize = 1 << 20;

/// Events of one batch that this side reads; clients ask for at most 1024.
const EVENTS_MAX: usize = 1 << 16;

/// The medium of what is in host memory. Stock clients read events of no other.
pub const MEDIUM_CPU: &str = "CPU";

/// The medium of what is in L2, in vLLM's word for it. The reference tells nothing of that.
pub const MEDIUM_STORAGE: &str = "STORAGE";

text_enum! {
    /// What happened.
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
    /// Place in the log, from 1 over all models.
    pub seq: u64,
    /// What happened.
    pub kind: EventKind,
    /// Where: [`MEDIUM_CPU`] or [`MEDIUM_STORAGE`].
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

impl Event {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut seq, mut kind, mut medium, mut model_name) = (None, None, None, None);
        let (mut block_hashes, mut parent, mut tokens) = (None, None, None);
        reader.structure("events", |name, reader| {
            match name {
                b"seq" => seq = Some(reader.u64("seq")?),
                b"kind" => kind = Some(EventKind::decode(reader, "kind")?),
                b"medium" => medium = Some(reader.str("medium")?),
                b"model_name" => model_name = Some(reader.str("model_name")?),
                b"block_hashes" => {
                    let hash = |reader: &mut Reader<'_>| decode_hash(reader, "block_hashes");
                    block_hashes = Some(reader.list("block_hashes", EVENT_HASHES_MAX, hash)?);
                }
                b"parent_block_hash" if reader.nil() => parent = Some(None),
                b"parent_block_hash" => parent = Some(Some(decode_hash(reader, "parent_block_hash")?)),
                b"token_ids" => tokens = Some(Tokens::decode(reader, "token_ids")?),
                _ => reader.skip("events")?,
            }
            Ok(())
        })?;
        Ok(Self {
            seq: required("seq", seq)?,
            kind: required("kind", kind)?,
            medium: required("medium", medium)?.into(),
            model_name: required("model_name", model_name)?.into(),
            block_hashes: required("block_hashes", block_hashes)?,
            parent_block_hash: required("parent_block_hash", parent)?,
            tokens: required("token_ids", tokens)?,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(7);
        writer.str("seq");
        writer.uint(self.seq);
        writer.str("kind");
        writer.str(self.kind.name());
        writer.str("medium");
        writer.str(&self.medium);
        writer.str("model_name");
        writer.str(&self.model_name);
        writer.str("block_hashes");
        writer.array(self.block_hashes.len());
        self.block_hashes.iter().for_each(|hash| writer.bin(hash.as_bytes()));
        writer.str("parent_block_hash");
        match &self.parent_block_hash {
            Some(hash) => writer.bin(hash.as_bytes()),
            None => writer.nil(),
        }
        writer.str("token_ids");
        self.tokens.encode(writer);
    }
}

impl EventBatch {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut enabled, mut incarnation, mut next_cursor, mut lost, mut events) =
            (None, None, None, None, None);
        reader.structure("result", |name, reader| {
            match name {
                b"enabled" => enabled = Some(reader.bool("enabled")?),
                b"incarnation" => incarnation = Some(reader.u64("incarnation")?),
                b"next_cursor" => next_cursor = Some(reader.u64("next_cursor")?),
                b"lost" => lost = Some(reader.bool("lost")?),
                b"events" => events = Some(reader.list("events", EVENTS_MAX, Event::decode)?),
                _ => reader.skip("result")?,
            }
            Ok(())
        })?;
        Ok(Self {
            enabled: required("enabled", enabled)?,
            incarnation: required("incarnation", incarnation)?,
            next_cursor: required("next_cursor", next_cursor)?,
            lost: required("lost", lost)?,
            events: required("events", events)?,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.map(5);
        writer.str("enabled");
        writer.bool(self.enabled);
        writer.str("incarnation");
        writer.uint(self.incarnation);
        writer.str("next_cursor");
        writer.uint(self.next_cursor);
        writer.str("lost");
        writer.bool(self.lost);
        writer.str("events");
        writer.array(self.events.len());
        self.events.iter().for_each(|event| event.encode(writer));
    }
}
