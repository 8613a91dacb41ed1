use super::{LoadCandidates, PrefetchPolicy};
use crate::reuse::{RetentionRule, object_digest};

/// Follows whichever [`RetentionRule`] did best so far: keep nothing, keep everything, or keep what is
/// predicted to be used at least as soon as what it pushes out.
///
/// The [`ReusePredictor`](crate::reuse::ReusePredictor) tracks what each rule would have read from L2. Without
/// one everything stays.
#[derive(Debug, Default)]
pub(super) struct Adaptive;

impl PrefetchPolicy for Adaptive {
    fn retain(&self, candidates: &LoadCandidates<'_>) -> Vec<bool> {
        let Some(reuse) = candidates.reuse else { return vec![true; candidates.keys.len()] };
        candidates.keys.iter().map(|key| reuse.retains(object_digest(key))).collect()
    }

    fn retention_rules(&self) -> &'static [RetentionRule] {
        &[RetentionRule::Always, RetentionRule::Never, RetentionRule::Judged]
    }
}
