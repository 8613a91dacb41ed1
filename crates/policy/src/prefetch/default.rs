use super::{LoadCandidates, PrefetchPolicy};

/// What was loaded goes with its last reader.
#[derive(Debug)]
pub struct DefaultPolicy;

impl PrefetchPolicy for DefaultPolicy {
    fn retain(&self, arrival: &LoadCandidates<'_>) -> Vec<bool> {
        vec![false; arrival.keys.len()]
    }
}
