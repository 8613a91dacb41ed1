use larder_types::object::ObjectKey;

use super::AdapterDesc;
use super::{OffloadPolicy, OffloadTarget, StoreTrigger, all_to_all};
use crate::reuse::{ReusePredictor, object_digest};

/// Everything waits in L1 until it is about to leave it. What is likely to be asked for after that goes
/// everywhere, the rest nowhere.
///
/// How likely is said by the [model of reuse](crate::reuse), and what is likely enough is set so
/// that some 1.25 % of the chunks asked for are lost. Where L1 is too small for anything to wait, that is
/// decided as soon as a chunk is stored. Without a model, or before it has learned anything, nothing waits.
#[derive(Debug)]
pub struct Gated;

impl OffloadPolicy for Gated {
    fn targets(&self, keys: &[ObjectKey], adapters: &[AdapterDesc]) -> Vec<OffloadTarget> {
        all_to_all(keys, adapters)
    }

    fn removes_from_l1(&self, _: &ObjectKey) -> bool {
        false
    }

    fn defers(&self, key: &ObjectKey, moment: StoreTrigger, reuse: Option<&ReusePredictor>) -> bool {
        reuse.is_some_and(|reuse| match moment {
            StoreTrigger::Stored => reuse.filters_writes(),
            StoreTrigger::NearEviction => !reuse.worth_storing(object_digest(key)),
        })
    }
}
