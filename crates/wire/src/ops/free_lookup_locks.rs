//! `free_lookup_locks`.

use crate::key::CacheKey;
use crate::ops::{operation, samples};

/// Releases read locks that a lookup took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeLookupLocks {
    /// The tokens whose locks to release.
    pub key: CacheKey,
    /// Workers that share the KV heads; only used for keys without `num_kv_readers`.
    pub tp_size: i64,
}

operation!(FreeLookupLocks = Some(12), "free_lookup_locks", { key, tp_size } -> (), failure: Some(()));

samples!(FreeLookupLocks: vec![Self { key: key(None), tp_size: 1 }] => vec![()]);
