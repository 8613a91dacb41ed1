//! From a request's message to the request. The rules and limits are those of the MessagePack form.

use std::sync::Arc;

use bytes::Bytes;
use larder_types::dtype::DType;
use larder_types::object::{
    ChunkHash, KvRank, ObjectKey, ObjectKeyError, check_cache_salt, check_model_name, check_object_group,
};
use larder_types::{InstanceId, LayoutId};
use prost::Message;

use super::messages as m;
use super::{TokenForm, tokens};
use crate::codec::{Entry, KERNEL_GROUPS_MAX, Newer, TENSOR_AXES_MAX, Value, decode_only, wait};
use crate::device_handle::DeviceHandle;
use crate::error::DecodeError;
use crate::key::CacheKey;
use crate::msgpack::{NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX};
use crate::operation::Operation;
use crate::ops::free_lookup_locks::TokenRange;
use crate::ops::p2p_lookup_and_lock::{GroupLayouts, MemoryLayout};
use crate::ops::register_engine_driven::GroupLayout;
use crate::ops::register_kv_cache::{EngineType, GroupInfo, LayoutHints};
use crate::ops::report_block_allocation::BlockAllocation;
use crate::ops::{self, P2pLookupAndLock};
use crate::request::Request;

/// Stands for no readers, which only clients that do not speak gRPC may mean. Lookups with it fail.
const NO_READERS: i64 = -1;

type Result<T> = std::result::Result<T, DecodeError>;

/// Decodes the message of a request, without its header, which is not longer than
/// [`message_bytes_max`](super::message_bytes_max). Bulk bytes are slices of it, not copies.
///
/// # Errors
/// It is no such message, or breaks a rule or a limit of the operation; or the operation is not served over gRPC.
pub fn decode(operation: Operation, message: Bytes, form: TokenForm) -> Result<Request> {
    match operation {
        Operation::Lookup
        | Operation::FreeLookupLocks
        | Operation::QueryPrefetchStatus
        | Operation::EndSession
        | Operation::WaitPrefetchStatus => of_scheduler(operation, message, form),
        Operation::RegisterEngineDriven
        | Operation::UnregisterEngineDriven
        | Operation::UnregisterKvCache
        | Operation::PrepareStore
        | Operation::PrepareRetrieve
        | Operation::CommitRetrieve
        | Operation::CommitStore
        | Operation::RegisterKvCache
        | Operation::Store
        | Operation::Retrieve => of_worker(operation, message, form),
        _ => of_any(operation, message),
    }
}

fn not_served(operation: Operation) -> DecodeError {
    let (expected, found) = ("an operation that is served over gRPC", "another");
    DecodeError::Type { field: operation.name(), expected, found }
}

/// Lookups and sessions.
fn of_scheduler(operation: Operation, message: Bytes, form: TokenForm) -> Result<Request> {
    Ok(match operation {
        Operation::Lookup => {
            let m::Lookup { key, tp_size } = Message::decode(message)?;
            ops::Lookup { key: cache_key(key, form)?, tp_size }.into()
        }
        Operation::FreeLookupLocks => {
            let m::FreeLookupLocks { key, tp_size, extra_ranges } = Message::decode(message)?;
            let extra_ranges = token_ranges(extra_ranges)?;
            ops::FreeLookupLocks { key: cache_key(key, form)?, tp_size, extra_ranges }.into()
        }
        Operation::QueryPrefetchStatus => {
            ops::QueryPrefetchStatus { request_id: request_id(message)? }.into()
        }
        Operation::EndSession => ops::EndSession { request_id: request_id(message)? }.into(),
        Operation::WaitPrefetchStatus => {
            let m::Wait { request_id, timeout } = Message::decode(message)?;
            let request_id = request_name(&request_id)?;
            ops::WaitPrefetchStatus { request_id, timeout: wait(timeout) }.into()
        }
        _ => return Err(not_served(operation)),
    })
}

