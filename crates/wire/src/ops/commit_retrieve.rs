//! `commit_retrieve`.

use larder_types::InstanceId;

use crate::codec::payloads;
use crate::key::CacheKey;
use crate::ops::OperationSpec;

/// Releases the slots that a worker has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRetrieve {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
}

payloads!(CommitRetrieve { key, instance_id });

impl OperationSpec for CommitRetrieve {
    const ID: Option<u8> = Some(19);
    const NAME: &'static str = "commit_retrieve";
    type Response = bool;

    fn failure() -> Option<Self::Response> {
        Some(true)
    }
}

#[cfg(test)]
impl super::tests::Samples for CommitRetrieve {
    fn requests() -> Vec<Self> {
        vec![Self { key: super::tests::key(Some(0)), instance_id: super::tests::INSTANCE }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![true]
    }
}
