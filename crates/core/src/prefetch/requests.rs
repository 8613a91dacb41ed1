//! Warming L1 up: loading a prompt before anybody asks for it.
//!
//! Everything that is loaded stays, whatever the policy says, and nobody holds it. The result is kept
//! for as long as a session would be, and may be asked for again: an answer that got lost is not.

use std::sync::Arc;

use larder_types::object::ChunkHash;

use super::Target;
use super::finish::shape;
use super::job::Owner;
use crate::core::{Core, Deadline};
use crate::io::Effect;
use larder_policy::prefetch::plan::Fetch;
use larder_types::time::Time;

/// What to load.
#[derive(Clone, Debug)]
pub struct PrefetchSpec<'a> {
    /// Model as the engine names it.
    pub model: &'a Arc<str>,
    /// Pieces one chunk's KV is split into.
    pub world_size: u32,
    /// Isolation domain.
    pub salt: &'a Arc<str>,
    /// Hashes of all whole chunks, from the start of the prompt.
    pub chunk_hashes: &'a Arc<[ChunkHash]>,
    /// The leading chunks, or all there are.
    pub fetch: Fetch,
}

/// What a warm-up came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefetchResult {
    /// Chunks that are in L1 now.
    pub chunks: u32,
    /// Objects of them that were there before.
    pub l1_objects: u32,
    /// Objects of them that were loaded.
    pub l2_objects: u32,
    /// Objects asked for.
    pub total_objects: u32,
}

/// How a warm-up stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefetchStatus {
    /// It is still going on.
    Pending,
    /// It has ended.
    Done(PrefetchResult),
    /// There is none of that number (any more).
    Unknown,
}

/// Why a warm-up was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefetchRefused {
    /// Nobody knows how the model's objects look.
    #[error("no worker serves this model")]
    Unregistered,
    /// Too many are going on.
    #[error("{PREFETCH_REQUESTS_MAX} warm-ups are going on")]
    TooMany,
}

/// Warm-ups that may be going on at once, the waiting ones included.
pub const PREFETCH_REQUESTS_MAX: usize = 1024;

/// A warm-up that somebody may ask about.
#[derive(Debug)]
pub(crate) struct Warm {
    /// What it came to, and when that is forgotten; `None` while it goes on.
    done: Option<(PrefetchResult, Time)>,
}

impl Warm {
    /// Whether it has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.done.is_some()
    }
}

impl Core {
    /// Begins to load a prompt into L1. Returns the number to ask for the result with;
    /// [`Effect::PrefetchDone`] says when. Of many results, the oldest are forgotten early.
    ///
    /// # Errors
    /// See [`PrefetchRefused`].
    pub fn prefetch(&mut self, now: Time, spec: &PrefetchSpec<'_>) -> Result<u64, PrefetchRefused> {
        self.advance(now);
        let model = self.models.get(spec.model, spec.world_size).ok_or(PrefetchRefused::Unregistered)?;
        let shape = shape(model, spec.world_size, None);
        if self.prefetch.warms.len() >= PREFETCH_REQUESTS_MAX {
            let mut done = self.prefetch.warms.iter().filter(|(_, warm)| warm.is_done());
            let oldest = done.next().map(|(id, _)| *id).ok_or(PrefetchRefused::TooMany)?;
            self.forget_warm(oldest);
        }
        let warm = self.new_id();
        self.prefetch.warms.insert(warm, Warm { done: None });
        let total_objects = (shape.0.len() * spec.chunk_hashes.len()) as u32;
        let windowed = shape.0.iter().any(|r| r.window.is_some_and(|w| w > 0));
        let impossible = spec.fetch == Fetch::Full && windowed;
        if total_objects == 0 || impossible {
            self.warm_answered(warm, PrefetchResult { total_objects, ..PrefetchResult::default() });
            return Ok(warm);
        }
        let target = Target {
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            chunk_hashes: spec.chunk_hashes.clone(),
        };
        let job = self.submit_job(now, Owner::Warm(warm), target, shape, spec.fetch, 1);
        if self.adapters.is_empty() {
            self.prefetch.waiting.retain(|waiting| *waiting != job);
            self.begin_job(job);
        }
        Ok(warm)
    }

    /// How a warm-up stands.
    pub fn prefetch_status(&mut self, now: Time, id: u64) -> PrefetchStatus {
        self.advance(now);
        match self.prefetch.warms.get(&id) {
            Some(Warm { done: Some((result, _)) }) => PrefetchStatus::Done(*result),
            Some(Warm { done: None }) => PrefetchStatus::Pending,
            None => PrefetchStatus::Unknown,
        }
    }

    pub(super) fn warm_answered(&mut self, id: u64, result: PrefetchResult) {
        let expires = self.now + self.config.session_ttl;
        let warm = self.prefetch.warms.get_mut(&id).expect("it lives until its result expires");
        warm.done = Some((result, expires));
        self.deadlines.insert((expires, Deadline::Warm(id)));
        self.effects.push(Effect::PrefetchDone { id });
    }

    /// Forgets the result of a warm-up.
    pub(crate) fn forget_warm(&mut self, id: u64) {
        if let Some(Warm { done: Some((_, expires)) }) = self.prefetch.warms.remove(&id) {
            self.deadlines.remove(&(expires, Deadline::Warm(id)));
        }
    }
}
