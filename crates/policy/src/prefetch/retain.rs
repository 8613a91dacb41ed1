use super::{LoadCandidates, PrefetchPolicy};

/// What was loaded stays until eviction picks it.
#[derive(Debug)]
pub struct Retain;

impl PrefetchPolicy for Retain {
    fn retain(&self, arrival: &LoadCandidates<'_>) -> Vec<bool> {
        vec![true; arrival.keys.len()]
    }
}
