//! L2 as the server runs it: the core says what is to be done, adapters do it, the core is told.
//!
//! Each [`Effect`] becomes a task of its own. Regions of the arena go to the adapter by value; when
//! the last clone of one is dropped the core learns that its memory is no longer touched
//! (`Lent`), whether or not anybody still waits for the result. So no timeout, cancellation or
//! panic on this side can free memory under I/O.

mod eviction_listener;
mod lookup_waiters;
mod open;

use larder_policy::AdapterDesc;
use larder_types::AdapterId;
use std::sync::{Arc, Weak};
use std::time::Instant;

use larder_arena::{IoPin, Region};
use larder_core::{Effect, IoId, IoItem, LookupId, TaskId};
use larder_l2::{Adapter, Circuit, L2Error, Transfer};

use crate::app::state::State;
use crate::metrics::Batch;
use crate::observe::traces::LookupEnd;

pub use self::eviction_listener::Owner;
pub use self::lookup_waiters::Waiting;
pub use self::open::{OpenError, open};

/// The adapters, in the order of their numbers.
#[derive(Debug, Default)]
pub struct L2 {
    adapters: Vec<Arc<dyn Adapter>>,
}

/// Memory lent to an adapter. Dropping it tells the core that the I/O is over.
#[derive(Debug)]
struct Lent {
    state: Weak<State>,
    io: IoId,
}

impl IoPin for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade()
            && !state.core().is_poisoned()
        {
            state.core().with(|core, now| core.io_ended(now, self.io));
        }
    }
}

impl L2 {
    /// These adapters.
    pub fn new(adapters: Vec<Arc<dyn Adapter>>) -> Self {
        Self { adapters }
    }

    /// What the core knows of them.
    pub fn descriptions(&self) -> Vec<AdapterDesc> {
        let describe = |a: &Arc<dyn Adapter>| AdapterDesc { name: a.kind().into(), readable: true };
        self.adapters.iter().map(describe).collect()
    }

    /// The adapters with their numbers.
    pub fn adapters(&self) -> impl Iterator<Item = (AdapterId, &Arc<dyn Adapter>)> {
        self.adapters.iter().enumerate().map(|(i, a)| (AdapterId(i as u32), a))
    }

    /// What is wrong with L2, for people; nothing if it serves.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (AdapterId(i), adapter) in self.adapters() {
            let health = adapter.health();
            for (what, circuit) in [("reads", health.reads), ("writes", health.writes)] {
                let problem = match circuit {
                    Circuit::Closed => continue,
                    Circuit::Failing => "fail",
                    Circuit::Open | Circuit::HalfOpen => "have failed too often and are refused for a while",
                };
                problems.push(format!("L2 adapter #{} ({}): {what} {problem}", i + 1, adapter.kind()));
            }
        }
        problems
    }

    /// What each cache salt holds in one adapter or another, in no order.
    pub fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        self.adapters.iter().flat_map(|adapter| adapter.usage_by_salt()).collect()
    }

    /// Sets what a cache salt may hold in every adapter; they all know before the first is waited for.
    pub async fn set_quota(&self, salt: &Arc<str>, limit_bytes: Option<u64>) {
        let limited: Vec<_> = self.adapters.iter().map(|a| a.set_quota(salt, limit_bytes)).collect();
        for left in limited {
            left.await;
        }
    }

    fn get(&self, id: AdapterId) -> Arc<dyn Adapter> {
        self.adapters[id.0 as usize].clone()
    }
}

