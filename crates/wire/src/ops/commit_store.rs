//! `commit_store`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::key::CacheKey;
use crate::ops::{operation, samples};

/// Publishes the slots that a worker has written, or brings the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitStore {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
    /// The chunks, as a [pickle](crate::pickle) or a [map](crate::tensor_map); empty if they were written to slots.
    pub data: Bytes,
}

operation!(CommitStore = Some(17), "commit_store", { key, instance_id, data } -> bool, failure: Some(false));

samples!(CommitStore: vec![Self {
    key: key(Some(0)),
    instance_id: INSTANCE,
    data: Bytes::from_static(&[1; 300]),
}] => vec![true]);
