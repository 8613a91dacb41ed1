//! What clients own: workers, sessions, stores, retrieves and leases of peers.

pub(crate) mod by_owner;
pub(crate) mod clients;
pub(crate) mod lease;
pub(crate) mod lost;
pub(crate) mod models;
pub(crate) mod peers;
pub(crate) mod prefix;
pub(crate) mod retrieves;
pub(crate) mod sessions;
pub(crate) mod stores;
pub(crate) mod transfer;
pub(crate) mod worker_spec;
pub(crate) mod workers;
