//! Requests: one variant per operation, with its payloads (`protocol.md` 3).

use larder_types::InstanceId;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::blend::{MatchResult, decode_matches, encode_matches};
use crate::error::DecodeError;
use crate::handle::{DeviceHandle, decode_handles, decode_ints, encode_handles};
use crate::key::CacheKey;
use crate::msgpack::{Reader, Writer, required};
use crate::operation::Operation;
use crate::p2p::{
    GroupLayouts, OBJECT_KEYS_MAX, decode_group_layouts, decode_object_key, encode_group_layouts,
    encode_object_key,
};
use crate::registration::{
    EngineDrivenRegistration, EngineType, GroupInfo, KERNEL_GROUPS_MAX, KvCacheRegistration, LayoutHints,
};
use larder_types::object::ObjectKey;

/// Records of one `report_block_allocation`.
pub const ALLOCATION_RECORDS_MAX: usize = 1 << 16;

/// The longest wait that `wait_prefetch_status` can ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Payloads of `store` and `store_q`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// What to store.
    pub key: CacheKey,
    /// The worker whose blocks hold it.
    pub instance_id: InstanceId,
    /// One list per kernel group, covering the key's range from its first block.
    pub block_ids: Vec<Vec<i64>>,
    /// Handle of the event to wait for before copying.
    pub event: Bytes,
}

/// Payloads of `retrieve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retrieve {
    /// What to retrieve.
    pub key: CacheKey,
    /// The worker whose blocks take it.
    pub instance_id: InstanceId,
    /// One list per kernel group, covering the key's range from its first block.
    pub block_ids: Vec<Vec<i64>>,
    /// Handle of the event to wait for before copying.
    pub event: Bytes,
    /// Tokens at the start of the range that the worker already has.
    pub skip_first_tokens: i64,
}

/// Which blocks the engine gave to one request since its last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAllocation {
    /// The request.
    pub request_id: String,
    /// Its new blocks.
    pub new_block_ids: Vec<i64>,
    /// Its new tokens.
    pub new_token_ids: Vec<i64>,
}

/// Payloads of `subscribe_kv_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The worker that subscribes.
    pub instance_id: InstanceId,
    /// The model whose events it wants.
    pub model_name: Arc<str>,
    /// Sequence number of the last event it knows, 0 for none.
    pub cursor: i64,
    /// Events per batch.
    pub max_events: i64,
}

/// The most events a batch may be asked to hold.
pub const BATCH_EVENTS_MAX: u16 = 1024;

impl Subscription {
    /// The cursor and the events per batch; `None` if one of them is not allowed.
    pub fn window(&self) -> Option<(u64, u16)> {
        let cursor = u64::try_from(self.cursor).ok()?;
        let max_events = u16::try_from(self.max_events).ok()?;
        (1..=BATCH_EVENTS_MAX).contains(&max_events).then_some((cursor, max_events))
    }
}

/// Payloads of `cb_register_rope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RopeRegistration {
    /// The worker.
    pub instance_id: InstanceId,
    /// Descriptors of the rotary tables.
    pub tables: Vec<DeviceHandle>,
    /// Elements per head.
    pub head_size: i64,
    /// Whether the halves of a head are rotated against each other.
    pub is_neox_style: bool,
    /// Table of each group.
    pub group_to_cache: Vec<i64>,
    /// Rotated part of each group.
    pub group_rotation: Vec<Vec<i64>>,
    /// Elements per head of each group.
    pub group_head_size: Vec<i64>,
    /// Quantization of the KV data; empty for none.
    pub kv_quantization: String,
}

/// Payloads of `cb_retrieve_pre_computed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlendRetrieve {
    /// The request.
    pub key: CacheKey,
    /// What to copy.
    pub matches: Vec<MatchResult>,
    /// One list per kernel group.
    pub block_ids: Vec<Vec<i64>>,
    /// The worker whose blocks take it.
    pub instance_id: InstanceId,
    /// Handle of the event to wait for before copying.
    pub event: Bytes,
}

