//! What clients hold: workers, sessions, transfers and leases of peers.

pub(crate) mod lease;
pub(crate) mod sessions;
pub(crate) mod transfers;
pub(crate) mod workers;
