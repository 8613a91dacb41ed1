//! What operations work with.

use std::sync::Arc;
use std::time::Instant;

use larder_arena::Arena;
use larder_core::Core;
use larder_types::{ConnectionId, Time};
use tokio::runtime::Handle;

use crate::app::copy_pool::CopyPool;
use crate::app::core_handle::CoreHandle;
use crate::app::memory::Memory;
use crate::app::processes::Processes;
use crate::app::refusals::Refusals;
use crate::l2::LookupWaiters;
use crate::observe::bus::Bus;
use crate::observe::event::RequestEvent;
use crate::observe::kv_events::EventStreams;
use crate::prefix_hashes::PrefixHashCache;
use crate::responder::Responder;

/// One request, besides its payloads.
pub(super) struct Call<'a> {
    pub(super) connection: ConnectionId,
    /// When the request arrived.
    pub(super) started: Instant,
    pub(super) responder: &'a dyn Responder,
}

/// The parts of the server that operations use.
#[derive(Debug)]
pub struct Context {
    /// The storage core.
    pub core: Arc<CoreHandle>,
    /// The observers.
    pub bus: Arc<Bus>,
    /// Hashes of recent prompts.
    pub hashes: Arc<PrefixHashCache>,
    /// Memory of L1.
    pub arena: Arc<Arena>,
    /// Commits it.
    pub memory: Arc<Memory>,
    /// Clients that wait for lookups.
    pub waiters: Arc<LookupWaiters>,
    /// Finds out whether processes of lost workers are gone.
    pub processes: Arc<Processes>,
    /// Subscribers of cache events.
    pub streams: Arc<EventStreams>,
    /// Runs what copies much.
    pub copies: CopyPool,
    /// Runs requests that are long to decode and to hash.
    pub long_requests: CopyPool,
    /// Counts what is refused to keep a limit.
    pub refusals: Arc<Refusals>,
    /// Runs what waits.
    pub runtime: Handle,
    /// Whether there is an L2, so that a lookup may bring chunks back.
    pub has_l2: bool,
    /// Whether workers that copy by themselves are served.
    pub serves_engine_driven: bool,
}

impl Context {
    /// Calls the core, and notifies the observers of the event that `call` returns besides its result.
    pub(super) fn observe<'a, R>(
        &self,
        call: impl FnOnce(&mut Core, Time) -> (R, Option<RequestEvent<'a>>),
    ) -> R {
        self.bus.observe(&self.core, call)
    }

    /// Tokens per chunk.
    pub(super) fn chunk_tokens(&self) -> usize {
        self.hashes.chunk_tokens()
    }
}
