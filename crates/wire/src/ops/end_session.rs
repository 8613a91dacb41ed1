//! `end_session`.

use std::sync::Arc;

use crate::ops::{operation, samples};

/// Ends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
}

operation!(EndSession = Some(13), "end_session", { request_id } -> (), failure: Some(()));

samples!(EndSession: vec![Self { request_id: "request".into() }] => vec![()]);
