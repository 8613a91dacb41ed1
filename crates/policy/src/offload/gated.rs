use larder_types::object::ObjectKey;

use super::{OffloadPolicy, StoreTrigger};
use crate::reuse::{ReusePredictor, object_digest};

/// Every object stays in L1 alone until it is close to eviction. Then it goes to every adapter if it is likely
/// to be used again, otherwise to none.
///
/// The [`ReusePredictor`] gives the chance of reuse, and sets the threshold so that about 1.25 % of the chunks asked
/// for are lost. Where L1 is too small for this, the decision is made as soon as an object is stored. Without a
/// predictor, or before it has learned anything, nothing is deferred.
#[derive(Debug, Default)]
pub(super) struct Gated;

impl OffloadPolicy for Gated {
    fn defers(&self, key: &ObjectKey, trigger: StoreTrigger, reuse: Option<&ReusePredictor>) -> bool {
        reuse.is_some_and(|reuse| match trigger {
            StoreTrigger::Stored => reuse.filters_writes(),
            StoreTrigger::NearEviction => !reuse.worth_storing(object_digest(key)),
        })
    }
}
