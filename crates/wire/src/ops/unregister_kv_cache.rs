//! `unregister_kv_cache`.

use larder_types::InstanceId;

use crate::ops::{operation, samples};

/// Withdraws the registration of an engine's KV tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnregisterKvCache {
    /// The worker.
    pub instance_id: InstanceId,
}

operation!(UnregisterKvCache = Some(2), "unregister_kv_cache", { instance_id } -> (), failure: Some(()));

samples!(UnregisterKvCache: vec![Self { instance_id: INSTANCE }] => vec![()]);
