//! Request traces: the chunks of each request, and the order of events.
//!
//! Each distinct chunk has a number, in the order of first appearance, and a request is a range of such
//! numbers. Chunk hashes are chained: a hash covers all tokens before its chunk too, so equal chunks have
//! equal predecessors.
//!
//! - [`file`](mod@file): detects the format of a file and reads it, compressed or not.
//! - [`mooncake`]: the format of the Mooncake traces.
//! - [`lookup_log`]: LMCache's lookup-hash logs.
//! - [`recording`]: recordings of `larder server --record`.

pub mod file;
pub mod lookup_log;
pub mod mooncake;
pub mod recording;

use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::object::ChunkHash;

pub use file::{ReadError, ReadOptions, read};

/// The number of a chunk: its position in the order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkNumber(pub u32);

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Time of its lookup in milliseconds; never less than that of the request before it.
    pub at_ms: u64,
    /// Length of the prompt in tokens, including those of a partial last chunk.
    pub tokens: u64,
    /// Range of its chunks in `Trace::numbers`.
    chunks: Range<usize>,
    /// Chunks that it looked up, from the start. The others were only stored.
    looked_up: u32,
    /// Its hit in chunks in the recorded server; `None` in other formats.
    pub recorded_hit: Option<u32>,
}

/// An event of a recording. Requests are identified by their position in the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request was looked up.
    Lookup(usize),
    /// Chunks of a request were stored.
    Store(usize, Range<u32>),
    /// Chunks of a request's hit were read, which ends its pins on them.
    Retrieve(usize, Range<u32>),
    /// A request ended.
    End(usize),
}

/// A request trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Name in reports.
    pub name: String,
    /// Name of the model, if known; part of the object keys that policies see.
    pub model: Option<Arc<str>>,
    /// Tokens per chunk.
    pub chunk_tokens: u32,
    /// Bytes per chunk, if known.
    pub chunk_bytes: Option<u64>,
    /// Lines that are not part of the trace, such as an incomplete last one.
    pub skipped_lines: u64,
    requests: Vec<Request>,
    numbers: Vec<ChunkNumber>,
    hashes: Vec<ChunkHash>,
    events: Option<Vec<Event>>,
}

impl Trace {
    /// The requests, in the order of time.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// All chunks of a request, in the order of the prompt.
    pub fn chunks(&self, request: &Request) -> &[ChunkNumber] {
        &self.numbers[request.chunks.clone()]
    }

    /// Chunks that a request looked up, from the start of the prompt.
    pub fn looked_up(&self, request: &Request) -> &[ChunkNumber] {
        &self.chunks(request)[..request.looked_up as usize]
    }

    /// Number of distinct chunks.
    pub fn unique_chunks(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Number of chunks looked up by all requests.
    pub fn chunk_accesses(&self) -> u64 {
        self.requests.iter().map(|r| u64::from(r.looked_up)).sum()
    }

    /// The hash of a chunk.
    pub fn hash(&self, chunk: ChunkNumber) -> &ChunkHash {
        &self.hashes[chunk.0 as usize]
    }

    /// The hashes of all chunks, by number.
    pub fn hashes(&self) -> &[ChunkHash] {
        &self.hashes
    }

    /// The events in their order; `None` unless the trace is a recording.
    pub fn events(&self) -> Option<&[Event]> {
        self.events.as_deref()
    }

    /// Removes all but the first `requests`.
    pub(crate) fn keep_first(&mut self, requests: usize) {
        if requests >= self.requests.len() {
            return;
        }
        self.requests.truncate(requests);
        let used = self.requests.last().map_or(0, |last| last.chunks.end);
        self.numbers.truncate(used);
        let unique = self.numbers.iter().max().map_or(0, |last| last.0 as usize + 1);
        self.hashes.truncate(unique);
        if let Some(events) = &mut self.events {
            events.retain(|event| match event {
                Event::Lookup(place)
                | Event::Retrieve(place, _)
                | Event::Store(place, _)
                | Event::End(place) => *place < requests,
            });
        }
    }

    /// A trace of requests given as chunk ids, one millisecond apart, for tests and synthetic workloads.
    pub fn from_chunks<C: AsRef<[u64]>>(name: &str, chunk_tokens: u32, requests: &[C]) -> Self {
        let mut builder = Builder::new(name, chunk_tokens);
        for (at_ms, chunks) in requests.iter().enumerate() {
            let tokens = chunks.as_ref().len() as u64 * u64::from(chunk_tokens);
            builder.request(at_ms as u64, tokens, chunks.as_ref().iter().copied(), digest);
        }
        builder.finish()
    }
}

/// Builds a trace from requests with chunks identified by a `K`.
#[derive(Debug)]
pub(crate) struct Builder<K> {
    trace: Trace,
    known: HashMap<K, ChunkNumber>,
    /// The last request that contains each chunk, by number.
    last: Vec<usize>,
}

impl<K: Hash + Eq + Copy> Builder<K> {
    pub(crate) fn new(name: &str, chunk_tokens: u32) -> Self {
        let trace = Trace {
            name: name.to_owned(),
            model: None,
            chunk_tokens,
            chunk_bytes: None,
            skipped_lines: 0,
            requests: Vec::new(),
            numbers: Vec::new(),
            hashes: Vec::new(),
            events: None,
        };
        Self { trace, known: HashMap::new(), last: Vec::new() }
    }

    /// Adds a request that looks up all its chunks, and returns its position. `hash` gives the hash of a new
    /// chunk. As hashes are chained, a prompt cannot contain one twice: it is cut before a repeated one.
    pub(crate) fn request(
        &mut self,
        at_ms: u64,
        tokens: u64,
        chunks: impl IntoIterator<Item = K>,
        hash: impl Fn(&K) -> ChunkHash,
    ) -> usize {
        let trace = &mut self.trace;
        let (first, place) = (trace.numbers.len(), trace.requests.len());
        for key in chunks {
            let number = *self.known.entry(key).or_insert_with(|| {
                trace.hashes.push(hash(&key));
                // Traces that fit into memory have far fewer.
                ChunkNumber(u32::try_from(trace.hashes.len() - 1).expect("fewer than 2^32 chunks"))
            });
            self.last.resize(trace.hashes.len(), usize::MAX);
            if std::mem::replace(&mut self.last[number.0 as usize], place) == place {
                break;
            }
            trace.numbers.push(number);
        }
        let chunks = first..trace.numbers.len();
        let looked_up = chunks.len() as u32;
        let at_ms = trace.requests.last().map_or(0, |last| last.at_ms).max(at_ms);
        trace.requests.push(Request { at_ms, tokens, chunks, looked_up, recorded_hit: None });
        place
    }

    pub(crate) fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }

    pub(crate) fn finish(self) -> Trace {
        self.trace
    }
}

/// A chunk hash for a chunk that has only an id.
pub(crate) fn digest(number: &u64) -> ChunkHash {
    let mut bytes = [0; 32];
    let mut state = *number;
    for word in bytes.as_chunks_mut::<8>().0 {
        // SplitMix64: a bijection of the state, so different ids give different hashes.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (z ^ (z >> 31)).to_le_bytes();
    }
    ChunkHash::from_digest(bytes)
}
