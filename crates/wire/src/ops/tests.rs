//! Every operation's samples are encoded and decoded, and compared with the reference where it is
//! installed.

use larder_types::InstanceId;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use super::*;
use crate::device_handle::{CpuShmHandle, DeviceHandle, TensorView};
use crate::key::CacheKey;
use crate::response::ResultFrame;
use crate::slot::Slot;

/// Values of an operation that cover each form of its payloads and response.
pub(crate) trait Samples: OperationSpec {
    fn requests() -> Vec<Self>;
    fn responses() -> Vec<Self::Response>;
}

pub(crate) const INSTANCE: InstanceId = InstanceId(0x7fff_1234_5678_9abc);

pub(crate) fn key(worker_id: Option<u32>) -> CacheKey {
    CacheKey {
        model_name: "org/modèle".into(),
        world_size: 4,
        worker_id,
        tokens: vec![0, 127, 128, 255, 256, 65_535, 65_536, u32::MAX].into(),
        start: 0,
        end: 8,
        request_id: "request".into(),
        cache_salt: "tenant".into(),
        request_configs: Some(bytes::Bytes::from_static(b"\x81\xa1a\x92\x01\xc0")),
        num_kv_readers: Some(2),
    }
}

pub(crate) fn device_handle() -> DeviceHandle {
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

pub(crate) fn object_key(rank: u32) -> ObjectKey {
    ObjectKey::new(ChunkHash::from_digest([7; 32]), "org/model", KvRank::new(4, rank), 1, "tenant").unwrap()
}

pub(crate) fn slot(offset: u64) -> Slot {
    Slot { offset, length: 768, shape: [2, 16, 12].into(), dtype: DType::Float16 }
}

fn round_trip<O: Samples + std::fmt::Debug + PartialEq>()
where
    O::Response: std::fmt::Debug + PartialEq,
{
    let requests = O::requests();
    assert!(!requests.is_empty(), "{} has no sample of a request", O::NAME);
    for request in requests {
        let frames = request.encode();
        assert_eq!(frames.len(), O::COUNT, "{request:?}");
        assert_eq!(O::decode(&frames), Ok(request));
        let one_too_many = [&frames[..], &frames[..1.min(frames.len())], &[bytes::Bytes::new()]].concat();
        assert!(matches!(O::decode(&one_too_many), Err(DecodeError::PayloadCount { .. })), "{}", O::NAME);
    }
    let responses = O::responses();
    assert!(!responses.is_empty(), "{} has no sample of a response", O::NAME);
    for response in responses.into_iter().chain(O::failure()) {
        assert_eq!(ResultFrame::encode(&response).decode(), Ok(response), "{}", O::NAME);
    }
}

macro_rules! tests_of_all {
    ($($module:ident::$name:ident),+ $(,)?) => {
        #[test]
        fn samples_round_trip() {
            $(round_trip::<super::$name>();)+
        }

        #[test]
        fn names_and_ids_are_unique() {
            let operations = [$((super::$name::NAME, super::$name::ID)),+];
            for (at, (name, id)) in operations.iter().enumerate() {
                assert!(operations[..at].iter().all(|other| other.0 != *name), "{name}");
                assert!(id.is_none() || operations[..at].iter().all(|other| other.1 != *id), "{name}");
            }
        }

        /// Name, operation frame and payload frames of every sample whose payloads are decoded.
        #[cfg(feature = "interop")]
        fn request_samples() -> Vec<(&'static str, Vec<bytes::Bytes>)> {
            let mut all = Vec::new();
            $(if stringify!($module) != "unserved" {
                let name = super::$name::NAME;
                all.extend(super::$name::requests().iter().map(|request| (name, Payloads::encode(request))));
            })+
            all
        }

        /// Operation name and result frame of every sample and failure.
        #[cfg(feature = "interop")]
        fn response_samples() -> Vec<(&'static str, bytes::Bytes)> {
            let mut all = Vec::new();
            $(
                let responses = super::$name::responses().into_iter().chain(super::$name::failure());
                let frames = responses.filter_map(|response| ResultFrame::encode(&response).0);
                all.extend(frames.map(|frame| (super::$name::NAME, frame)));
            )+
            all
        }
    };
}

for_each_operation!(tests_of_all);

#[test]
fn nil_is_a_result_only_where_it_is_declared() {
    assert_eq!(ResultFrame(None).decode::<()>(), Ok(()));
    assert_eq!(ResultFrame(None).decode::<Option<i64>>(), Ok(None));
    assert_eq!(ResultFrame(None).decode::<bool>(), Err(DecodeError::Missing { field: "result" }));
    let nil = ResultFrame(Some(bytes::Bytes::from_static(b"\xc0")));
    assert_eq!(nil.decode::<()>(), Ok(()));
    let found = DecodeError::Type { field: "result", expected: "a boolean", found: "nil" };
    assert_eq!(nil.decode::<bool>(), Err(found));
}

#[cfg(feature = "interop")]
#[path = "../../tests/interop/python.rs"]
mod python;

#[cfg(feature = "interop")]
mod interop {
    use serde_json::{Value, json};

    use super::python::{ask, hex, list, text};
    use super::*;
    use crate::operation::Operation;

    /// Operations that 0.5.6 does not have, but earlier or later versions.
    const OF_OTHER_VERSIONS: [&str; 3] =
        ["negotiate_chunk_size", "query_prefetch_lookup_hits", "server_module_affinity_call"];

    #[test]
    fn reference_reads_our_requests_and_writes_the_same() {
        let mut samples = request_samples();
        samples.retain(|(name, _)| !OF_OTHER_VERSIONS.contains(name));
        let payloads = |frames: &[bytes::Bytes]| frames.iter().map(|frame| hex(frame)).collect::<Vec<_>>();
        let operation = |name: &str| hex(&Operation::from_name(name).expect("an operation").encode());
        let question: Vec<Value> = samples
            .iter()
            .map(|(name, frames)| json!({"operation": operation(name), "payloads": payloads(frames)}))
            .collect();
        let answer = ask("recode_requests", json!(question));
        assert_eq!(list(&answer).len(), samples.len());
        for ((name, frames), recoded) in samples.iter().zip(list(&answer)) {
            assert_eq!(text(recoded, "operation"), *name);
            assert_eq!(recoded["payloads"], json!(payloads(frames)), "{name}");
        }
    }

    #[test]
    fn reference_reads_our_responses_and_writes_the_same() {
        let mut samples = response_samples();
        samples.retain(|(name, _)| !OF_OTHER_VERSIONS.contains(name));
        assert!(samples.len() >= 30);
        let question: Vec<Value> =
            samples.iter().map(|(name, frame)| json!({"operation": name, "result": hex(frame)})).collect();
        let answer = ask("recode_responses", json!(question));
        assert_eq!(list(&answer).len(), samples.len());
        for (question, recoded) in question.iter().zip(list(&answer)) {
            assert_eq!(recoded, &question["result"], "{question}");
        }
    }
}
