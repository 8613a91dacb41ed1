//! Which adapters get what is stored, and whether L1 keeps it then.

mod default;
mod gated;
mod skip_l1;

use std::fmt::Debug;
use std::sync::Arc;

use larder_types::object::ObjectKey;

pub use default::DefaultPolicy;
pub use gated::Gated;
pub use skip_l1::SkipL1;

use crate::reuse::ReusePredictor;
use larder_types::AdapterId;

/// What a policy knows of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterDesc {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What is stored there can be loaded from there. An adapter that only passes things on does
    /// not, and its word is no reason to remove anything from L1.
    pub readable: bool,
}

/// What one adapter is to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffloadTarget {
    /// The adapter.
    pub adapter: AdapterId,
    /// Indices of its keys.
    pub keys: Vec<usize>,
}

/// When a policy is asked whether an object waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTrigger {
    /// A worker has stored it.
    Stored,
    /// It will leave L1 soon: it has waited, and its turn to be evicted comes or the server stops; or a
    /// worker has just stored it in an L1 where nothing would be seen to leave.
    NearEviction,
}

/// Decides where stored objects go. Must not panic; one that does is taken to store nothing.
pub trait OffloadPolicy: Send + Debug {
    /// Which adapters store which of the keys. An adapter's number is its place in `adapters`.
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget>;

    /// Whether the object leaves L1 once every adapter that was to keep it has it.
    fn removes_from_l1(&self, key: &ObjectKey) -> bool;

    /// Whether the object waits in L1, to go to L2 when this is asked again or never.
    fn defers(&self, _key: &ObjectKey, _moment: StoreTrigger, _reuse: Option<&ReusePredictor>) -> bool {
        false
    }
}

/// Every key to every adapter.
pub fn all_to_all(keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget> {
    let ids = (0..adapters.len() as u32).map(AdapterId);
    ids.map(|adapter| OffloadTarget { adapter, keys: (0..keys.len()).collect() }).collect()
}

/// The store policies by name (`--l2-store-policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffloadKind {
    /// `default`: everything goes everywhere, and stays in L1.
    #[default]
    Default,
    /// `skip_l1`: everything goes everywhere, and leaves L1 once it is there.
    SkipL1,
    /// `gated`: what is likely to be asked for once more goes everywhere, when it is about to leave L1.
    Gated,
}

impl OffloadKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Default, Self::SkipL1, Self::Gated];

    /// The name as flags and status reports write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::SkipL1 => "skip_l1",
            Self::Gated => "gated",
        }
    }

    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether it wants a model of [reuse](crate::reuse).
    pub const fn learns(self) -> bool {
        matches!(self, Self::Gated)
    }

    /// A new policy.
    pub fn create(self) -> Box<dyn OffloadPolicy> {
        match self {
            Self::Default => Box::new(DefaultPolicy),
            Self::SkipL1 => Box::new(SkipL1),
            Self::Gated => Box::new(Gated),
        }
    }
}

impl std::fmt::Display for OffloadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
