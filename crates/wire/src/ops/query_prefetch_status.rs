//! `query_prefetch_status`.

use std::sync::Arc;

use crate::ops::{operation, samples};

/// Asks for the result of a lookup: chunks hit, or nil while it is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPrefetchStatus {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
}

operation!(
    QueryPrefetchStatus = Some(9), "query_prefetch_status",
    { request_id } -> Option<i64>, failure: Some(Some(0))
);

samples!(QueryPrefetchStatus: vec![Self { request_id: "request".into() }] => vec![None, Some(70_000)]);
