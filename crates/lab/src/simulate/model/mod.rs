//! What is simulated: two tiers, a policy for each decision, and requests one after the other.
//!
//! Each request looks up its whole chunks. The leading run of them found in L1 or L2 is its hit; what
//! of it is in L2 is loaded into L1. The rest is computed and stored, and goes to L2 as the store
//! policy says. When the request ends its chunks are touched, the last one first, and what the prefetch
//! policy does not want to keep goes. L2 answers at once.
//!
//! Two machines do this: [`Machine`] drives the server's whole storage core, and [`Direct`] only its
//! memory tier and policies, in the order in which the core would, for one request at a time and
//! the fixed policies. Their counts are equal (`tests/simulate_*.rs`); the second is several times
//! faster.

mod direct;
mod machine;
mod tier;

use std::ops::{Add, Sub};

use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};

pub use self::direct::Direct;
pub use self::machine::Machine;
use super::trace::{Event, Request, Trace};

/// What L2 may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L2Size {
    /// Everything.
    Unbounded,
    /// So many chunks; whoever was not used for longest leaves.
    Chunks(u64),
    /// There is none.
    None,
}

/// One thing to find out about: sizes and policies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// Size of L1 in chunks.
    pub l1_chunks: u64,
    /// Size of L2.
    pub l2: L2Size,
    /// What comes from where, and whether it stays.
    pub prefetch: PrefetchKind,
    /// What goes where.
    pub store: OffloadKind,
    /// Which chunk leaves when space is needed.
    pub eviction: EvictionKind,
    /// How many requests are open at once at most.
    pub concurrency: usize,
    /// The leading fraction of the requests that is not counted.
    pub warmup: f64,
}

impl Setup {
    /// How many leading requests are not counted.
    pub fn warmup_requests(&self, trace: &Trace) -> usize {
        (trace.requests().len() as f64 * self.warmup) as usize
    }
}

/// What was counted after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Their tokens, those that fill no chunk included.
    pub tokens: u64,
    /// Chunks looked up.
    pub chunk_accesses: u64,
    /// Chunks of hits that were in L1.
    pub l1_hits: u64,
    /// Chunks of hits that were loaded.
    pub l2_hits: u64,
    /// Chunks read from L2.
    pub l2_reads: u64,
    /// Chunks of L2 that could have been part of a hit, had there been room in L1 to load them.
    pub no_space: u64,
    /// Chunks handed to L2.
    pub l2_writes: u64,
    /// Chunks evicted from L1.
    pub l1_evictions: u64,
    /// Chunks evicted from L2.
    pub l2_evictions: u64,
}

impl Counts {
    /// Chunks that had to be computed.
    pub fn misses(&self) -> u64 {
        self.chunk_accesses - self.l1_hits - self.l2_hits
    }

    /// The fraction of all tokens that needed no computing.
    pub fn token_hit_rate(&self, chunk_tokens: u32) -> f64 {
        ratio((self.l1_hits + self.l2_hits) * u64::from(chunk_tokens), self.tokens)
    }
}

/// `part / whole`, and 0 of nothing.
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

/// What can serve requests.
pub trait Serve {
    /// A request is looked up.
    fn lookup(&mut self, request: usize);

    /// Chunks `start..end` of a request's hit have been read: it no longer holds them.
    fn retrieve(&mut self, request: usize, start: u32, end: u32);

    /// What of chunks `start..end` of a request is not cached is stored.
    fn store(&mut self, request: usize, start: u32, end: u32);

    /// A request ends.
    fn end(&mut self, request: usize);

    /// The hit of a request that has been looked up and not ended, in chunks.
    fn hit(&self, request: usize) -> u32;

    /// What happened since the start. Requests and tokens are counted elsewhere.
    fn counts(&self) -> Counts;
}

/// Runs a trace. `progress` is told after every request.
pub fn run(trace: &Trace, setup: &Setup, progress: &mut dyn FnMut()) -> Counts {
    if Direct::can(trace, setup) {
        serve(trace, setup, &mut Direct::new(trace, setup), progress)
    } else {
        serve(trace, setup, &mut Machine::new(trace, setup), progress)
    }
}

/// Has a trace served by `server`.
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

/// Serves what happened in its own order.
///
/// The sizes and policies need not be those of the recording. Where the hit was longer then, the
/// engine would have had to compute and store the difference.
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

/// Serves requests in their order, `concurrency` of them open at once: when one more comes, the oldest
/// stores what it lacked and ends.
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
