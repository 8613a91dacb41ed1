//! The greeting: 64 bytes that each side sends first.
//!
//! ```text
//! FF  8 bytes padding  7F | major minor | mechanism, 20 bytes | as-server | 31 bytes filler
//! ```

use super::ProtocolError;

/// Length of a greeting, in bytes.
pub const GREETING_BYTES: usize = 64;

const SIGNATURE_FIRST: u8 = 0xFF;
const SIGNATURE_LAST: u8 = 0x7F;
const SIGNATURE_BYTES: usize = 10;
const MAJOR_AT: usize = 10;
const MINOR_AT: usize = 11;
const MECHANISM_AT: usize = 12;
const MECHANISM_BYTES: usize = 20;
const OUR_MAJOR: u8 = 3;
const OUR_MINOR: u8 = 1;
const NULL: &[u8] = b"NULL";

/// An accepted greeting of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Minor version of ZMTP 3 that the peer speaks. Heartbeats exist from 1 on.
    pub minor: u8,
}

/// The greeting we send: ZMTP 3.1, mechanism NULL, not a security server.
///
/// The padding of the signature is what libzmq writes there (a length of one, for peers of version 1).
#[must_use]
pub fn ours() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[0] = SIGNATURE_FIRST;
    bytes[SIGNATURE_BYTES - 2] = 1;
    bytes[SIGNATURE_BYTES - 1] = SIGNATURE_LAST;
    bytes[MAJOR_AT] = OUR_MAJOR;
    bytes[MINOR_AT] = OUR_MINOR;
    bytes[MECHANISM_AT..MECHANISM_AT + NULL.len()].copy_from_slice(NULL);
    bytes
}

/// Reads a peer's greeting from the start of `bytes`: `None` while it is incomplete.
///
/// An unsupported peer is refused at the first byte that identifies it as such, so that a client of an old
/// version, with a greeting of fewer than 64 bytes, gets its answer at once.
///
/// # Errors
/// `NotZmtp`, `UnsupportedVersion` or `UnsupportedMechanism`.
pub fn parse(bytes: &[u8]) -> Result<Option<Greeting>, ProtocolError> {
    if bytes.first().is_some_and(|&first| first != SIGNATURE_FIRST) {
        return Err(ProtocolError::NotZmtp);
    }
    if bytes.get(SIGNATURE_BYTES - 1).is_some_and(|&last| last != SIGNATURE_LAST) {
        return Err(ProtocolError::NotZmtp);
    }
    if let Some(&major) = bytes.get(MAJOR_AT)
        && major < OUR_MAJOR
    {
        return Err(ProtocolError::UnsupportedVersion { revision: major });
    }
    let Some(greeting) = bytes.get(..GREETING_BYTES) else { return Ok(None) };
    let mechanism = &greeting[MECHANISM_AT..MECHANISM_AT + MECHANISM_BYTES];
    let name = mechanism.strip_prefix(NULL);
    if !name.is_some_and(|rest| rest.iter().all(|&byte| byte == 0)) {
        let end = mechanism.iter().position(|&byte| byte == 0).unwrap_or(MECHANISM_BYTES);
        let name = mechanism[..end].escape_ascii().to_string();
        return Err(ProtocolError::UnsupportedMechanism { name });
    }
    // A peer of a later major version has to fall back to version 3, as the RFC demands.
    let minor = if greeting[MAJOR_AT] > OUR_MAJOR { OUR_MINOR } else { greeting[MINOR_AT] };
    Ok(Some(Greeting { minor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting as libzmq 4.3.5 puts it on the wire.
    fn libzmq() -> Vec<u8> {
        let mut bytes = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 1];
        bytes.extend_from_slice(b"NULL");
        bytes.resize(GREETING_BYTES, 0);
        bytes
    }

    #[test]
    fn greeting_equals_that_of_libzmq() {
        assert_eq!(ours().as_slice(), libzmq());
    }

    #[test]
    fn reads_greeting_byte_by_byte() {
        let bytes = libzmq();
        for end in 0..GREETING_BYTES {
            assert_eq!(parse(&bytes[..end]), Ok(None), "at {end}");
        }
        assert_eq!(parse(&bytes), Ok(Some(Greeting { minor: 1 })));
    }

    #[test]
    fn accepts_version_3_0_and_treats_later_majors_as_3_1() {
        let mut bytes = libzmq();
        bytes[MINOR_AT] = 0;
        assert_eq!(parse(&bytes), Ok(Some(Greeting { minor: 0 })));
        bytes[MAJOR_AT] = 4;
        assert_eq!(parse(&bytes), Ok(Some(Greeting { minor: 1 })));
    }

    #[test]
    fn refuses_old_versions_at_their_first_byte() {
        // Version 1 peers start with a short length, or with a long one and flags right after it.
        assert_eq!(parse(&[0x01, 0x00]), Err(ProtocolError::NotZmtp));
        assert_eq!(parse(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x00]), Err(ProtocolError::NotZmtp));
        for revision in [0, 1, 2] {
            let bytes = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, revision];
            assert_eq!(parse(&bytes), Err(ProtocolError::UnsupportedVersion { revision }));
        }
    }

    #[test]
    fn refuses_other_mechanisms_by_name() {
        for (name, bytes) in [("PLAIN", &b"PLAIN"[..]), ("CURVE", b"CURVE"), ("NULLX", b"NULLX"), ("", b"")] {
            let mut greeting = libzmq();
            greeting[MECHANISM_AT..MECHANISM_AT + MECHANISM_BYTES].fill(0);
            greeting[MECHANISM_AT..MECHANISM_AT + bytes.len()].copy_from_slice(bytes);
            assert_eq!(parse(&greeting), Err(ProtocolError::UnsupportedMechanism { name: name.into() }));
        }
    }

    #[test]
    fn refuses_other_protocols_at_their_first_byte() {
        assert_eq!(parse(b"G"), Err(ProtocolError::NotZmtp));
    }
}
