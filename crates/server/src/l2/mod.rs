//! The second tier: its adapters, and the I/O that the core asks them for.

mod effects;
mod eviction_listener;
mod lookup_waiters;
mod open;

use std::sync::Arc;

use larder_l2::Adapter;
use larder_policy::AdapterDesc;
use larder_types::AdapterId;

pub use self::effects::L2Effects;
pub use self::eviction_listener::CoreSlot;
pub use self::lookup_waiters::LookupWaiters;
pub use self::open::{OpenError, open};

/// The adapters, in the order of their numbers.
#[derive(Debug, Default)]
pub struct L2 {
    adapters: Vec<Arc<dyn Adapter>>,
}

impl L2 {
    /// A tier of these adapters.
    pub fn new(adapters: Vec<Arc<dyn Adapter>>) -> Self {
        Self { adapters }
    }

    /// What the core needs to know of them.
    pub fn descriptions(&self) -> Vec<AdapterDesc> {
        let describe = |a: &Arc<dyn Adapter>| AdapterDesc { name: a.kind().into(), readable: true };
        self.adapters.iter().map(describe).collect()
    }

    /// The adapters with their numbers.
    pub fn adapters(&self) -> impl Iterator<Item = (AdapterId, &Arc<dyn Adapter>)> {
        self.adapters.iter().enumerate().map(|(i, a)| (AdapterId(i as u32), a))
    }

    /// The reasons why L2 does not serve, each with its remedy; empty if it does.
    pub fn problems(&self) -> Vec<String> {
        let of = |(AdapterId(i), adapter): (AdapterId, &Arc<dyn Adapter>)| {
            let of_adapter = format!("L2 adapter #{} ({})", i + 1, adapter.kind());
            adapter.failures().problems.into_iter().map(move |problem| format!("{of_adapter}: {problem}"))
        };
        self.adapters().flat_map(of).collect()
    }

    /// The bytes of each cache salt in each adapter, in no order.
    pub fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        self.adapters.iter().flat_map(|adapter| adapter.usage_by_salt()).collect()
    }

    /// Limits the bytes of a cache salt in every adapter. All have the limit before the first has enforced it.
    pub async fn set_quota(&self, salt: &Arc<str>, limit_bytes: Option<u64>) {
        let limited: Vec<_> = self.adapters.iter().map(|a| a.set_quota(salt, limit_bytes)).collect();
        for enforced in limited {
            enforced.await;
        }
    }

    pub(crate) fn get(&self, id: AdapterId) -> Arc<dyn Adapter> {
        self.adapters[id.0 as usize].clone()
    }
}
