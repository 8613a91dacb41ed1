//! Telling the core what adapters remove by themselves.

use std::sync::{Arc, OnceLock, Weak};

use larder_l2::{EvictionListener, EvictionReason};
use larder_types::ids::AdapterId;
use larder_types::object::ObjectKey;

use crate::app::state::State;

/// Whose adapters they are. They are open before there is a state; what they remove until then was never told
/// of as stored.
#[derive(Debug, Default)]
pub struct Owner(OnceLock<Weak<State>>);

impl Owner {
    /// From now on `state` is told. The first one stays.
    pub fn is(&self, state: &Arc<State>) {
        let _ = self.0.set(Arc::downgrade(state));
    }
}

/// Tells of what one adapter removes.
#[derive(Debug)]
pub(super) struct Removals {
    owner: Arc<Owner>,
    adapter: AdapterId,
}

impl Removals {
    pub(super) fn new(owner: Arc<Owner>, adapter: AdapterId) -> Self {
        Self { owner, adapter }
    }
}

impl EvictionListener for Removals {
    fn on_removed(&self, key: &ObjectKey, reason: EvictionReason) {
        if let Some(state) = self.owner.0.get().and_then(Weak::upgrade)
            && !state.core().is_poisoned()
        {
            state.core().with(|core, now| match reason {
                EvictionReason::Evicted => core.l2_evicted(now, self.adapter, key),
                EvictionReason::Missing => core.l2_removed(now, self.adapter, std::slice::from_ref(key)),
            });
        }
    }
}
