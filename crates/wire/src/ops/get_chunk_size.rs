//! `get_chunk_size`.

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Asks for the tokens per chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetChunkSize;

payloads!(GetChunkSize {});

impl OperationSpec for GetChunkSize {
    const ID: Option<u8> = Some(21);
    const NAME: &'static str = "get_chunk_size";
    type Response = i64;

    fn failure() -> Option<Self::Response> {
        None
    }
}

#[cfg(test)]
impl super::tests::Samples for GetChunkSize {
    fn requests() -> Vec<Self> {
        vec![Self]
    }

    fn responses() -> Vec<Self::Response> {
        vec![256]
    }
}
