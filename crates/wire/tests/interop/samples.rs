//! One request or response of every shape.

use larder_types::InstanceId;
use std::time::Duration;

use bytes::Bytes;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use larder_wire::blend::{MatchResult, UnifiedLookup};
use larder_wire::event::{Event, EventBatch, EventKind, MEDIUM_CPU};
use larder_wire::handle::{CpuShmHandle, DeviceHandle, TensorView};
use larder_wire::key::CacheKey;
use larder_wire::operation::Operation;
use larder_wire::p2p::{Address, MemoryLayout};
use larder_wire::registration::{
    EngineDrivenRegistration, EngineType, GroupInfo, KvCacheRegistration, KvLayout, KvListLayout, LayoutHints,
};
use larder_wire::request::{
    BlendRetrieve, BlockAllocation, ModuleCall, Request, Retrieve, RopeRegistration, Store, Subscription,
};
use larder_wire::response::{ModuleResult, Response, RetrievePlan, Slot, StorePlan};

const INSTANCE: InstanceId = InstanceId(0x7fff_1234_5678_9abc);

fn key(worker_id: Option<u32>) -> CacheKey {
    CacheKey {
        model_name: "org/modèle".into(),
        world_size: 4,
        worker_id,
        tokens: vec![0, 127, 128, 255, 256, 65_535, 65_536, u32::MAX].into(),
        start: 0,
        end: 8,
        request_id: "request".into(),
        cache_salt: "tenant".into(),
        request_configs: Some(Bytes::from_static(b"\x81\xa1a\x92\x01\xc0")),
        num_kv_readers: Some(2),
    }
}

fn handle() -> DeviceHandle {
    DeviceHandle::CpuShm(CpuShmHandle {
        shm_name: "/segment".to_owned(),
        nbytes: 1 << 20,
        view: TensorView {
            dtype: DType::BFloat16,
            shape: vec![12, 2, 4, 6],
            stride: vec![48, 24, 6, 1],
            storage_offset: 7,
            device_uuid: "cpu".to_owned(),
        },
    })
}

fn registration() -> KvCacheRegistration {
    KvCacheRegistration {
        instance_id: INSTANCE,
        handles: vec![handle(), handle()],
        model_name: "org/model".into(),
        world_size: 4,
        engine_type: EngineType::Sglang,
        layout_hints: LayoutHints {
            kv_layout: Some(KvLayout::Blhnc),
            num_kv_heads: Some(8),
            tokens_per_block: Some(64),
            kv_list_layout: Some(KvListLayout::KThenV),
            head_dim: Some(128),
        },
        groups: vec![GroupInfo {
            engine_group_id: 1,
            layer_indices: vec![0, 1, 300],
            tokens_per_block: 64,
            sw_size_tokens: -1,
            extra_object_group_tag: 2,
            recurrent_state: true,
        }],
    }
}

fn object_key(rank: u32) -> ObjectKey {
    ObjectKey::new(ChunkHash::from_digest([7; 32]), "org/model", KvRank::new(4, rank), 1, "tenant")
        .expect("a key that keeps the rules")
}

fn store() -> Store {
    let block_ids = vec![vec![0, 1, 70_000], vec![]];
    Store { key: key(Some(3)), instance_id: INSTANCE, block_ids, event: Bytes::from_static(b"event") }
}

fn matched() -> MatchResult {
    MatchResult {
        old_start: 0,
        old_end: 256,
        current_start: 512,
        current_end: 768,
        hash: Bytes::from_static(&[9; 32]),
    }
}

fn transfers() -> Vec<Request> {
    let (key_of_worker, instance_id) = (key(Some(0)), INSTANCE);
    vec![
        Request::RegisterKvCache(registration()),
        Request::RegisterQCache(registration()),
        Request::UnregisterKvCache { instance_id },
        Request::UnregisterQCache { instance_id },
        Request::Store(store()),
        Request::StoreQ(store()),
        Request::Retrieve(Retrieve {
            key: key_of_worker.clone(),
            instance_id,
            block_ids: vec![vec![5; 20]],
            event: Bytes::new(),
            skip_first_tokens: 16,
        }),
        Request::RegisterEngineDriven(EngineDrivenRegistration {
            instance_id,
            model_name: "org/model".into(),
            world_size: 4,
            block_size: 16,
            num_layers: 32,
            hidden_dim_size: 1024,
            dtype: "half".to_owned(),
            use_mla: false,
            num_physical_slots: None,
        }),
        Request::UnregisterEngineDriven { instance_id },
        Request::PrepareStore { key: key_of_worker.clone(), instance_id },
        Request::CommitStore { key: key_of_worker.clone(), instance_id, data: Bytes::from_static(&[1; 300]) },
        Request::PrepareRetrieve { key: key_of_worker.clone(), instance_id },
        Request::CommitRetrieve { key: key_of_worker, instance_id },
    ]
}

