//! The policy lab: what would each policy and size do on a trace of real requests?
//!
//! - [`trace`]: what was asked for.
//! - [`model`]: the server's own storage core, or its inner parts, asked it.
//! - [`belady`]: what a clairvoyant would have done.
//! - [`size`]: sizes as people give them.
//! - [`sweep`]: every combination, in parallel.
//! - [`report`]: what came of it, as a table, JSON, CSV or a picture.
//! - [`whatif`]: what a running server would have said of it, from a sample.

pub mod belady;
pub mod model;
pub mod report;
pub mod size;
pub mod sweep;
pub mod trace;
pub mod whatif;
