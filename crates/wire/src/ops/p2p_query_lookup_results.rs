//! `p2p_query_lookup_results`.

use crate::codec::{Entry, structure};
use crate::object_key::OBJECT_KEYS_MAX;
use crate::ops::{operation, samples};

/// Peer to peer: asks for the addresses of the objects of a lookup. The result has one address for each
/// key of the lookup, or is nil while the lookup is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2pQueryLookupResults {
    /// The id that the lookup returned.
    pub lookup_id: i64,
}

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

operation!(
    P2pQueryLookupResults = Some(30), "p2p_query_lookup_results",
    { lookup_id } -> Option<Vec<Address>>, failure: Some(Some(Vec::new()))
);

samples!(P2pQueryLookupResults: vec![Self { lookup_id: 70_000 }] => vec![None, Some(vec![Address { offset: 4096, size: 768 }, Address::MISSING])]);
