//! `unregister_kv_cache`.

use larder_types::InstanceId;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Withdraws the registration of an engine's KV tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnregisterKvCache {
    /// The worker.
    pub instance_id: InstanceId,
}

payloads!(UnregisterKvCache { instance_id });

impl OperationSpec for UnregisterKvCache {
    const ID: Option<u8> = Some(2);
    const NAME: &'static str = "unregister_kv_cache";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for UnregisterKvCache {
    fn requests() -> Vec<Self> {
        vec![Self { instance_id: super::tests::INSTANCE }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
