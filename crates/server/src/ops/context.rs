//! What operations work with.

use std::sync::Arc;
use std::time::Instant;

use larder_arena::Arena;
use larder_core::Core;
use larder_types::{ConnectionId, InstanceId, Time};
use larder_wire::dialect::Dialect;
use larder_wire::request::Request;
use tokio::runtime::Handle;

use super::not_understood::NotUnderstood;
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

/// What asks: one connection of a client.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The connection.
    pub connection: ConnectionId,
    /// What the client understands.
    pub dialect: Dialect,
    /// The connection goes on where another one was lost: the client had begun before.
    pub is_resumed: bool,
}

impl Caller {
    /// A client that frames its requests as 0.5.6 does.
    pub fn new(connection: ConnectionId) -> Self {
        Self { connection, dialect: Dialect::default(), is_resumed: false }
    }
}

/// One request, besides its payloads.
pub(super) struct Call<'a> {
    pub(super) connection: ConnectionId,
    /// What the client understands. From 0.5.7 on as far as this request shows it.
    pub(super) dialect: Dialect,
    /// The connection goes on where another one was lost.
    pub(super) is_resumed: bool,
    /// When the request arrived.
    pub(super) started: Instant,
    pub(super) responder: &'a dyn Responder,
}

impl<'a> Call<'a> {
    pub(super) fn new(caller: &Caller, started: Instant, responder: &'a dyn Responder) -> Self {
        let Caller { connection, dialect, is_resumed } = *caller;
        Self { connection, dialect, is_resumed, started, responder }
    }

    pub(super) fn caller(&self) -> Caller {
        Caller { connection: self.connection, dialect: self.dialect, is_resumed: self.is_resumed }
    }

    /// Learns from a request what its client understands, and gives its worker the name that it has in the core.
    pub(super) fn recognise(&mut self, mut request: Request) -> Request {
        if request.key().is_some_and(|key| key.tokens.are_packed()) {
            self.dialect = Dialect::V0_5_7;
        }
        if self.dialect.has_process_ids()
            && let Some(instance) = request.instance_mut()
        {
            *instance = self.instance(*instance);
        }
        request
    }

    /// The name of the worker that this client knows by its process id.
    pub(super) fn instance(&self, process: InstanceId) -> InstanceId {
        of_connection(self.connection, process)
    }
}

/// Bits of the largest process id.
const PROCESS_BITS: u32 = 22;

/// A name for a worker that calls itself by its process id, which a worker in another container may do too. Workers of
/// later clients have random numbers above zero.
fn of_connection(connection: ConnectionId, process: InstanceId) -> InstanceId {
    match u32::try_from(process.0) {
        Ok(process) if process >> PROCESS_BITS == 0 => {
            let connection = (connection.0 << PROCESS_BITS) as i64 & i64::MAX;
            InstanceId(i64::MIN | connection | i64::from(process))
        }
        _ => process,
    }
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
    /// Warns of clients that are not understood.
    pub not_understood: NotUnderstood,
    /// Runs what waits.
    pub runtime: Handle,
    /// Whether there is an L2, so that a lookup may bring chunks back.
    pub has_l2: bool,
    /// Whether workers that copy by themselves are served.
    pub serves_engine_driven: bool,
    /// The engine's block id that stands for absent KV data.
    pub null_block_id: i64,
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