/// Payload of `server_module_call`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCall {
    /// Name of the plugin's method.
    pub method: String,
    /// Its argument.
    pub payload: Bytes,
}

/// A request with its decoded payloads. Each variant is the operation of the same name.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "fields are the payloads of `protocol.md` 3, by their names there")]
pub enum Request {
    RegisterKvCache(KvCacheRegistration),
    UnregisterKvCache { instance_id: InstanceId },
    RegisterQCache(KvCacheRegistration),
    UnregisterQCache { instance_id: InstanceId },
    StoreQ(Store),
    Store(Store),
    Retrieve(Retrieve),
    Lookup { key: CacheKey, tp_size: i64 },
    QueryPrefetchStatus { request_id: Arc<str> },
    WaitPrefetchStatus { request_id: Arc<str>, timeout: Duration },
    FreeLookupLocks { key: CacheKey, tp_size: i64 },
    EndSession { request_id: Arc<str> },
    RegisterEngineDriven(EngineDrivenRegistration),
    UnregisterEngineDriven { instance_id: InstanceId },
    PrepareStore { key: CacheKey, instance_id: InstanceId },
    CommitStore { key: CacheKey, instance_id: InstanceId, data: Bytes },
    PrepareRetrieve { key: CacheKey, instance_id: InstanceId },
    CommitRetrieve { key: CacheKey, instance_id: InstanceId },
    Clear { force: bool },
    GetChunkSize,
    Ping { instance_id: Option<InstanceId> },
    ReportBlockAllocation { instance_id: InstanceId, model_name: Arc<str>, records: Vec<BlockAllocation> },
    Noop,
    CbRegisterRope(RopeRegistration),
    CbUnregisterRope { instance_id: InstanceId },
    CbRetrievePreComputed(BlendRetrieve),
    CbUnifiedLookup { key: CacheKey, tp_size: i64 },
    P2pLookupAndLock { keys: Vec<ObjectKey>, layouts: GroupLayouts },
    P2pQueryLookupResults { lookup_id: i64 },
    P2pUnlockObjects { keys: Vec<ObjectKey> },
    GetExperimental,
    CbProtocolHandshake { version: i64 },
    CbReorderPlan { key: CacheKey, keep_prefix: i64, budget_ms: i64 },
    SubscribeKvEvents(Subscription),
    ServerModuleCall(ModuleCall),
}

impl Request {
    /// Decodes the payload frames of `operation`.
    ///
    /// Bulk bytes (`commit_store` data, event handles) are slices of the frames, not copies.
    ///
    /// # Errors
    /// The count of payloads is not the declared one (`clear` may lack its payload), or a payload is
    /// not of its declared type. The reference leaves such requests without an answer.
    pub fn decode(operation: Operation, payloads: &[Bytes]) -> Result<Self, DecodeError> {
        if !operation.accepts_payloads(payloads.len()) {
            let expected = operation.payload_count();
            let found = payloads.len();
            return Err(DecodeError::PayloadCount { operation: operation.name(), expected, found });
        }
        let p = &mut Payloads { operation, frames: payloads };
        Ok(match operation {
            Operation::RegisterKvCache => Self::RegisterKvCache(p.kv_cache_registration()?),
            Operation::RegisterQCache => Self::RegisterQCache(p.kv_cache_registration()?),
            Operation::UnregisterKvCache => Self::UnregisterKvCache { instance_id: p.instance_id()? },
            Operation::UnregisterQCache => Self::UnregisterQCache { instance_id: p.instance_id()? },
            Operation::StoreQ => Self::StoreQ(p.store()?),
            Operation::Store => Self::Store(p.store()?),
            Operation::Retrieve => Self::Retrieve(p.retrieve()?),
            Operation::RegisterEngineDriven => {
                Self::RegisterEngineDriven(p.next("registration", EngineDrivenRegistration::decode)?)
            }
            Operation::UnregisterEngineDriven => {
                Self::UnregisterEngineDriven { instance_id: p.instance_id()? }
            }
            Operation::PrepareStore => Self::PrepareStore { key: p.key()?, instance_id: p.instance_id()? },
            Operation::CommitStore => {
                Self::CommitStore { key: p.key()?, instance_id: p.instance_id()?, data: p.bin("data")? }
            }
            Operation::PrepareRetrieve => {
                Self::PrepareRetrieve { key: p.key()?, instance_id: p.instance_id()? }
            }
            Operation::CommitRetrieve => {
                Self::CommitRetrieve { key: p.key()?, instance_id: p.instance_id()? }
            }
            _ => return Self::decode_control(operation, p),
        })
    }

