//! `commit_store`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::payloads;
use crate::key::CacheKey;
use crate::ops::OperationSpec;

/// Publishes the slots that a worker has written, or brings the chunks as a pickle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitStore {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
    /// The pickled list of chunks; empty if they were written to slots.
    pub data: Bytes,
}

payloads!(CommitStore { key, instance_id, data });

impl OperationSpec for CommitStore {
    const ID: Option<u8> = Some(17);
    const NAME: &'static str = "commit_store";
    type Response = bool;

    fn failure() -> Option<Self::Response> {
        Some(false)
    }
}

#[cfg(test)]
impl super::tests::Samples for CommitStore {
    fn requests() -> Vec<Self> {
        vec![Self {
            key: super::tests::key(Some(0)),
            instance_id: super::tests::INSTANCE,
            data: Bytes::from_static(&[1; 300]),
        }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![true]
    }
}
