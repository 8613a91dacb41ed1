//! Golden vectors: what the reference sends, computes and names, in `tests/vectors/`.
//!
//! Each test fails if its file has no usable record, so that a renamed field cannot turn it off.

#[path = "../properties/bodies.rs"]
mod bodies;
mod frames;
mod hashes;
mod keys;
mod names;
mod pickle;
mod support;
