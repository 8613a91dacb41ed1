//! Responses: what an operation answers, and what it answers on failure (`protocol.md` 3).

use std::sync::Arc;

use bytes::Bytes;

use crate::blend::UnifiedLookup;
use crate::error::DecodeError;
use crate::event::EventBatch;
use crate::handle::{TENSOR_AXES_MAX, decode_dtype, decode_ints};
use crate::msgpack::{Kind, Reader, Writer, required};
use crate::operation::Operation;
use crate::p2p::{Address, OBJECT_KEYS_MAX};
use crate::request::frame;
use larder_types::dtype::DType;

/// Slots of one transfer.
pub const SLOTS_MAX: usize = 1 << 20;

/// Feature names of one answer.
const FEATURES_MAX: usize = 1 << 10;

/// A piece of the shared-memory pool that holds one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Bytes from the start of the pool.
    pub offset: u64,
    /// Bytes of the chunk.
    pub length: u64,
    /// Shape of the chunk.
    pub shape: Arc<[u64]>,
    /// Element type of the chunk.
    pub dtype: DType,
}

/// Answer of `prepare_store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlan {
    /// Write into these slots. None at all: everything is already stored.
    Slots {
        /// The slots.
        slots: Vec<Slot>,
        /// For each slot, which chunk of the key's range it is for.
        chunk_indices: Vec<u64>,
    },
    /// There is no pool; send the chunks as a pickle.
    Pickle,
}

/// Answer of `prepare_retrieve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetrievePlan {
    /// Not all of the range is there.
    Missing,
    /// Read from these slots, one per chunk of the range in its order.
    Slots(Vec<Slot>),
    /// There is no pool; here are the chunks as a pickle.
    Pickle(Bytes),
}

/// Answer of `server_module_call`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleResult {
    /// Whether the plugin did what was asked.
    pub success: bool,
    /// What it answers.
    pub payload: Bytes,
    /// Why it did not.
    pub error: String,
}

/// A response, by its shape on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// No result: done, still loading, nothing known under that id, or the end of a stream.
    Nil,
    /// `ping`, `commit_store`, `commit_retrieve`.
    Bool(bool),
    /// Chunks hit, tokens per chunk, or the id of a lookup.
    Int(i64),
    /// `noop`.
    Text(String),
    /// `get_experimental`.
    Features(Vec<String>),
    /// `store`, `retrieve` and their like.
    Transfer {
        /// Handle of the event after the copy; empty if no work was given to a device.
        event: Bytes,
        /// Whether the data was copied.
        success: bool,
    },
    /// `register_kv_cache_engine_driven_context`.
    Pool {
        /// Name of the shared memory without a leading `/`; empty to use pickles.
        shm_name: String,
        /// Bytes of the pool.
        pool_size: u64,
    },
    /// `prepare_store`.
    StorePlan(StorePlan),
    /// `prepare_retrieve`.
    RetrievePlan(RetrievePlan),
    /// `cb_unified_lookup`.
    UnifiedLookup(UnifiedLookup),
    /// `cb_reorder_plan`.
    Order(Vec<i64>),
    /// `cb_protocol_handshake`.
    Handshake {
        /// The server's version.
        server_version: i64,
        /// Whether it is the client's as well.
        matches: bool,
    },
    /// `p2p_query_lookup_results`, parallel to the keys of the lookup.
    Addresses(Vec<Address>),
    /// One batch of `subscribe_kv_events`.
    Events(EventBatch),
    /// `server_module_call`.
    ModuleResult(ModuleResult),
}

