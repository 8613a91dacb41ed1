//! Asking the prefetch policy what to retain. Answers that break its rules are counted and ignored.

use larder_policy::prefetch::LoadCandidates;
use larder_policy::prefetch::plan::L1Id;
use larder_types::AdapterId;
use larder_types::object::ObjectKey;

use super::{Prefetch, Target};
use crate::context::Context;
use crate::index::{ObjectId, Retention, ShardKey};

impl Prefetch {
    /// For each key whether it is retained. An answer for another number of keys retains nothing.
    pub(super) fn ask_to_retain(
        &self,
        cx: &mut Context,
        keys: &[ObjectKey],
        columns: &[u32],
        adapter: AdapterId,
    ) -> Vec<bool> {
        let reuse = cx.predictor.as_ref();
        let candidates = LoadCandidates { keys, columns, l1: L1Id::default(), adapter, reuse };
        let answer = self.policy.retain(&candidates);
        if answer.len() == keys.len() {
            return answer;
        }
        cx.stats.requests.l2.policy_faults += 1;
        vec![false; keys.len()]
    }

    /// Asks about temporary objects of a hit that were in L1: the policy may want to retain some of them now.
    pub(crate) fn retain_hits(
        &self,
        cx: &mut Context,
        target: &Target,
        hits: impl IntoIterator<Item = (ShardKey, u32, ObjectId)>,
    ) {
        let mut temporary: Vec<(AdapterId, u32, ObjectId, ObjectKey)> = Vec::new();
        for (shard, column, object) in hits {
            if cx.index.retention(object) == Retention::Temporary
                && let Some(adapter) = cx.index.origin(object)
            {
                temporary.push((adapter, column, object, target.key(shard, column)));
            }
        }
        temporary.sort_by_key(|(adapter, ..)| *adapter);
        for group in temporary.chunk_by(|a, b| a.0 == b.0) {
            let keys: Vec<ObjectKey> = group.iter().map(|(.., key)| key.clone()).collect();
            let columns: Vec<u32> = group.iter().map(|(_, column, ..)| *column).collect();
            let retain = self.ask_to_retain(cx, &keys, &columns, group[0].0);
            for ((_, _, object, _), retain) in group.iter().zip(retain) {
                cx.promote_if(*object, retain);
            }
        }
    }
}
