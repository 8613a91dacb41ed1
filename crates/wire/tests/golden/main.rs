//! Golden vectors: messages, cache keys, pickles and tensor maps of the reference, in `tests/vectors/`.
//!
//! Each test fails if its file has no usable record, so that a renamed field cannot turn it off.

#[path = "../properties/bodies.rs"]
mod bodies;
mod frames;
mod groups;
mod keys;
mod pickle;
mod support;
mod tensor_maps;
