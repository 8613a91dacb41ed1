//! `lookup`.

use crate::codec::payloads;
use crate::key::CacheKey;
use crate::ops::OperationSpec;

/// Starts to look for the cached prefix of a request. The hit is the result of `query_prefetch_status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The tokens, by the scheduler's key.
    pub key: CacheKey,
    /// Workers that share the KV heads; only used for keys without `num_kv_readers`.
    pub tp_size: i64,
}

payloads!(Lookup { key, tp_size });

impl OperationSpec for Lookup {
    const ID: Option<u8> = Some(8);
    const NAME: &'static str = "lookup";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for Lookup {
    fn requests() -> Vec<Self> {
        vec![Self { key: super::tests::key(None), tp_size: 4 }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
