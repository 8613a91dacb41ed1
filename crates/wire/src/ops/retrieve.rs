//! `retrieve`.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::key::CacheKey;
use crate::ops::store::Copied;
use crate::ops::{operation, samples};

/// Copies chunks into the engine's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retrieve {
    /// The chunks, by the worker's key.
    pub key: CacheKey,
    /// The worker whose blocks take them.
    pub instance_id: InstanceId,
    /// One list per kernel group, covering the key's range from its first block.
    pub block_ids: Vec<Vec<i64>>,
    /// Handle of the event to wait for before copying.
    pub event: Bytes,
    /// Tokens at the start of the range that the worker already has.
    pub skip_first_tokens: i64,
}

operation!(
    Retrieve = Some(7), "retrieve",
    { key, instance_id, block_ids, event, skip_first_tokens as "skip_first_n_tokens" } -> Copied, failure: Some(Copied::default())
);

samples!(Retrieve: vec![Self {
    key: key(Some(0)),
    instance_id: INSTANCE,
    block_ids: vec![vec![5; 20]],
    event: Bytes::new(),
    skip_first_tokens: 16,
}] => vec![Copied::default()]);
