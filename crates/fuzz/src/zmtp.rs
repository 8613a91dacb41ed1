//! The ZMTP codec; the functions are those of the property tests of `zmtp`.

#[path = "../../zmtp/tests/common/input.rs"]
pub(crate) mod input;
#[path = "../../zmtp/tests/common/machine.rs"]
mod machine;

/// A message of two parts, PING and PONG, after the handshake and with it.
pub(crate) fn connection_seeds() -> Vec<Vec<u8>> {
    const MESSAGE: &[u8] = b"\x01\x02ab\x00\x01c\x04\x07\x04PING\x00\x64\x04\x07\x04PONG\x00\x64";
    const LONG: &[u8] = b"\x02\x00\x00\x00\x00\x00\x00\x00\x04abcd";
    vec![
        [&[0x80], MESSAGE].concat(),
        [&[0x82, 1, 7], MESSAGE].concat(),
        [&[0x80], LONG].concat(),
        [&[0x00], machine::HANDSHAKE, MESSAGE].concat(),
        [&[0x01, 3], machine::HANDSHAKE, LONG].concat(),
    ]
}

pub(crate) fn round_trip_seeds() -> Vec<Vec<u8>> {
    vec![b"\x00\x00\x05\x01".to_vec(), b"\x03\x01\x05\x00\xff\x04\x10\x07\x00\x01".to_vec()]
}
