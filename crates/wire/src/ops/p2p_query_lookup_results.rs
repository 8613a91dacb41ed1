//! `p2p_query_lookup_results`.

use crate::codec::{Entry, payloads, structure};
use crate::object_key::OBJECT_KEYS_MAX;
use crate::ops::OperationSpec;

/// Peer to peer: asks for the addresses of the objects of a lookup. The result has one address for each
/// key of the lookup, or is nil while the lookup is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2pQueryLookupResults {
    /// The id that the lookup returned.
    pub lookup_id: i64,
}

payloads!(P2pQueryLookupResults { lookup_id });

/// Address of an object in the server's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Bytes from the start of the pool; -1 for an object that is not there.
    pub offset: i64,
    /// Bytes of the object; 0 for an object that is not there.
    pub size: i64,
}

impl Address {
    /// Stands for an object that is not there.
    pub const MISSING: Self = Self { offset: -1, size: 0 };
}

structure!(Address { offset, size });

impl Entry for Address {
    const LIST_MAX: usize = OBJECT_KEYS_MAX;
}

impl OperationSpec for P2pQueryLookupResults {
    const ID: Option<u8> = Some(30);
    const NAME: &'static str = "p2p_query_lookup_results";
    type Response = Option<Vec<Address>>;

    fn failure() -> Option<Self::Response> {
        Some(Some(Vec::new()))
    }
}

#[cfg(test)]
impl super::tests::Samples for P2pQueryLookupResults {
    fn requests() -> Vec<Self> {
        vec![Self { lookup_id: 70_000 }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![None, Some(vec![Address { offset: 4096, size: 768 }, Address::MISSING])]
    }
}
