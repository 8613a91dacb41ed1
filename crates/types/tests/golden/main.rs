//! Golden vectors of hashes, names and key rules, computed by the reference, in `tests/vectors/`.
//!
//! Each test fails if its file has no usable record, so that a renamed field cannot turn it off.

mod hashes;
mod key_rules;
mod names;
mod support;
