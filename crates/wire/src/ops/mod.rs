//! One module per operation: its id and name, its payloads, its response, what to answer when it fails,
//! and samples that the tests encode, decode and show to the reference.
//!
//! To add an operation, add a module, and name it in the list of modules and in `for_each_operation!`.

use crate::codec::{Payloads, Value};
use crate::error::DecodeError;

pub mod cb_protocol_handshake;
pub mod clear;
pub mod commit_retrieve;
pub mod commit_store;
pub mod end_session;
pub mod free_lookup_locks;
pub mod get_chunk_size;
pub mod get_experimental;
pub mod lookup;
pub mod negotiate_chunk_size;
pub mod noop;
pub mod p2p_lookup_and_lock;
pub mod p2p_query_lookup_results;
pub mod p2p_unlock_objects;
pub mod ping;
pub mod prepare_retrieve;
pub mod prepare_store;
pub mod query_prefetch_lookup_hits;
pub mod query_prefetch_status;
pub mod register_engine_driven;
pub mod register_kv_cache;
pub mod register_q_cache;
pub mod report_block_allocation;
pub mod retrieve;
pub mod store;
pub mod subscribe_kv_events;
pub mod unregister_engine_driven;
pub mod unregister_kv_cache;
pub mod unserved;
pub mod wait_prefetch_status;

/// Calls the macro `callback` with `module::Operation` for every operation, in the order of the
/// protocol's table. [`Operation`](crate::operation::Operation), [`Request`](crate::request::Request) and
/// the server's dispatch are generated from it.
#[macro_export]
macro_rules! for_each_operation {
    ($callback:ident) => {
        $callback! {
            register_kv_cache::RegisterKvCache,
            unregister_kv_cache::UnregisterKvCache,
            register_q_cache::RegisterQCache,
            unserved::UnregisterQCache,
            unserved::StoreQ,
            store::Store,
            retrieve::Retrieve,
            lookup::Lookup,
            query_prefetch_status::QueryPrefetchStatus,
            wait_prefetch_status::WaitPrefetchStatus,
            free_lookup_locks::FreeLookupLocks,
            end_session::EndSession,
            register_engine_driven::RegisterEngineDriven,
            unregister_engine_driven::UnregisterEngineDriven,
            prepare_store::PrepareStore,
            commit_store::CommitStore,
            prepare_retrieve::PrepareRetrieve,
            commit_retrieve::CommitRetrieve,
            clear::Clear,
            get_chunk_size::GetChunkSize,
            ping::Ping,
            report_block_allocation::ReportBlockAllocation,
            noop::Noop,
            unserved::CbRegisterRope,
            unserved::CbUnregisterRope,
            unserved::CbRetrievePreComputed,
            unserved::CbUnifiedLookup,
            p2p_lookup_and_lock::P2pLookupAndLock,
            p2p_query_lookup_results::P2pQueryLookupResults,
            p2p_unlock_objects::P2pUnlockObjects,
            get_experimental::GetExperimental,
            cb_protocol_handshake::CbProtocolHandshake,
            unserved::CbReorderPlan,
            subscribe_kv_events::SubscribeKvEvents,
            unserved::ServerModuleCall,
            unserved::ServerModuleAffinityCall,
            negotiate_chunk_size::NegotiateChunkSize,
            query_prefetch_lookup_hits::QueryPrefetchLookupHits,
        }
    };
}

macro_rules! reexport {
    ($($module:ident::$name:ident),+ $(,)?) => {
        $(pub use self::$module::$name;)+
    };
}

for_each_operation!(reexport);

/// One operation of the protocol. Its payloads are the type that implements this.
pub trait OperationSpec: Payloads {
    /// The frozen integer id; `None` for operations that only have a name.
    const ID: Option<u8>;

    /// The name on the wire, also the label in logs and metrics.
    const NAME: &'static str;

    /// The result. One that is nil travels as a response without a result frame.
    type Response: Value;

    /// The response when a request that decodes fails; stock clients handle each of these. `None` to
    /// stay silent, because the only possible response would mean success.
    fn failure() -> Option<Self::Response>;
}

/// The error for a request with another count of payload frames than the operation declares.
pub(crate) fn payload_count<O: OperationSpec>(found: usize) -> DecodeError {
    DecodeError::PayloadCount { operation: O::NAME, expected: O::COUNT, found }
}

/// Implements [`OperationSpec`] for a request: its id and name, its payload frames in order (left out if
/// it implements [`Payloads`] itself), its result, and the result when it fails.
macro_rules! operation {
    ($type:ident = $id:expr, $name:literal, { $($fields:tt)* } -> $response:ty, failure: $failure:expr) => {
        $crate::codec::payloads!($type { $($fields)* });
        $crate::ops::operation!($type = $id, $name, -> $response, failure: $failure);
    };
    ($type:ident = $id:expr, $name:literal, -> $response:ty, failure: $failure:expr) => {
        impl $crate::ops::OperationSpec for $type {
            const ID: Option<u8> = $id;
            const NAME: &'static str = $name;
            type Response = $response;

            fn failure() -> Option<$response> {
                $failure
            }
        }
    };
}

/// Requests and results for the tests: those of the reference read and write them too.
macro_rules! samples {
    ($type:ident: $requests:expr => $responses:expr) => {
        #[cfg(test)]
        #[allow(unused_imports, reason = "most samples use the common values")]
        mod samples {
            use super::*;
            use $crate::ops::tests::*;

            impl Samples for $type {
                fn requests() -> Vec<Self> {
                    $requests
                }

                fn responses() -> Vec<<Self as $crate::ops::OperationSpec>::Response> {
                    $responses
                }
            }
        }
    };
}

pub(crate) use {operation, samples};

#[cfg(test)]
mod tests;
