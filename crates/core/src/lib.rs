//! The storage core of Larder: what is cached, where it lies, who holds it and what leaves.
//!
//! [`Core`] is a state machine. It is given the time and an event, changes its state and answers;
//! it never sleeps, spawns, reads a clock or touches a file. The same code runs in the server, in
//! the simulator and in the deterministic tests. Bytes are not its business: it hands out places
//! ([`Slot`]) in an arena that somebody else maps ([`arena`]).
//!
//! Rooms, from the bottom up:
//!
//! - [`l1`]: the memory tier: allocator, chunks and their objects, eviction order.
//! - [`quota`]: how much each tenant may hold, and does.
//! - [`fold`]: how long a prefix is servable when layers have attention windows.
//! - [`lease`]: shares of objects held for readers, and when they end.
//! - [`l2`]: what adapters are asked for and what they answer.
//! - [`prefetch`], [`write_back`]: the ways from L2 to L1 and back.
//! - [`counters`], [`tally`], [`life`]: what happened, in all, to whom, and how long chunks live.
//! - [`events`]: what became visible and what ceased to be, for those who follow it.
//! - [`policy`]: what comes from where, what stays, what goes where.
//! - [`session`], [`worker`], [`transfer`]: the life of a request, of an engine worker, and of a
//!   copy between a worker and the arena.
//! - [`whatif`]: what other sizes and policies would have done, on a sample of what was asked for.
//! - [`core`]: the whole, one call per event.
//! - [`arena`]: the shared memory itself (the only unsafe code).

pub mod core;
pub mod counters;
pub mod events;
pub mod l1;
pub mod l2;
pub mod lease;
pub mod life;
pub mod prefetch;
pub mod session;
pub mod tally;
pub mod transfer;
pub mod worker;
pub mod write_back;

pub use crate::core::{Core, CoreConfig};
pub use crate::transfer::Slot;
