//! The simulated cache: two tiers, one policy for each decision, requests in the order of the trace.
//!
//! Each request looks up its whole chunks. Its hit is the longest prefix found in L1 or L2; chunks of the hit
//! that are only in L2 are loaded into L1. The other chunks are computed, stored in L1 and written to L2
//! according to the store policy. When the request ends, its chunks are marked as used, the last one first,
//! and loaded chunks that the prefetch policy does not retain are removed. L2 answers without delay.
//!
//! There are two implementations. [`Machine`] runs the server's whole storage core. [`Direct`] makes the same
//! calls on the eviction policy alone, for fixed policies and one request at a time; it is several times
//! faster. `tests/simulate` checks that both give the same counts.

mod direct;
mod machine;
mod tier;

use std::ops::{Add, Sub};

use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};

pub use self::direct::Direct;
pub use self::machine::Machine;
use super::trace::{Event, Request, Trace};

/// The size of L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L2Size {
    /// Keeps everything.
    Unbounded,
    /// This many chunks; the least recently used one is evicted.
    Chunks(u64),
    /// There is no L2.
    None,
}

/// Sizes and policies of one simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// Size of L1 in chunks.
    pub l1_chunks: u64,
    /// Size of L2.
    pub l2: L2Size,
    /// Prefetch policy: whether chunks loaded from L2 stay in L1.
    pub prefetch: PrefetchKind,
    /// Store policy: which stored chunks are written to L2, and whether they stay in L1.
    pub store: OffloadKind,
    /// Eviction policy of L1.
    pub eviction: EvictionKind,
    /// Most requests that are open at the same time.
    pub concurrency: usize,
    /// Fraction of the requests, from the start of the trace, that is not counted.
    pub warmup: f64,
}

impl Setup {
    /// Number of requests at the start of the trace that are not counted.
    pub fn warmup_requests(&self, trace: &Trace) -> usize {
        (trace.requests().len() as f64 * self.warmup) as usize
    }
}

/// Counts after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Tokens of their prompts, including those of a partial last chunk.
    pub tokens: u64,
    /// Chunks looked up.
    pub chunk_accesses: u64,
    /// Chunks of hits that were in L1.
    pub l1_hits: u64,
    /// Chunks of hits that were loaded from L2.
    pub l2_hits: u64,
    /// Chunks read from L2; can differ from `l2_hits` if several requests are open.
    pub l2_reads: u64,
    /// Chunks found in L2 that were not part of a hit because L1 had no space to load them.
    pub no_space: u64,
    /// Chunks written to L2.
    pub l2_writes: u64,
    /// Chunks evicted from L1.
    pub l1_evictions: u64,
    /// Chunks evicted from L2.
    pub l2_evictions: u64,
}

impl Counts {
    /// Looked-up chunks that had to be computed.
    pub fn misses(&self) -> u64 {
        self.chunk_accesses - self.l1_hits - self.l2_hits
    }

    /// Fraction of all tokens that was served from the cache.
    pub fn token_hit_rate(&self, chunk_tokens: u32) -> f64 {
        ratio((self.l1_hits + self.l2_hits) * u64::from(chunk_tokens), self.tokens)
    }
}

/// `part / whole`, or 0 if `whole` is 0.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

macro_rules! by_field {
    ($trait:ident, $method:ident, $op:tt) => {
        impl $trait for Counts {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                Self {
                    requests: self.requests $op other.requests,
                    tokens: self.tokens $op other.tokens,
                    chunk_accesses: self.chunk_accesses $op other.chunk_accesses,
                    l1_hits: self.l1_hits $op other.l1_hits,
                    l2_hits: self.l2_hits $op other.l2_hits,
                    l2_reads: self.l2_reads $op other.l2_reads,
                    no_space: self.no_space $op other.no_space,
                    l2_writes: self.l2_writes $op other.l2_writes,
                    l1_evictions: self.l1_evictions $op other.l1_evictions,
                    l2_evictions: self.l2_evictions $op other.l2_evictions,
                }
            }
        }
    };
}

by_field!(Sub, sub, -);
by_field!(Add, add, +);

/// A simulated cache. Requests are named by their position in the trace.
pub trait Serve {
    /// Looks a request up.
    fn lookup(&mut self, request: usize);

