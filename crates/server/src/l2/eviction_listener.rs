//! Reports to the core what adapters remove by themselves.

use std::sync::{Arc, OnceLock, Weak};

use larder_l2::{EvictionListener, EvictionReason};
use larder_types::ids::AdapterId;
use larder_types::object::ObjectKey;

use crate::app::core_handle::CoreHandle;

/// The core of a server, once there is one. Adapters are opened before it; the core does not know yet what they
/// remove until then.
#[derive(Debug, Default)]
pub struct CoreSlot(OnceLock<Weak<CoreHandle>>);

impl CoreSlot {
    /// Sets the core, once.
    pub fn set(&self, core: &Arc<CoreHandle>) {
        let _ = self.0.set(Arc::downgrade(core));
    }
}

/// Reports what one adapter removes.
#[derive(Debug)]
pub(super) struct CoreEvictionListener {
    core: Arc<CoreSlot>,
    adapter: AdapterId,
}

impl CoreEvictionListener {
    pub(super) fn new(core: Arc<CoreSlot>, adapter: AdapterId) -> Self {
        Self { core, adapter }
    }
}

impl EvictionListener for CoreEvictionListener {
    fn on_removed(&self, key: &ObjectKey, reason: EvictionReason) {
        if let Some(core) = self.core.0.get().and_then(Weak::upgrade)
            && !core.is_poisoned()
        {
            core.with(|core, now| match reason {
                EvictionReason::Evicted => core.l2_evicted(now, self.adapter, key),
                EvictionReason::Missing => core.l2_removed(now, self.adapter, std::slice::from_ref(key)),
            });
        }
    }
}
