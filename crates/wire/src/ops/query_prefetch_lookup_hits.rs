//! `query_prefetch_lookup_hits`.

use std::sync::Arc;

use crate::ops::{operation, samples};

/// As `query_prefetch_status`, but the result can still be asked for after it. Of clients up to 0.5.2; its id has been
/// retired since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPrefetchLookupHits {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
}

operation!(
    QueryPrefetchLookupHits = None, "query_prefetch_lookup_hits",
    { request_id } -> Option<i64>, failure: Some(Some(0))
);

samples!(QueryPrefetchLookupHits: vec![Self { request_id: "request".into() }] => vec![None, Some(4)]);
