//! `ping`.

use larder_types::InstanceId;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Heartbeat of a worker, or a probe. The result is false if the worker is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The worker; `None` for a probe.
    pub instance_id: Option<InstanceId>,
}

payloads!(Ping { instance_id });

impl OperationSpec for Ping {
    const ID: Option<u8> = Some(22);
    const NAME: &'static str = "ping";
    type Response = bool;

    fn failure() -> Option<Self::Response> {
        None
    }
}

#[cfg(test)]
impl super::tests::Samples for Ping {
    fn requests() -> Vec<Self> {
        vec![Self { instance_id: None }, Self { instance_id: Some(super::tests::INSTANCE) }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![true]
    }
}
