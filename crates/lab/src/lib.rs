//! The policy lab: estimates what other cache sizes and policies would do with the same requests.
//!
//! - [`simulate`]: replays a trace of requests (`larder simulate`).
//! - [`whatif`]: estimates the same in a running server, from a sample of its requests.
//! - [`recording`]: the file format of `--record`, which [`simulate`] reads.

pub mod recording;
pub mod simulate;
pub mod whatif;
