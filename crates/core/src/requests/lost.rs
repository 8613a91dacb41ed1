//! What a lost connection owned, to be released in steps.

use crate::ids::{PeerLeaseId, RetrieveId, SessionId, StoreId};

/// Pins and other changes of the index that one step makes, at most, apart from those of the last session, lease or
/// transfer.
pub(crate) const STEP_CHANGES: u64 = 1024;

/// A connection that is over, and what it owned and still owns.
#[derive(Debug)]
pub struct LostConnection {
    pub(crate) owned: Vec<Owned>,
}

/// What a connection can own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owned {
    Session(SessionId),
    Peer(PeerLeaseId),
    Store(StoreId),
    Retrieve(RetrieveId),
}

impl LostConnection {
    /// Whether everything has been released.
    pub fn is_done(&self) -> bool {
        self.owned.is_empty()
    }
}
