//! Trace simulation: the hits, reads and evictions of each policy and size on a trace of requests.
//!
//! - [`trace`]: reads request traces.
//! - [`model`]: replays a trace on the server's storage core, or on its eviction policies alone.
//! - [`belady`]: bounds that no policy can beat.
//! - [`size`]: parses sizes in bytes, chunks or per cent.
//! - [`sweep`]: runs every combination of sizes and policies, in parallel.
//! - [`report`]: writes the results as a table, JSON lines, CSV or SVG.
//! - [`whatif`]: replays a trace on the live what-if, to measure its error.

pub mod belady;
pub mod model;
pub mod report;
pub mod size;
pub mod sweep;
pub mod trace;
pub mod whatif;
