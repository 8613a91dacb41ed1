use larder_wire::object::ObjectKey;

use super::{StorePolicy, StoreTarget, all_to_all};
use crate::l2::AdapterDesc;
use crate::policy::reuse::{Reuse, object_digest};

/// Everything that is used twice goes everywhere, at its second use; what is likely to be lost by then, at
/// its first. All of it stays in L1.
///
/// How likely is said by the [model of reuse](crate::policy::reuse), and what is likely enough is set so
/// that some 1.25 % of the chunks asked for are lost by waiting. Without a model nothing waits.
#[derive(Debug)]
pub struct Gated;

impl StorePolicy for Gated {
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<StoreTarget> {
        all_to_all(keys, adapters)
    }

    fn leaves_l1(&self, _: &ObjectKey) -> bool {
        false
    }

    fn waits(&self, key: &ObjectKey, reuse: Option<&Reuse>) -> bool {
        reuse.is_some_and(|reuse| !reuse.worth_storing(object_digest(key)))
    }
}
