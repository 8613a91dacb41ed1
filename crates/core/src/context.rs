//! What every part of the core may use: the configuration, the time, the index, timers, I/O and statistics.

use larder_policy::reuse::ReusePredictor;
use larder_types::object::ObjectKey;
use larder_types::{AdapterId, Time};

use crate::config::{CoreConfig, Trim};
use crate::ids::IoId;
use crate::index::{Index, IndexMut, ObjectId, Retention};
use crate::io::{Effect, Hit, Io, IoItem, IoTable, Purpose};
use crate::requests::clients::Clients;
use crate::stats::Stats;
use crate::timers::{Timer, TimerKind, Timers};

/// Chunks that one call evicts at most to trim L1.
const TRIM_STEP_CHUNKS: u64 = 512;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: CoreConfig,
    /// The time of the current event.
    pub(crate) now: Time,
    pub(crate) timers: Timers,
    pub(crate) stats: Stats,
    /// What is to be done outside, in this order.
    pub(crate) effects: Vec<Effect>,
    pub(crate) ios: IoTable,
    pub(crate) index: Index,
    pub(crate) predictor: Option<ReusePredictor>,
    pub(crate) clients: Clients,
    /// Armed while a trim goes on.
    trimming: Option<Timer>,
    last_id: u64,
}

impl Context {
    pub(crate) fn new(config: CoreConfig) -> Self {
        let l2 = !config.adapters.is_empty();
        Self {
            now: Time::ZERO,
            timers: Timers::default(),
            stats: Stats::new(config.adapters.len(), config.residency_sample),
            effects: Vec::new(),
            ios: IoTable::default(),
            index: Index::new(config.capacity_bytes, config.align_bytes, config.eviction),
            predictor: ReusePredictor::for_policies(
                config.eviction,
                config.prefetch_policy,
                config.store_policy,
                l2,
            ),
            clients: Clients::default(),
            trimming: None,
            last_id: 0,
            config,
        }
    }

    /// The index, to change.
    pub(crate) fn index_mut(&mut self) -> IndexMut<'_> {
        self.index.edit(&mut self.stats, &mut self.predictor)
    }

    /// A new id, larger than all before it.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The id given last.
    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(crate) fn has_l2(&self) -> bool {
        !self.config.adapters.is_empty()
    }

    /// The adapters, in the order of their ids.
    pub(crate) fn adapter_ids(&self) -> impl Iterator<Item = AdapterId> + use<> {
        (0..self.config.adapters.len() as u32).map(AdapterId)
    }

    /// Makes a temporary object permanent, if `retain`. Returns whether that is a change.
    pub(crate) fn promote_if(&mut self, object: ObjectId, retain: bool) -> bool {
        let promoted = retain && self.index.retention(object) == Retention::Temporary;
        if promoted {
            self.index_mut().promote(object);
            self.stats.requests.l2.promoted_objects += 1;
        }
        promoted
    }

    /// Evicts as the watermarks require; see [`Trim`]. Cost: bounded; the rest follows by a timer.
    pub(crate) fn trim(&mut self) {
        let Some(Trim { above, release }) = self.config.trim else { return };
        let usage = self.index.usage();
        let capacity = usage.capacity_bytes as f64;
        if usage.used_bytes as f64 > capacity * above {
            self.index_mut().begin_operation();
            self.trim_step((capacity * (above - release).max(0.0)) as u64);
        }
    }

    /// Evicts some chunks, until at most `target` bytes are used or nothing is evictable.
    pub(crate) fn trim_step(&mut self, target: u64) {
        if let Some(timer) = self.trimming.take() {
            self.timers.disarm(&timer);
        }
        if self.index_mut().trim(target, TRIM_STEP_CHUNKS) == TRIM_STEP_CHUNKS {
            self.trimming = Some(self.timers.arm(self.now, TimerKind::Trim { target }));
        }
    }

    /// Whether a trim goes on.
    pub(crate) fn is_trimming(&self) -> bool {
        self.trimming.is_some()
    }

    /// Begins I/O on an object. Its memory is not reused before the I/O ends.
    pub(crate) fn begin_io(
        &mut self,
        io: IoId,
        object: ObjectId,
        adapter: AdapterId,
        purpose: Purpose,
        key: ObjectKey,
    ) -> IoItem {
        self.index_mut().io_pin(object);
        let (offset, bytes) = (self.index.offset(object), self.index.layout(object).bytes());
        self.ios.insert(io, Io { object, adapter, bytes, purpose });
        IoItem { io, key, offset, bytes }
    }

    /// Ends I/O. `None` if there is none of that id.
    pub(crate) fn end_io(&mut self, io: IoId) -> Option<Io> {
        let ended = self.ios.remove(io)?;
        self.index_mut().io_unpin(ended.object);
        Some(ended)
    }

    /// Counts the answer of a lookup.
    pub(crate) fn count_hit(&mut self, requested_chunks: u32, hit: &Hit) {
        let counters = &mut self.stats.requests;
        counters.lookups += 1;
        counters.lookup_requested_chunks += u64::from(requested_chunks);
        counters.lookup_hit_chunks += u64::from(hit.chunks);
        counters.lookup_hit_objects += u64::from(hit.l1_objects + hit.l2_objects);
        counters.l2.hit_chunks += u64::from(hit.chunks - hit.l1_chunks);
        counters.l2.hit_objects += u64::from(hit.l2_objects);
    }
}
