//! Golden vectors: messages, cache keys and pickles of the reference, in `tests/vectors/`.
//!
//! Each test fails if its file has no usable record, so that a renamed field cannot turn it off.

#[path = "../properties/bodies.rs"]
mod bodies;
mod frames;
mod keys;
mod pickle;
mod support;
