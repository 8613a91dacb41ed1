//! Transports: how requests arrive and answers leave.

pub mod zmq;
