//! The contract of every L2 adapter and of every layer around one.
//!
//! Rules that hold for all of them, and that the `conformance` suite checks:
//!
//! 1. **One result for each key**, in the order asked. A failure of one key says nothing about the
//!    others, and a batch may mix sizes.
//! 2. **A store succeeds when a reader can find the object complete**, never before. A store that did
//!    not succeed has left no part of an object that a reader could take for one.
//! 3. **A load that succeeds has filled its region.** A load that failed may have written to it.
//!    An object of the wrong length is a miss that a later store repairs.
//! 4. **A region belongs to the I/O until it is dropped.** When the caller drops the future, I/O that
//!    has begun runs to its end and drops its regions then; what has not begun may be given up.
//! 5. **[`Adapter::close`] waits for I/O that is running**, whoever waits for its results. Calls after
//!    it answer [`Closed`](crate::ErrorKind::Closed).
//! 6. **Nothing from the backend panics**, and no call holds a lock while it waits.

use std::fmt::Debug;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use larder_arena::Region;
use larder_types::object::ObjectKey;

use crate::error::L2Error;

/// What the calls of an adapter return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One result for each key, in the order asked.
pub type Results<T> = Vec<Result<T, L2Error>>;

/// The unit to which files are padded when the page cache is bypassed.
pub const BLOCK_BYTES: u64 = 4096;

/// One object on its way: its name, and the memory it is read from or written to.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Names the object.
    pub key: ObjectKey,
    /// Its bytes in the arena; the length of the region is the length of the object.
    pub region: Region,
}

/// An object is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes that had to be written; 0 if the object was there already.
    pub written_bytes: u64,
}

/// Where a listing goes on. Only the adapter that made it can read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(pub String);

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Names it.
    pub key: ObjectKey,
    /// Bytes stored, padding included.
    pub stored_bytes: u64,
}

/// A part of a listing. Objects that come or go while somebody pages may be missed or seen; every
/// other one is listed exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects, in an order of the adapter's own.
    pub objects: Vec<Listed>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// How large a file system is and how much of it is free for us, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub free_bytes: u64,
    /// All of it.
    pub size_bytes: u64,
}

/// The adapter's books. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all objects, and of what is being written.
    pub used_bytes: u64,
    /// The most that may be held; `None`: no limit.
    pub capacity_bytes: Option<u64>,
    /// Objects held.
    pub objects: u64,
    /// Objects that the adapter has removed to make room, since it was opened.
    pub evicted_objects: u64,
    /// Bytes of these.
    pub evicted_bytes: u64,
    /// What an earlier process left behind is still being counted.
    pub recovering: bool,
    /// The file system that the objects lie in, as it was when last looked at: not long before the last time
    /// that somebody asked. `None`: not in files.
    pub space: Option<Space>,
}

/// What an adapter can do, and what calling it well means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Adapter::list`] works.
    pub list: bool,
    /// Makes room by itself: never holds more than its capacity.
    pub evicts: bool,
    /// A batch is cheaper than its keys one by one, or means more than they do.
    pub batched: bool,
}

/// How one direction of an adapter has fared lately, from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Circuit {
    /// Calls go through.
    #[default]
    Closed,
    /// Calls go through, and the last one failed.
    Failing,
    /// One call goes through, to see whether the backend is back.
    HalfOpen,
    /// Calls are refused at once, because too many have failed.
    Open,
}

impl Circuit {
    /// The state as a word for logs and as a label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failing => "failing",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Whether the backend can be relied on. Adapters without a [`breaker`](crate::layers::breaker) are
/// always well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Lookups and listings, or loads, whichever fare worse.
    pub reads: Circuit,
    /// Stores and deletes.
    pub writes: Circuit,
}

/// A backend of the second tier. No method has a default, so that no layer can forget one.
pub trait Adapter: Send + Sync + Debug {
    /// The `type` of the adapter in configuration, logs and metrics. Layers answer for what they wrap.
    fn kind(&self) -> &'static str;

    /// What the adapter can do.
    fn capabilities(&self) -> Capabilities;

    /// For each key how many bytes are stored ([`holds`] tells whether that is an object of a given
    /// length), or `None`. Counts as a use of the object: whoever finds it is about to load it.
    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>>;

    /// Fills the regions.
    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>>;

    /// Stores the regions. An object of the right length that is there already is left as it is.
    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>>;

    /// Removes objects. `true` for those that were there.
    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>>;

    /// At most `limit` objects, from `cursor` on or from the start.
    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>>;

    /// The books. Cheap: asks nobody.
    fn usage(&self) -> Usage;

    /// Bytes of each cache salt that holds any, in no order. Cheap: asks nobody.
    fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)>;

    /// Sets what a cache salt may hold; `None`: what salts without a limit of their own may. The limit
    /// holds when the call returns; what was over it has left when the future ends. Without effect
    /// unless the adapter [has limits for salts](crate::CapacityLimits::quotas).
    fn set_quota(&self, salt: &Arc<str>, limit_bytes: Option<u64>) -> BoxFuture<'_, ()>;

    /// Whether the backend can be relied on. Cheap: asks nobody.
    fn health(&self) -> Health;

    /// Refuses new calls, then waits for the I/O that is running.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Whether `stored_bytes` can be an object of `object_bytes`: exactly that long, or padded to the next
/// multiple of [`BLOCK_BYTES`] as writers that bypass the page cache do.
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
    fn padding_is_told_from_another_length() {
        assert!(holds(541, 541) && holds(4096, 541) && holds(4096, 4096) && holds(8192, 4097));
        assert!(!holds(540, 541) && !holds(542, 541) && !holds(8192, 541) && !holds(8192, 4096));
        assert!(holds(0, 0) && !holds(4096, 0) && !holds(0, 1));
    }
}
