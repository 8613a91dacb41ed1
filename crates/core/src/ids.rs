//! Ids of what the core keeps. All come from one counter: an id is used once, and a larger id is younger.

macro_rules! ids {
    ($($(#[$doc:meta])+ $visibility:vis $name:ident;)+) => {
        $(
            $(#[$doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
            $visibility struct $name(pub u64);
        )+
    };
}

ids! {
    /// A request session.
    pub(crate) SessionId;
    /// A store that a worker has prepared.
    pub(crate) StoreId;
    /// A retrieve that a worker has prepared.
    pub(crate) RetrieveId;
    /// A lookup, or a prefetch request, that asks L2.
    pub(crate) JobId;
    /// A key on its way to L2.
    pub(crate) WriteId;
    /// Objects pinned for another server.
    pub PeerLeaseId;
    /// A prefetch request (`POST /cache/prefetches`).
    pub PrefetchId;
    /// One lookup at one adapter.
    pub LookupId;
    /// One piece of memory that an adapter reads or writes.
    pub IoId;
    /// One batch of objects to be stored by one adapter.
    pub TaskId;
}
