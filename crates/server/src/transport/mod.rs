//! Transports: how requests arrive and answers leave.

pub mod grpc;
pub mod zmq;

use larder_wire::operation::Operation;

/// Whether only an engine or another server asks for this. Such a peer does not give way to others.
fn uses_cache(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::RegisterEngineDriven
            | Operation::Lookup
            | Operation::PrepareStore
            | Operation::P2pLookupAndLock
    )
}
