//! Executes the I/O that the core asks for.
//!
//! Each [`Effect`] becomes a task of its own. Regions of the arena go to the adapter by value, each with a
//! [`RegionGuard`]: when the last clone of a region is dropped the core learns that its memory is no longer in use,
//! whether or not anything still waits for the result. So no timeout, cancellation or panic on this side can free
//! memory under I/O.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Instant;

use larder_arena::{Arena, IoPin, Region};
use larder_core::{Effect, IoId, IoItem, LookupId, StoreResult, TaskId};
use larder_l2::{L2Error, Retry, Transfer};
use larder_types::AdapterId;
use larder_types::object::ObjectKey;
use tokio::runtime::Handle;

use super::{L2, LookupWaiters};
use crate::app::core_handle::{CoreHandle, EffectSink};
use crate::app::memory::Memory;
use crate::app::processes::Processes;
use crate::observe::bus::Bus;
use crate::observe::event::{Batch, RequestEvent};

/// Executes effects with the adapters of a server.
#[derive(Clone, Debug)]
pub struct L2Effects {
    /// The core that asks, which owns this sink.
    pub core: Weak<CoreHandle>,
    /// The adapters.
    pub l2: Arc<L2>,
    /// Memory of L1.
    pub arena: Arc<Arena>,
    /// Commits it.
    pub memory: Arc<Memory>,
    /// Clients that wait for lookups.
    pub waiters: Arc<LookupWaiters>,
    /// Finds out whether processes are gone.
    pub processes: Arc<Processes>,
    /// The observers.
    pub bus: Arc<Bus>,
    /// Runs the tasks.
    pub runtime: Handle,
}

/// Memory under I/O. Dropping it reports to the core that the I/O has ended.
#[derive(Debug)]
struct RegionGuard {
    core: Weak<CoreHandle>,
    io: IoId,
}

impl IoPin for RegionGuard {}

impl Drop for RegionGuard {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade()
            && !core.is_poisoned()
        {
            core.with(|core, now| core.io_ended(now, self.io));
        }
    }
}

impl EffectSink for L2Effects {
    fn execute(&self, effects: Vec<Effect>) {
        let Some(core) = self.core.upgrade() else { return };
        for effect in effects {
            match effect {
                Effect::Lookup { lookup, adapter, keys } => {
                    self.runtime.spawn(self.clone().look_up(core.clone(), lookup, adapter, keys));
                }
                Effect::Load { adapter, items } => {
                    self.runtime.spawn(self.clone().load(core.clone(), adapter, items));
                }
                Effect::Store { adapter, task, items } => {
                    self.runtime.spawn(self.clone().store(core.clone(), adapter, task, items));
                }
                Effect::LookupDone(report) => {
                    self.bus.emit(&RequestEvent::LookupEnded(&report));
                    self.waiters.wake(&report.request_id);
                }
                Effect::CheckProcess { connection } => self.processes.check(connection),
                Effect::PrefetchDone { .. } => {}
            }
        }
    }
}

impl L2Effects {
    async fn look_up(
        self,
        core: Arc<CoreHandle>,
        lookup: LookupId,
        adapter: AdapterId,
        keys: Vec<ObjectKey>,
    ) {
        let found = self.l2.get(adapter).lookup(keys).await;
        let sizes: Vec<Option<u64>> = found.into_iter().map(|r| r.unwrap_or(None)).collect();
        core.with(|core, now| core.l2_found(now, lookup, &sizes));
    }

    async fn load(self, core: Arc<CoreHandle>, adapter: AdapterId, items: Vec<IoItem>) {
        let ios: Vec<IoId> = items.iter().map(|i| i.io).collect();
        let end = items.iter().map(|i| i.offset + i.bytes).max().unwrap_or(0);
        let sizes: Vec<u64> = items.iter().map(|i| i.bytes).collect();
        let committed = self.commit_memory(end).await;
        let transfers = self.transfers(items);
        let started = Instant::now();
        let has_memory = committed.is_ok();
        let results = match committed {
            Ok(()) => self.l2.get(adapter).load(transfers).await,
            Err(error) => {
                tracing::error!(%error, "no memory to back more of L1: a load from L2 failed");
                drop(transfers);
                Vec::new()
            }
        };
        self.bus.emit(&RequestEvent::L2Loaded { adapter, batch: &batch(&sizes, &results, started) });
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            tracing::debug!(adapter = adapter.0, %error, "load failed");
        }
        core.with(|core, now| {
            for (i, io) in ios.into_iter().enumerate() {
                core.l2_loaded(now, io, results.get(i).is_some_and(Result::is_ok));
            }
            if !has_memory {
                core.truncate_capacity(self.arena.committed());
            }
        });
        if !has_memory {
            self.memory.ran_out();
        }
    }

    async fn store(self, core: Arc<CoreHandle>, adapter: AdapterId, task: TaskId, items: Vec<IoItem>) {
        let sizes: Vec<u64> = items.iter().map(|i| i.bytes).collect();
        let transfers = self.transfers(items);
        let started = Instant::now();
        let results = self.l2.get(adapter).store(transfers).await;
        self.bus.emit(&RequestEvent::L2Stored { adapter, batch: &batch(&sizes, &results, started) });
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            tracing::debug!(adapter = adapter.0, %error, "store failed");
        }
        let stored: Vec<StoreResult> = results.iter().map(store_result).collect();
        core.with(|core, now| core.l2_stored(now, task, &stored));
    }

    /// Commits the memory below `end`, on a thread for blocking work unless it is committed already.
    async fn commit_memory(&self, end: u64) -> io::Result<()> {
        if self.memory.is_committed(end) {
            return Ok(());
        }
        let memory = self.memory.clone();
        tokio::task::spawn_blocking(move || memory.commit(end)).await.map_err(io::Error::other)?
    }

    fn transfers(&self, items: Vec<IoItem>) -> Vec<Transfer> {
        let transfer = |item: IoItem| {
            let guard = Arc::new(RegionGuard { core: self.core.clone(), io: item.io });
            let region = Region::new(self.arena.clone(), item.offset, item.bytes, guard)
                .expect("the core names only memory of the arena");
            Transfer { key: item.key, region }
        };
        items.into_iter().map(transfer).collect()
    }
}

/// The result of one store, for the core.
fn store_result<T>(result: &Result<T, L2Error>) -> StoreResult {
    match result {
        Ok(_) => StoreResult::Stored,
        Err(error) if error.retry() == Retry::Permanent => StoreResult::Refused,
        Err(_) => StoreResult::Failed,
    }
}

/// The outcome of a batch, for the metrics.
fn batch<T>(sizes: &[u64], results: &[Result<T, L2Error>], started: Instant) -> Batch {
    let stored = sizes.iter().zip(results).filter(|(_, result)| result.is_ok());
    Batch {
        bytes: stored.map(|(bytes, _)| bytes).sum(),
        failures: results.iter().filter_map(|r| r.as_ref().err().map(L2Error::kind)).collect(),
        time: started.elapsed(),
    }
}
