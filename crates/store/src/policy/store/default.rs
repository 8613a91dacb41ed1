use larder_wire::object::ObjectKey;

use super::{StorePolicy, StoreTarget, all_to_all};
use crate::l2::AdapterDesc;

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
