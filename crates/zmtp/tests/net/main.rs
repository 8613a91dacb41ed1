//! Router and Dealer over real sockets.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod ipc;
mod router;
mod server;
