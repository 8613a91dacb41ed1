//! Prefetch requests: loading a prompt into L1 before a request asks for it (`POST /cache/prefetches`).
//!
//! Everything loaded is retained, whatever the policy decides, and nothing stays pinned. A result is kept for as
//! long as a session would be, and may be asked for repeatedly.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_policy::prefetch::plan::Fetch;
use larder_types::object::ChunkHash;

use super::job::{Owner, Shape};
use super::{LookupSink, Prefetch, Target};
use crate::context::Context;
use crate::ids::PrefetchId;
use crate::io::Effect;
use crate::timers::{Timer, TimerKind};

/// Prefetch requests that may be pending at once.
pub const PREFETCH_REQUESTS_MAX: usize = 1024;

/// What to load.
#[derive(Clone, Debug)]
pub struct PrefetchSpec<'a> {
    /// Model as the engine names it.
    pub model: &'a Arc<str>,
    /// Pieces one chunk's KV is split into.
    pub world_size: u32,
    /// Cache salt, which isolates tenants.
    pub salt: &'a Arc<str>,
    /// Hashes of all whole chunks of the prompt, from its start.
    pub chunk_hashes: &'a Arc<[ChunkHash]>,
    /// The longest servable prefix, or all chunks there are.
    pub fetch: Fetch,
}

/// The result of a prefetch request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefetchResult {
    /// Chunks that are in L1 now.
    pub chunks: u32,
    /// Objects of them that were in L1 before.
    pub l1_objects: u32,
    /// Objects of them that were loaded.
    pub l2_objects: u32,
    /// Objects asked for.
    pub total_objects: u32,
}

/// The state of a prefetch request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefetchStatus {
    /// It has not ended.
    Pending,
    /// It has ended.
    Done(PrefetchResult),
    /// There is none of that id, or its result was forgotten.
    Unknown,
}

/// Why a prefetch request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefetchRefused {
    /// The layout of the model's objects is not known.
    #[error("no worker serves this model")]
    Unregistered,
    /// Too many are pending.
    #[error("{PREFETCH_REQUESTS_MAX} prefetch requests are pending")]
    TooMany,
}

/// A prefetch request.
#[derive(Debug)]
enum Request {
    Pending,
    /// Its result, until the timer fires.
    Done(PrefetchResult, Timer),
}

/// All prefetch requests, pending or done.
#[derive(Debug, Default)]
pub(super) struct Requests(BTreeMap<PrefetchId, Request>);

impl Requests {
    pub(super) fn is_pending(&self, id: PrefetchId) -> bool {
        matches!(self.0.get(&id), Some(Request::Pending))
    }

    pub(super) fn finish(&mut self, cx: &mut Context, id: PrefetchId, result: PrefetchResult) {
        let timer = cx.timers.arm(cx.now + cx.config.session_ttl, TimerKind::PrefetchResult(id));
        self.0.insert(id, Request::Done(result, timer));
        cx.effects.push(Effect::PrefetchDone { id });
    }

    /// Forgets a result.
    fn forget(&mut self, cx: &mut Context, id: PrefetchId) {
        if let Some(Request::Done(_, timer)) = self.0.remove(&id) {
            cx.timers.disarm(&timer);
        }
    }

    /// Armed timers. For tests.
    pub(super) fn timers(&self) -> usize {
        self.0.values().filter(|request| matches!(request, Request::Done(..))).count()
    }
}

impl Prefetch {
    /// Begins a prefetch request for a model of that shape. If there are too many results, the oldest is forgotten.
    ///
    /// # Errors
    /// [`PrefetchRefused::TooMany`] if too many are pending.
    pub(crate) fn request(
        &mut self,
        cx: &mut Context,
        shape: Shape,
        spec: &PrefetchSpec<'_>,
        sink: &mut dyn LookupSink,
    ) -> Result<PrefetchId, PrefetchRefused> {
        if self.requests.0.len() >= PREFETCH_REQUESTS_MAX {
            let mut done = self.requests.0.iter().filter(|(_, request)| matches!(request, Request::Done(..)));
            let oldest = done.next().map(|(id, _)| *id).ok_or(PrefetchRefused::TooMany)?;
            self.requests.forget(cx, oldest);
        }
        let id = PrefetchId(cx.new_id());
        self.requests.0.insert(id, Request::Pending);
        let total_objects = (shape.rows.len() * spec.chunk_hashes.len()) as u32;
        let windowed = shape.rows.iter().any(|row| row.window.is_some_and(|w| w > 0));
        if total_objects == 0 || spec.fetch == Fetch::Full && windowed {
            self.requests.finish(cx, id, PrefetchResult { total_objects, ..PrefetchResult::default() });
            return Ok(id);
        }
        let target = Target {
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            chunk_hashes: spec.chunk_hashes.clone(),
        };
        let job = self.submit(cx, Owner::Request(id), target, shape, spec.fetch, 1);
        if !cx.has_l2() {
            self.waiting.retain(|waiting| *waiting != job);
            self.begin_job(cx, job, sink);
        }
        Ok(id)
    }

    /// The state of a prefetch request.
    pub(crate) fn request_status(&self, id: PrefetchId) -> PrefetchStatus {
        match self.requests.0.get(&id) {
            Some(Request::Done(result, _)) => PrefetchStatus::Done(*result),
            Some(Request::Pending) => PrefetchStatus::Pending,
            None => PrefetchStatus::Unknown,
        }
    }

    /// The state of a prefetch request. A result is given once: then the request is forgotten.
    pub(crate) fn take_request(&mut self, cx: &mut Context, id: PrefetchId) -> PrefetchStatus {
        let status = self.request_status(id);
        if matches!(status, PrefetchStatus::Done(_)) {
            self.requests.forget(cx, id);
        }
        status
    }

    /// The result of a prefetch request has been kept long enough.
    pub(crate) fn on_result_timer(&mut self, cx: &mut Context, id: PrefetchId) {
        self.requests.forget(cx, id);
    }
}
