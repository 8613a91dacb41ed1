//! Behaviour of the core without L2: reservations, leases, eviction, events.

mod events;
mod eviction;
mod groups;
mod layouts;
mod leases;
mod reservations;
mod shares;
mod starts;
mod support;
mod tier;