/// Registrations and transfers.
fn of_worker(operation: Operation, message: Bytes, form: TokenForm) -> Result<Request> {
    Ok(match operation {
        Operation::RegisterEngineDriven => register_engine_driven(message, form)?.into(),
        Operation::UnregisterEngineDriven => {
            ops::UnregisterEngineDriven { instance_id: instance(message)? }.into()
        }
        Operation::UnregisterKvCache => ops::UnregisterKvCache { instance_id: instance(message)? }.into(),
        Operation::PrepareStore => prepare_store(message, form)?.into(),
        Operation::PrepareRetrieve => {
            let (key, instance_id) = transfer(message, form)?;
            ops::PrepareRetrieve { key, instance_id }.into()
        }
        Operation::CommitRetrieve => {
            let (key, instance_id) = transfer(message, form)?;
            ops::CommitRetrieve { key, instance_id }.into()
        }
        Operation::CommitStore => {
            let m::CommitStore { key, instance_id, data } = Message::decode(message)?;
            ops::CommitStore { key: cache_key(key, form)?, instance_id: InstanceId(instance_id), data }.into()
        }
        Operation::RegisterKvCache => register_kv_cache(message)?.into(),
        Operation::Store => {
            let m::ServerTransfer { key, instance_id, block_ids, event, .. } = Message::decode(message)?;
            let (key, block_ids) = (cache_key(key, form)?, lists(block_ids)?);
            ops::Store { key, instance_id: InstanceId(instance_id), block_ids, event }.into()
        }
        Operation::Retrieve => {
            let m::ServerTransfer { key, instance_id, block_ids, event, skip_first_tokens } =
                Message::decode(message)?;
            let (key, block_ids) = (cache_key(key, form)?, lists(block_ids)?);
            let instance_id = InstanceId(instance_id);
            ops::Retrieve { key, instance_id, block_ids, event, skip_first_tokens }.into()
        }
        _ => return Err(not_served(operation)),
    })
}

/// Everything else.
fn of_any(operation: Operation, message: Bytes) -> Result<Request> {
    Ok(match operation {
        Operation::GetChunkSize => {
            m::Empty::decode(message)?;
            ops::GetChunkSize.into()
        }
        Operation::NegotiateChunkSize => {
            let required_alignment = m::Number::decode(message)?.value;
            ops::NegotiateChunkSize { required_alignment }.into()
        }
        Operation::GetExperimental => {
            m::Empty::decode(message)?;
            ops::GetExperimental.into()
        }
        Operation::Noop => {
            m::Empty::decode(message)?;
            ops::Noop.into()
        }
        Operation::Clear => {
            let force = m::Clear::decode(message)?.force.unwrap_or(false);
            ops::Clear { force }.into()
        }
        Operation::Ping => {
            let instance_id = m::Ping::decode(message)?.instance_id.map(InstanceId);
            ops::Ping { instance_id }.into()
        }
        Operation::ReportBlockAllocation => report_block_allocation(message)?.into(),
        Operation::SubscribeKvEvents => {
            let m::Subscribe { instance_id, model_name, cursor, max_events } = Message::decode(message)?;
            let (instance_id, model_name) = (InstanceId(instance_id), model_name_of(&model_name)?);
            let request = ops::SubscribeKvEvents { instance_id, model_name, cursor, max_events };
            if request.window().is_none() {
                let allowed = "the cursors, or max_events in the sizes of a batch";
                return Err(DecodeError::OutOfRange { field: "cursor", value: i128::from(cursor), allowed });
            }
            request.into()
        }
        Operation::P2pLookupAndLock => peer_lookup(message)?.into(),
        Operation::P2pQueryLookupResults => {
            let lookup_id = m::Number::decode(message)?.value;
            ops::P2pQueryLookupResults { lookup_id }.into()
        }
        Operation::P2pUnlockObjects => {
            // The field of the keys is the same.
            let keys = object_keys(m::PeerLookup::decode(message)?.keys)?;
            ops::P2pUnlockObjects { keys }.into()
        }
        _ => return Err(not_served(operation)),
    })
}

/// A request without a key has an empty one.
fn cache_key(key: Option<m::Key>, form: TokenForm) -> Result<CacheKey> {
    let key = key.unwrap_or_default();
    check_cache_salt(&key.cache_salt).map_err(|source| DecodeError::Key { field: "cache_salt", source })?;
    Ok(CacheKey {
        model_name: model_name_of(&key.model_name)?,
        world_size: unsigned("world_size", key.world_size)?,
        worker_id: key.worker_id.map(|id| unsigned("worker_id", id)).transpose()?,
        tokens: tokens::decode(key.tokens, form)?,
        start: unsigned("start", key.start)?,
        end: unsigned("end", key.end)?,
        request_id: request_name(&key.request_id)?,
        cache_salt: key.cache_salt.into(),
        request_configs: key.request_configs.map(map).transpose()?,
        num_kv_readers: Some(if key.num_kv_readers == 0 { NO_READERS } else { key.num_kv_readers }),
    })
}

fn token_ranges(ranges: Vec<m::TokenRange>) -> Result<Vec<TokenRange>> {
    check_count::<TokenRange>("extra_ranges", ranges.len())?;
    let range = |range: m::TokenRange| {
        let (start, end) = (unsigned("extra_ranges", range.start)?, unsigned("extra_ranges", range.end)?);
        Ok(TokenRange { start, end })
    };
    ranges.into_iter().map(range).collect()
}

