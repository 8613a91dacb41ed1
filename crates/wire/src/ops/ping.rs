//! `ping`.

use larder_types::InstanceId;

use crate::ops::{operation, samples};

/// Heartbeat of a worker, or a probe. The result is false if the worker is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The worker; `None` for a probe.
    pub instance_id: Option<InstanceId>,
}

operation!(Ping = Some(22), "ping", { instance_id } -> bool, failure: None);

samples!(Ping: vec![Self { instance_id: None }, Self { instance_id: Some(INSTANCE) }] => vec![true]);
