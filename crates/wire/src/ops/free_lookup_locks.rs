//! `free_lookup_locks`.

use crate::codec::payloads;
use crate::key::CacheKey;
use crate::ops::OperationSpec;

/// Releases read locks that a lookup took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeLookupLocks {
    /// The tokens whose locks to release.
    pub key: CacheKey,
    /// Workers that share the KV heads; only used for keys without `num_kv_readers`.
    pub tp_size: i64,
}

payloads!(FreeLookupLocks { key, tp_size });

impl OperationSpec for FreeLookupLocks {
    const ID: Option<u8> = Some(12);
    const NAME: &'static str = "free_lookup_locks";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for FreeLookupLocks {
    fn requests() -> Vec<Self> {
        vec![Self { key: super::tests::key(None), tp_size: 1 }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
