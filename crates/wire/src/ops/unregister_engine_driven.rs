//! `unregister_kv_cache_engine_driven_context`.

use larder_types::InstanceId;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Withdraws the registration of a worker that copies by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnregisterEngineDriven {
    /// The worker.
    pub instance_id: InstanceId,
}

payloads!(UnregisterEngineDriven { instance_id });

impl OperationSpec for UnregisterEngineDriven {
    const ID: Option<u8> = Some(15);
    const NAME: &'static str = "unregister_kv_cache_engine_driven_context";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for UnregisterEngineDriven {
    fn requests() -> Vec<Self> {
        vec![Self { instance_id: super::tests::INSTANCE }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
