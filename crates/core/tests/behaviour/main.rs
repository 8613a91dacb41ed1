//! Behaviour of the storage core, by the table of `storage.md` 8.4 and its FIXes: one test per
//! statement, in our words.

mod events;
mod eviction;
mod leases;
mod reservations;
mod support;
mod tier;
