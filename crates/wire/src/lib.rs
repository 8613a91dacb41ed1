//! Requests, responses, keys and token hashing of the LMCache multiprocess (MP) protocol.
//!
//! Pure: no I/O, no clock, no unsafe code.

pub mod object;
