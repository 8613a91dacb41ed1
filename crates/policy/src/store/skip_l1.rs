use larder_types::object::ObjectKey;

use super::AdapterDesc;
use super::{StorePolicy, StoreTarget, all_to_all};

/// Everything goes everywhere, and leaves L1 once it is there.
#[derive(Debug)]
pub struct SkipL1;

impl StorePolicy for SkipL1 {
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<StoreTarget> {
        all_to_all(keys, adapters)
    }

    fn leaves_l1(&self, _: &ObjectKey) -> bool {
        true
    }
}
