//! When copies between workers and L1 began, to tell how fast they were.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_core::TransferSpec;
use larder_types::InstanceId;

use super::tenants::Direction;

/// Copies that are followed at once. If there are more, all are forgotten: some are never committed, and
/// nobody tells.
const COPIES_MAX: usize = 4096;

/// Worker, request, first chunk, and which way.
type CopyKey = (InstanceId, Arc<str>, u32, Direction);

/// Copies under way.
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

    /// How long a copy took, if its beginning is known.
    pub(super) fn end(&self, direction: Direction, spec: &TransferSpec<'_>) -> Option<Duration> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.remove(&key(direction, spec)).map(|at| at.elapsed())
    }
}

fn key(direction: Direction, spec: &TransferSpec<'_>) -> CopyKey {
    (spec.instance, spec.request_id.clone(), spec.start, direction)
}
