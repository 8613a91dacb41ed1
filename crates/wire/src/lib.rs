//! Requests, responses, keys and token hashing of the LMCache multiprocess (MP) protocol.
//!
//! Pure: no I/O, no clock, no unsafe code. What arrives from a peer is decoded within limits, without
//! recursion, and never panics; see [`error::DecodeError`].
//!
//! The way of a request through this crate: [`message::Incoming`] sorts its frames,
//! [`operation::Operation`] says what it asks for, [`request::Request`] holds its payloads,
//! [`key::CacheKey`] names the tokens, [`TokenHasher`](larder_types::hash::TokenHasher) turns them into chunk hashes, and
//! [`response::Response`] goes back. References such as "`protocol.md` 3" are to sections of the
//! project's protocol description.

pub mod blend;
pub mod error;
pub mod event;
pub mod handle;
pub mod key;
pub mod message;
pub mod msgpack;
pub mod operation;
pub mod p2p;
pub mod pickle;
pub mod registration;
pub mod request;
pub mod response;
mod text_enum;
pub mod tokens;
