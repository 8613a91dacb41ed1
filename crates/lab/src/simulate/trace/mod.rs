//! Request traces: which chunks each request wanted, in which order things happened.
//!
//! A trace is compact: each distinct chunk has a number, in the order of first appearance, and a
//! request is a run of such numbers. Chunk names are chained: a chunk stands for all tokens before it
//! too, so equal chunks have equal predecessors.
//!
//! - [`file`](mod@file): finds out what a file is and reads it, compressed or not.
//! - [`mooncake`]: `timestamp`, `input_length`, `hash_ids`.
//! - [`lookup_log`]: what LMCache logs of each lookup.
//! - [`recording`]: what `larder server --record` wrote.

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

/// A chunk of a trace: its place in the order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkNumber(pub u32);

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it came, in milliseconds; never before the request ahead of it.
    pub at_ms: u64,
    /// Length of the prompt in tokens, those that fill no chunk included.
    pub tokens: u64,
    /// Its chunks, in [`Trace::chunks`].
    chunks: Range<usize>,
    /// How many leading chunks it looked up. The others were computed and stored later.
    looked_up: u32,
    /// Its hit when it was recorded.
    pub recorded_hit: Option<u32>,
}

/// Something that happened, as a recording has it. Requests are named by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request was looked up.
    Lookup(usize),
    /// Chunks of a request were stored.
    Store(usize, Range<u32>),
    /// Chunks of a request's hit were read; nobody holds them for it any more.
    Retrieve(usize, Range<u32>),
    /// A request ended.
    End(usize),
}

/// A request trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What it is called in reports.
    pub name: String,
    /// The model that it was asked of, where the trace tells: policies may look at whole names.
    pub model: Option<Arc<str>>,
    /// Tokens per chunk.
    pub chunk_tokens: u32,
    /// Bytes per chunk, where the trace tells.
    pub chunk_bytes: Option<u64>,
    /// Lines that could not be read as part of the trace, such as a last one cut short.
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

    /// The chunks that a request looked up.
    pub fn looked_up(&self, request: &Request) -> &[ChunkNumber] {
        &self.chunks(request)[..request.looked_up as usize]
    }

    /// How many distinct chunks there are.
    pub fn unique_chunks(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// How many chunks all requests looked up together.
    pub fn chunk_accesses(&self) -> u64 {
        self.requests.iter().map(|r| u64::from(r.looked_up)).sum()
    }

    /// The name of a chunk in the store.
    pub fn hash(&self, chunk: ChunkNumber) -> &ChunkHash {
        &self.hashes[chunk.0 as usize]
    }

    /// The names of all chunks, by number.
    pub fn hashes(&self) -> &[ChunkHash] {
        &self.hashes
    }

    /// The order of things, if the trace has it.
    pub fn events(&self) -> Option<&[Event]> {
        self.events.as_deref()
    }

    /// Leaves out all but the first requests.
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

    /// A trace of requests given as chunk names, each of `chunk_tokens` tokens, one millisecond
    /// apart. For tests and for workloads that are made up.
    pub fn from_chunks<C: AsRef<[u64]>>(name: &str, chunk_tokens: u32, requests: &[C]) -> Self {
        let mut builder = Builder::new(name, chunk_tokens);
        for (at_ms, chunks) in requests.iter().enumerate() {
            let tokens = chunks.as_ref().len() as u64 * u64::from(chunk_tokens);
            builder.request(at_ms as u64, tokens, chunks.as_ref().iter().copied(), digest);
        }
        builder.finish()
    }
}

/// Makes a trace out of requests whose chunks are named by some `K`.
#[derive(Debug)]
pub(crate) struct Builder<K> {
    trace: Trace,
    known: HashMap<K, ChunkNumber>,
    /// Of each chunk the last request that has it.
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

    /// Adds a request that looks up all its chunks. `hash` names a chunk that was not seen before. A name
    /// stands for all before it, so one that comes twice makes no sense: the prompt ends there.
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
                // The files that can be read at all are far from 2^32 distinct chunks.
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

/// A name for a chunk that is only numbered: as unlike that of another as digests are.
pub(crate) fn digest(number: &u64) -> ChunkHash {
    let mut bytes = [0; 32];
    let mut state = *number;
    for word in bytes.as_chunks_mut::<8>().0 {
        // SplitMix64: a bijection of the state, so different numbers give different names.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (z ^ (z >> 31)).to_le_bytes();
    }
    ChunkHash::from_digest(bytes)
}
