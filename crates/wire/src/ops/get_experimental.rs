//! `get_experimental`.

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Asks for the names of the optional features that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetExperimental;

payloads!(GetExperimental {});

impl OperationSpec for GetExperimental {
    const ID: Option<u8> = Some(32);
    const NAME: &'static str = "get_experimental";
    type Response = Vec<String>;

    fn failure() -> Option<Self::Response> {
        Some(Vec::new())
    }
}

#[cfg(test)]
impl super::tests::Samples for GetExperimental {
    fn requests() -> Vec<Self> {
        vec![Self]
    }

    fn responses() -> Vec<Self::Response> {
        vec![vec!["kv_event_stream".to_owned()]]
    }
}
