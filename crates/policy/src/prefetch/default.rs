use super::{LoadCandidates, PrefetchPolicy};
use crate::reuse::RetentionRule;

/// A loaded object leaves L1 with its last reader.
#[derive(Debug, Default)]
pub(super) struct DefaultPolicy;

impl PrefetchPolicy for DefaultPolicy {
    fn retain(&self, candidates: &LoadCandidates<'_>) -> Vec<bool> {
        vec![false; candidates.keys.len()]
    }

    fn retention_rules(&self) -> &'static [RetentionRule] {
        &[RetentionRule::Never]
    }
}
