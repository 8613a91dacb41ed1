//! The policy lab: what other sizes and policies would do with the same requests.
//!
//! - [`simulate`]: replays a trace of requests (`larder simulate`).
//! - [`whatif`]: follows a sample of the requests of a running server.
//! - [`recording`]: the file format of `--record`, which [`simulate`] reads.

pub mod recording;
pub mod simulate;
pub mod whatif;
