//! The steps of requests that observers are notified of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_core::{Copied, Hit, LookupReport, LookupSpec, TransferSpec};
use larder_l2::ErrorKind;
use larder_types::object::ChunkHash;
use larder_types::{AdapterId, ConnectionId, Layout, Time, TokenSlice};
use larder_wire::operation::Operation;

/// One finished step of a request, connection or L2 transfer. Each is emitted once, on the
/// [`Bus`](super::bus::Bus).
#[derive(Debug)]
pub enum RequestEvent<'a> {
    /// A client has connected.
    Connected,
    /// A connection is over.
    ConnectionLost {
        /// Its id.
        connection: ConnectionId,
    },
    /// A message could not be decoded; it gets no answer.
    MessageDropped,
    /// An answer was not sent: the client is gone or does not read.
    AnswerNotSent,
    /// A request has its answer, or could not be decoded.
    Answered {
        /// The operation.
        operation: Operation,
        /// How it went.
        outcome: Outcome,
        /// When the request arrived.
        started: Instant,
    },
    /// A worker has registered.
    Registered {
        /// Time of the core's clock.
        now: Time,
        /// The worker's model.
        model: &'a Arc<str>,
        /// Workers of the model.
        world_size: u32,
        /// Size of the objects that this worker stores for a chunk.
        object_bytes: u64,
    },
    /// A request that may make chunks visible has brought their tokens.
    Hashed {
        /// Hashes of all chunks of the prompt.
        chunk_hashes: &'a [ChunkHash],
        /// Tokens of these chunks.
        tokens: TokenSlice<'a>,
        /// Index of the first chunk that may become visible.
        first: usize,
    },
    /// A valid lookup has arrived.
    LookupStarted {
        /// When it arrived.
        started: Instant,
        /// Its connection.
        connection: ConnectionId,
        /// Its request.
        request_id: &'a Arc<str>,
        /// The model looked up.
        model: &'a Arc<str>,
        /// The tenant's cache salt.
        salt: &'a Arc<str>,
    },
    /// The core has searched L1.
    Looked(Looked<'a>),
    /// A lookup that L2 was asked for has ended.
    LookupEnded(&'a LookupReport),
    /// A worker's transfer request is accepted.
    TransferStarted {
        /// When the request arrived.
        started: Instant,
        /// Store or retrieve.
        direction: Direction,
        /// The chunks.
        spec: &'a TransferSpec<'a>,
    },
    /// A worker's transfer has ended.
    TransferEnded {
        /// Store or retrieve.
        direction: Direction,
        /// The chunks.
        spec: &'a TransferSpec<'a>,
        /// What was copied; `None` if nothing of it can be used.
        copied: Option<Copied>,
    },
    /// Slots for a copy are reserved. A transfer of pickled bytes has one copy for each chunk.
    CopyStarted {
        /// Store or retrieve.
        direction: Direction,
        /// The chunks.
        spec: &'a TransferSpec<'a>,
    },
    /// Stored objects have become readable.
    Stored {
        /// Time of the core's clock.
        now: Time,
        /// The chunks.
        spec: &'a TransferSpec<'a>,
        /// The objects.
        copied: Copied,
        /// Chunks of this model that fit in L1; 0 if no observer needs it.
        l1_chunks: u64,
    },
    /// A worker has read the objects that were pinned for it.
    Retrieved {
        /// Time of the core's clock.
        now: Time,
        /// The chunks.
        spec: &'a TransferSpec<'a>,
        /// The objects.
        copied: Copied,
    },
    /// The engine has ended a request.
    Ended {
        /// Time of the core's clock.
        now: Time,
        /// The request.
        request_id: &'a str,
        /// The hit of its last lookup, in chunks.
        hit: u32,
    },
    /// An L2 adapter has answered a batch of loads.
    L2Loaded {
        /// The adapter.
        adapter: AdapterId,
        /// The batch.
        batch: &'a Batch,
    },
    /// An L2 adapter has answered a batch of stores.
    L2Stored {
        /// The adapter.
        adapter: AdapterId,
        /// The batch.
        batch: &'a Batch,
    },
}

/// A lookup that has searched L1.
#[derive(Debug)]
pub struct Looked<'a> {
    /// Time of the core's clock.
    pub now: Time,
    /// What was looked up.
    pub spec: &'a LookupSpec<'a>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Whether workers of the model are registered.
    pub is_served: bool,
    /// The hit; `None` while L2 is asked.
    pub hit: Option<Hit>,
    /// Chunks of this model that fit in L1; 0 if no observer needs it.
    pub l1_chunks: u64,
    /// Layouts of the objects of a chunk for one rank; empty if no observer needs them.
    pub layouts: Vec<Layout>,
}

impl Looked<'_> {
    /// How the lookup ended; `None` while L2 is asked.
    pub fn end(&self) -> Option<LookupEnd<'_>> {
        let hit = self.hit.as_ref()?;
        Some(if !self.is_served {
            LookupEnd::Early(EarlyExit::NoWorker)
        } else if self.spec.chunk_hashes.is_empty() {
            LookupEnd::Early(EarlyExit::NoChunk)
        } else {
            LookupEnd::Looked { requested_chunks: self.spec.chunks().len() as u64, hit }
        })
    }
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug)]
pub enum LookupEnd<'a> {
    /// With a hit, which may be empty.
    Looked {
        /// Chunks asked for.
        requested_chunks: u64,
        /// The hit.
        hit: &'a Hit,
    },
    /// Before the search.
    Early(EarlyExit),
    /// By the end of its request.
    Cancelled,
}

impl<'a> LookupEnd<'a> {
    /// How a lookup that L2 was asked for ended.
    pub fn of_report(report: &'a LookupReport) -> Self {
        let requested_chunks = u64::from(report.requested_chunks);
        report.hit.as_ref().map_or(Self::Cancelled, |hit| Self::Looked { requested_chunks, hit })
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Not possible; the client got the operation's failure value.
    Failed,
    /// The payloads could not be decoded; the client got no answer.
    Undecodable,
}

/// Direction of a copy between a worker and L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the worker.
    Store,
    /// To the worker.
    Retrieve,
}

/// Why a lookup ended before the search, in LMCache's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyExit {
    /// No worker of that model is registered.
    NoWorker,
    /// The prompt has no whole chunk.
    NoChunk,
}

/// The result of a batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// Bytes of the objects that succeeded.
    pub bytes: u64,
    /// Errors of the objects that failed.
    pub failures: Vec<ErrorKind>,
    /// Time from the adapter's call to its answer.
    pub time: Duration,
}