fn control() -> Vec<Request> {
    let instance_id = INSTANCE;
    vec![
        Request::Lookup { key: key(None), tp_size: 4 },
        Request::QueryPrefetchStatus { request_id: "request".into() },
        Request::WaitPrefetchStatus { request_id: "request".into(), timeout: Duration::from_millis(1500) },
        Request::FreeLookupLocks { key: key(None), tp_size: 1 },
        Request::EndSession { request_id: "request".into() },
        Request::Clear { force: true },
        Request::GetChunkSize,
        Request::Ping { instance_id: None },
        Request::Ping { instance_id: Some(instance_id) },
        Request::ReportBlockAllocation {
            instance_id,
            model_name: "org/model".into(),
            records: vec![BlockAllocation {
                request_id: "request".to_owned(),
                new_block_ids: vec![1, 2],
                new_token_ids: vec![3; 20],
            }],
        },
        Request::Noop,
        Request::GetExperimental,
        Request::SubscribeKvEvents(Subscription {
            instance_id,
            model_name: "org/model".into(),
            cursor: 0,
            max_events: 1024,
        }),
        Request::ServerModuleCall(ModuleCall {
            method: "package.echo".to_owned(),
            payload: Bytes::from_static(b"\x01"),
        }),
    ]
}

fn optional() -> Vec<Request> {
    let instance_id = INSTANCE;
    let layout =
        MemoryLayout { shapes: vec![vec![2, 16, 12], vec![4]], dtypes: vec![DType::Float16, DType::Int8] };
    vec![
        Request::CbRegisterRope(RopeRegistration {
            instance_id,
            tables: vec![handle()],
            head_size: 128,
            is_neox_style: true,
            group_to_cache: vec![0, 0],
            group_rotation: vec![vec![0, 128], vec![]],
            group_head_size: vec![128, 64],
            kv_quantization: "int8".to_owned(),
        }),
        Request::CbUnregisterRope { instance_id },
        Request::CbRetrievePreComputed(BlendRetrieve {
            key: key(Some(1)),
            matches: vec![matched()],
            block_ids: vec![vec![1, 2, 3]],
            instance_id,
            event: Bytes::from_static(b"event"),
        }),
        Request::CbUnifiedLookup { key: key(None), tp_size: 1 },
        Request::P2pLookupAndLock { keys: vec![object_key(0), object_key(3)], layouts: vec![(0, layout)] },
        Request::P2pQueryLookupResults { lookup_id: 70_000 },
        Request::P2pUnlockObjects { keys: vec![] },
        Request::CbProtocolHandshake { version: 1 },
        Request::CbReorderPlan { key: key(None), keep_prefix: -1, budget_ms: 10 },
    ]
}

/// Requests of every operation.
pub(crate) fn requests() -> Vec<Request> {
    [transfers(), control(), optional()].concat()
}

fn slot(offset: u64) -> Slot {
    Slot { offset, length: 768, shape: [2, 16, 12].into(), dtype: DType::Float16 }
}

/// Responses of every shape.
pub(crate) fn responses() -> Vec<(Operation, Response)> {
    let event = |seq, kind| Event {
        seq,
        kind,
        medium: MEDIUM_CPU.into(),
        model_name: "org/model".into(),
        block_hashes: vec![ChunkHash::from_digest([1; 32])],
        parent_block_hash: (seq > 1).then(|| ChunkHash::from_digest([2; 32])),
        tokens: vec![1, 70_000].into(),
    };
    let batch = EventBatch {
        enabled: true,
        incarnation: 1_795_339_904_836_733_593,
        next_cursor: 2,
        lost: false,
        events: vec![event(1, EventKind::Stored), event(2, EventKind::Removed)],
    };
    let lookup = UnifiedLookup {
        prefix_coverage_tokens: 256,
        non_prefix_segments: vec![matched()],
        segmented_prefix_segments: vec![matched(), matched()],
    };
    let module = ModuleResult { success: true, payload: Bytes::from_static(b"x"), error: String::new() };
    vec![
        (Operation::Ping, Response::Bool(true)),
        (Operation::GetChunkSize, Response::Int(256)),
        (Operation::QueryPrefetchStatus, Response::Int(70_000)),
        (Operation::P2pLookupAndLock, Response::Int(0)),
        (Operation::Noop, Response::Text("OK".to_owned())),
        (Operation::GetExperimental, Response::Features(vec!["kv_event_stream".to_owned()])),
        (Operation::Store, Response::Transfer { event: Bytes::from_static(&[3; 64]), success: true }),
        (Operation::Retrieve, Response::Transfer { event: Bytes::new(), success: false }),
        (Operation::RegisterEngineDriven, Response::Pool { shm_name: "pool".to_owned(), pool_size: 1 << 40 }),
        (Operation::PrepareStore, Response::StorePlan(StorePlan::Pickle)),
        (
            Operation::PrepareStore,
            Response::StorePlan(StorePlan::Slots {
                slots: vec![slot(0), slot(1 << 33)],
                chunk_indices: vec![0, 5],
            }),
        ),
        (Operation::PrepareRetrieve, Response::RetrievePlan(RetrievePlan::Slots(vec![slot(4096)]))),
        (Operation::PrepareRetrieve, Response::RetrievePlan(RetrievePlan::Pickle(Bytes::from_static(b"p")))),
        (Operation::CbUnifiedLookup, Response::UnifiedLookup(lookup)),
        (Operation::CbReorderPlan, Response::Order(vec![2, 0, 1])),
        (Operation::CbProtocolHandshake, Response::Handshake { server_version: 1, matches: false }),
        (
            Operation::P2pQueryLookupResults,
            Response::Addresses(vec![Address { offset: 4096, size: 768 }, Address::MISSING]),
        ),
        (Operation::SubscribeKvEvents, Response::Events(batch)),
        (Operation::ServerModuleCall, Response::ModuleResult(module)),
    ]
}
