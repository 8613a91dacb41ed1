use super::{LoadCandidates, PrefetchPolicy};

/// A loaded object stays in L1 until it is evicted.
#[derive(Debug, Default)]
pub(super) struct Retain;

impl PrefetchPolicy for Retain {
    fn retain(&self, candidates: &LoadCandidates<'_>) -> Vec<bool> {
        vec![true; candidates.keys.len()]
    }
}
