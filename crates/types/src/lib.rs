//! Types that several crates use: ids, object keys, chunk hashes, element types, layouts and time.
//!
//! Pure data: no I/O, no clock, no unsafe code, and no dependency on another crate of the workspace.

pub mod dtype;
pub mod file_names;
pub mod hash;
pub mod ids;
pub mod layout;
pub mod object;
pub mod time;
pub mod tokens;

pub use crate::ids::{AdapterId, ChunkId, ConnectionId, InstanceId};
pub use crate::layout::{Layout, LayoutId};
pub use crate::time::Time;
pub use crate::tokens::TokenSlice;
