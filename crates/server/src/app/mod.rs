//! The running server: its parts, its start and its stop.

mod assemble;
pub mod clock;
pub mod connection_counter;
pub mod copy_pool;
pub mod core_handle;
mod descriptors;
pub mod log_control;
pub mod memory;
mod owner_socket;
pub mod processes;
pub mod quota_file;
pub mod refusals;
mod signals;
pub mod start;
pub mod start_error;
pub mod state;
mod stop;
pub mod tasks;
