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
//! - [`policy`]: what comes from where, what stays, what goes where.
//! - [`session`], [`worker`], [`transfer`]: the life of a request, of an engine worker, and of a
//!   copy between a worker and the arena.
//! - [`core`]: the whole, one call per event.
//! - [`arena`]: the shared memory itself (the only unsafe code).

pub mod arena;
pub mod core;
pub mod counters;
pub mod fold;
pub mod ids;
pub mod l1;
pub mod l2;
pub mod layout;
pub mod lease;
pub mod life;
pub mod policy;
pub mod prefetch;
pub mod quota;
pub mod session;
pub mod tally;
pub mod time;
pub mod transfer;
pub mod worker;
pub mod write_back;

pub use crate::core::{Core, CoreConfig};
pub use crate::ids::{ConnectionId, InstanceId};
pub use crate::layout::Layout;
pub use crate::quota::Quotas;
pub use crate::time::Time;
pub use crate::transfer::Slot;
