//! `lookup`.

use crate::key::CacheKey;
use crate::ops::{operation, samples};

/// Starts to look for the cached prefix of a request. The hit is the result of `query_prefetch_status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The tokens, by the scheduler's key.
    pub key: CacheKey,
    /// Workers that share the KV heads; only used for keys without `num_kv_readers`.
    pub tp_size: i64,
}

operation!(Lookup = Some(8), "lookup", { key, tp_size } -> (), failure: Some(()));

samples!(Lookup: vec![Self { key: key(None), tp_size: 4 }] => vec![()]);
