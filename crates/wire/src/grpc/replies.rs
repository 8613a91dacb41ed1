//! From the result of a request to its reply.

use bytes::Bytes;
use larder_types::TokenSlice;
use prost::Message;

use super::messages as m;
use crate::codec::decode_only;
use crate::ops::prepare_retrieve::RetrievePlan;
use crate::ops::store;
use crate::ops::subscribe_kv_events::{Event, EventBatch};
use crate::response::{Response, ResultFrame};

/// The framed reply. `None` for results that no reply carries: those of operations that are not served, the end of a
/// stream, and a message of more than 4 GiB.
pub fn encode(response: &Response) -> Option<Bytes> {
    match response {
        Response::RegisterKvCache(())
        | Response::UnregisterKvCache(())
        | Response::Lookup(())
        | Response::FreeLookupLocks(())
        | Response::EndSession(())
        | Response::UnregisterEngineDriven(())
        | Response::Clear(())
        | Response::ReportBlockAllocation(())
        | Response::P2pUnlockObjects(()) => framed(&m::Empty {}),
        Response::GetChunkSize(value)
        | Response::NegotiateChunkSize(value)
        | Response::P2pLookupAndLock(value) => framed(&m::Number { value: *value }),
        Response::QueryPrefetchStatus(value) | Response::WaitPrefetchStatus(value) => {
            framed(&m::OptionalNumber { value: *value })
        }
        Response::Ping(value) | Response::CommitStore(value) | Response::CommitRetrieve(value) => {
            framed(&m::Bool { value: *value })
        }
        Response::Noop(value) => framed(&m::Text { value: value.clone() }),
        Response::GetExperimental(values) => framed(&m::Texts { values: values.clone() }),
        Response::RegisterEngineDriven(pool) => {
            let null_block_id = pool.null_block_id.0.unwrap_or(0);
            framed(&m::Pool { shm_name: pool.shm_name.clone(), pool_size: pool.pool_size, null_block_id })
        }
        Response::PrepareStore(_) => framed(&m::StorePlan { context: context(&response.frame()) }),
        Response::PrepareRetrieve(plan) => framed(&match plan {
            RetrievePlan::Missing => m::RetrievePlan::default(),
            RetrievePlan::Inline(data) => {
                m::RetrievePlan { success: true, data: data.clone(), context: Bytes::new() }
            }
            _ => m::RetrievePlan { success: true, data: Bytes::new(), context: context(&response.frame()) },
        }),
        Response::Store(copied) | Response::Retrieve(copied) => framed(&copied_result(copied)),
        Response::P2pQueryLookupResults(found) => {
            let address = |a: &crate::ops::p2p_query_lookup_results::Address| m::Address {
                offset: a.offset,
                size: a.size,
            };
            let found = found.as_ref().map(|list| list.iter().map(address).collect());
            framed(&m::PeerResult { found: found.map(|addresses| m::Addresses { addresses }) })
        }
        Response::SubscribeKvEvents(batch) => batch.as_ref().and_then(|batch| framed(&event_batch(batch))),
        Response::RegisterQCache(_)
        | Response::UnregisterQCache(_)
        | Response::StoreQ(_)
        | Response::CbProtocolHandshake(_)
        | Response::CbRegisterRope(_)
        | Response::CbUnregisterRope(_)
        | Response::CbRetrievePreComputed(_)
        | Response::CbUnifiedLookup(_)
        | Response::CbReorderPlan(_)
        | Response::QueryPrefetchLookupHits(_)
        | Response::ServerModuleCall(_)
        | Response::ServerModuleAffinityCall(_) => None,
    }
}

/// A message with the header that gRPC puts before each: not compressed, and its length.
fn framed(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(super::HEADER_BYTES + length);
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    message.encode_raw(&mut bytes);
    Some(bytes.into())
}

/// The map `context` of an encoded plan. An empty one travels as no bytes.
fn context(plan: &ResultFrame) -> Bytes {
    let frame = plan.0.clone().unwrap_or_default();
    let mut context = &[][..];
    let read = decode_only(&frame, "plan", |reader| {
        reader.structure("plan", |name, reader| {
            let value = reader.raw("plan")?;
            if name == b"context" {
                context = value;
            }
            Ok(())
        })
    });
    debug_assert!(read.is_ok(), "a plan is a map");
    if context == [0x80] { Bytes::new() } else { frame.slice_ref(context) }
}

fn copied_result(copied: &store::Copied) -> m::CopiedResult {
    m::CopiedResult { result: Some(m::Copied { event: copied.event.clone(), success: copied.success }) }
}

fn event_batch(batch: &EventBatch) -> m::EventBatch {
    m::EventBatch {
        enabled: batch.enabled,
        incarnation: batch.incarnation,
        next_cursor: batch.next_cursor,
        lost: batch.lost,
        events: batch.events.iter().map(event).collect(),
    }
}

fn event(event: &Event) -> m::Event {
    let hash = |hash: &larder_types::object::ChunkHash| Bytes::copy_from_slice(hash.as_bytes());
    m::Event {
        seq: event.seq,
        kind: event.kind.name().to_owned(),
        medium: event.medium.to_string(),
        model_name: event.model_name.to_string(),
        block_hashes: event.block_hashes.iter().map(hash).collect(),
        parent_block_hash: event.parent_block_hash.as_ref().map(hash),
        // Tokens of events were hashed, so there are no others.
        token_ids: event.tokens.hashable(event.tokens.len()).map(TokenSlice::to_vec).unwrap_or_default(),
    }
}