/// Has effects carried out. Never blocks.
pub fn carry_out(state: &Arc<State>, effects: Vec<Effect>) {
    for effect in effects {
        match effect {
            Effect::Lookup { lookup, adapter, keys } => {
                let future = look_up(state.clone(), lookup, adapter, keys);
                state.spawn(future);
            }
            Effect::Load { adapter, items } => {
                let future = load(state.clone(), adapter, items);
                state.spawn(future);
            }
            Effect::Store { adapter, task, items } => {
                let future = store(state.clone(), adapter, task, items);
                state.spawn(future);
            }
            Effect::LookupDone(report) => {
                if let Some(hit) = &report.hit {
                    let chunk_tokens = state.chains.chunk_tokens() as u64;
                    let requested = u64::from(report.requested_chunks);
                    state.metrics.lookup(&report.model, &report.salt, requested, hit, chunk_tokens);
                }
                if let Some(traces) = &state.traces {
                    let requested_chunks = u64::from(report.requested_chunks);
                    let looked = |hit| LookupEnd::Looked { requested_chunks, hit };
                    let end = report.hit.as_ref().map_or(LookupEnd::Cancelled, looked);
                    traces.lookup_ends(&report.request_id, end);
                }
                state.waiting.wake(&report.request_id);
            }
            Effect::PrefetchDone { .. } => {}
        }
    }
}

async fn look_up(
    state: Arc<State>,
    lookup: LookupId,
    adapter: AdapterId,
    keys: Vec<larder_types::object::ObjectKey>,
) {
    let found = state.l2.get(adapter).lookup(keys).await;
    let sizes: Vec<Option<u64>> = found.into_iter().map(|r| r.unwrap_or(None)).collect();
    state.core().with(|core, now| core.l2_found(now, lookup, &sizes));
}

async fn load(state: Arc<State>, adapter: AdapterId, items: Vec<IoItem>) {
    let ios: Vec<IoId> = items.iter().map(|i| i.io).collect();
    let end = items.iter().map(|i| i.offset + i.bytes).max().unwrap_or(0);
    // Memory for what is about to be loaded, as for a store.
    let backed = state.memory.need(end);
    let sizes: Vec<u64> = items.iter().map(|i| i.bytes).collect();
    let transfers = transfers(&state, items);
    let started = Instant::now();
    let results = match backed {
        Ok(()) => state.l2.get(adapter).load(transfers).await,
        Err(error) => {
            tracing::error!(%error, "no memory to back L1 for a load from L2");
            drop(transfers);
            Vec::new()
        }
    };
    state.metrics.l2_loaded(adapter, &batch(&sizes, &results, started));
    state.core().with(|core, now| {
        for (i, io) in ios.into_iter().enumerate() {
            let ok = results.get(i).is_some_and(Result::is_ok);
            if let Some(Err(error)) = results.get(i) {
                tracing::debug!(adapter = adapter.0, %error, "load failed");
            }
            core.l2_loaded(now, io, ok);
        }
    });
}

async fn store(state: Arc<State>, adapter: AdapterId, task: TaskId, items: Vec<IoItem>) {
    let sizes: Vec<u64> = items.iter().map(|i| i.bytes).collect();
    let transfers = transfers(&state, items);
    let started = Instant::now();
    let results = state.l2.get(adapter).store(transfers).await;
    state.metrics.l2_stored(adapter, &batch(&sizes, &results, started));
    for error in results.iter().filter_map(|r| r.as_ref().err()) {
        tracing::debug!(adapter = adapter.0, %error, "store failed");
    }
    let stored: Vec<bool> = results.iter().map(Result::is_ok).collect();
    state.core().with(|core, now| core.l2_stored(now, task, &stored));
}

/// How a batch went, for the metrics.
fn batch<T>(sizes: &[u64], results: &[Result<T, L2Error>], started: Instant) -> Batch {
    let stored = sizes.iter().zip(results).filter(|(_, result)| result.is_ok());
    Batch {
        bytes: stored.map(|(bytes, _)| bytes).sum(),
        failures: results.iter().filter_map(|r| r.as_ref().err().map(L2Error::kind)).collect(),
        time: started.elapsed(),
    }
}

fn transfers(state: &Arc<State>, items: Vec<IoItem>) -> Vec<Transfer> {
    let lend = |item: IoItem| {
        let hold = Arc::new(Lent { state: Arc::downgrade(state), io: item.io });
        let region = Region::new(state.arena.clone(), item.offset, item.bytes, hold)
            .expect("the core lends only memory of the arena");
        Transfer { key: item.key, region }
    };
    items.into_iter().map(lend).collect()
}
