//! `cb_protocol_handshake`.

use crate::codec::Value;
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};
use crate::ops::{operation, samples};

/// Blend: compares protocol versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CbProtocolHandshake {
    /// The client's version.
    pub version: i64,
}

/// Response of `cb_protocol_handshake`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The server's version.
    pub server_version: i64,
    /// Whether it equals the client's.
    pub matches: bool,
}

impl Value for Handshake {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.tuple(field, 2, "an array of a version and a boolean")?;
        Ok(Self { server_version: reader.i64("version")?, matches: reader.bool("match")? })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.array(2);
        writer.int(self.server_version);
        writer.bool(self.matches);
    }
}

operation!(CbProtocolHandshake = Some(33), "cb_protocol_handshake", { version } -> Handshake, failure: None);

samples!(CbProtocolHandshake: vec![Self { version: 1 }] => vec![Handshake { server_version: 1, matches: false }]);
