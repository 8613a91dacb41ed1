//! `end_session`.

use std::sync::Arc;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Ends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// The request, by the id in its cache key.
    pub request_id: Arc<str>,
}

payloads!(EndSession { request_id });

impl OperationSpec for EndSession {
    const ID: Option<u8> = Some(13);
    const NAME: &'static str = "end_session";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for EndSession {
    fn requests() -> Vec<Self> {
        vec![Self { request_id: "request".into() }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
