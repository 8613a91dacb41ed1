//! Router and Dealer over real sockets.

mod ipc;
mod router;
mod server;