    /// The operations that move no KV data.
    fn decode_control(operation: Operation, p: &mut Payloads<'_>) -> Result<Self, DecodeError> {
        Ok(match operation {
            Operation::Lookup => Self::Lookup { key: p.key()?, tp_size: p.int("tp_size")? },
            Operation::QueryPrefetchStatus => Self::QueryPrefetchStatus { request_id: p.text("request_id")? },
            Operation::WaitPrefetchStatus => {
                Self::WaitPrefetchStatus { request_id: p.text("request_id")?, timeout: p.seconds("timeout")? }
            }
            Operation::FreeLookupLocks => Self::FreeLookupLocks { key: p.key()?, tp_size: p.int("tp_size")? },
            Operation::EndSession => Self::EndSession { request_id: p.text("request_id")? },
            // Clients before 0.5.6 send no payload and mean "not forced".
            Operation::Clear if p.frames.is_empty() => Self::Clear { force: false },
            Operation::Clear => Self::Clear { force: p.next("force", |reader| reader.loose_bool("force"))? },
            Operation::GetChunkSize => Self::GetChunkSize,
            Operation::Ping => {
                let instance_id = p.next("instance_id", |reader| match reader.nil() {
                    true => Ok(None),
                    false => Ok(Some(InstanceId(reader.i64("instance_id")?))),
                })?;
                Self::Ping { instance_id }
            }
            Operation::ReportBlockAllocation => Self::ReportBlockAllocation {
                instance_id: p.instance_id()?,
                model_name: p.text("model_name")?,
                records: p.next("records", |reader| {
                    reader.list("records", ALLOCATION_RECORDS_MAX, BlockAllocation::decode)
                })?,
            },
            Operation::Noop => Self::Noop,
            Operation::GetExperimental => Self::GetExperimental,
            Operation::SubscribeKvEvents => Self::SubscribeKvEvents(Subscription {
                instance_id: p.instance_id()?,
                model_name: p.text("model_name")?,
                cursor: p.int("cursor")?,
                max_events: p.int("max_events")?,
            }),
            Operation::ServerModuleCall => Self::ServerModuleCall(p.next("request", ModuleCall::decode)?),
            _ => return Self::decode_optional(operation, p),
        })
    }

    /// The operations of optional features and of other servers.
    fn decode_optional(operation: Operation, p: &mut Payloads<'_>) -> Result<Self, DecodeError> {
        Ok(match operation {
            Operation::CbRegisterRope => Self::CbRegisterRope(p.rope_registration()?),
            Operation::CbUnregisterRope => Self::CbUnregisterRope { instance_id: p.instance_id()? },
            Operation::CbRetrievePreComputed => Self::CbRetrievePreComputed(BlendRetrieve {
                key: p.key()?,
                matches: p.next("match_results", |reader| decode_matches(reader, "match_results"))?,
                block_ids: p.int_lists("block_ids")?,
                instance_id: p.instance_id()?,
                event: p.bin("event")?,
            }),
            Operation::CbUnifiedLookup => Self::CbUnifiedLookup { key: p.key()?, tp_size: p.int("tp_size")? },
            Operation::P2pLookupAndLock => Self::P2pLookupAndLock {
                keys: p.object_keys()?,
                layouts: p.next("group_layout_descs", decode_group_layouts)?,
            },
            Operation::P2pQueryLookupResults => {
                Self::P2pQueryLookupResults { lookup_id: p.int("lookup_id")? }
            }
            Operation::P2pUnlockObjects => Self::P2pUnlockObjects { keys: p.object_keys()? },
            Operation::CbProtocolHandshake => Self::CbProtocolHandshake { version: p.int("version")? },
            Operation::CbReorderPlan => Self::CbReorderPlan {
                key: p.key()?,
                keep_prefix: p.int("keep_prefix")?,
                budget_ms: p.int("budget_ms")?,
            },
            // Every other operation is decoded by the callers of this function.
            other => {
                let (expected, found) = (other.payload_count(), p.frames.len());
                return Err(DecodeError::PayloadCount { operation: other.name(), expected, found });
            }
        })
    }

