use larder_types::object::ObjectKey;

use super::AdapterDesc;
use super::{StorePolicy, StoreTarget, all_to_all};

/// Everything goes everywhere, and stays in L1.
#[derive(Debug)]
pub struct DefaultPolicy;

impl StorePolicy for DefaultPolicy {
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<StoreTarget> {
        all_to_all(keys, adapters)
    }

    fn leaves_l1(&self, _: &ObjectKey) -> bool {
        false
    }
}
