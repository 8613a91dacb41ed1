//! The operations of LMCache by id and name.

use std::fmt;

use bytes::Bytes;

use crate::dialect::Dialect;
use crate::for_each_operation;
use crate::msgpack::Writer;
use crate::ops::{self, OperationSpec};

/// A frame that names no operation. The reference never answers such requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// An id or name that is not in use; 11 is retired.
    #[error("unknown operation {0}")]
    Unknown(String),
    /// Neither an integer nor text, or more than one value.
    #[error("the operation frame holds no operation id or name")]
    Malformed,
}

macro_rules! operation {
    ($($module:ident::$name:ident),+ $(,)?) => {
        /// An operation a client can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $(
                #[doc = concat!("See [`", stringify!($name), "`](crate::ops::", stringify!($name), ").")]
                $name,
            )+
        }

        impl Operation {
            /// Every operation, in the order of the protocol's table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name on the wire, also the label in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => ops::$name::NAME,)+ }
            }

            /// The frozen integer id; `None` for operations that only have a name.
            pub const fn id(self) -> Option<u8> {
                match self { $(Self::$name => ops::$name::ID,)+ }
            }

            /// Finds an operation by its id from 0.5.3 on, also by those that 0.5.5 changed. For ids of older
            /// clients see [`Dialect::operation`].
            pub const fn from_id(id: u32) -> Option<Self> {
                $(if let Some(own) = ops::$name::ID && own as u32 == id {
                    return Some(Self::$name);
                })+
                match id {
                    37 => Some(Self::P2pLookupAndLock),
                    38 => Some(Self::P2pQueryLookupResults),
                    39 => Some(Self::P2pUnlockObjects),
                    40 => Some(Self::GetExperimental),
                    _ => None,
                }
            }

            /// Finds an operation by its name.
            pub fn from_name(name: &str) -> Option<Self> {
                $(if name == ops::$name::NAME {
                    return Some(Self::$name);
                })+
                None
            }
        }
    };
}

for_each_operation!(operation);

impl Operation {
    /// Decodes the operation frame of a client from 0.5.3 on: an integer of any width or a name.
    ///
    /// # Errors
    /// The frame is neither, or names no operation.
    pub fn decode(frame: &[u8]) -> Result<Self, OperationError> {
        Dialect::default().decode(frame)
    }

    /// Encodes the operation frame as stock clients do: the id if there is one, else the name.
    pub fn encode(self) -> Bytes {
        let mut writer = Writer::new();
        match self.id() {
            Some(id) => writer.uint(u64::from(id)),
            None => writer.str(self.name()),
        }
        writer.into_bytes()
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_operation_by_frame_and_by_name() {
        for &operation in Operation::ALL {
            assert_eq!(Operation::decode(&operation.encode()), Ok(operation));
            let mut writer = Writer::new();
            writer.str(operation.name());
            assert_eq!(Operation::decode(&writer.into_bytes()), Ok(operation));
        }
        assert!(Operation::ALL.len() >= 35);
    }

    #[test]
    fn reads_ids_of_any_width() {
        for frame in [
            &[24][..],
            &[0xcc, 24],
            &[0xcd, 0, 24],
            &[0xce, 0, 0, 0, 24],
            &[0xcf, 0, 0, 0, 0, 0, 0, 0, 24],
            &[0xd0, 24],
            &[0xd1, 0, 24],
            &[0xd2, 0, 0, 0, 24],
            &[0xd3, 0, 0, 0, 0, 0, 0, 0, 24],
        ] {
            assert_eq!(Operation::decode(frame), Ok(Operation::Noop), "{frame:x?}");
        }
    }

    #[test]
    fn ids_of_0_5_3_and_0_5_4_that_have_changed() {
        assert_eq!(Operation::decode(&[40]), Ok(Operation::GetExperimental));
        assert_eq!(Operation::decode(&[37]), Ok(Operation::P2pLookupAndLock));
        assert_eq!(Operation::decode(&[39]), Ok(Operation::P2pUnlockObjects));
    }

    #[test]
    fn refuses_frames_that_name_no_operation() {
        assert_eq!(Operation::decode(&[11]), Err(OperationError::Unknown("11".to_owned())));
        assert_eq!(Operation::decode(&[0xff]), Err(OperationError::Unknown("-1".to_owned())));
        assert_eq!(Operation::decode(b"\xa1x"), Err(OperationError::Unknown("x".to_owned())));
        for frame in [&b""[..], b"\xc0", b"\xc3", b"\x18\x00", b"\xcb\x40\x38\0\0\0\0\0\0", b"\xcd\x00"] {
            assert_eq!(Operation::decode(frame), Err(OperationError::Malformed), "{frame:x?}");
        }
    }
}