impl Operation {
    /// What to answer when a decodable request fails; stock clients handle each of these. `None` to
    /// stay silent, because the only possible answer would mean success.
    pub fn failure(self) -> Option<Response> {
        match self {
            Self::RegisterKvCache
            | Self::RegisterQCache
            | Self::RegisterEngineDriven
            | Self::CbRegisterRope
            | Self::GetChunkSize
            | Self::Ping
            | Self::Noop
            | Self::P2pLookupAndLock
            | Self::CbProtocolHandshake => None,
            Self::UnregisterKvCache
            | Self::UnregisterQCache
            | Self::UnregisterEngineDriven
            | Self::CbUnregisterRope
            | Self::Lookup
            | Self::FreeLookupLocks
            | Self::EndSession
            | Self::Clear
            | Self::ReportBlockAllocation
            | Self::P2pUnlockObjects
            | Self::SubscribeKvEvents => Some(Response::Nil),
            Self::QueryPrefetchStatus | Self::WaitPrefetchStatus => Some(Response::Int(0)),
            Self::StoreQ | Self::Store | Self::Retrieve | Self::CbRetrievePreComputed => {
                Some(Response::Transfer { event: Bytes::new(), success: false })
            }
            Self::PrepareStore => Some(Response::StorePlan(StorePlan::NOTHING)),
            Self::CommitStore => Some(Response::Bool(false)),
            Self::PrepareRetrieve => Some(Response::RetrievePlan(RetrievePlan::Missing)),
            Self::CommitRetrieve => Some(Response::Bool(true)),
            Self::CbUnifiedLookup => Some(Response::UnifiedLookup(UnifiedLookup::default())),
            Self::CbReorderPlan => Some(Response::Order(Vec::new())),
            Self::P2pQueryLookupResults => Some(Response::Addresses(Vec::new())),
            Self::GetExperimental => Some(Response::Features(Vec::new())),
            Self::ServerModuleCall => Some(Response::ModuleResult(ModuleResult {
                success: false,
                payload: Bytes::new(),
                error: "this server has no modules".to_owned(),
            })),
        }
    }
}

impl StorePlan {
    /// There is nothing to write, or nothing can be written.
    pub const NOTHING: Self = Self::Slots { slots: Vec::new(), chunk_indices: Vec::new() };
}

impl Response {
    /// The result frame; `None` for a response without one.
    pub fn encode(&self) -> Option<Bytes> {
        if *self == Self::Nil {
            return None;
        }
        Some(frame(|writer| self.write(writer)))
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Nil => writer.nil(),
            Self::Bool(value) => writer.bool(*value),
            Self::Int(value) => writer.int(*value),
            Self::Text(text) => writer.str(text),
            Self::Features(names) => {
                writer.array(names.len());
                names.iter().for_each(|name| writer.str(name));
            }
            Self::Transfer { event, success } => {
                writer.array(2);
                writer.bin(event);
                writer.bool(*success);
            }
            Self::Pool { shm_name, pool_size } => {
                writer.map(2);
                writer.str("shm_name");
                writer.str(shm_name);
                writer.str("pool_size");
                writer.uint(*pool_size);
            }
            Self::StorePlan(plan) => plan.encode(writer),
            Self::RetrievePlan(plan) => plan.encode(writer),
            Self::UnifiedLookup(lookup) => lookup.encode(writer),
            Self::Order(order) => writer.ints(order),
            Self::Handshake { server_version, matches } => {
                writer.array(2);
                writer.int(*server_version);
                writer.bool(*matches);
            }
            Self::Addresses(addresses) => {
                writer.array(addresses.len());
                addresses.iter().for_each(|address| address.encode(writer));
            }
            Self::Events(batch) => batch.encode(writer),
            Self::ModuleResult(result) => result.encode(writer),
        }
    }

    /// Decodes what a server answered to `operation`: its result frame, if there was one.
    ///
    /// # Errors
    /// The frame is missing although the operation never answers without one, or it is of another type.
    pub fn decode(operation: Operation, result: Option<&Bytes>) -> Result<Self, DecodeError> {
        let Some(bytes) = result else {
            return if operation.may_answer_nil() {
                Ok(Self::Nil)
            } else {
                Err(DecodeError::Missing { field: "result" })
            };
        };
        let mut reader = Reader::new(bytes);
        let response = if operation.may_answer_nil() && reader.nil() {
            Self::Nil
        } else {
            Self::read(operation, &mut reader)?
        };
        reader.finish("result")?;
        Ok(response)
    }

    fn read(operation: Operation, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "result";
        Ok(match operation {
            Operation::Ping | Operation::CommitStore | Operation::CommitRetrieve => {
                Self::Bool(reader.bool(field)?)
            }
            Operation::GetChunkSize
            | Operation::QueryPrefetchStatus
            | Operation::WaitPrefetchStatus
            | Operation::P2pLookupAndLock => Self::Int(reader.i64(field)?),
            Operation::Noop => Self::Text(reader.str(field)?.to_owned()),
            Operation::GetExperimental => {
                Self::Features(reader.list(field, FEATURES_MAX, |reader| Ok(reader.str(field)?.to_owned()))?)
            }
            Operation::StoreQ | Operation::Store | Operation::Retrieve | Operation::CbRetrievePreComputed => {
                reader.tuple(field, 2, "an array of an event and a boolean")?;
                let event = Bytes::copy_from_slice(reader.bin("event")?);
                Self::Transfer { event, success: reader.bool("success")? }
            }
            Operation::RegisterEngineDriven => read_pool(reader)?,
            Operation::PrepareStore => Self::StorePlan(StorePlan::decode(reader)?),
            Operation::PrepareRetrieve => Self::RetrievePlan(RetrievePlan::decode(reader)?),
            Operation::CbUnifiedLookup => Self::UnifiedLookup(UnifiedLookup::decode(reader)?),
            Operation::CbReorderPlan => Self::Order(decode_ints(reader, field)?),
            Operation::CbProtocolHandshake => {
                reader.tuple(field, 2, "an array of a version and a boolean")?;
                Self::Handshake { server_version: reader.i64("version")?, matches: reader.bool("match")? }
            }
            Operation::P2pQueryLookupResults => {
                Self::Addresses(reader.list(field, OBJECT_KEYS_MAX, Address::decode)?)
            }
            Operation::SubscribeKvEvents => Self::Events(EventBatch::decode(reader)?),
            Operation::ServerModuleCall => Self::ModuleResult(ModuleResult::decode(reader)?),
            Operation::RegisterKvCache
            | Operation::UnregisterKvCache
            | Operation::RegisterQCache
            | Operation::UnregisterQCache
            | Operation::Lookup
            | Operation::FreeLookupLocks
            | Operation::EndSession
            | Operation::UnregisterEngineDriven
            | Operation::Clear
            | Operation::ReportBlockAllocation
            | Operation::CbRegisterRope
            | Operation::CbUnregisterRope
            | Operation::P2pUnlockObjects => {
                let found = reader.kind(field).map_or("nothing", Kind::name);
                return Err(DecodeError::Type { field, expected: "no result", found });
            }
        })
    }
}

