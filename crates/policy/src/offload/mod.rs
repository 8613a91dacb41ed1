//! Which L2 adapters get what engines store, when, and whether L1 keeps it after that.
//!
//! A new policy is one file in this directory and one line in the table below.

mod default;
mod gated;
mod skip_l1;

use std::fmt::Debug;
use std::sync::Arc;

use larder_types::AdapterId;
use larder_types::object::ObjectKey;

use crate::kinds::policy_kinds;
use crate::reuse::ReusePredictor;

/// What a policy can see of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterDesc {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What is stored there can be loaded from there. A store to an adapter that only forwards objects is no
    /// reason to remove anything from L1.
    pub readable: bool,
}

/// The objects that one adapter is to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffloadTarget {
    /// The adapter.
    pub adapter: AdapterId,
    /// Indices of the keys.
    pub keys: Vec<usize>,
}

/// Why a policy is asked about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTrigger {
    /// A worker has stored it.
    Stored,
    /// It will be removed from L1 soon: its write-back was deferred, and it is close to eviction or the server
    /// stops; or a worker has just stored it in an L1 that is too small to see evictions coming.
    NearEviction,
}

/// Decides where stored objects go. Must not panic.
pub trait OffloadPolicy: Send + Debug {
    /// Which adapters store which of the keys. An adapter's number is its index in `adapters`.
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget> {
        all_to_all(keys, adapters)
    }

    /// Whether the object is removed from L1 once every adapter that was to keep it has stored it.
    fn removes_from_l1(&self, _key: &ObjectKey) -> bool {
        false
    }

    /// Whether the write-back of an object is deferred: it stays in L1 alone until the policy is asked again
    /// ([`StoreTrigger::NearEviction`]).
    fn defers(&self, _key: &ObjectKey, _trigger: StoreTrigger, _reuse: Option<&ReusePredictor>) -> bool {
        false
    }
}

/// Every key to every adapter.
pub fn all_to_all(keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget> {
    let ids = (0..adapters.len() as u32).map(AdapterId);
    ids.map(|adapter| OffloadTarget { adapter, keys: (0..keys.len()).collect() }).collect()
}

policy_kinds! {
    /// The store policies by name (`--l2-store-policy`).
    OffloadKind creates OffloadPolicy;

    /// `default`: every object goes to every adapter, and stays in L1.
    #[default]
    Default = "default", default::DefaultPolicy;
    /// `skip_l1`: every object goes to every adapter, and is removed from L1 once it is there.
    SkipL1 = "skip_l1", skip_l1::SkipL1;
    /// `gated`: an object that is close to eviction goes to every adapter if it is likely to be used again.
    Gated = "gated", gated::Gated, learns;
}
