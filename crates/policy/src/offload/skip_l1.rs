use larder_types::object::ObjectKey;

use super::AdapterDesc;
use super::{OffloadPolicy, OffloadTarget, all_to_all};

/// Everything goes everywhere, and leaves L1 once it is there.
#[derive(Debug)]
pub struct SkipL1;

impl OffloadPolicy for SkipL1 {
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget> {
        all_to_all(keys, adapters)
    }

    fn removes_from_l1(&self, _: &ObjectKey) -> bool {
        true
    }
}