impl Operation {
    /// Whether a response without a result frame is one of this operation's answers.
    pub const fn may_answer_nil(self) -> bool {
        matches!(
            self,
            Self::RegisterKvCache
                | Self::UnregisterKvCache
                | Self::RegisterQCache
                | Self::UnregisterQCache
                | Self::Lookup
                | Self::QueryPrefetchStatus
                | Self::WaitPrefetchStatus
                | Self::FreeLookupLocks
                | Self::EndSession
                | Self::UnregisterEngineDriven
                | Self::Clear
                | Self::ReportBlockAllocation
                | Self::CbRegisterRope
                | Self::CbUnregisterRope
                | Self::CbUnifiedLookup
                | Self::P2pQueryLookupResults
                | Self::P2pUnlockObjects
                | Self::SubscribeKvEvents
        )
    }
}

fn read_pool(reader: &mut Reader<'_>) -> Result<Response, DecodeError> {
    // Both have defaults: no pool.
    let (mut shm_name, mut pool_size) = (String::new(), 0);
    reader.structure("result", |name, reader| {
        match name {
            b"shm_name" => shm_name = reader.str("shm_name")?.to_owned(),
            b"pool_size" => pool_size = reader.u64("pool_size")?,
            _ => reader.skip("result")?,
        }
        Ok(())
    })?;
    Ok(Response::Pool { shm_name, pool_size })
}

impl Slot {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut offset, mut length, mut shape, mut dtype) = (None, None, None, None);
        reader.structure("slots", |name, reader| {
            match name {
                b"offset" => offset = Some(reader.u64("offset")?),
                b"length" => length = Some(reader.u64("length")?),
                b"shape" => {
                    shape = Some(reader.list("shape", TENSOR_AXES_MAX, |reader| reader.u64("shape"))?)
                }
                b"dtype" => dtype = Some(decode_dtype(reader, "dtype")?),
                _ => reader.skip("slots")?,
            }
            Ok(())
        })?;
        Ok(Self {
            offset: required("offset", offset)?,
            length: required("length", length)?,
            shape: required("shape", shape)?.into(),
            dtype: required("dtype", dtype)?,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(4);
        writer.str("offset");
        writer.uint(self.offset);
        writer.str("length");
        writer.uint(self.length);
        writer.str("shape");
        writer.uints(&self.shape);
        writer.str("dtype");
        writer.str(self.dtype.name());
    }

    fn encode_list(slots: &[Self], writer: &mut Writer) {
        writer.str("slots");
        writer.array(slots.len());
        slots.iter().for_each(|slot| slot.encode(writer));
    }
}

