//! Asking the policy, and surviving its answers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use larder_types::object::ObjectKey;

use super::Target;
use crate::core::Core;
use crate::index::{ObjectId, Retention, ShardKey};
use larder_policy::prefetch::LoadCandidates;
use larder_policy::prefetch::plan::{L1Id, LoadPlan, PlanInput};
use larder_types::AdapterId;

impl Core {
    /// The policy's plan. One that panics plans nothing.
    pub(super) fn ask_for_plan(&mut self, input: &PlanInput<'_>) -> LoadPlan {
        let policy = &self.prefetch.policy;
        catch_unwind(AssertUnwindSafe(|| policy.plan(input))).unwrap_or_else(|_| {
            self.counters.l2.policy_faults += 1;
            LoadPlan::default()
        })
    }

    /// For each key whether it stays. A policy that panics or answers for another number of keys
    /// retains nothing.
    pub(crate) fn ask_to_retain(
        &mut self,
        keys: &[ObjectKey],
        columns: &[u32],
        adapter: AdapterId,
    ) -> Vec<bool> {
        let arrival =
            LoadCandidates { keys, columns, l1: L1Id::default(), adapter, reuse: self.index.reuse() };
        let policy = &self.prefetch.policy;
        let answer = catch_unwind(AssertUnwindSafe(|| policy.retain(&arrival))).ok();
        answer.filter(|flags| flags.len() == keys.len()).unwrap_or_else(|| {
            self.counters.l2.policy_faults += 1;
            vec![false; keys.len()]
        })
    }

    /// Hits on objects that were in L1. Of those that would go with their readers, the policy may want to
    /// keep some now.
    pub(crate) fn keep_hits(
        &mut self,
        target: &Target,
        hits: impl IntoIterator<Item = (ShardKey, u32, ObjectId)>,
    ) {
        let mut asked: Vec<(AdapterId, u32, ObjectId, ObjectKey)> = Vec::new();
        for (cell, column, object) in hits {
            if self.index.retention(object) == Retention::Temporary
                && let Some(adapter) = self.index.origin(object)
            {
                asked.push((adapter, column, object, target.key(cell, column)));
            }
        }
        asked.sort_by_key(|(adapter, ..)| *adapter);
        for group in asked.chunk_by(|a, b| a.0 == b.0) {
            let keys: Vec<ObjectKey> = group.iter().map(|(.., key)| key.clone()).collect();
            let columns: Vec<u32> = group.iter().map(|(_, column, ..)| *column).collect();
            let flags = self.ask_to_retain(&keys, &columns, group[0].0);
            for ((_, _, object, _), stays) in group.iter().zip(flags) {
                self.promote_if(*object, stays);
            }
        }
    }
}
