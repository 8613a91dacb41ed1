//! Requests, responses and cache keys of the LMCache multiprocess (MP) protocol.
//!
//! Pure: no I/O, no clock, no unsafe code. Bytes from a peer are decoded within limits, without recursion
//! and without panics; see [`error::DecodeError`]. The protocol itself is described in `docs/protocol.md`.
//!
//! A request passes through [`message::Incoming`] (sorts its frames), [`dialect::Recognition`] (finds out which
//! client it is of), [`dialect::Dialect`] (decodes the operation frame) and [`request::Request`] (decodes the payloads); `ResultFrame` and
//! [`message::Envelope::response`] make the frames of its response. [`ops`] has one module per operation.

pub mod codec;
pub mod device_handle;
pub mod dialect;
pub mod error;
pub mod grpc;
pub mod key;
pub mod message;
pub mod msgpack;
pub mod object_key;
pub mod operation;
pub mod ops;
pub mod pickle;
pub mod request;
pub mod response;
pub mod slot;
pub mod tensor_map;
mod text_enum;
pub mod token_buffer;
pub mod tokens;
