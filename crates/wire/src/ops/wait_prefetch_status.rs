//! `wait_prefetch_status`.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// As `query_prefetch_status`, but waits for the lookup to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitPrefetchStatus {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
    /// The longest wait, after which the result is nil.
    pub timeout: Duration,
}

payloads!(WaitPrefetchStatus { request_id, timeout });

impl OperationSpec for WaitPrefetchStatus {
    const ID: Option<u8> = Some(10);
    const NAME: &'static str = "wait_prefetch_status";
    type Response = Option<i64>;

    fn failure() -> Option<Self::Response> {
        Some(Some(0))
    }
}

#[cfg(test)]
impl super::tests::Samples for WaitPrefetchStatus {
    fn requests() -> Vec<Self> {
        vec![Self { request_id: "request".into(), timeout: Duration::from_millis(1500) }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![None, Some(4)]
    }
}
