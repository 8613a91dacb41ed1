//! `unregister_kv_cache_engine_driven_context`.

use larder_types::InstanceId;

use crate::ops::{operation, samples};

/// Withdraws the registration of a worker that copies by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnregisterEngineDriven {
    /// The worker.
    pub instance_id: InstanceId,
}

operation!(
    UnregisterEngineDriven = Some(15), "unregister_kv_cache_engine_driven_context",
    { instance_id } -> (), failure: Some(())
);

samples!(UnregisterEngineDriven: vec![Self { instance_id: INSTANCE }] => vec![()]);