    /// The operation.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::RegisterKvCache(_) => Operation::RegisterKvCache,
            Self::UnregisterKvCache { .. } => Operation::UnregisterKvCache,
            Self::RegisterQCache(_) => Operation::RegisterQCache,
            Self::UnregisterQCache { .. } => Operation::UnregisterQCache,
            Self::StoreQ(_) => Operation::StoreQ,
            Self::Store(_) => Operation::Store,
            Self::Retrieve(_) => Operation::Retrieve,
            Self::Lookup { .. } => Operation::Lookup,
            Self::QueryPrefetchStatus { .. } => Operation::QueryPrefetchStatus,
            Self::WaitPrefetchStatus { .. } => Operation::WaitPrefetchStatus,
            Self::FreeLookupLocks { .. } => Operation::FreeLookupLocks,
            Self::EndSession { .. } => Operation::EndSession,
            Self::RegisterEngineDriven(_) => Operation::RegisterEngineDriven,
            Self::UnregisterEngineDriven { .. } => Operation::UnregisterEngineDriven,
            Self::PrepareStore { .. } => Operation::PrepareStore,
            Self::CommitStore { .. } => Operation::CommitStore,
            Self::PrepareRetrieve { .. } => Operation::PrepareRetrieve,
            Self::CommitRetrieve { .. } => Operation::CommitRetrieve,
            Self::Clear { .. } => Operation::Clear,
            Self::GetChunkSize => Operation::GetChunkSize,
            Self::Ping { .. } => Operation::Ping,
            Self::ReportBlockAllocation { .. } => Operation::ReportBlockAllocation,
            Self::Noop => Operation::Noop,
            Self::CbRegisterRope(_) => Operation::CbRegisterRope,
            Self::CbUnregisterRope { .. } => Operation::CbUnregisterRope,
            Self::CbRetrievePreComputed(_) => Operation::CbRetrievePreComputed,
            Self::CbUnifiedLookup { .. } => Operation::CbUnifiedLookup,
            Self::P2pLookupAndLock { .. } => Operation::P2pLookupAndLock,
            Self::P2pQueryLookupResults { .. } => Operation::P2pQueryLookupResults,
            Self::P2pUnlockObjects { .. } => Operation::P2pUnlockObjects,
            Self::GetExperimental => Operation::GetExperimental,
            Self::CbProtocolHandshake { .. } => Operation::CbProtocolHandshake,
            Self::CbReorderPlan { .. } => Operation::CbReorderPlan,
            Self::SubscribeKvEvents(_) => Operation::SubscribeKvEvents,
            Self::ServerModuleCall(_) => Operation::ServerModuleCall,
        }
    }

    /// The cache key, for the operations that carry one.
    pub const fn key(&self) -> Option<&CacheKey> {
        match self {
            Self::StoreQ(Store { key, .. })
            | Self::Store(Store { key, .. })
            | Self::Retrieve(Retrieve { key, .. })
            | Self::CbRetrievePreComputed(BlendRetrieve { key, .. })
            | Self::Lookup { key, .. }
            | Self::FreeLookupLocks { key, .. }
            | Self::PrepareStore { key, .. }
            | Self::CommitStore { key, .. }
            | Self::PrepareRetrieve { key, .. }
            | Self::CommitRetrieve { key, .. }
            | Self::CbUnifiedLookup { key, .. }
            | Self::CbReorderPlan { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Encodes the payload frames as stock clients do.
    pub fn encode(&self) -> Vec<Bytes> {
        match self {
            Self::RegisterKvCache(registration) | Self::RegisterQCache(registration) => registration.encode(),
            Self::StoreQ(store) | Self::Store(store) => store.encode(),
            Self::Retrieve(retrieve) => retrieve.encode(),
            Self::RegisterEngineDriven(registration) => vec![frame(|w| registration.encode(w))],
            Self::UnregisterKvCache { instance_id }
            | Self::UnregisterQCache { instance_id }
            | Self::UnregisterEngineDriven { instance_id }
            | Self::CbUnregisterRope { instance_id } => vec![int(instance_id.0)],
            Self::PrepareStore { key, instance_id }
            | Self::PrepareRetrieve { key, instance_id }
            | Self::CommitRetrieve { key, instance_id } => vec![frame(|w| key.encode(w)), int(instance_id.0)],
            Self::CommitStore { key, instance_id, data } => {
                vec![frame(|w| key.encode(w)), int(instance_id.0), frame(|w| w.bin(data))]
            }
            Self::Lookup { key, tp_size }
            | Self::FreeLookupLocks { key, tp_size }
            | Self::CbUnifiedLookup { key, tp_size } => vec![frame(|w| key.encode(w)), int(*tp_size)],
            Self::QueryPrefetchStatus { request_id } | Self::EndSession { request_id } => {
                vec![text(request_id)]
            }
            Self::WaitPrefetchStatus { request_id, timeout } => {
                vec![text(request_id), frame(|w| w.f64(timeout.as_secs_f64()))]
            }
            Self::Clear { force } => vec![frame(|w| w.bool(*force))],
            Self::Ping { instance_id } => {
                vec![instance_id.map_or_else(|| frame(Writer::nil), |id| int(id.0))]
            }
            Self::GetChunkSize | Self::Noop | Self::GetExperimental => Vec::new(),
            other => other.encode_optional(),
        }
    }

    fn encode_optional(&self) -> Vec<Bytes> {
        match self {
            Self::ReportBlockAllocation { instance_id, model_name, records } => {
                let records = frame(|w| {
                    w.array(records.len());
                    records.iter().for_each(|record| record.encode(w));
                });
                vec![int(instance_id.0), text(model_name), records]
            }
            Self::SubscribeKvEvents(subscription) => vec![
                int(subscription.instance_id.0),
                text(&subscription.model_name),
                int(subscription.cursor),
                int(subscription.max_events),
            ],
            Self::ServerModuleCall(call) => vec![frame(|w| call.encode(w))],
            Self::CbRegisterRope(registration) => registration.encode(),
            Self::CbRetrievePreComputed(retrieve) => vec![
                frame(|w| retrieve.key.encode(w)),
                frame(|w| encode_matches(&retrieve.matches, w)),
                int_lists(&retrieve.block_ids),
                int(retrieve.instance_id.0),
                frame(|w| w.bin(&retrieve.event)),
            ],
            Self::P2pLookupAndLock { keys, layouts } => {
                vec![object_keys(keys), frame(|w| encode_group_layouts(layouts, w))]
            }
            Self::P2pUnlockObjects { keys } => vec![object_keys(keys)],
            Self::P2pQueryLookupResults { lookup_id } => vec![int(*lookup_id)],
            Self::CbProtocolHandshake { version } => vec![int(*version)],
            Self::CbReorderPlan { key, keep_prefix, budget_ms } => {
                vec![frame(|w| key.encode(w)), int(*keep_prefix), int(*budget_ms)]
            }
            // Every other request is encoded by the caller of this function.
            _ => Vec::new(),
        }
    }
}

/// The payload frames that are still to be decoded.
struct Payloads<'a> {
    operation: Operation,
    frames: &'a [Bytes],
}

impl Payloads<'_> {
    fn next_frame(&mut self) -> Result<&Bytes, DecodeError> {
        let (first, rest) = self.frames.split_first().ok_or(DecodeError::PayloadCount {
            operation: self.operation.name(),
            expected: self.operation.payload_count(),
            found: 0,
        })?;
        self.frames = rest;
        Ok(first)
    }

    /// Decodes one frame as one value.
    fn next<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let mut reader = Reader::new(self.next_frame()?);
        let value = read(&mut reader)?;
        reader.finish(field)?;
        Ok(value)
    }

    fn key(&mut self) -> Result<CacheKey, DecodeError> {
        self.next("key", CacheKey::decode)
    }

    fn int(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.next(field, |reader| reader.loose_i64(field))
    }

    fn instance_id(&mut self) -> Result<InstanceId, DecodeError> {
        self.int("instance_id").map(InstanceId)
    }

    fn text(&mut self, field: &'static str) -> Result<Arc<str>, DecodeError> {
        self.next(field, |reader| reader.name(field).map(Arc::from))
    }

    /// Bytes as a slice of their frame.
    fn bin(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let frame = self.next_frame()?;
        let mut reader = Reader::new(frame);
        let bytes = reader.bin(field)?;
        reader.finish(field)?;
        Ok(frame.slice_ref(bytes))
    }

    /// Seconds; what is no time to wait becomes none, and more than [`WAIT_MAX`] becomes that.
    fn seconds(&mut self, field: &'static str) -> Result<Duration, DecodeError> {
        let seconds = self.next(field, |reader| reader.f64(field))?;
        let capped = seconds.min(WAIT_MAX.as_secs_f64());
        Ok(Duration::try_from_secs_f64(capped).unwrap_or_default())
    }

    fn int_lists(&mut self, field: &'static str) -> Result<Vec<Vec<i64>>, DecodeError> {
        self.next(field, |reader| reader.list(field, KERNEL_GROUPS_MAX, |reader| decode_ints(reader, field)))
    }

    fn object_keys(&mut self) -> Result<Vec<ObjectKey>, DecodeError> {
        self.next("keys", |reader| reader.list("keys", OBJECT_KEYS_MAX, decode_object_key))
    }

    fn store(&mut self) -> Result<Store, DecodeError> {
        Ok(Store {
            key: self.key()?,
            instance_id: self.instance_id()?,
            block_ids: self.int_lists("block_ids")?,
            event: self.bin("event")?,
        })
    }

    fn retrieve(&mut self) -> Result<Retrieve, DecodeError> {
        Ok(Retrieve {
            key: self.key()?,
            instance_id: self.instance_id()?,
            block_ids: self.int_lists("block_ids")?,
            event: self.bin("event")?,
            skip_first_tokens: self.int("skip_first_n_tokens")?,
        })
    }

    fn kv_cache_registration(&mut self) -> Result<KvCacheRegistration, DecodeError> {
        Ok(KvCacheRegistration {
            instance_id: self.instance_id()?,
            handles: self.next("kv_cache", decode_handles)?,
            model_name: self.text("model_name")?,
            world_size: self.int("world_size")?,
            engine_type: self.next("engine_type", |reader| EngineType::decode(reader, "engine_type"))?,
            layout_hints: self.next("layout_hints", LayoutHints::decode)?,
            groups: self.next("engine_group_infos", |reader| {
                reader.list("engine_group_infos", KERNEL_GROUPS_MAX, GroupInfo::decode)
            })?,
        })
    }

    fn rope_registration(&mut self) -> Result<RopeRegistration, DecodeError> {
        Ok(RopeRegistration {
            instance_id: self.instance_id()?,
            tables: self.next("cos_sin_caches", decode_handles)?,
            head_size: self.int("head_size")?,
            is_neox_style: self.next("is_neox_style", |reader| reader.loose_bool("is_neox_style"))?,
            group_to_cache: self.next("group_to_cache", |reader| decode_ints(reader, "group_to_cache"))?,
            group_rotation: self.int_lists("group_rot")?,
            group_head_size: self.next("group_head_size", |reader| decode_ints(reader, "group_head_size"))?,
            kv_quantization: self.next("kv_quant", |reader| reader.str("kv_quant").map(str::to_owned))?,
        })
    }
}