/// A MessagePack map; no bytes are an empty one.
fn map(bytes: Bytes) -> Result<Bytes> {
    const FIELD: &str = "request_configs";
    if bytes.is_empty() {
        return Ok(Bytes::from_static(b"\x80"));
    }
    decode_only(&bytes, FIELD, |reader| reader.structure(FIELD, |_, reader| reader.skip(FIELD)))?;
    Ok(bytes)
}

fn register_engine_driven(message: Bytes, form: TokenForm) -> Result<ops::RegisterEngineDriven> {
    let sent = m::RegisterEngineDriven::decode(message)?;
    check_count::<GroupLayout>("group_layouts", sent.group_layouts.len())?;
    let group = |sent: m::GroupLayout| GroupLayout {
        num_layers: sent.num_layers,
        hidden_dim_size: sent.hidden_dim_size,
        dtype: sent.dtype,
        tokens_per_block: sent.tokens_per_block,
        window_tokens: sent.window_tokens,
        kv_size: sent.kv_size,
        window_chunks: sent.window_chunks,
        recurrent: sent.recurrent,
    };
    // No groups look like no field: clients with tokens as bytes know it.
    let knows_groups = form == TokenForm::Bytes || !sent.group_layouts.is_empty();
    let groups = knows_groups.then(|| sent.group_layouts.into_iter().map(group).collect());
    Ok(ops::RegisterEngineDriven {
        instance_id: InstanceId(sent.instance_id),
        model_name: model_name_of(&sent.model_name)?,
        world_size: sent.world_size,
        block_size: sent.block_size,
        num_layers: sent.num_layers,
        hidden_dim_size: sent.hidden_dim_size,
        dtype: sent.dtype,
        use_mla: sent.use_mla,
        num_physical_slots: sent.num_physical_slots,
        group_layouts: Newer(groups),
    })
}

fn register_kv_cache(message: Bytes) -> Result<ops::RegisterKvCache> {
    let sent = m::RegisterKvCache::decode(message)?;
    check_count::<DeviceHandle>("kv_cache", sent.handles.len())?;
    check_count::<GroupInfo>("engine_group_infos", sent.groups.len())?;
    let group = |sent: m::GroupInfo| GroupInfo {
        engine_group_id: sent.engine_group_id,
        layer_indices: sent.layer_indices,
        tokens_per_block: sent.tokens_per_block,
        sw_size_tokens: sent.sw_size_tokens,
        extra_object_group_tag: sent.extra_object_group_tag,
        recurrent_state: sent.recurrent_state,
    };
    let engine_type = EngineType::from_name(&sent.engine_type);
    let engine_type =
        engine_type.ok_or_else(|| DecodeError::unknown_name("engine_type", &sent.engine_type))?;
    let layout_hints = match &sent.layout_hints {
        hints if hints.is_empty() => LayoutHints::default(),
        hints => LayoutHints::decode_payload(hints, "layout_hints")?,
    };
    Ok(ops::RegisterKvCache {
        instance_id: InstanceId(sent.instance_id),
        handles: sent.handles.into_iter().map(|handle| DeviceHandle::from_body(handle.descriptor)).collect(),
        model_name: model_name_of(&sent.model_name)?,
        world_size: sent.world_size,
        engine_type,
        layout_hints,
        groups: sent.groups.into_iter().map(group).collect(),
    })
}

fn report_block_allocation(message: Bytes) -> Result<ops::ReportBlockAllocation> {
    let sent = m::ReportBlockAllocation::decode(message)?;
    check_count::<BlockAllocation>("records", sent.records.len())?;
    let record = |sent: m::BlockAllocation| BlockAllocation {
        request_id: sent.request_id,
        new_block_ids: sent.new_block_ids,
        new_token_ids: sent.new_token_ids,
    };
    Ok(ops::ReportBlockAllocation {
        instance_id: InstanceId(sent.instance_id),
        model_name: model_name_of(&sent.model_name)?,
        records: sent.records.into_iter().map(record).collect(),
    })
}

fn peer_lookup(message: Bytes) -> Result<P2pLookupAndLock> {
    let sent = m::PeerLookup::decode(message)?;
    let (field, count, limit) = ("group_layout_descs", sent.layouts.len(), KERNEL_GROUPS_MAX);
    if count > limit {
        return Err(DecodeError::TooMany { field, count, limit });
    }
    let layouts = sent.layouts.into_iter().map(|(group, layout)| {
        let group = check_object_group(i128::from(group)).map_err(DecodeError::object_key)?;
        Ok((group, memory_layout(layout)?))
    });
    let layouts = GroupLayouts(layouts.collect::<Result<_>>()?);
    Ok(P2pLookupAndLock { keys: object_keys(sent.keys)?, layouts })
}

