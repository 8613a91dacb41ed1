//! `get_chunk_size`.

use crate::ops::{operation, samples};

/// Asks for the tokens per chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetChunkSize;

operation!(GetChunkSize = Some(21), "get_chunk_size", {} -> i64, failure: None);

samples!(GetChunkSize: vec![Self] => vec![256]);