    /// Ends the pins on chunks `start..end` of a request's hit, which have been read.
    fn retrieve(&mut self, request: usize, start: u32, end: u32);

    /// Stores those of chunks `start..end` of a request that are not in L1.
    fn store(&mut self, request: usize, start: u32, end: u32);

    /// Ends a request.
    fn end(&mut self, request: usize);

    /// The hit of an open request in chunks.
    fn hit(&self, request: usize) -> u32;

    /// Counts since the start; requests and tokens are 0, because [`serve`] counts them.
    fn counts(&self) -> Counts;
}

/// Simulates a trace on the fastest implementation that supports it. Calls `progress` after every lookup.
pub fn run(trace: &Trace, setup: &Setup, progress: &mut dyn FnMut()) -> Counts {
    if Direct::can(trace, setup) {
        serve(trace, setup, &mut Direct::new(trace, setup), progress)
    } else {
        serve(trace, setup, &mut Machine::new(trace, setup), progress)
    }
}

/// Simulates a trace on `server`. Calls `progress` after every lookup.
pub fn serve(trace: &Trace, setup: &Setup, server: &mut dyn Serve, progress: &mut dyn FnMut()) -> Counts {
    let warmup = setup.warmup_requests(trace);
    let mut before = Counts::default();
    let mut looked_up = |server: &mut dyn Serve, place: usize| {
        if place == warmup {
            before = server.counts();
        }
        server.lookup(place);
        progress();
    };
    match trace.events() {
        Some(events) => replay(trace, events, server, &mut looked_up),
        None => schedule(trace, setup.concurrency, server, &mut looked_up),
    }
    let counted = &trace.requests()[warmup.min(trace.requests().len())..];
    let after = if counted.is_empty() { before } else { server.counts() };
    let requests = counted.len() as u64;
    Counts { requests, tokens: counted.iter().map(|r| r.tokens).sum(), ..after - before }
}

/// Replays the events of a recording in their order.
///
/// Sizes and policies may differ from those of the recorded server. Where the simulated hit is shorter than
/// the recorded one, the missing chunks are stored as well, since an engine would have computed them.
fn replay(
    trace: &Trace,
    events: &[Event],
    server: &mut dyn Serve,
    lookup: &mut dyn FnMut(&mut dyn Serve, usize),
) {
    let mut stored = vec![false; trace.requests().len()];
    for event in events {
        match event {
            Event::Lookup(place) => lookup(server, *place),
            Event::Retrieve(place, range) => {
                server.retrieve(*place, range.start, range.end.min(server.hit(*place)));
            }
            Event::Store(place, range) => {
                let hit = server.hit(*place);
                let first = !std::mem::replace(&mut stored[*place], true);
                let lost = first && hit < trace.requests()[*place].recorded_hit.unwrap_or(0);
                let start = if lost { hit.min(range.start) } else { range.start };
                let start = if first { start.max(hit) } else { start };
                server.store(*place, start.min(range.end), range.end);
            }
            Event::End(place) => {
                let (hit, recorded) =
                    (server.hit(*place), trace.requests()[*place].recorded_hit.unwrap_or(0));
                if !stored[*place] && hit < recorded {
                    server.store(*place, hit, recorded);
                }
                server.end(*place);
            }
        }
    }
}

/// Serves requests in their order with `concurrency` of them open: before the next lookup, the oldest open
/// request stores its missing chunks and ends.
fn schedule(
    trace: &Trace,
    concurrency: usize,
    server: &mut dyn Serve,
    lookup: &mut dyn FnMut(&mut dyn Serve, usize),
) {
    let requests: &[Request] = trace.requests();
    let finish = |server: &mut dyn Serve, place: usize| {
        let (hit, chunks) = (server.hit(place), trace.chunks(&requests[place]).len() as u32);
        if hit < chunks {
            server.store(place, hit, chunks);
        }
        server.end(place);
    };
    let concurrency = concurrency.max(1);
    for place in 0..requests.len() {
        if place >= concurrency {
            finish(server, place - concurrency);
        }
        lookup(server, place);
    }
    for place in requests.len().saturating_sub(concurrency)..requests.len() {
        finish(server, place);
    }
}