/// The `context` map of the two prepare operations.
#[derive(Default)]
struct Context {
    slots: Option<Vec<Slot>>,
    chunk_indices: Option<Vec<u64>>,
}

impl Context {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut context = Self::default();
        reader.structure("context", |name, reader| {
            match name {
                b"slots" => context.slots = Some(reader.list("slots", SLOTS_MAX, Slot::decode)?),
                b"chunk_indices" => {
                    let index = |reader: &mut Reader<'_>| reader.u64("chunk_indices");
                    context.chunk_indices = Some(reader.list("chunk_indices", SLOTS_MAX, index)?);
                }
                _ => reader.skip("context")?,
            }
            Ok(())
        })?;
        Ok(context)
    }
}

impl StorePlan {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut context = Context::default();
        reader.structure("result", |name, reader| {
            match name {
                b"context" => context = Context::decode(reader)?,
                _ => reader.skip("result")?,
            }
            Ok(())
        })?;
        let Some(slots) = context.slots else { return Ok(Self::Pickle) };
        let chunk_indices = required("chunk_indices", context.chunk_indices)?;
        if slots.len() != chunk_indices.len() {
            return Err(DecodeError::OutOfRange {
                field: "chunk_indices",
                value: chunk_indices.len() as i128,
                allowed: "the number of slots",
            });
        }
        Ok(Self::Slots { slots, chunk_indices })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(1);
        writer.str("context");
        match self {
            Self::Pickle => writer.map(0),
            Self::Slots { slots, chunk_indices } => {
                writer.map(2);
                Slot::encode_list(slots, writer);
                writer.str("chunk_indices");
                writer.uints(chunk_indices);
            }
        }
    }
}

impl RetrievePlan {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut success, mut data, mut context) = (None, Bytes::new(), Context::default());
        reader.structure("result", |name, reader| {
            match name {
                b"success" => success = Some(reader.bool("success")?),
                b"data" => data = Bytes::copy_from_slice(reader.bin("data")?),
                b"context" => context = Context::decode(reader)?,
                _ => reader.skip("result")?,
            }
            Ok(())
        })?;
        Ok(match (required("success", success)?, context.slots) {
            (false, _) => Self::Missing,
            (true, Some(slots)) => Self::Slots(slots),
            (true, None) => Self::Pickle(data),
        })
    }

    fn encode(&self, writer: &mut Writer) {
        let empty = Bytes::new();
        let (success, data, slots) = match self {
            Self::Missing => (false, &empty, None),
            Self::Slots(slots) => (true, &empty, Some(slots)),
            Self::Pickle(data) => (true, data, None),
        };
        writer.map(3);
        writer.str("success");
        writer.bool(success);
        writer.str("data");
        writer.bin(data);
        writer.str("context");
        match slots {
            Some(slots) => {
                writer.map(1);
                Slot::encode_list(slots, writer);
            }
            None => writer.map(0),
        }
    }
}

impl ModuleResult {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut success, mut payload, mut error) = (None, None, None);
        reader.structure("result", |name, reader| {
            match name {
                b"success" => success = Some(reader.bool("success")?),
                b"payload" => payload = Some(Bytes::copy_from_slice(reader.bin("payload")?)),
                b"error" => error = Some(reader.str("error")?.to_owned()),
                _ => reader.skip("result")?,
            }
            Ok(())
        })?;
        Ok(Self {
            success: required("success", success)?,
            payload: required("payload", payload)?,
            error: required("error", error)?,
        })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(3);
        writer.str("success");
        writer.bool(self.success);
        writer.str("payload");
        writer.bin(&self.payload);
        writer.str("error");
        writer.str(&self.error);
    }
}
