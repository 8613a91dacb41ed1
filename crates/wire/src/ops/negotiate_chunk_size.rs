//! `negotiate_chunk_size`.

use crate::ops::{operation, samples};

/// Asks for the tokens per chunk, which must be a multiple of a number of tokens. From 0.5.7 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiateChunkSize {
    /// The engine's blocks, of all its KV groups, fit a whole number of times into so many tokens.
    pub required_alignment: i64,
}

operation!(
    NegotiateChunkSize = None, "negotiate_chunk_size", { required_alignment } -> i64, failure: None
);

samples!(NegotiateChunkSize: vec![Self { required_alignment: 16 }] => vec![256]);