fn memory_layout(sent: m::Layout) -> Result<MemoryLayout> {
    check_count::<DType>("dtypes", sent.dtypes.len())?;
    if sent.shapes.len() != sent.dtypes.len() {
        let (value, allowed) = (sent.dtypes.len() as i128, "the number of shapes");
        return Err(DecodeError::OutOfRange { field: "dtypes", value, allowed });
    }
    let shape = |shape: m::Shape| {
        let (field, count) = ("shapes", shape.dims.len());
        if count > TENSOR_AXES_MAX {
            return Err(DecodeError::TooMany { field, count, limit: TENSOR_AXES_MAX });
        }
        shape.dims.into_iter().map(|size| unsigned(field, size)).collect()
    };
    let dtype = |name: &String| DType::from_name(name).map_err(|_| DecodeError::unknown_name("dtypes", name));
    Ok(MemoryLayout {
        shapes: sent.shapes.into_iter().map(shape).collect::<Result<_>>()?,
        dtypes: sent.dtypes.iter().map(dtype).collect::<Result<_>>()?,
    })
}

fn object_keys(keys: Vec<m::ObjectKey>) -> Result<Vec<ObjectKey>> {
    check_count::<ObjectKey>("keys", keys.len())?;
    keys.into_iter().map(object_key).collect()
}

fn object_key(sent: m::ObjectKey) -> Result<ObjectKey> {
    let source = ObjectKeyError::HashLength { bytes: sent.chunk_hash.len() };
    let hash = ChunkHash::new(&sent.chunk_hash).ok_or(DecodeError::Key { field: "chunk_hash", source });
    let kv_rank = u32::try_from(sent.kv_rank)
        .map_err(|_| DecodeError::object_key(ObjectKeyError::KvRank { kv_rank: i128::from(sent.kv_rank) }))?;
    let model_name = model_name_of(&sent.model_name)?;
    check_model_name(&model_name).map_err(DecodeError::object_key)?;
    check_cache_salt(&sent.cache_salt).map_err(DecodeError::object_key)?;
    Ok(ObjectKey {
        chunk_hash: hash?,
        model_name,
        kv_rank: KvRank(kv_rank),
        object_group: check_object_group(i128::from(sent.object_group)).map_err(DecodeError::object_key)?,
        cache_salt: sent.cache_salt.into(),
        layout: LayoutId::UNKNOWN,
    })
}

fn prepare_store(message: Bytes, form: TokenForm) -> Result<ops::PrepareStore> {
    let m::PrepareStore { key, instance_id, skipped_chunks } = Message::decode(message)?;
    check_count::<GroupLayout>("skipped_chunks", skipped_chunks.len())?;
    let skipped: Vec<Vec<i64>> = skipped_chunks.into_iter().map(|list| list.indices).collect();
    let plain = ops::PrepareStore::new(cache_key(key, form)?, InstanceId(instance_id));
    Ok(ops::PrepareStore { skipped_chunks: Some(skipped).filter(|lists| !lists.is_empty()), ..plain })
}

fn transfer(message: Bytes, form: TokenForm) -> Result<(CacheKey, InstanceId)> {
    let m::Transfer { key, instance_id } = Message::decode(message)?;
    Ok((cache_key(key, form)?, InstanceId(instance_id)))
}

fn lists(block_ids: Vec<m::BlockIds>) -> Result<Vec<Vec<i64>>> {
    check_count::<Vec<i64>>("block_ids", block_ids.len())?;
    Ok(block_ids.into_iter().map(|list| list.ids).collect())
}

fn instance(message: Bytes) -> Result<InstanceId> {
    Ok(InstanceId(m::Instance::decode(message)?.instance_id))
}

fn request_id(message: Bytes) -> Result<Arc<str>> {
    request_name(&m::RequestId::decode(message)?.request_id)
}

fn request_name(name: &str) -> Result<Arc<str>> {
    name_within("request_id", name, REQUEST_ID_BYTES_MAX)
}

fn model_name_of(name: &str) -> Result<Arc<str>> {
    name_within("model_name", name, NAME_BYTES_MAX)
}

fn name_within(field: &'static str, name: &str, limit: usize) -> Result<Arc<str>> {
    match name.len() {
        bytes if bytes > limit => Err(DecodeError::TooLong { field, bytes, limit }),
        _ => Ok(name.into()),
    }
}

fn unsigned<T: TryFrom<i64>>(field: &'static str, value: i64) -> Result<T> {
    let value_wide = i128::from(value);
    let allowed = "the range of the field, which has no negative numbers";
    T::try_from(value).map_err(|_| DecodeError::OutOfRange { field, value: value_wide, allowed })
}

fn check_count<T: Entry>(field: &'static str, count: usize) -> Result<()> {
    match count > T::LIST_MAX {
        true => Err(DecodeError::TooMany { field, count, limit: T::LIST_MAX }),
        false => Ok(()),
    }
}
