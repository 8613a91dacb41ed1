//! `commit_retrieve`.

use larder_types::InstanceId;

use crate::key::CacheKey;
use crate::ops::{operation, samples};

/// Releases the slots that a worker has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRetrieve {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker.
    pub instance_id: InstanceId,
}

operation!(CommitRetrieve = Some(19), "commit_retrieve", { key, instance_id } -> bool, failure: Some(true));

samples!(CommitRetrieve: vec![Self { key: key(Some(0)), instance_id: INSTANCE }] => vec![true]);