/// Writes one frame.
pub(crate) fn frame(write: impl FnOnce(&mut Writer)) -> Bytes {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.into_bytes()
}

fn int(value: i64) -> Bytes {
    frame(|w| w.int(value))
}

fn text(value: &str) -> Bytes {
    frame(|w| w.str(value))
}

fn int_lists(lists: &[Vec<i64>]) -> Bytes {
    frame(|w| {
        w.array(lists.len());
        lists.iter().for_each(|list| w.ints(list));
    })
}

fn object_keys(keys: &[ObjectKey]) -> Bytes {
    frame(|w| {
        w.array(keys.len());
        keys.iter().for_each(|key| encode_object_key(key, w));
    })
}

impl KvCacheRegistration {
    fn encode(&self) -> Vec<Bytes> {
        vec![
            int(self.instance_id.0),
            frame(|w| encode_handles(&self.handles, w)),
            text(&self.model_name),
            int(self.world_size),
            text(self.engine_type.name()),
            frame(|w| self.layout_hints.encode(w)),
            frame(|w| {
                w.array(self.groups.len());
                self.groups.iter().for_each(|group| group.encode(w));
            }),
        ]
    }
}

impl Store {
    fn encode(&self) -> Vec<Bytes> {
        vec![
            frame(|w| self.key.encode(w)),
            int(self.instance_id.0),
            int_lists(&self.block_ids),
            frame(|w| w.bin(&self.event)),
        ]
    }
}

