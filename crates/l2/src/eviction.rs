//! Notification of objects that an adapter removes on its own.

use std::fmt::Debug;

use larder_types::object::ObjectKey;

/// Why an adapter dropped an object that was not deleted through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// It was evicted to free space.
    Evicted,
    /// Its data was found to be missing from the backend.
    Missing,
}

/// Receives each object that an adapter removes on its own. [`Adapter::delete`](crate::Adapter::delete) is not
/// reported: its caller knows.
///
/// The call is made while the adapter blocks a new store of that object, so it must be quick and must not
/// call the adapter.
pub trait EvictionListener: Send + Sync + Debug {
    /// `key` can no longer be loaded.
    fn on_removed(&self, key: &ObjectKey, reason: EvictionReason);
}
