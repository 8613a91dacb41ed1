//! L2 through the core: lookups, loads, retention, write-back. See README.md.

mod adaptive;
mod controller;
mod driver;
mod failures;
mod plan;
mod policies;
mod random;
mod retention;
mod rig;
mod sharing;
mod warm;
mod write_back;
