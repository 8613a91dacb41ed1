//! Where each cell of a lookup comes from, and whether what was loaded from L2 stays in L1.

mod adaptive;
mod default;
pub mod plan;
mod retain;
pub mod shard_bitmap;

use std::fmt::Debug;

use larder_types::object::ObjectKey;

pub use adaptive::Adaptive;
pub use default::DefaultPolicy;
pub use retain::Retain;

use crate::prefetch::plan::{L1Id, LoadPlan, PlanInput, plan_load};
use crate::reuse::{RetentionRule, ReusePredictor};
use larder_types::AdapterId;

/// Objects that are about to be loaded from one adapter into one pool of L1.
#[derive(Clone, Copy, Debug)]
pub struct LoadCandidates<'a> {
    /// The objects. They may be of several rows.
    pub keys: &'a [ObjectKey],
    /// For each of them its chunk, counted from the start of the prompt.
    pub columns: &'a [u32],
    /// Where they will be.
    pub l1: L1Id,
    /// Where they come from.
    pub adapter: AdapterId,
    /// What was learned, if [some policy](PrefetchKind::learns) wants to know.
    pub reuse: Option<&'a ReusePredictor>,
}

/// Decides about loads from L2. Must not panic; one that does is taken to retain nothing and to load
/// nothing.
pub trait PrefetchPolicy: Send + Debug {
    /// Where each cell comes from. See [`plan_load`] for the rules.
    fn plan(&self, input: &PlanInput<'_>) -> LoadPlan {
        plan_load(input)
    }

    /// For each key whether it stays in L1 when its readers are done with it. Asked just before memory
    /// is reserved. An answer of another length retains nothing.
    fn retain(&self, arrival: &LoadCandidates<'_>) -> Vec<bool>;
}

/// The prefetch policies by name (`--l2-prefetch-policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PrefetchKind {
    /// `default`: what was loaded goes with its last reader.
    #[default]
    Default,
    /// `retain`: what was loaded stays until eviction picks it.
    Retain,
    /// `adaptive`: whichever of the two is better, or a choice for each chunk by what was learned.
    Adaptive,
}

impl PrefetchKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Default, Self::Retain, Self::Adaptive];

    /// The name as flags and status reports write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Retain => "retain",
            Self::Adaptive => "adaptive",
        }
    }

    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// What it may let stay.
    pub const fn retention_rules(self) -> &'static [RetentionRule] {
        match self {
            Self::Default => &[RetentionRule::Never],
            Self::Retain => &[RetentionRule::Always],
            Self::Adaptive => &[RetentionRule::Always, RetentionRule::Never, RetentionRule::Judged],
        }
    }

    /// Whether it wants a model of [reuse](crate::reuse).
    pub const fn learns(self) -> bool {
        matches!(self, Self::Adaptive)
    }

    /// A new policy.
    pub fn create(self) -> Box<dyn PrefetchPolicy> {
        match self {
            Self::Default => Box::new(DefaultPolicy),
            Self::Retain => Box::new(Retain),
            Self::Adaptive => Box::new(Adaptive),
        }
    }
}

impl std::fmt::Display for PrefetchKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
