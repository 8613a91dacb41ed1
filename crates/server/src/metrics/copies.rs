//! Start times of copies between workers and L1, to measure their speed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_core::TransferSpec;
use larder_types::InstanceId;

use crate::observe::event::Direction;

/// Limit of copies in progress. Above it all start times are dropped, as workers may never commit a copy.
const COPIES_MAX: usize = 4096;

/// Worker, request, first chunk and direction.
type CopyKey = (InstanceId, Arc<str>, u32, Direction);

/// Start times of copies in progress.
#[derive(Debug, Default)]
pub(super) struct Copies {
    started: Mutex<HashMap<CopyKey, Instant>>,
}

impl Copies {
    pub(super) fn begin(&self, direction: Direction, spec: &TransferSpec<'_>) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if started.len() >= COPIES_MAX {
            started.clear();
        }
        started.insert(key(direction, spec), Instant::now());
    }

    /// The duration of a copy, if its start is known.
    pub(super) fn end(&self, direction: Direction, spec: &TransferSpec<'_>) -> Option<Duration> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.remove(&key(direction, spec)).map(|at| at.elapsed())
    }
}

fn key(direction: Direction, spec: &TransferSpec<'_>) -> CopyKey {
    (spec.instance, spec.request_id.clone(), spec.start, direction)
}
