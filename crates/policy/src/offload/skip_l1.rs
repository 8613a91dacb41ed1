use larder_types::object::ObjectKey;

use super::OffloadPolicy;

/// Every object goes to every adapter, and is removed from L1 once it is stored there.
#[derive(Debug, Default)]
pub(super) struct SkipL1;

impl OffloadPolicy for SkipL1 {
    fn removes_from_l1(&self, _: &ObjectKey) -> bool {
        true
    }
}
