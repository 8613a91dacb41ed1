//! The steps of a run: a hash of all of them, and the last ones in full.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::model::{LookupCall, Name, WarmCall};
use crate::scenario::Millis;

/// Steps that are kept to print.
const KEPT: usize = 100;

/// A call of the core or a step of a copy.
#[derive(Clone, Debug, Hash)]
#[expect(missing_docs, reason = "each variant is a call of the core or a step of a copy, with its arguments")]
pub enum Call {
    Advance,
    Register { instance: i64, bytes: u64 },
    Unregister { instance: i64 },
    Ping { instance: i64 },
    Lost { connection: u64 },
    Gone { connection: u64 },
    Clear { force: bool },
    CutMemory { end: u64 },
    Lookup(LookupCall),
    Query { request: u32 },
    Free { request: u32, rank: Option<u32>, start: u32, end: u32 },
    End { request: u32 },
    PrepareStore(Name),
    CommitStore(Name),
    AbortStore(Name),
    PrepareRetrieve(Name),
    CommitRetrieve(Name),
    PeerLookup { owner: u64, keys: usize },
    PeerResult { id: u64 },
    PeerUnlock { owner: u64, keys: usize },
    Copy { seq: u64, write: bool, page: u64 },
    Found { lookup: u64, found: usize },
    Loaded { io: u64, ok: bool },
    Stored { task: u64, stored: usize },
    IoEnded { io: u64 },
    Io { io: u64, write: bool, page: u64 },
    Warm(WarmCall),
    PrefetchStatus { id: u64 },
    Policies { prefetch: &'static str, store: &'static str },
    Quota { salt: Option<u8>, limit: Option<u64> },
}

/// A call and its answer.
#[derive(Clone, Debug)]
struct Entry {
    step: u64,
    at: Millis,
    call: Call,
    answer: Vec<u64>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} {:>8} ms  {:?} -> {:?}", self.step, self.at, self.call, self.answer)
    }
}

/// The steps so far.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Fnv,
    steps: u64,
    last: VecDeque<Entry>,
}

impl Trace {
    /// Adds a step before it is made.
    pub fn call(&mut self, at: Millis, call: Call) {
        self.steps += 1;
        (at, &call).hash(&mut self.hash);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Entry { step: self.steps, at, call, answer: Vec::new() });
    }

    /// Adds a part of the answer to the last step.
    pub fn answer(&mut self, value: u64) {
        value.hash(&mut self.hash);
        if let Some(entry) = self.last.back_mut() {
            entry.answer.push(value);
        }
    }

    /// Hash of all steps and answers.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    /// Number of steps.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The last steps, one line each.
    pub fn tail(&self) -> Vec<String> {
        self.last.iter().map(Entry::to_string).collect()
    }
}

/// FNV-1a; the standard hasher may change between Rust versions.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
