use super::{LoadCandidates, PrefetchPolicy};
use crate::reuse::object_digest;

/// What stays is what the best expert would let stay: nothing, as `default`; everything, as `retain`; or
/// what is expected to pay at least as well as what it pushes out.
///
/// Who that is, and what is expected, says the [model of reuse](crate::reuse), which follows what
/// each of them would have read from L2. Without a model everything stays.
#[derive(Debug)]
pub struct Adaptive;

impl PrefetchPolicy for Adaptive {
    fn retain(&self, arrival: &LoadCandidates<'_>) -> Vec<bool> {
        let Some(reuse) = arrival.reuse else { return vec![true; arrival.keys.len()] };
        arrival.keys.iter().map(|key| reuse.retains(object_digest(key))).collect()
    }
}
