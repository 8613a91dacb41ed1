//! The interface of every L2 adapter and of every layer around one.
//!
//! Rules for all of them, checked by the `conformance` suite:
//!
//! 1. **One result per key**, in the order of the keys. A failure of one key does not affect the others, and
//!    a batch may mix sizes.
//! 2. **A store succeeds once a reader can find the complete object**, never before. A failed store leaves
//!    nothing that a reader could take for an object.
//! 3. **A load that succeeds has filled its region.** A load that failed may have written to it.
//!    An object of the wrong length is a miss that a later store repairs.
//! 4. **A region belongs to the I/O until it is dropped.** When the caller drops the future, I/O that
//!    has started runs to its end and drops its regions then; I/O that has not started may be cancelled.
//! 5. **[`Adapter::close`] waits for running I/O**, even if its caller dropped the future. Later calls fail
//!    with [`Closed`](crate::ErrorKind::Closed).
//! 6. **No input from the backend causes a panic**, and no call holds a lock while it waits.

use std::fmt::Debug;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use larder_arena::Region;
use larder_types::object::ObjectKey;

use crate::error::{ErrorKind, L2Error};

/// The future that the calls of an adapter return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One result per key, in the order of the keys.
pub type Results<T> = Vec<Result<T, L2Error>>;

/// The unit to which files are padded when the page cache is bypassed.
pub const BLOCK_BYTES: u64 = 4096;

/// One object to load or store, and the memory to write or read.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The object.
    pub key: ObjectKey,
    /// Memory of the arena, exactly as long as the object.
    pub region: Region,
}

/// The result of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes written; 0 if the object was there already.
    pub written_bytes: u64,
}

/// Where a listing continues. Opaque to all but the adapter that returned it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(pub String);

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The object.
    pub key: ObjectKey,
    /// Bytes stored, padding included.
    pub stored_bytes: u64,
}

/// One page of a listing. Objects that are added or removed during a listing may be missed; every other
/// object is listed exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects, in an order that the adapter chooses.
    pub objects: Vec<Listed>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<Cursor>,
}

/// Size and free space of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes available to this process.
    pub free_bytes: u64,
    /// Bytes in total.
    pub size_bytes: u64,
}

/// What the checksums of files have shown, since the adapter was opened. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Loads of objects that match their checksum.
    pub verified_loads: u64,
    /// Loads of objects without a checksum, and all loads while checksums are off.
    pub unverified_loads: u64,
    /// Files that were found damaged.
    pub damaged_objects: u64,
}

/// Usage of an adapter. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all objects, including those being written.
    pub used_bytes: u64,
    /// Maximum bytes; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// Number of objects.
    pub objects: u64,
    /// Objects evicted since the adapter was opened.
    pub evicted_objects: u64,
    /// Bytes evicted since the adapter was opened.
    pub evicted_bytes: u64,
    /// Objects of earlier processes are still being counted.
    pub recovering: bool,
    /// What the checksums of files have shown.
    pub integrity: Integrity,
    /// The file system of the objects, measured in the background when usage is read. `None`: no files, or the
    /// measurement failed.
    pub space: Option<Space>,
}

/// Capabilities of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Adapter::list`] works.
    pub list: bool,
    /// Evicts on its own and never holds more than its capacity.
    pub evicts: bool,
    /// A batch is cheaper than, or different from, single calls for its keys.
    pub batched: bool,
}

/// State of the circuit breaker of one direction, from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Circuit {
    /// Calls pass.
    #[default]
    Closed,
    /// Calls pass, and the last one failed.
    Failing,
    /// One call passes as a probe; others are refused.
    HalfOpen,
    /// Calls are refused at once, because too many failed in a row.
    Open,
}

impl Circuit {
    /// The state as logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failing => "failing",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Health of a backend. Without a [`breaker`](crate::layers::breaker) it is always healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The worse of lookups and listings on one side, and loads on the other.
    pub reads: Circuit,
    /// Stores and deletes.
    pub writes: Circuit,
}

/// A call of an adapter, for what is counted by call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// [`Adapter::lookup`].
    Lookup,
    /// [`Adapter::load`].
    Load,
    /// [`Adapter::store`].
    Store,
    /// [`Adapter::delete`].
    Delete,
    /// [`Adapter::list`].
    List,
}

impl Call {
    /// Every call.
    pub const ALL: [Self; 5] = [Self::Lookup, Self::Load, Self::Store, Self::Delete, Self::List];

    /// The call as logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Load => "load",
            Self::Store => "store",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// What failed since the adapter was opened, and what fails now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Objects (pages of a listing) that failed, by call and kind, after all retries. Empty without the
    /// [`report`](crate::layers::report) layer. Kinds that are not listed have not occurred.
    pub counts: Vec<(Call, ErrorKind, u64)>,
    /// What an operator must repair now, each with its reason and remedy.
    pub problems: Vec<String>,
}

/// A backend of the second tier, or a layer around one. No method has a default, so that no layer can skip one.
pub trait Adapter: Send + Sync + Debug {
    /// The `type` of the adapter in configuration, logs and metrics.
    fn kind(&self) -> &'static str;

    /// What the adapter supports.
    fn capabilities(&self) -> Capabilities;

    /// For each key the number of stored bytes (see [`holds`]), or `None`. Counts as a use of the object, since a
    /// load usually follows.
    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>>;

    /// Loads objects into their regions.
    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>>;

    /// Stores the regions. An object of the same length that is there already is kept.
    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>>;

    /// Removes objects. `true` for each that was there.
    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>>;

    /// Lists at most `limit` objects, from `cursor` or from the start.
    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>>;

    /// Usage. Cheap: no I/O.
    fn usage(&self) -> Usage;

    /// Bytes of each cache salt that has any, in no order. Cheap: no I/O.
    fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)>;

    /// Sets the quota of a cache salt in bytes; `None`: the default quota. It applies to stores when the call
    /// returns; objects over it are evicted when the future completes. Without effect unless the adapter
    /// enforces quotas ([`CapacityLimits::policy`](crate::CapacityLimits::policy)).
    fn set_quota(&self, salt: &Arc<str>, limit_bytes: Option<u64>) -> BoxFuture<'_, ()>;

    /// Health of the backend. Cheap: no I/O.
    fn health(&self) -> Health;

    /// What failed. Cheap: no I/O.
    fn failures(&self) -> Failures;

    /// Refuses new calls, then waits for running I/O.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Whether `stored_bytes` can be an object of `object_bytes`: exactly that long, or padded to the next
/// multiple of [`BLOCK_BYTES`], as with `use_odirect`.
pub const fn holds(stored_bytes: u64, object_bytes: u64) -> bool {
    stored_bytes == object_bytes
        || (stored_bytes > object_bytes
            && stored_bytes - object_bytes < BLOCK_BYTES
            && stored_bytes.is_multiple_of(BLOCK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_padding_but_no_other_length() {
        assert!(holds(541, 541) && holds(4096, 541) && holds(4096, 4096) && holds(8192, 4097));
        assert!(!holds(540, 541) && !holds(542, 541) && !holds(8192, 541) && !holds(8192, 4096));
        assert!(holds(0, 0) && !holds(4096, 0) && !holds(0, 1));
    }
}
