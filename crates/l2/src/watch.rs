//! Being told of what leaves an adapter.

use std::fmt::Debug;

use larder_types::object::ObjectKey;

/// Why an object is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It made room for others.
    Evicted,
    /// Its data was found to be gone.
    Gone,
}

/// Is told of each object that an adapter has removed by itself, to make room or because its data was found to be
/// gone. What [`Adapter::delete`](crate::Adapter::delete) removes, its caller knows.
///
/// It is called while the adapter keeps others from storing that object anew, so it must be quick and must not
/// call the adapter.
pub trait Watch: Send + Sync + Debug {
    /// This object cannot be loaded any more.
    fn removed(&self, key: &ObjectKey, why: Why);
}
