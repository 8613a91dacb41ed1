//! `wait_prefetch_status`.

use std::sync::Arc;
use std::time::Duration;

use crate::ops::{operation, samples};

/// As `query_prefetch_status`, but waits for the lookup to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitPrefetchStatus {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
    /// The longest wait, after which the result is nil.
    pub timeout: Duration,
}

operation!(
    WaitPrefetchStatus = Some(10), "wait_prefetch_status",
    { request_id, timeout } -> Option<i64>, failure: Some(Some(0))
);

samples!(WaitPrefetchStatus: vec![Self { request_id: "request".into(), timeout: Duration::from_millis(1500) }] => vec![None, Some(4)]);
