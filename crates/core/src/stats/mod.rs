//! What happened since the start: counters, residency statistics and event logs. Nothing is decided by them.
//!
//! To add a counter, add a field to one of the structs in [`counters`] or [`labelled`] and count where the
//! event happens.

pub mod counters;
pub mod events;
pub mod labelled;
pub mod residency;

use std::sync::Arc;

use larder_types::AdapterId;

pub use self::counters::{AdapterCounters, Counters, Exposed, L1Counters, L2Counters};
pub use self::labelled::{
    Labelled, LabelledCounters, ModelCounters, NAME_BYTES_MAX, NAMES_MAX, SaltCounters,
};

use self::events::{ChunkEvent, EventLogs, Log, ObjectEvent};
use self::residency::{ResidencyStats, ResidencyTracker};

/// All statistics of a core.
#[derive(Debug)]
pub struct Stats {
    pub(crate) requests: Counters,
    pub(crate) l1: L1Counters,
    pub(crate) adapters: Vec<AdapterCounters>,
    pub(crate) labelled: LabelledCounters,
    pub(crate) residency: ResidencyTracker,
    pub(crate) events: EventLogs,
}

impl Stats {
    /// Statistics of a core with so many L2 adapters. Residency times are sampled of this part of all chunks,
    /// from 0 to 1.
    pub fn new(adapters: usize, residency_sample: f64) -> Self {
        Self {
            requests: Counters::default(),
            l1: L1Counters::default(),
            adapters: vec![AdapterCounters::default(); adapters],
            labelled: LabelledCounters::default(),
            residency: ResidencyTracker::new(residency_sample),
            events: EventLogs::default(),
        }
    }

    /// Counts of requests.
    pub fn requests(&self) -> &Counters {
        &self.requests
    }

    /// Counts of the memory tier.
    pub fn l1(&self) -> &L1Counters {
        &self.l1
    }

    /// Counts of one adapter.
    ///
    /// # Panics
    /// If there is no such adapter.
    pub fn adapter(&self, adapter: AdapterId) -> &AdapterCounters {
        &self.adapters[adapter.0 as usize]
    }

    /// Counts per cache salt and per model.
    pub fn labelled(&self) -> &LabelledCounters {
        &self.labelled
    }

    /// How long chunks stay in L1, and when they are used again.
    pub fn residency(&self) -> &ResidencyStats {
        self.residency.stats()
    }

    /// Chunks that became findable or ceased to be.
    pub fn chunk_events(&self) -> &Log<ChunkEvent> {
        self.events.chunks()
    }

    /// What happened to objects.
    pub fn object_events(&self) -> &Log<ObjectEvent> {
        self.events.objects()
    }

    pub(crate) fn adapter_mut(&mut self, adapter: AdapterId) -> &mut AdapterCounters {
        &mut self.adapters[adapter.0 as usize]
    }

    pub(crate) fn tenant(&mut self, salt: &Arc<str>) -> &mut SaltCounters {
        self.labelled.salts.get_or_insert(salt)
    }

    pub(crate) fn model(&mut self, model: &Arc<str>) -> &mut ModelCounters {
        self.labelled.models.get_or_insert(model)
    }
}