impl Retrieve {
    fn encode(&self) -> Vec<Bytes> {
        vec![
            frame(|w| self.key.encode(w)),
            int(self.instance_id.0),
            int_lists(&self.block_ids),
            frame(|w| w.bin(&self.event)),
            int(self.skip_first_tokens),
        ]
    }
}

impl RopeRegistration {
    fn encode(&self) -> Vec<Bytes> {
        vec![
            int(self.instance_id.0),
            frame(|w| encode_handles(&self.tables, w)),
            int(self.head_size),
            frame(|w| w.bool(self.is_neox_style)),
            frame(|w| w.ints(&self.group_to_cache)),
            int_lists(&self.group_rotation),
            frame(|w| w.ints(&self.group_head_size)),
            text(&self.kv_quantization),
        ]
    }
}

impl BlockAllocation {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut request_id, mut new_block_ids, mut new_token_ids) = (None, None, None);
        reader.structure("records", |name, reader| {
            match name {
                b"req_id" => request_id = Some(reader.str("req_id")?.to_owned()),
                b"new_block_ids" => new_block_ids = Some(decode_ints(reader, "new_block_ids")?),
                b"new_token_ids" => new_token_ids = Some(decode_ints(reader, "new_token_ids")?),
                _ => reader.skip("records")?,
            }
            Ok(())
        })?;
        Ok(Self {
            request_id: required("req_id", request_id)?,
            new_block_ids: required("new_block_ids", new_block_ids)?,
            new_token_ids: required("new_token_ids", new_token_ids)?,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(3);
        writer.str("req_id");
        writer.str(&self.request_id);
        writer.str("new_block_ids");
        writer.ints(&self.new_block_ids);
        writer.str("new_token_ids");
        writer.ints(&self.new_token_ids);
    }
}

impl ModuleCall {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut method, mut payload) = (None, None);
        reader.structure("request", |name, reader| {
            match name {
                b"method" => method = Some(reader.str("method")?.to_owned()),
                b"payload" => payload = Some(Bytes::copy_from_slice(reader.bin("payload")?)),
                _ => reader.skip("request")?,
            }
            Ok(())
        })?;
        Ok(Self { method: required("method", method)?, payload: required("payload", payload)? })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(2);
        writer.str("method");
        writer.str(&self.method);
        writer.str("payload");
        writer.bin(&self.payload);
    }
}
