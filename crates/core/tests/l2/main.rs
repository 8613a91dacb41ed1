//! L2 through the core: lookups, loads, retention, write-back. Rows of `storage.md` 8.1-8.3 and 8.5 are
//! named where they are tested.

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
