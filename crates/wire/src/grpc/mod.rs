//! The protocol's gRPC form: requests and replies as protobuf messages (`docs/grpc.md`).
//!
//! The requests and results are those of the MessagePack form; only their bytes differ. [`find`] names the operation
//! of a path, [`decode`] reads its request, [`encode`] writes its reply.

mod messages;
mod replies;
mod requests;
mod tokens;

pub use replies::encode;
pub use requests::decode;

use crate::operation::Operation;

/// Bytes before each message: whether it is compressed, and its length.
pub const HEADER_BYTES: usize = 5;

/// Bytes of a message that carries a key with as many tokens as are allowed, or lists of other objects.
const LIST_MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Bytes of any other message.
const SMALL_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The longest message of a request that is worth decoding. `None`: it carries chunks, and the transport decides.
///
/// A list in protobuf may have an entry in two bytes that takes a hundred in memory, and is decoded before its entries can
/// be counted.
pub const fn message_bytes_max(operation: Operation) -> Option<usize> {
    match operation {
        Operation::CommitStore => None,
        Operation::Lookup
        | Operation::FreeLookupLocks
        | Operation::PrepareStore
        | Operation::PrepareRetrieve
        | Operation::CommitRetrieve
        | Operation::RegisterKvCache
        | Operation::Store
        | Operation::Retrieve
        | Operation::ReportBlockAllocation
        | Operation::P2pLookupAndLock
        | Operation::P2pUnlockObjects => Some(LIST_MESSAGE_BYTES_MAX),
        _ => Some(SMALL_MESSAGE_BYTES_MAX),
    }
}

/// How the tokens of a key travel. The bytes do not show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenForm {
    /// As numbers: clients up to 0.5.6.
    #[default]
    Numbers,
    /// As four bytes for each: clients from 0.5.7 on.
    Bytes,
}

/// A method that a client may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// What it asks for.
    pub operation: Operation,
    /// Whether it is of a feature that this server has.
    pub is_served: bool,
    /// The form of the tokens of clients that call it; `None` if clients of both forms do.
    pub form: Option<TokenForm>,
}

const PACKAGE: &str = "/lmcache.mp.";

/// The method of a path; `None` if there is none.
pub fn find(path: &str) -> Option<Method> {
    let (service, name) = path.strip_prefix(PACKAGE)?.split_once('/')?;
    let form = match service {
        "ControllerService" | "DebugService" | "ObservabilityService" => Some(TokenForm::Numbers),
        "ManagementService" | "KVEventService" | "ExtensionService" => Some(TokenForm::Bytes),
        _ => None,
    };
    let (operation, is_served) = match (service, name) {
        ("BlendService" | "QStoreService", _) => (unserved(service, name)?, false),
        ("ControllerService" | "ExtensionService", "ServerModuleCall") => {
            (Operation::ServerModuleCall, false)
        }
        ("ExtensionService", "ServerModuleAffinityCall") => (Operation::ServerModuleAffinityCall, false),
        _ => (served(service, name)?, true),
    };
    Some(Method { operation, is_served, form })
}

fn served(service: &str, name: &str) -> Option<Operation> {
    Some(match (service, name) {
        ("ControllerService" | "ManagementService", "Clear") => Operation::Clear,
        ("ControllerService" | "ManagementService", "GetChunkSize") => Operation::GetChunkSize,
        ("ManagementService", "NegotiateChunkSize") => Operation::NegotiateChunkSize,
        ("ControllerService" | "ManagementService", "GetExperimental") => Operation::GetExperimental,
        ("ControllerService" | "ManagementService", "Ping") => Operation::Ping,
        ("DebugService" | "ManagementService", "Noop") => Operation::Noop,
        ("ObservabilityService" | "ManagementService", "ReportBlockAllocation") => {
            Operation::ReportBlockAllocation
        }
        ("ObservabilityService" | "KVEventService", "SubscribeKvEvents") => Operation::SubscribeKvEvents,
        ("LookupService", "Lookup") => Operation::Lookup,
        ("LookupService", "FreeLookupLocks") => Operation::FreeLookupLocks,
        ("LookupService", "QueryPrefetchStatus") => Operation::QueryPrefetchStatus,
        ("LookupService", "WaitPrefetchStatus") => Operation::WaitPrefetchStatus,
        ("LookupService", "EndSession") => Operation::EndSession,
        ("EngineDrivenService", "RegisterKvCacheEngineDrivenContext") => Operation::RegisterEngineDriven,
        ("EngineDrivenService", "UnregisterKvCacheEngineDrivenContext") => Operation::UnregisterEngineDriven,
        ("EngineDrivenService", "PrepareStore") => Operation::PrepareStore,
        ("EngineDrivenService", "CommitStore") => Operation::CommitStore,
        ("EngineDrivenService", "PrepareRetrieve") => Operation::PrepareRetrieve,
        ("EngineDrivenService", "CommitRetrieve") => Operation::CommitRetrieve,
        ("LMCacheDrivenService", "RegisterKvCache") => Operation::RegisterKvCache,
        ("LMCacheDrivenService", "UnregisterKvCache") => Operation::UnregisterKvCache,
        ("LMCacheDrivenService", "Store") => Operation::Store,
        ("LMCacheDrivenService", "Retrieve") => Operation::Retrieve,
        ("P2PService", "P2PLookupAndLock") => Operation::P2pLookupAndLock,
        ("P2PService", "P2PQueryLookupResults") => Operation::P2pQueryLookupResults,
        ("P2PService", "P2PUnlockObjects") => Operation::P2pUnlockObjects,
        _ => return None,
    })
}

fn unserved(service: &str, name: &str) -> Option<Operation> {
    Some(match (service, name) {
        ("QStoreService", "RegisterQCache") => Operation::RegisterQCache,
        ("QStoreService", "UnregisterQCache") => Operation::UnregisterQCache,
        ("QStoreService", "StoreQ") => Operation::StoreQ,
        ("BlendService", "CbProtocolHandshake") => Operation::CbProtocolHandshake,
        ("BlendService", "CbRegisterRope") => Operation::CbRegisterRope,
        ("BlendService", "CbUnregisterRope") => Operation::CbUnregisterRope,
        ("BlendService", "CbRetrievePreComputed") => Operation::CbRetrievePreComputed,
        ("BlendService", "CbUnifiedLookup") => Operation::CbUnifiedLookup,
        ("BlendService", "CbReorderPlan") => Operation::CbReorderPlan,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
