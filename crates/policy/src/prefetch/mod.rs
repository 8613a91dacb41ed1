//! Where each shard of a lookup comes from, and whether an object that is loaded from L2 stays in L1.
//!
//! A new policy is one file in this directory and one line in the table below.

mod adaptive;
mod default;
pub mod plan;
mod retain;
pub mod shard_bitmap;

use std::fmt::Debug;

use larder_types::AdapterId;
use larder_types::object::ObjectKey;

use crate::kinds::policy_kinds;
use crate::prefetch::plan::{L1Id, LoadPlan, PlanInput, plan_load};
use crate::reuse::{RetentionRule, ReusePredictor};

/// Objects that are about to be loaded from one adapter into one pool of L1.
#[derive(Clone, Copy, Debug)]
pub struct LoadCandidates<'a> {
    /// The objects, perhaps of several ranks and groups.
    pub keys: &'a [ObjectKey],
    /// The chunk of each object, counted from the start of the prompt.
    pub columns: &'a [u32],
    /// The pool they are loaded into.
    pub l1: L1Id,
    /// The adapter they are loaded from.
    pub adapter: AdapterId,
    /// Reuse prediction, if some policy [learns](PrefetchKind::learns).
    pub reuse: Option<&'a ReusePredictor>,
}

/// Decides about loads from L2. Must not panic.
pub trait PrefetchPolicy: Send + Debug {
    /// Where each shard comes from. See [`plan_load`] for the rules.
    fn plan(&self, input: &PlanInput<'_>) -> LoadPlan {
        plan_load(input)
    }

    /// For each key, whether the object stays in L1 after its readers are done. Asked just before memory is
    /// reserved. An answer of another length retains nothing.
    fn retain(&self, candidates: &LoadCandidates<'_>) -> Vec<bool>;

    /// The rules that [`retain`](Self::retain) may follow, the first one before anything was learned. The
    /// [`ReusePredictor`] simulates each of them.
    fn retention_rules(&self) -> &'static [RetentionRule] {
        &[RetentionRule::Always]
    }
}

policy_kinds! {
    /// The prefetch policies by name (`--l2-prefetch-policy`).
    PrefetchKind creates PrefetchPolicy;

    /// `default`: a loaded object leaves L1 with its last reader.
    #[default]
    Default = "default", default::DefaultPolicy;
    /// `retain`: a loaded object stays until it is evicted.
    Retain = "retain", retain::Retain;
    /// `adaptive`: the better of the two so far, or a prediction for each chunk.
    Adaptive = "adaptive", adaptive::Adaptive, learns;
}
