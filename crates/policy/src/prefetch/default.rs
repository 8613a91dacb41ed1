use super::{Arrival, PrefetchPolicy};

/// What was loaded goes with its last reader.
#[derive(Debug)]
pub struct DefaultPolicy;

impl PrefetchPolicy for DefaultPolicy {
    fn retain(&self, arrival: &Arrival<'_>) -> Vec<bool> {
        vec![false; arrival.keys.len()]
    }
}
