//! The list of observers.
//!
//! An observer that must see events in the order of the core's calls is notified with the core's lock held: it
//! may only copy the event into a queue. All others are notified after the lock is released, on the thread that
//! serves the request; they must not block either.

use std::fmt;
use std::sync::Arc;

use larder_core::Core;
use larder_types::{Layout, Time};

use super::event::RequestEvent;
use crate::app::core_handle::CoreHandle;

/// An observer of requests.
pub trait Subscriber: fmt::Debug + Send + Sync {
    /// Called for every event. Ignores those that it has no use for.
    fn on_event(&self, event: &RequestEvent<'_>);
}

/// The observers of a server, fixed at its start.
#[derive(Debug, Default)]
pub struct Bus {
    in_core_order: Vec<Arc<dyn Subscriber>>,
    unordered: Vec<Arc<dyn Subscriber>>,
    needs_l1_chunks: bool,
    needs_layouts: bool,
}

impl Bus {
    /// Adds an observer that is notified with the core's lock held, in the order of the core's calls.
    #[must_use]
    pub fn in_core_order(mut self, subscriber: Option<Arc<impl Subscriber + 'static>>) -> Self {
        self.in_core_order.extend(subscriber.map(|subscriber| subscriber as Arc<dyn Subscriber>));
        self
    }

    /// Adds an observer that is notified without the core's lock.
    #[must_use]
    pub fn with(mut self, subscriber: Option<Arc<impl Subscriber + 'static>>) -> Self {
        self.unordered.extend(subscriber.map(|subscriber| subscriber as Arc<dyn Subscriber>));
        self
    }

    /// Has [`l1_chunks`](Self::l1_chunks) and [`layouts`](Self::layouts) read from the core.
    #[must_use]
    pub fn reading(self, needs_l1_chunks: bool, needs_layouts: bool) -> Self {
        Self { needs_l1_chunks, needs_layouts, ..self }
    }

    /// Chunks of a model that fit in L1; 0 if no observer needs it.
    pub fn l1_chunks(&self, core: &Core, model: &Arc<str>, world_size: u32) -> u64 {
        if self.needs_l1_chunks { core.l1_chunks(model, world_size) } else { 0 }
    }

    /// Layouts of the objects of a chunk for one rank; empty if no observer needs them.
    pub fn layouts(&self, core: &Core, model: &Arc<str>, world_size: u32) -> Vec<Layout> {
        if self.needs_layouts { core.layouts(model, world_size) } else { Vec::new() }
    }

    /// Notifies the observers of a step that no call into the core has finished.
    pub fn emit(&self, event: &RequestEvent<'_>) {
        self.unordered.iter().for_each(|subscriber| subscriber.on_event(event));
    }

    /// Calls the core and notifies the observers of the event that `call` returns, if any, besides its result.
    pub fn observe<'a, R>(
        &self,
        core: &CoreHandle,
        call: impl FnOnce(&mut Core, Time) -> (R, Option<RequestEvent<'a>>),
    ) -> R {
        let (result, event) = core.with(|core, now| {
            let (result, event) = call(core, now);
            for subscriber in &self.in_core_order {
                event.iter().for_each(|event| subscriber.on_event(event));
            }
            (result, event)
        });
        event.iter().for_each(|event| self.emit(event));
        result
    }
}
