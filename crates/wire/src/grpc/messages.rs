//! The protobuf messages, by the field numbers of LMCache 0.5.6 and 0.5.7. Their names do not travel.
//!
//! Written by hand, so that the build needs no protobuf compiler. Maps that travel as MessagePack within a field are
//! bytes here.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

/// A cache key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Key {
    #[prost(string, tag = "1")]
    pub(super) model_name: String,
    #[prost(int64, tag = "2")]
    pub(super) world_size: i64,
    #[prost(int64, optional, tag = "3")]
    pub(super) worker_id: Option<i64>,
    /// Packed varints, or from 0.5.7 on four bytes for each token: see [`TokenForm`](super::TokenForm).
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) tokens: Bytes,
    #[prost(int64, tag = "5")]
    pub(super) start: i64,
    #[prost(int64, tag = "6")]
    pub(super) end: i64,
    #[prost(string, tag = "7")]
    pub(super) request_id: String,
    #[prost(string, tag = "8")]
    pub(super) cache_salt: String,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(super) request_configs: Option<Bytes>,
    #[prost(int64, tag = "10")]
    pub(super) num_kv_readers: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Clear {
    #[prost(bool, optional, tag = "1")]
    pub(super) force: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ping {
    #[prost(int64, optional, tag = "1")]
    pub(super) instance_id: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TokenRange {
    #[prost(int64, tag = "1")]
    pub(super) start: i64,
    #[prost(int64, tag = "2")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FreeLookupLocks {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<Key>,
    #[prost(int64, tag = "2")]
    pub(super) tp_size: i64,
    #[prost(message, repeated, tag = "3")]
    pub(super) extra_ranges: Vec<TokenRange>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Lookup {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<Key>,
    #[prost(int64, tag = "2")]
    pub(super) tp_size: i64,
}

/// Every request that has only a request id.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestId {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Wait {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(double, tag = "2")]
    pub(super) timeout: f64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RegisterEngineDriven {
    #[prost(int64, tag = "1")]
    pub(super) instance_id: i64,
    #[prost(string, tag = "2")]
    pub(super) model_name: String,
    #[prost(int64, tag = "3")]
    pub(super) world_size: i64,
    #[prost(int64, tag = "4")]
    pub(super) block_size: i64,
    #[prost(int64, tag = "5")]
    pub(super) num_layers: i64,
    #[prost(int64, tag = "6")]
    pub(super) hidden_dim_size: i64,
    #[prost(string, tag = "7")]
    pub(super) dtype: String,
    #[prost(bool, tag = "8")]
    pub(super) use_mla: bool,
    #[prost(int64, optional, tag = "9")]
    pub(super) num_physical_slots: Option<i64>,
    #[prost(message, repeated, tag = "10")]
    pub(super) group_layouts: Vec<GroupLayout>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupLayout {
    #[prost(int64, tag = "1")]
    pub(super) num_layers: i64,
    #[prost(int64, tag = "2")]
    pub(super) hidden_dim_size: i64,
    #[prost(string, tag = "3")]
    pub(super) dtype: String,
    #[prost(int64, tag = "4")]
    pub(super) tokens_per_block: i64,
    #[prost(int64, tag = "5")]
    pub(super) window_tokens: i64,
    #[prost(int64, tag = "6")]
    pub(super) kv_size: i64,
    #[prost(int64, tag = "7")]
    pub(super) window_chunks: i64,
    #[prost(bool, tag = "8")]
    pub(super) recurrent: bool,
}

/// Every request that has only an instance.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Instance {
    #[prost(int64, tag = "1")]
    pub(super) instance_id: i64,
}

/// A transfer by the worker; only `commit_store` has data.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Transfer {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<Key>,
    #[prost(int64, tag = "2")]
    pub(super) instance_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PrepareStore {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<Key>,
    #[prost(int64, tag = "2")]
    pub(super) instance_id: i64,
    #[prost(message, repeated, tag = "3")]
    pub(super) skipped_chunks: Vec<Indices>,
}

/// The chunks of one group of layers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Indices {
    #[prost(int64, repeated, tag = "1")]
    pub(super) indices: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CommitStore {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<Key>,
    #[prost(int64, tag = "2")]
    pub(super) instance_id: i64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Handle {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) descriptor: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupInfo {
    #[prost(int64, tag = "1")]
    pub(super) engine_group_id: i64,
    #[prost(int64, repeated, tag = "2")]
    pub(super) layer_indices: Vec<i64>,
    #[prost(int64, tag = "3")]
    pub(super) tokens_per_block: i64,
    #[prost(int64, tag = "4")]
    pub(super) sw_size_tokens: i64,
    #[prost(int64, tag = "5")]
    pub(super) extra_object_group_tag: i64,
    #[prost(bool, tag = "6")]
    pub(super) recurrent_state: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RegisterKvCache {
    #[prost(int64, tag = "1")]
    pub(super) instance_id: i64,
    #[prost(message, repeated, tag = "2")]
    pub(super) handles: Vec<Handle>,
    #[prost(string, tag = "3")]
    pub(super) model_name: String,
    #[prost(int64, tag = "4")]
    pub(super) world_size: i64,
    #[prost(string, tag = "5")]
    pub(super) engine_type: String,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) layout_hints: Bytes,
    #[prost(message, repeated, tag = "7")]
    pub(super) groups: Vec<GroupInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BlockIds {
    #[prost(int64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
}

/// `store` and `retrieve`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerTransfer {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<Key>,
    #[prost(int64, tag = "2")]
    pub(super) instance_id: i64,
    #[prost(message, repeated, tag = "3")]
    pub(super) block_ids: Vec<BlockIds>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) event: Bytes,
    /// Of `retrieve`.
    #[prost(int64, tag = "5")]
    pub(super) skip_first_tokens: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BlockAllocation {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(int64, repeated, tag = "2")]
    pub(super) new_block_ids: Vec<i64>,
    #[prost(int64, repeated, tag = "3")]
    pub(super) new_token_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReportBlockAllocation {
    #[prost(int64, tag = "1")]
    pub(super) instance_id: i64,
    #[prost(string, tag = "2")]
    pub(super) model_name: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) records: Vec<BlockAllocation>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Subscribe {
    #[prost(int64, tag = "1")]
    pub(super) instance_id: i64,
    #[prost(string, tag = "2")]
    pub(super) model_name: String,
    #[prost(int64, tag = "3")]
    pub(super) cursor: i64,
    #[prost(int64, tag = "4")]
    pub(super) max_events: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectKey {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) chunk_hash: Bytes,
    #[prost(string, tag = "2")]
    pub(super) model_name: String,
    #[prost(int64, tag = "3")]
    pub(super) kv_rank: i64,
    #[prost(int64, tag = "4")]
    pub(super) object_group: i64,
    #[prost(string, tag = "5")]
    pub(super) cache_salt: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Shape {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Layout {
    #[prost(message, repeated, tag = "1")]
    pub(super) shapes: Vec<Shape>,
    #[prost(string, repeated, tag = "2")]
    pub(super) dtypes: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PeerLookup {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<ObjectKey>,
    #[prost(btree_map = "int64, message", tag = "2")]
    pub(super) layouts: BTreeMap<i64, Layout>,
}

/// Of an answer that is one number, absent if it is zero.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(int64, tag = "1")]
    pub(super) value: i64,
}

/// Of an answer that is a number or nothing. Also the request of `p2p_query_lookup_results`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OptionalNumber {
    #[prost(int64, optional, tag = "1")]
    pub(super) value: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bool {
    #[prost(bool, tag = "1")]
    pub(super) value: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Texts {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Pool {
    #[prost(string, tag = "1")]
    pub(super) shm_name: String,
    #[prost(uint64, tag = "2")]
    pub(super) pool_size: u64,
    #[prost(int64, tag = "3")]
    pub(super) null_block_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StorePlan {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) context: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RetrievePlan {
    #[prost(bool, tag = "1")]
    pub(super) success: bool,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) data: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) context: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Copied {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) event: Bytes,
    #[prost(bool, tag = "2")]
    pub(super) success: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CopiedResult {
    #[prost(message, optional, tag = "1")]
    pub(super) result: Option<Copied>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Address {
    #[prost(int64, tag = "1")]
    pub(super) offset: i64,
    #[prost(int64, tag = "2")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Addresses {
    #[prost(message, repeated, tag = "1")]
    pub(super) addresses: Vec<Address>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PeerResult {
    #[prost(message, optional, tag = "1")]
    pub(super) found: Option<Addresses>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(uint64, tag = "1")]
    pub(super) seq: u64,
    #[prost(string, tag = "2")]
    pub(super) kind: String,
    #[prost(string, tag = "3")]
    pub(super) medium: String,
    #[prost(string, tag = "4")]
    pub(super) model_name: String,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(super) block_hashes: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(super) parent_block_hash: Option<Bytes>,
    #[prost(uint32, repeated, tag = "7")]
    pub(super) token_ids: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EventBatch {
    #[prost(bool, tag = "1")]
    pub(super) enabled: bool,
    #[prost(uint64, tag = "2")]
    pub(super) incarnation: u64,
    #[prost(uint64, tag = "3")]
    pub(super) next_cursor: u64,
    #[prost(bool, tag = "4")]
    pub(super) lost: bool,
    #[prost(message, repeated, tag = "5")]
    pub(super) events: Vec<Event>,
}
