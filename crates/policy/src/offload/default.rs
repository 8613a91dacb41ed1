use larder_types::object::ObjectKey;

use super::AdapterDesc;
use super::{OffloadPolicy, OffloadTarget, all_to_all};

/// Everything goes everywhere, and stays in L1.
#[derive(Debug)]
pub struct DefaultPolicy;

impl OffloadPolicy for DefaultPolicy {
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget> {
        all_to_all(keys, adapters)
    }

    fn removes_from_l1(&self, _: &ObjectKey) -> bool {
        false
    }
}
