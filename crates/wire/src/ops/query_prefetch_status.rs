//! `query_prefetch_status`.

use std::sync::Arc;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Asks for the result of a lookup: chunks hit, or nil while it is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPrefetchStatus {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
}

payloads!(QueryPrefetchStatus { request_id });

impl OperationSpec for QueryPrefetchStatus {
    const ID: Option<u8> = Some(9);
    const NAME: &'static str = "query_prefetch_status";
    type Response = Option<i64>;

    fn failure() -> Option<Self::Response> {
        Some(Some(0))
    }
}

#[cfg(test)]
impl super::tests::Samples for QueryPrefetchStatus {
    fn requests() -> Vec<Self> {
        vec![Self { request_id: "request".into() }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![None, Some(70_000)]
    }
}
